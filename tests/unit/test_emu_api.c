/* SPDX-License-Identifier: MIT
 *
 * The emulated driver: that it answers as a driver does.
 */
#include "tests/unit/emu_programs.h"

#include <pthread.h>

/* ---- the device ---- */

static void test_device(void **state)
{
    int value = -1, device = -1;
    char name[32];
    const char *text;
    (void)state;
    begin(0);
    must(api.init(0));
    must(api.driver_version(&value));
    assert_int_equal(value, CUDA_DRIVER_VERSION);
    must(api.device_get(&device, 0));
    assert_int_equal(device, 0);
    assert_int_not_equal(api.device_get(&device, 1), CUDA_SUCCESS);
    must(api.device_name(name, sizeof name, 0));
    assert_string_equal(name, "emulator");
    const struct {
        unsigned attribute;
        int value;
    } attributes[] = {
        {CUDA_CLOCK_KHZ,        0},
        {CUDA_MULTIPROCESSORS,  1},
        {CUDA_MEMORY_CLOCK_KHZ, 0},
        {CUDA_MEMORY_BUS_BITS,  0},
        {CUDA_CAPABILITY_MAJOR, 8},
        {CUDA_CAPABILITY_MINOR, 0},
    };
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        must(api.device_attribute(&value, attributes[i].attribute, 0));
        assert_int_equal(value, attributes[i].value);
    }
    assert_int_equal(api.device_attribute(&value, 1000, 0), CUDA_INVALID_VALUE);
    must(api.error_text(CUDA_OUT_OF_MEMORY, &text));
    assert_string_equal(text, "out of memory");
    assert_int_equal(api.error_text(12345, &text), CUDA_INVALID_VALUE);
    assert_null(text);
    end();
}

static void *without_context(void *unused)
{
    size_t free, total;
    (void)unused;
    return (void *)(uintptr_t)api.memory_info(&free, &total);
}

static void test_contexts(void **state)
{
    const struct emu_api_options options = {.budget = BUDGET};
    struct cuda_api second;
    struct CUctx_st *context;
    size_t free, total;
    pthread_t thread;
    void *status;
    (void)state;
    begin(0);
    assert_int_equal(emu_api_open(&second, &options, toys), -EBUSY);
    /* A context is current in the thread that said so. */
    assert_int_equal(pthread_create(&thread, NULL, without_context, NULL), 0);
    assert_int_equal(pthread_join(thread, &status), 0);
    assert_int_not_equal((uintptr_t)status, CUDA_SUCCESS);
    must(api.context_use(NULL));
    assert_int_not_equal(api.memory_info(&free, &total), CUDA_SUCCESS);
    end();
    assert_null((void *)api.init);
    /* Nor is one that was given back. */
    begin(0);
    must(api.context_release(0));
    assert_int_not_equal(api.memory_info(&free, &total), CUDA_SUCCESS);
    assert_int_not_equal(api.context_release(0), CUDA_SUCCESS);
    end();
    /* Nor is that of the driver before. */
    assert_int_equal(emu_api_open(&api, &options, toys), 0);
    must(api.context_retain(&context, 0));
    assert_int_not_equal(api.memory_info(&free, &total), CUDA_SUCCESS);
    must(api.context_use(context));
    must(api.memory_info(&free, &total));
    end();
}

/* ---- memory ---- */

static void test_memory(void **state)
{
    size_t free, total;
    cuda_address more;
    (void)state;
    begin(0);
    must(api.memory_info(&free, &total));
    assert_int_equal(total, BUDGET);
    assert_int_equal(free, BUDGET - 3 * SIZE);
    assert_int_equal(api.memory_alloc(&more, free + 1), CUDA_OUT_OF_MEMORY);
    assert_int_equal(api.memory_alloc(&more, SIZE_MAX), CUDA_OUT_OF_MEMORY);
    assert_int_equal(api.memory_alloc(&more, 0), CUDA_INVALID_VALUE);
    must(api.memory_alloc(&more, free));
    assert_int_equal(more % 512, 256);
    for (size_t i = 0; i < free; i++)
        assert_int_equal(((unsigned char *)(uintptr_t)more)[i], 0xff);
    must(api.memory_info(&free, &total));
    assert_int_equal(free, 0);
    assert_int_equal(emu_api_count().allocated, BUDGET);
    must(api.memory_free(more));
    must(api.memory_info(&free, &total));
    assert_int_equal(free, BUDGET - 3 * SIZE);
    assert_int_equal(emu_api_count().allocated, 3 * SIZE);
    assert_int_equal(emu_api_count().allocated_most, BUDGET);
    end();
}

static void test_registered_memory(void **state)
{
    const struct emu_api_options options = {.budget = BUDGET, .register_limit = 3 * SIZE};
    struct CUctx_st *context;
    cuda_address p = 0;
    (void)state;
    begin(0);
    assert_int_equal(emu_api_count().registered, 3 * SIZE);
    assert_int_equal(api.host_register(host, sizeof host, 0), CUDA_ALREADY_REGISTERED);
    assert_int_equal(api.host_register(host + SIZE, 1, 0), CUDA_ALREADY_REGISTERED);
    assert_int_equal(api.host_register(NULL, SIZE, 0), CUDA_INVALID_VALUE);
    assert_int_equal(api.host_register(host, 0, 0), CUDA_INVALID_VALUE);
    assert_int_equal(api.host_unregister(host + 1), CUDA_NOT_REGISTERED);
    assert_int_equal(api.host_unregister(&context), CUDA_NOT_REGISTERED);
    must(api.host_pointer(&p, host + 5, 0));
    assert_int_equal(p, (uintptr_t)(host + 5));
    assert_int_equal(api.host_pointer(&p, result, 0), CUDA_INVALID_VALUE);
    must(api.host_unregister(host));
    assert_int_equal(api.host_unregister(host), CUDA_NOT_REGISTERED);
    assert_int_equal(api.host_pointer(&p, host, 0), CUDA_INVALID_VALUE);
    assert_int_equal(emu_api_count().registered, SIZE);
    end();

    assert_int_equal(emu_api_open(&api, &options, toys), 0);
    must(api.context_retain(&context, 0));
    must(api.context_use(context));
    must(api.host_register(host, sizeof host, 0));
    must(api.host_register(result, SIZE, 0));
    must(api.host_unregister(result));
    assert_int_equal(api.host_register(result, SIZE + 1, 0), CUDA_OUT_OF_MEMORY);
    must(api.host_register(result, SIZE, 0));
    end();
}

static void unregistered_in(void)
{
    char stack[SIZE] = "";
    api.copy_in(a, stack, sizeof stack, one);
}

static void half_registered_in(void)
{
    api.copy_in(a, host + sizeof host - SIZE + 1, SIZE, one);
}

static void unregistered_out(void)
{
    char stack[SIZE];
    api.copy_out(stack, a, sizeof stack, one);
}

static void past_device_memory(void)
{
    api.copy_in(a + 1, host, SIZE, one);
}

static void freed_device_memory(void)
{
    must(api.memory_free(a));
    api.copy_in(a, host, SIZE, one);
}

static void inside_freed(void)
{
    api.memory_free(a + 16);
}

static void freed_twice(void)
{
    must(api.memory_free(a));
    api.memory_free(a);
}

static void freed_in_use_by_copy(void)
{
    in(a, one);
    api.memory_free(a);
}

static void freed_in_use_by_kernel(void)
{
    in(a, one);
    launch(toy, b, a, one);
    api.memory_free(b);
}

static void freed_after_another_event(void)
{
    in(a, one);
    must(api.event_record(event, one));
    launch(toy, b, a, one);
    must(api.event_wait(event));
    api.memory_free(a);
}

static void unregistered_in_use(void)
{
    in(a, one);
    api.host_unregister(host);
}

static void freed_in_time(void)
{
    in(a, one);
    launch(toy, b, a, one);
    must(api.event_record(event, one));
    in(c, two);
    must(api.event_wait(event));
    must(api.memory_free(a));
    must(api.memory_free(b));
    must(api.stream_wait(two));
    must(api.memory_free(c));
    must(api.host_unregister(host));
}

static void test_memory_faults(void **state)
{
    (void)state;
    dies(unregistered_in, "copy_in: 256 bytes of host memory that is not registered as a whole");
    dies(half_registered_in, "copy_in: 256 bytes of host memory that is not registered");
    dies(unregistered_out, "copy_out: 256 bytes of host memory that is not registered");
    dies(past_device_memory, "copy_in: 256 bytes of device memory that memory_alloc did not give");
    dies(freed_device_memory, "copy_in: 256 bytes of device memory that memory_alloc did not give");
    dies(inside_freed, "memory_free: of what memory_alloc did not give");
    dies(freed_twice, "memory_free: of what memory_alloc did not give");
    dies(freed_in_use_by_copy, "memory_free: memory is used by copy_in (operation 1, stream 1)");
    dies(freed_in_use_by_kernel,
         "memory_free: memory is used by kernel toy_read (operation 2, stream 1)");
    dies(freed_after_another_event, "memory_free: memory is used by kernel toy_read");
    dies(unregistered_in_use, "host_unregister: memory is used by copy_in");
    lives(freed_in_time);
}

/* ---- kernels ---- */

static void test_launches(void **state)
{
    struct CUfunc_st *none;
    struct toy_args args = {0};
    void *arguments[] = {&args};
    (void)state;
    begin(0);
    assert_int_equal(api.module_kernel(&none, module, "toy"), CUDA_NOT_FOUND);
    assert_int_equal(api.launch(toy, 0, 1, 1, 32, 1, 1, 0, one, arguments, NULL),
                     CUDA_INVALID_VALUE);
    assert_int_equal(api.launch(toy, 1, 1, 1, 0, 1, 1, 0, one, arguments, NULL),
                     CUDA_INVALID_VALUE);
    assert_int_equal(api.launch(toy, 1, 1, 1, 1056, 1, 1, 0, one, arguments, NULL),
                     CUDA_INVALID_VALUE);
    assert_int_equal(emu_api_count().operations, 0);
    end();
    /* launch() forgets its arguments when it returns. */
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        begin(seed);
        in(a, one);
        launch(toy, b, a, one);
        out(b, one);
        must(api.stream_wait(one));
        assert_memory_equal(result, host, SIZE);
        struct emu_api_counts counts = emu_api_count();
        assert_int_equal(counts.operations, 3);
        assert_int_equal(counts.done, 3);
        assert_int_equal(counts.launches, 1);
        assert_int_equal(counts.copied_in, SIZE);
        assert_int_equal(counts.copied_out, SIZE);
        end();
    }
}

static void launch_part_of_a_warp(void)
{
    struct toy_args args = {(uint32_t *)(uintptr_t)a, (uint32_t *)(uintptr_t)b, 0};
    void *arguments[] = {&args};
    must(api.launch(toy, 1, 1, 1, 48, 1, 1, 0, one, arguments, NULL));
    must(api.stream_wait(one));
}

static void launch_in_two_dimensions(void)
{
    void *arguments[] = {&a};
    api.launch(toy, 1, 2, 1, 32, 1, 1, 0, one, arguments, NULL);
}

static void launch_without_arguments(void)
{
    api.launch(toy, 1, 1, 1, 32, 1, 1, 0, one, NULL, NULL);
}

static void launch_past_the_end(void)
{
    struct CUfunc_st *past;
    must(api.module_kernel(&past, module, "toy_write_past_the_end"));
    launch(past, b, a, one);
    must(api.stream_wait(one));
}

static void launch_unmapped(void)
{
    launch(toy, b, (uintptr_t)result, one);
    must(api.stream_wait(one));
}

static void launch_unregistered(void)
{
    char *more = aligned_alloc(64, SIZE);
    launch(toy, b, (uintptr_t)more, one);
    must(api.stream_wait(one));
    free(more);
}

static void launch_of_another_module(void)
{
    must(api.module_unload(module));
    api.module_kernel(&toy, module, "toy_read");
}

static void test_launch_faults(void **state)
{
    (void)state;
    dies(launch_part_of_a_warp, "a block of 48 threads");
    dies(launch_in_two_dimensions, "launch of toy_read: with what no kernel here has a use for");
    dies(launch_without_arguments, "launch of toy_read: without arguments");
    dies(launch_past_the_end, "outside of the memory that was given: at 256 of 256");
    dies(launch_unmapped, "kernel toy_read (operation 1, stream 1) uses host memory that is not "
                          "registered with CUDA_REGISTER_MAPPED");
    dies(launch_unregistered, "outside of the memory that was given");
    dies(launch_of_another_module, "module_kernel: of a module that is not there");
}

/* ---- order ---- */

static void test_orders(void **state)
{
    uint64_t late[SEEDS], polls = 0;
    size_t different = 0, idle = 0;
    (void)state;
    for (size_t seed = 0; seed < SEEDS; seed++) {
        begin(seed);
        for (int i = 0; i < 8; i++) {
            in(a, one);
            in(b, two);
        }
        must(api.event_record(event, two));
        late[seed] = emu_api_count().operations - emu_api_count().done;
        unsigned status;
        while ((status = api.event_query(event)) == CUDA_NOT_READY)
            assert_true(++polls < 100000);
        must(status);
        assert_true(emu_api_count().done >= 9);
        end();
    }
    assert_int_equal(late[0], 0);
    for (size_t seed = 1; seed < SEEDS; seed++) {
        different += late[seed] != late[seed - 1];
        idle += late[seed] == 17;
    }
    assert_true(different > SEEDS / 8);
    assert_true(idle > SEEDS / 16);
    assert_true(idle < SEEDS / 2);
    assert_true(polls > SEEDS);
}

/* The second record of an event is nothing to who waited for the first. */
static void test_events_recorded_again(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        begin(seed);
        in(a, one);
        must(api.event_record(event, one));
        must(api.stream_wait_event(two, event, 0));
        in(b, three);
        must(api.event_record(event, three));
        launch(toy, c, a, two);
        must(api.event_wait(event));
        must(api.stream_wait(two));
        out(c, two);
        must(api.stream_wait(two));
        assert_memory_equal(result, host, SIZE);
        end();
    }
}

static void test_events_never_recorded(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        begin(seed);
        must(api.event_query(event));
        must(api.event_wait(event));
        must(api.stream_wait_event(one, event, 0));
        must(api.stream_wait(one));
        end();
    }
}

static void test_elapsed(void **state)
{
    struct CUevent_st *from, *to;
    float milliseconds = -1;
    (void)state;
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        begin(seed);
        must(api.event_new(&from, 0));
        must(api.event_new(&to, 0));
        assert_int_not_equal(api.event_elapsed(&milliseconds, from, to), CUDA_SUCCESS);
        must(api.event_record(from, one));
        in(a, one);
        must(api.event_record(to, one));
        unsigned status = api.event_elapsed(&milliseconds, from, to);
        assert_true(status == CUDA_SUCCESS || status == CUDA_NOT_READY);
        must(api.event_wait(to));
        must(api.event_elapsed(&milliseconds, from, to));
        assert_true(milliseconds >= 0);
        must(api.event_record(event, one));
        must(api.event_wait(event));
        assert_int_not_equal(api.event_elapsed(&milliseconds, from, event), CUDA_NOT_READY);
        assert_int_not_equal(api.event_elapsed(&milliseconds, from, event), CUDA_SUCCESS);
        end();
    }
}

static void test_work_that_fails(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        struct emu_api_options options = {.budget = BUDGET, .seed = seed, .fail_at = 2};
        unsigned status;
        begin_with(&options);
        in(a, one);
        must(api.event_record(event, one)); /* and fails */
        if (seed == 0)
            assert_int_equal(api.copy_in(a, host, SIZE, one), 719);
        while ((status = api.event_query(event)) == CUDA_NOT_READY)
            ;
        assert_int_equal(status, 719);
        assert_int_equal(api.event_wait(event), 719);
        assert_int_equal(api.stream_wait(two), 719);
        end();
        begin_with(&options);
        in(a, one);
        in(b, one);
        api.copy_in(c, host, SIZE, one);
        assert_int_equal(api.stream_wait(one), 719);
        assert_int_equal(api.memory_free(a), 719);
        end();
    }
}

/* ---- handles ---- */

static void default_stream(void)
{
    api.copy_in(a, host, SIZE, NULL);
}

static void stream_in_use(void)
{
    in(a, one);
    api.stream_free(one);
}

static void stream_freed(void)
{
    must(api.stream_free(one));
    in(a, one);
}

static void event_in_use(void)
{
    in(a, one);
    must(api.event_record(event, one));
    api.event_free(event);
}

static void event_waited_for(void)
{
    must(api.event_record(event, one));
    must(api.stream_wait(one));
    must(api.stream_wait_event(two, event, 0));
    api.event_free(event);
}

static void event_freed(void)
{
    must(api.event_free(event));
    api.event_wait(event);
}

static void all_is_given_back(void)
{
    struct CUstream_st *streams[] = {one, two, three};
    in(a, one);
    then(one, two);
    for (size_t i = 0; i < 3; i++)
        must(api.stream_wait(streams[i]));
    for (size_t i = 0; i < 3; i++)
        must(api.stream_free(streams[i]));
    must(api.event_free(event));
    must(api.event_free(other));
    must(api.memory_free(a));
    must(api.memory_free(b));
    must(api.memory_free(c));
    must(api.host_unregister(host));
    must(api.host_unregister(result));
    must(api.module_unload(module));
    must(api.context_release(0));
    struct emu_api_counts counts = emu_api_count();
    assert_int_equal(counts.handles, 0);
    assert_int_equal(counts.allocated, 0);
    assert_int_equal(counts.registered, 0);
}

static void test_handles(void **state)
{
    (void)state;
    dies(default_stream, "copy_in: of the default stream");
    dies(stream_in_use, "stream_free: the host has not waited for the last operation of stream 1");
    dies(stream_freed, "copy_in: of a stream that is not there");
    dies(event_in_use, "event_free: the event is used by event_record");
    dies(event_waited_for, "event_free: the event is used by stream_wait_event");
    dies(event_freed, "event_wait: of an event that is not there");
    lives(all_is_given_back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_contexts),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_registered_memory),
        cmocka_unit_test(test_memory_faults),
        cmocka_unit_test(test_launches),
        cmocka_unit_test(test_launch_faults),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_events_recorded_again),
        cmocka_unit_test(test_events_never_recorded),
        cmocka_unit_test(test_elapsed),
        cmocka_unit_test(test_work_that_fails),
        cmocka_unit_test(test_handles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

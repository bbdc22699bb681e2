/* SPDX-License-Identifier: MIT
 *
 * The emulated driver: that it answers as a driver does, that programs which wait for what they
 * need get the right bytes in any order, and that those which do not are found in every order.
 * What goes wrong ends the process, so it does that in a child.
 */
#include "kernels/cuda/emu_api.h"
#include "tests/unit/emu_toys.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SEEDS = 200, FEW_SEEDS = 12, SIZE = TOY_THREADS * 4, BUDGET = 1 << 20 };

static const struct emu_kernel toys[] = {
    {"toy_read",               toy_read,               sizeof(struct toy_args)},
    {"toy_write_past_the_end", toy_write_past_the_end, sizeof(struct toy_args)},
    {NULL,                     NULL,                   0                      },
};

static struct cuda_api api;
static struct CUmod_st *module;
static struct CUfunc_st *toy; /* toy_read */
static struct CUstream_st *one, *two, *three;
static struct CUevent_st *event, *other;
static cuda_address a, b, c; /* SIZE bytes each */
static char host[2 * SIZE] __attribute__((aligned(64))), result[SIZE];
static bool in_child;

static void must(unsigned status)
{
    if (status && in_child)
        _exit(3);
    assert_int_equal(status, CUDA_SUCCESS);
}

static void begin_with(const struct emu_api_options *options)
{
    struct CUctx_st *context;
    must(emu_api_open(&api, options, toys) != 0);
    must(api.context_retain(&context, 0));
    must(api.context_use(context));
    must(api.module_load(&module, NULL));
    must(api.module_kernel(&toy, module, "toy_read"));
    must(api.stream_new(&one, CUDA_STREAM_NON_BLOCKING));
    must(api.stream_new(&two, CUDA_STREAM_NON_BLOCKING));
    must(api.stream_new(&three, CUDA_STREAM_NON_BLOCKING));
    must(api.event_new(&event, CUDA_EVENT_NO_TIMING));
    must(api.event_new(&other, CUDA_EVENT_NO_TIMING));
    must(api.memory_alloc(&a, SIZE));
    must(api.memory_alloc(&b, SIZE));
    must(api.memory_alloc(&c, SIZE));
    for (size_t i = 0; i < sizeof host; i++)
        host[i] = (char)(i * 7 + i / 256);
    memset(result, 1, sizeof result);
    must(api.host_register(host, sizeof host, CUDA_REGISTER_MAPPED));
    must(api.host_register(result, sizeof result, 0));
}

static void begin(uint64_t seed)
{
    const struct emu_api_options options = {.budget = BUDGET, .seed = seed, .reverse = seed % 2};
    begin_with(&options);
}

static void end(void)
{
    emu_api_close(&api);
}

static void launch(struct CUfunc_st *kernel, cuda_address to, cuda_address from,
                   struct CUstream_st *stream)
{
    struct toy_args args = {(uint32_t *)(uintptr_t)from, (uint32_t *)(uintptr_t)to, 0};
    void *arguments[] = {&args};
    must(api.launch(kernel, 1, 1, 1, TOY_THREADS, 1, 1, 0, stream, arguments, NULL));
    memset(&args, 0, sizeof args);
}

static void in(cuda_address to, struct CUstream_st *stream)
{
    must(api.copy_in(to, host, SIZE, stream));
}

static void out(cuda_address from, struct CUstream_st *stream)
{
    must(api.copy_out(result, from, SIZE, stream));
}

static void then(struct CUstream_st *first, struct CUstream_st *second)
{
    must(api.event_record(event, first));
    must(api.stream_wait_event(second, event, 0));
}

/* ---- programs ---- */

/* A program in a process of its own: what it said; dead: whether a fault ended it. */
static void child_run(void (*program)(void), uint64_t seed, char *said, size_t size, bool *dead)
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        in_child = true;
        begin(seed);
        program();
        end();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < size - 1 && (got = read(ends[0], said + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    *dead = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    assert_true(*dead || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

/* In every order. */
static void dies(void (*program)(void), const char *sentence)
{
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        char said[4096];
        bool dead;
        child_run(program, seed, said, sizeof said, &dead);
        if (!dead || !strstr(said, sentence))
            fail_msg("seed %d: \"%s\" was to be said, and not: %s", (int)seed, sentence, said);
    }
}

static void lives(void (*program)(void))
{
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        begin(seed);
        program();
        end();
    }
}

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

/* ---- what is not ordered ---- */

static void read_of_what_is_copied(void)
{
    in(a, one);
    launch(toy, b, a, two);
    must(api.stream_wait(one));
    must(api.stream_wait(two));
}

static void copy_over_what_is_read(void)
{
    in(a, one);
    then(one, two);
    launch(toy, b, a, two);
    in(a, one);
    must(api.stream_wait(one));
    must(api.stream_wait(two));
}

static void two_copies(void)
{
    in(a, one);
    in(a, two);
    must(api.stream_wait(two));
    must(api.stream_wait(one));
}

static void two_kernels(void)
{
    launch(toy, c, a, one);
    launch(toy, c, b, two);
    must(api.stream_wait(two));
    must(api.stream_wait(one));
}

static void copy_of_what_is_written(void)
{
    launch(toy, b, a, one);
    out(b, two);
    must(api.stream_wait(two));
    must(api.stream_wait(one));
}

static void copies_to_one_place(void)
{
    out(a, one);
    out(b, two);
    must(api.stream_wait(two));
    must(api.stream_wait(one));
}

static void copy_of_a_result(void)
{
    out(a, one);
    must(api.copy_in(b, result, SIZE, two));
    must(api.stream_wait(two));
    must(api.stream_wait(one));
}

/* The write knows of two of three readers. */
static void one_of_several_readers(void)
{
    struct CUstream_st *four;
    must(api.stream_new(&four, 0));
    must(api.copy_out(result, a, 64, one));
    must(api.copy_out(result + 64, a, 64, two));
    must(api.copy_out(result + 128, a, 64, three));
    then(one, four);
    then(three, four);
    in(a, four);
    must(api.stream_wait(four));
    must(api.stream_wait(two));
}

static void event_too_early(void)
{
    must(api.event_record(event, one));
    in(a, one);
    must(api.stream_wait_event(two, event, 0));
    launch(toy, b, a, two);
    must(api.stream_wait(one));
    must(api.stream_wait(two));
}

static void host_waits_for_less(void)
{
    must(api.event_record(event, one));
    in(a, one);
    must(api.event_wait(event));
    launch(toy, b, a, two);
    must(api.stream_wait(one));
    must(api.stream_wait(two));
}

/* A query that says "not ready" is no wait, and one that is not asked is none either. */
static void host_looks_at_another(void)
{
    in(a, one);
    must(api.event_record(event, one));
    in(b, two);
    must(api.event_record(other, two));
    while (api.event_query(other))
        ;
    launch(toy, c, a, two);
    must(api.stream_wait(one));
    must(api.stream_wait(two));
}

/* One byte in the last granule. */
static void last_byte(void)
{
    must(api.copy_in(a + SIZE - 1, host, 1, one));
    launch(toy, b, a, two);
    must(api.stream_wait(one));
    must(api.stream_wait(two));
}

/* Of two halves, and that with the first one in order. */
static void second_half(void)
{
    must(api.copy_in(a, host, SIZE / 2, one));
    must(api.copy_in(a + SIZE / 2, host, SIZE / 2, two));
    then(one, three);
    out(a, three);
    must(api.stream_wait(three));
    must(api.stream_wait(two));
}

static void second_half_is_read(void)
{
    must(api.copy_out(result, a, SIZE / 2, one));
    must(api.copy_out(result + SIZE / 2, a + SIZE / 2, SIZE / 2, two));
    then(one, three);
    in(a, three);
    must(api.stream_wait(three));
    must(api.stream_wait(two));
}

static void kernel_writes_host(void)
{
    launch(toy, (uintptr_t)host, a, one);
    in(b, two);
    must(api.stream_wait(two));
    must(api.stream_wait(one));
}

static void test_what_is_not_ordered(void **state)
{
    (void)state;
    dies(read_of_what_is_copied, "are not ordered: the second ");
    dies(copy_over_what_is_read, "are not ordered");
    dies(two_copies, "are not ordered: the second writes byte 0 of 256 bytes of device memory that "
                     "the first writes");
    dies(two_kernels, "are not ordered");
    dies(copy_of_what_is_written, "are not ordered");
    dies(copies_to_one_place, "bytes of host memory");
    dies(copy_of_a_result, "bytes of host memory");
    dies(one_of_several_readers, "copy_out (operation 2, stream 2)");
    dies(one_of_several_readers, "copy_in (operation 8, stream 4)");
    dies(event_too_early, "are not ordered");
    dies(host_waits_for_less, "are not ordered");
    dies(host_looks_at_another, "are not ordered");
    dies(last_byte, "are not ordered");
    dies(second_half, "byte 128 of 256 bytes of device memory");
    dies(second_half_is_read, "byte 128 of 256 bytes of device memory");
    dies(kernel_writes_host, "are not ordered");
}

/* ---- what is ---- */

static void result_check(struct CUstream_st *stream)
{
    must(api.stream_wait(stream));
    assert_memory_equal(result, host, SIZE);
}

static void ordered_by_event(void)
{
    in(a, one);
    then(one, two);
    launch(toy, b, a, two);
    out(b, two);
    result_check(two);
}

static void ordered_by_a_third(void)
{
    in(a, one);
    then(one, three);
    then(three, two);
    launch(toy, b, a, two);
    out(b, two);
    result_check(two);
}

static void ordered_by_the_host(void)
{
    in(a, one);
    must(api.stream_wait(one));
    launch(toy, b, a, two);
    must(api.event_record(event, two));
    while (api.event_query(event))
        ;
    out(b, three);
    result_check(three);
}

static void readers_beside_each_other(void)
{
    in(a, one);
    then(one, two);
    then(one, three);
    launch(toy, b, a, two);
    launch(toy, c, a, three);
    out(a, one);
    then(two, one);
    then(three, one);
    in(a, one);
    must(api.stream_wait(one));
}

static void halves_beside_each_other(void)
{
    must(api.copy_in(a, host, SIZE / 2, one));
    must(api.copy_in(a + SIZE / 2, host + SIZE / 2, SIZE / 2, two));
    then(one, two);
    out(a, two);
    result_check(two);
}

/* Kernels read host memory where it is, and write it. */
static void mapped_memory(void)
{
    cuda_address p;
    must(api.host_pointer(&p, host, 0));
    launch(toy, a, p, one);
    out(a, one);
    result_check(one);
    launch(toy, p + SIZE, p, one);
    must(api.stream_wait(one));
    assert_memory_equal(host + SIZE, host, SIZE);
    host[0]++;
}

/* Through host memory and back, in the order of a stream, with the host looking on. */
static void through_the_host(void)
{
    char was[SIZE];
    memcpy(was, host, SIZE);
    in(a, one);
    must(api.copy_out(host + SIZE, a, SIZE, one));
    must(api.copy_in(b, host + SIZE, SIZE, one));
    must(api.copy_out(host, c, SIZE, one));
    must(api.copy_out(host + SIZE, c, SIZE, one));
    launch(toy, a, (uintptr_t)host, one);
    out(b, one);
    must(api.stream_wait(one));
    assert_memory_equal(result, was, SIZE);
    for (size_t i = 0; i < sizeof host; i++)
        assert_int_equal(host[i], (char)0xff);
}

/* A copy out of memory, and one into it. */
static void in_and_out(void)
{
    must(api.copy_in(a, result, SIZE, one));
    must(api.copy_out(result, b, SIZE, one));
    must(api.copy_out(host, a, SIZE, one));
    must(api.stream_wait(one));
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(host[i], 1);
}

/* The same with kernels that read and write there. */
static void kernels_through_the_host(void)
{
    char was[SIZE];
    memcpy(was, host, SIZE);
    in(a, one);
    must(api.copy_out(host + SIZE, a, SIZE, one));
    launch(toy, b, (uintptr_t)(host + SIZE), one);
    launch(toy, (uintptr_t)host, c, one);
    out(b, one);
    must(api.stream_wait(one));
    assert_memory_equal(result, was, SIZE);
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(host[i], (char)0xff);
}

static void test_what_is_ordered(void **state)
{
    (void)state;
    lives(ordered_by_event);
    lives(ordered_by_a_third);
    lives(ordered_by_the_host);
    lives(readers_beside_each_other);
    lives(halves_beside_each_other);
    lives(mapped_memory);
    lives(through_the_host);
    lives(in_and_out);
    lives(kernels_through_the_host);
}

/* ---- what the host does too early ---- */

static void host_changes_what_is_copied(void)
{
    in(a, one);
    host[SIZE - 1]++;
    must(api.stream_wait(one));
}

static void host_waits_for_the_copy_before(void)
{
    in(a, one);
    must(api.event_record(event, one));
    in(b, one);
    must(api.event_wait(event));
    host[SIZE / 2]++;
    must(api.stream_wait(one));
}

static void host_writes_where_a_copy_goes(void)
{
    out(a, one);
    must(api.event_record(event, one));
    /* Both streams' work is done, but that one has not been waited for. */
    must(api.copy_in(b, host, SIZE, one));
    must(api.stream_wait_event(two, event, 0));
    must(api.memory_free(c));
    result[3] = 5;
    must(api.stream_wait(two));
}

static void host_changes_what_a_kernel_read(void)
{
    launch(toy, b, (uintptr_t)host, one);
    must(api.memory_free(c)); /* behind which it is done */
    host[17]++;
    must(api.stream_wait(one));
}

/* Found where the copy was late. */
static void host_changes_it_back(void)
{
    in(a, one);
    host[5]++;
    must(api.memory_free(c)); /* behind which it is done */
    host[5]--;
    must(api.stream_wait(one));
}

static void test_the_host_waits(void **state)
{
    int found = 0;
    (void)state;
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        char said[4096];
        bool dead;
        child_run(host_changes_it_back, seed, said, sizeof said, &dead);
        found += dead && strstr(said, "the host changed memory that copy_in");
    }
    assert_true(found > 0);
    dies(host_changes_what_is_copied,
         "the host changed memory that copy_in (operation 1, stream 1) may not have read yet");
    dies(host_waits_for_the_copy_before, "the host changed memory that copy_in (operation 3");
    dies(host_writes_where_a_copy_goes,
         "the host wrote to memory that copy_out (operation 1, stream 1) may not have written yet");
    dies(host_changes_what_a_kernel_read, "the host changed memory that kernel toy_read");
    /* What a copy brings cannot be seen before. */
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        begin(seed);
        in(a, one);
        out(a, one);
        for (size_t i = 0; i < SIZE; i++)
            assert_int_equal(result[i], (char)0xff);
        result_check(one);
        host[0]++;
        result[0]++;
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

/* ---- streaming ---- */

/* Layers go through STAGES buffers of the host and SLOTS of the device to a kernel each. */
enum { STAGES = 3, SLOTS = 2, LAYERS = 12 };

enum wait { WAIT_STAGE, WAIT_RAN, WAIT_LIFTED, WAIT_RESULT, WAITS };
static const char *const wait_sentences[WAITS] = {
    [WAIT_STAGE] = "the host changed memory that copy_in",
    [WAIT_RAN] = "are not ordered",
    [WAIT_LIFTED] = "are not ordered",
    [WAIT_RESULT] = "the result is wrong",
};
static enum wait left_out;

static void stream_layers(void)
{
    static char stages[STAGES][SIZE], results[LAYERS][SIZE];
    struct CUstream_st *copy = one, *work = two;
    struct CUevent_st *staged[STAGES], *lifted[SLOTS], *ran[SLOTS];
    cuda_address slots[SLOTS], outputs;
    /* As if the same had been asked for before. */
    for (int i = 0; i < LAYERS; i++)
        memset(results[i], 100 + i, SIZE);
    must(api.host_register(stages, sizeof stages, 0));
    must(api.host_register(results, sizeof results, 0));
    must(api.memory_alloc(&outputs, sizeof results));
    for (int i = 0; i < STAGES; i++)
        must(api.event_new(&staged[i], CUDA_EVENT_NO_TIMING));
    for (int i = 0; i < SLOTS; i++) {
        must(api.event_new(&lifted[i], CUDA_EVENT_NO_TIMING));
        must(api.event_new(&ran[i], CUDA_EVENT_NO_TIMING));
        must(api.memory_alloc(&slots[i], SIZE));
    }
    for (int i = 0; i < LAYERS; i++) {
        int stage = i % STAGES, slot = i % SLOTS;
        if (left_out != WAIT_STAGE && i % 4 == 0)
            while (api.event_query(staged[stage]))
                ;
        else if (left_out != WAIT_STAGE)
            must(api.event_wait(staged[stage]));
        memset(stages[stage], 100 + i, SIZE);
        if (left_out != WAIT_RAN)
            must(api.stream_wait_event(copy, ran[slot], 0));
        must(api.copy_in(slots[slot], stages[stage], SIZE, copy));
        must(api.event_record(staged[stage], copy));
        must(api.event_record(lifted[slot], copy));
        if (left_out != WAIT_LIFTED)
            must(api.stream_wait_event(work, lifted[slot], 0));
        launch(toy, outputs + (unsigned)i * SIZE, slots[slot], work);
        must(api.event_record(ran[slot], work));
    }
    must(api.copy_out(results, outputs, sizeof results, work));
    if (left_out != WAIT_RESULT)
        must(api.stream_wait(work));
    for (int i = 0; i < LAYERS * SIZE; i++)
        if ((&results[0][0])[i] != 100 + i / SIZE) {
            fputs("the result is wrong\n", stderr);
            abort();
        }
}

static void test_streaming(void **state)
{
    (void)state;
    left_out = WAITS;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        begin(seed);
        stream_layers();
        end();
    }
}

static void test_streaming_without_a_wait(void **state)
{
    (void)state;
    for (left_out = 0; left_out < WAITS; left_out++)
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            char said[4096];
            bool dead;
            child_run(stream_layers, seed, said, sizeof said, &dead);
            if (!dead || !strstr(said, wait_sentences[left_out]))
                fail_msg("seed %d, without wait %d: \"%s\" was to be said, and not: %s", (int)seed,
                         (int)left_out, wait_sentences[left_out], said);
        }
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
        cmocka_unit_test(test_what_is_not_ordered),
        cmocka_unit_test(test_what_is_ordered),
        cmocka_unit_test(test_the_host_waits),
        cmocka_unit_test(test_handles),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_streaming_without_a_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

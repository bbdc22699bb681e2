/* SPDX-License-Identifier: MIT
 *
 * Order in the emulated driver: that programs which wait for what they need get the right bytes in any
 * order, and that those which do not are found in every order.
 */
#include "tests/unit/emu_programs.h"

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
        cmocka_unit_test(test_what_is_not_ordered),
        cmocka_unit_test(test_what_is_ordered),
        cmocka_unit_test(test_the_host_waits),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_streaming_without_a_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

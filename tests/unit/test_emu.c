/* SPDX-License-Identifier: MIT
 *
 * The emulator: that it does what a GPU does, catches what a GPU would let through, and counts what
 * memory has to do. What goes wrong ends the process, so it does that in a child.
 */
#include "kernels/cuda/emu.h"
#include "tests/unit/emu_toys.h"
#include "tests/weights.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct emu *emu;

#include "tests/unit/emu_ways.h"

static uint32_t *in, *out; /* TOY_THREADS words each */

static void run(emu_kernel_fn *toy, uint32_t stride)
{
    struct toy_args args = {in, out, stride};
    emu_launch(emu, toy, 1, TOY_THREADS, &args);
}

/* ---- kernels that are right ---- */

static void test_right_kernels_run(void **state)
{
    (void)state;
    run(toy_mirror, 0);
    for (uint32_t i = 0; i < TOY_THREADS; i++)
        assert_int_equal(out[i], in[TOY_THREADS - 1 - i]);
    run(toy_neighbour, 0);
    for (uint32_t i = 0; i < TOY_THREADS; i++)
        assert_int_equal(out[i], in[i ^ 1]);
    run(toy_shuffle, 0);
    for (uint32_t i = 0; i < TOY_THREADS; i++)
        assert_int_equal(out[i], in[i ^ 5]);
    run(toy_copy, 0);
    assert_memory_equal(out, in, TOY_THREADS * sizeof *in);
    run(toy_read, 0);
    assert_memory_equal(out, in, TOY_THREADS * sizeof *in);
}

/* ---- kernels that are broken ---- */

static void dies(emu_kernel_fn *toy, uint32_t stride, const char *sentence)
{
    int ends[2], status;
    char said[4096] = "";
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        run(toy, stride);
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got;
         n < sizeof said - 1 && (got = read(ends[0], said + n, sizeof said - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status) || !strstr(said, sentence) || !strstr(said, "emu_toys.cc:"))
        fail_msg("\"%s\" was to be said, with a line, and not: %s", sentence, said);
}

static void test_broken_kernels_are_caught(void **state)
{
    (void)state;
    dies(toy_mirror_without_barrier, 0, "shared memory is read that");
    dies(toy_mirror_written_again, 0, "with no barrier in between");
    dies(toy_neighbour_without_barrier, 0, "shared memory is read that");
    dies(toy_never_written, 0, "that nobody wrote");
    dies(toy_read, 1, "4 bytes outside of the memory that was given: at 256 of 256");
    dies(toy_read, UINT32_MAX / 8, "outside of the memory that was given");
    dies(toy_write_past_the_end, 0, "4 bytes outside of the memory that was given: at 256 of 256");
    dies(toy_read_words, 1, "no multiple");
    dies(toy_shuffle_in_one_half, 0, "a shuffle is not reached");
    dies(toy_shuffles_apart, 0, "a shuffle is not reached");
    dies(toy_barrier_in_one_warp, 0, "a barrier of the block is not reached");
    dies(toy_barriers_apart, 0, "a barrier of the block is not reached");
    dies(toy_copy_not_waited_for, 0, "before its copy has been waited for");
    dies(toy_copy_of_the_last_group, 0, "shared memory is read");
    dies(toy_copy_forgotten, 0, "copies that it did not wait for");
    dies(toy_banks, 33, "outside of shared memory");
}

static void test_memory_is_taken_back(void **state)
{
    (void)state;
    emu_take(emu, in);
    dies(toy_read, 0, "outside of the memory that was given");
    emu_give(emu, in, TOY_THREADS * sizeof *in);
    run(toy_read, 0);
}

/* ---- what is counted ---- */

/* The site with so many bytes asked for, of which there is one. */
static struct emu_site site_of(emu_kernel_fn *toy, uint32_t stride, bool shared, uint64_t bytes)
{
    struct emu_site found = {0};
    size_t count, matches = 0;
    emu_record(emu, true);
    run(toy, stride);
    const struct emu_site *sites = emu_sites(emu, &count);
    for (size_t i = 0; i < count; i++)
        if (sites[i].shared == shared && sites[i].bytes == bytes && matches++ == 0)
            found = sites[i];
    emu_record(emu, false);
    assert_true(matches > 0);
    return found;
}

static void test_sectors_are_counted(void **state)
{
    uint32_t *few = in;
    (void)state;
    /* Two warps of 32 words in a row: four sectors each. */
    struct emu_site s = site_of(toy_read, 0, false, 256);
    assert_int_equal(s.requests, 2);
    assert_int_equal(s.sectors, 8);
    /* Sixteen bytes a lane, each lane's from a sector of its own. */
    in = aligned_alloc(32, 64 * 8 * 4);
    assert_non_null(in);
    memset(in, 0, 64 * 8 * 4);
    emu_give(emu, in, 64 * 8 * 4);
    s = site_of(toy_read_words, 8, false, 64 * 16);
    assert_int_equal(s.requests, 2);
    assert_int_equal(s.sectors, 64);
    /* All lanes the same. */
    s = site_of(toy_read_words, 0, false, 64 * 16);
    assert_int_equal(s.sectors, 2);
    emu_take(emu, in);
    free(in);
    in = few;
}

static void test_bank_conflicts_are_counted(void **state)
{
    static const uint32_t ways[][2] = {
        {0,  1 },
        {1,  1 },
        {2,  2 },
        {3,  1 },
        {8,  8 },
        {31, 1 },
        {32, 32}
    };
    (void)state;
    /* From 1 on each thread has a word of its own; with 0 they would write the same one. */
    for (size_t i = 1; i < sizeof ways / sizeof *ways; i++)
        assert_int_equal(site_of(toy_banks, ways[i][0], true, 256).ways, ways[i][1]);
}

/* ---- products of matrices, by the fragment tables of the PTX ISA ---- */

/* "Matrix Fragments for mma.m16n8k16 with .s8" and "... mma.m16n8k32 with .s8": of element i of a
 * lane's fragment, byte by byte. groupID = lane >> 2, threadID_in_group = lane % 4. */
static int a_row(int k_count, int lane, int i)
{
    int group = lane >> 2;
    if (k_count == 16)
        return i < 4 ? group : group + 8;
    return i < 4 || (i >= 8 && i < 12) ? group : group + 8;
}

static int a_column(int lane, int i)
{
    int first = lane % 4 * 4 + (i & 3);
    return i < 8 ? first : first + 16;
}

static int b_row(int lane, int i)
{
    int first = lane % 4 * 4 + (i & 3);
    return i < 4 ? first : first + 16;
}

static int b_column(int lane)
{
    return lane >> 2;
}

static int d_row(int lane, int i)
{
    return i < 2 ? lane >> 2 : (lane >> 2) + 8;
}

static int d_column(int lane, int i)
{
    return lane % 4 * 2 + (i & 1);
}

static void mma_check(emu_kernel_fn *toy, int k_count, struct random *r)
{
    int8_t a[16][32], b[32][8];
    int d[16][8];
    uint32_t words[32][10], got[32][4];
    int a_words = k_count / 8, b_words = k_count / 16, lane_words = a_words + b_words + 4;
    for (int k = 0; k < k_count; k++) {
        for (int row = 0; row < 16; row++)
            a[row][k] = (int8_t)random_bits(r);
        for (int column = 0; column < 8; column++)
            b[k][column] = (int8_t)random_bits(r);
    }
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++)
            d[row][column] = (int)(random_bits(r) % 2000) - 1000;
    for (int lane = 0; lane < 32; lane++) {
        int8_t bytes[24];
        for (int i = 0; i < 4 * a_words; i++)
            bytes[i] = a[a_row(k_count, lane, i)][a_column(lane, i)];
        for (int i = 0; i < 4 * b_words; i++)
            bytes[4 * a_words + i] = b[b_row(lane, i)][b_column(lane)];
        uint32_t *to = &words[0][0] + lane * lane_words;
        memcpy(to, bytes, 4 * (size_t)(a_words + b_words));
        for (int i = 0; i < 4; i++)
            to[a_words + b_words + i] = (uint32_t)d[d_row(lane, i)][d_column(lane, i)];
    }
    struct toy_args args = {&words[0][0], &got[0][0], 0};
    emu_give(emu, words, sizeof words);
    emu_give(emu, got, sizeof got);
    emu_launch(emu, toy, 1, 32, &args);
    emu_take(emu, words);
    emu_take(emu, got);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int row = d_row(lane, i), column = d_column(lane, i), sum = d[row][column];
            for (int k = 0; k < k_count; k++)
                sum += a[row][k] * b[k][column];
            assert_int_equal((int)got[lane][i], sum);
        }
}

static void test_products_of_matrices(void **state)
{
    struct random r = {35};
    (void)state;
    for (int round = 0; round < 20; round++) {
        mma_check(toy_mma16, 16, &r);
        mma_check(toy_mma32, 32, &r);
    }
}

/* ---- all of it, forward and backward ---- */

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_right_kernels_run),          BOTH(test_broken_kernels_are_caught),
        BOTH(test_memory_is_taken_back),       BOTH(test_sectors_are_counted),
        BOTH(test_bank_conflicts_are_counted), BOTH(test_products_of_matrices),
    };
    emu = emu_new();
    in = aligned_alloc(32, TOY_THREADS * sizeof *in);
    out = aligned_alloc(32, TOY_THREADS * sizeof *out);
    if (!emu || !in || !out)
        return 1;
    for (uint32_t i = 0; i < TOY_THREADS; i++)
        in[i] = i * i + 7;
    emu_give(emu, in, TOY_THREADS * sizeof *in);
    emu_give(emu, out, TOY_THREADS * sizeof *out);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(in);
    free(out);
    emu_free(emu);
    return failed;
}

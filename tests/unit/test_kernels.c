/* SPDX-License-Identifier: MIT
 *
 * Products of packed weights: what they are, for plain C (the integers exactly, the floats within
 * rounding), and that every instruction set gives its bits, however rows and columns are split.
 */
#include "codec/float16.h"
#include "kernels/cpu/backend.h"
#include "tests/weights.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { COLS_MAX = 2592, ROWS_MAX = 13, BATCH_MAX = 80, SIZE_MAX_ROW = 4 * COLS_MAX };

static float x[BATCH_MAX * COLS_MAX], weights[ROWS_MAX * COLS_MAX];
static uint8_t packed[ROWS_MAX * SIZE_MAX_ROW];
static const struct dot_set *plain_c;

/* ---- weights and activations ---- */

static size_t bytes_of(const struct format *f, size_t n)
{
    uint64_t size;
    assert_true(format_bytes(f, n, &size));
    return size;
}

/* Sets the halves of a block: d, then dmin or m. */
static void scales_put(const struct format *f, uint8_t *block, float d, float dmin)
{
    uint16_t half[2] = {f16_from_f32(d), f16_from_f32(dmin)};
    for (int h = 0; h < f->halves; h++)
        memcpy(block + f->half_offset[h], &half[h], 2);
}

/* Any codes, with scales of either sign, some of them zero; floats are what gaussians are. */
static void packed_fill(const struct format *f, struct random *r, size_t n)
{
    if (f->plain_float) {
        weights_fill(WEIGHTS_GAUSSIAN, r, weights, n);
        f->encode(weights, 1, n, NULL, packed);
        return;
    }
    for (size_t i = 0; i < bytes_of(f, n); i++)
        packed[i] = (uint8_t)random_bits(r);
    for (size_t i = 0; i < n / f->block; i++) {
        bool zero = random_bits(r) % 16 == 0;
        scales_put(f, packed + i * f->block_size, zero ? 0 : random_gaussian(r),
                   zero ? 0 : random_gaussian(r));
    }
}

/* ---- products ---- */

static struct backend *open(const struct dot_set *set)
{
    struct backend *b;
    assert_int_equal(backend_cpu_open(set, 1, &b), 0);
    return b;
}

static struct activations *put(struct backend *b, enum activation_kind kind, size_t cols,
                               uint32_t batch)
{
    struct activations *a;
    assert_int_equal(b->activations_new(b, cols, batch, &a), 0);
    assert_int_equal(b->activations_begin(b, a, kind, batch), 0);
    assert_int_equal(b->activations_put(b, a, x, 0, batch), 0);
    return a;
}

/* The product of all rows, which lie in one piece; column by column. */
static void multiply(const struct dot_set *set, const struct format *f, enum activation_kind kind,
                     size_t rows, size_t cols, uint32_t batch, float *out)
{
    struct backend *b = open(set);
    struct activations *a = put(b, kind, cols, batch);
    struct row_run run = {packed, 0, rows};
    struct matrix w = {f, rows, cols, &run, 1};
    assert_int_equal(b->matmul(b, &w, 0, rows, a, out, rows), 0);
    b->activations_free(b, a);
    b->close(b);
}

/* ---- what products are ---- */

/* Every scale, and every other, is 1 in turn, so what comes out is one sum of integers; the decoder
 * says what they are. */
static void integers_check(const struct format *f, const char *what)
{
    enum { COLS = 256 };
    float out[COLS / 32], decoded[COLS];
    size_t rows = COLS / f->block;
    for (int which = 0; which < f->halves; which++) {
        for (size_t i = 0; i < rows; i++)
            scales_put(f, packed + i * f->block_size, which == 0, which == 1);
        f->decode(packed, COLS, decoded);
        multiply(plain_c, f, activation_kind_of(f), rows, f->block, 1, out);
        for (size_t row = 0; row < rows; row++) {
            int64_t sum = 0;
            for (size_t i = 0; i < f->block; i++)
                sum += (int64_t)decoded[row * f->block + i] * (int64_t)x[i];
            if (out[row] != (float)sum)
                fail_msg("%s, %s: row %zu, half %d: %a instead of %lld", f->title, what, row, which,
                         (double)out[row], (long long)sum);
        }
    }
}

static void test_integers_are_exact(void **state)
{
    static const int8_t extremes[][2] = {
        {127,  127 },
        {-127, -127},
        {127,  -127},
        {0,    127 }
    };
    struct random r = {11};
    (void)state;
    for (int id = 0; id < FORMAT_COUNT; id++) {
        const struct format *f = &formats[id];
        if (f->plain_float)
            continue;
        /* With a 127 in its block an activation is its own level. */
        for (int i = 0; i < 256; i++)
            x[i] = i % 32 ? (float)((int)(random_bits(&r) % 255) - 127) : 127;
        for (int round = 0; round < 50; round++) {
            packed_fill(f, &r, 256);
            integers_check(f, "any codes");
        }
        for (size_t i = 0; i < sizeof extremes / sizeof *extremes; i++)
            for (int byte = 0; byte < 256; byte += 17) {
                for (int k = 0; k < 256; k++)
                    x[k] = extremes[i][k % 2];
                memset(packed, byte, sizeof packed);
                integers_check(f, "extreme codes");
            }
    }
}

/* An activation as its kind keeps it. */
static void activations_round(enum activation_kind kind, float *v, size_t n)
{
    size_t block = kind == ACTIVATIONS_INT8_32 ? 32 : 256;
    for (size_t i = 0; i < n && kind != ACTIVATIONS_F32; i += block) {
        float largest = 0;
        for (size_t j = i; j < i + block; j++)
            largest = fmaxf(largest, fabsf(v[j]));
        float inverse = largest ? 127 / largest : 0;
        for (size_t j = i; j < i + block; j++)
            v[j] = largest ? nearbyintf(v[j] * inverse) / inverse : 0;
    }
}

static void test_floats_are_close(void **state)
{
    enum { ROWS = 3, COLS = 2304 };
    struct random r = {12};
    float out[ROWS], decoded[ROWS * COLS];
    (void)state;
    for (int id = 0; id < FORMAT_COUNT; id++)
        for (int as_floats = 0; as_floats < 2; as_floats++) {
            const struct format *f = &formats[id];
            enum activation_kind kind = as_floats ? ACTIVATIONS_F32 : activation_kind_of(f);
            weights_fill(WEIGHTS_JUMPS, &r, x, COLS);
            packed_fill(f, &r, ROWS * COLS);
            f->decode(packed, ROWS * COLS, decoded);
            multiply(plain_c, f, kind, ROWS, COLS, 1, out);
            activations_round(kind, x, COLS);
            for (size_t row = 0; row < ROWS; row++) {
                double sum = 0, magnitude = 0;
                for (size_t i = 0; i < COLS; i++) {
                    double product = (double)decoded[row * COLS + i] * (double)x[i];
                    sum += product;
                    magnitude += fabs(product);
                }
                /* A min takes away what a scale gives, so single terms are larger than weights. */
                if (!(fabs((double)out[row] - sum) <= 4e-6 * magnitude))
                    fail_msg("%s, kind %d: %g instead of %g (of %g)", f->title, kind,
                             (double)out[row], sum, magnitude);
            }
        }
}

/* A value that is no number cannot get lost in levels; a column of zeros is no trouble. */
static void test_not_finite_stays_so(void **state)
{
    enum { COLS = 512, BATCH = 3 };
    struct random r = {17};
    float out[BATCH];
    (void)state;
    for (int id = 0; id < FORMAT_COUNT; id++) {
        const struct format *f = &formats[id];
        packed_fill(f, &r, COLS);
        weights_fill(WEIGHTS_GAUSSIAN, &r, x, BATCH * COLS);
        weights_fill(WEIGHTS_ZERO, &r, x + COLS, COLS);
        x[3] = INFINITY;
        x[2 * COLS + 300] = NAN;
        multiply(plain_c, f, activation_kind_of(f), 1, COLS, BATCH, out);
        assert_false(isfinite(out[0]));
        assert_true(out[1] == 0);
        assert_true(isnan(out[2]));
    }
}

/* ---- all sets alike ---- */

static void same(const struct dot_set *set, const struct format *f, const char *what,
                 const float *got, const float *wanted, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(got[i]) != f32_bits(wanted[i]) && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s with %s, %s: element %zu of %zu is %a instead of %a", f->title, set->name,
                     what, i, n, (double)got[i], (double)wanted[i]);
}

static void compare(const struct dot_set *set, const struct format *f, enum activation_kind kind,
                    size_t rows, size_t cols, uint32_t batch)
{
    static float out[ROWS_MAX * BATCH_MAX], wanted[ROWS_MAX * BATCH_MAX];
    char what[80];
    snprintf(what, sizeof what, "kind %d, %zu x %zu, batch %u", kind, rows, cols, batch);
    multiply(plain_c, f, kind, rows, cols, batch, wanted);
    multiply(set, f, kind, rows, cols, batch, out);
    same(set, f, what, out, wanted, rows * batch);
}

static void compare_kinds(const struct dot_set *set, const struct format *f, size_t rows,
                          size_t cols, uint32_t batch)
{
    compare(set, f, ACTIVATIONS_F32, rows, cols, batch);
    if (!f->plain_float)
        compare(set, f, activation_kind_of(f), rows, cols, batch);
}

static void test_any_shape(void **state)
{
    static const size_t blocks[] = {1, 2, 7, 8, 9, 10};
    const struct dot_set *set = *state;
    struct random r = {13};
    if (!dot_set_supported(set))
        skip();
    for (int id = 0; id < FORMAT_COUNT; id++) {
        const struct format *f = &formats[id];
        for (uint32_t batch = 1; batch <= 17; batch++) {
            size_t n = blocks[batch % 6], cols = f->block == 1 ? 37 * n : f->block * n;
            weights_fill(batch % WEIGHTS_KINDS, &r, x, batch * cols);
            packed_fill(f, &r, 5 * cols);
            compare_kinds(set, f, 1 + batch % 5, cols, batch);
        }
        for (size_t i = 0; i < 6; i++) {
            size_t cols = f->block == 1 ? 256 * blocks[i] + 3 : f->block * blocks[i];
            weights_fill(WEIGHTS_HEAVY_TAILS, &r, x, BATCH_MAX * cols);
            packed_fill(f, &r, ROWS_MAX * cols);
            compare_kinds(set, f, ROWS_MAX, cols, i % 2 ? BATCH_MAX : 4 + (uint32_t)i);
        }
    }
}

static void test_awkward_values(void **state)
{
    enum { ROWS = 4, COLS = 2304, BATCH = 18 };
    const struct dot_set *set = *state;
    struct random r = {14};
    if (!dot_set_supported(set))
        skip();
    for (int id = 0; id < FORMAT_COUNT; id++) {
        const struct format *f = &formats[id];
        /* Each kind of activations, with a few that are not finite at the end. */
        for (enum weights_kind kind = 0; kind < WEIGHTS_KINDS; kind++) {
            weights_fill(kind, &r, x, COLS * BATCH);
            packed_fill(f, &r, ROWS * COLS);
            x[COLS * 3 + 70] = INFINITY;
            x[COLS * 4 + 700] = NAN;
            compare_kinds(set, f, ROWS, COLS, BATCH);
        }
        /* Extreme codes, with activations that are all of the largest level. */
        for (int i = 0; i < COLS * BATCH; i++)
            x[i] = i % 7 ? 1 : -1;
        for (int byte = 0; byte < 256; byte += 51) {
            memset(packed, byte, bytes_of(f, ROWS * COLS));
            for (size_t i = 0; i < ROWS * COLS / f->block && !f->plain_float; i++)
                scales_put(f, packed + i * f->block_size, -65504, 6e-8f);
            compare_kinds(set, f, ROWS, COLS, BATCH);
        }
        /* Scales that are not finite. */
        memset(packed, 0xff, bytes_of(f, ROWS * COLS));
        compare_kinds(set, f, ROWS, COLS, BATCH);
    }
}

/* n bytes at an odd address that end where the process may read no further. */
static uint8_t *at_the_edge(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (n + page - 1) / page * page;
    uint8_t *p =
        mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_int_equal(mprotect(p + size, page, PROT_NONE), 0);
    return p + size - n;
}

/* Rows in runs of any length, of which nothing else may be read; products asked for in pieces that
 * do not fit the runs, and activations put in pieces. */
static void test_any_split(void **state)
{
    enum { ROWS = 13, RUNS = 4, COLS = 512 };
    static const size_t starts[RUNS + 1] = {0, 1, 6, 8, ROWS}, pieces[] = {0, 3, 4, 12, ROWS};
    static const uint32_t batches[] = {1, 3, 21};
    static float out[ROWS * 21], wanted[ROWS * 21];
    const struct dot_set *set = *state;
    struct random r = {15};
    if (!dot_set_supported(set))
        skip();
    struct backend *b = open(set);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, COLS * 21);
    for (int id = 0; id < FORMAT_COUNT; id++) {
        const struct format *f = &formats[id];
        size_t row_size = bytes_of(f, COLS);
        struct row_run runs[RUNS];
        packed_fill(f, &r, ROWS * COLS);
        for (int i = 0; i < RUNS; i++) {
            size_t n = (starts[i + 1] - starts[i]) * row_size;
            uint8_t *at = at_the_edge(n);
            memcpy(at, packed + starts[i] * row_size, n);
            runs[i] = (struct row_run){at, starts[i], starts[i + 1] - starts[i]};
        }
        struct matrix w = {f, ROWS, COLS, runs, RUNS};
        for (size_t i = 0; i < 3; i++) {
            uint32_t batch = batches[i];
            struct activations *a;
            assert_int_equal(b->activations_new(b, COLS, batch, &a), 0);
            assert_int_equal(b->activations_begin(b, a, activation_kind_of(f), batch), 0);
            assert_int_equal(b->activations_put(b, a, x, batch / 3, batch - batch / 3), 0);
            assert_int_equal(b->activations_put(b, a, x, 0, batch / 3), 0);
            multiply(plain_c, f, activation_kind_of(f), ROWS, COLS, batch, wanted);
            for (size_t p = 0; p < 4; p++)
                assert_int_equal(
                    b->matmul(b, &w, pieces[p], pieces[p + 1] - pieces[p], a, out, ROWS), 0);
            same(set, f, "in pieces", out, wanted, ROWS * batch);
            b->activations_free(b, a);
        }
    }
    b->close(b);
}

/* ---- what a backend refuses ---- */

static void test_refusals(void **state)
{
    enum { COLS = 256, ROWS = 5 };
    (void)state;
    const struct format *q4_k = &formats[FORMAT_Q4_K], *q8_0 = &formats[FORMAT_Q8_0];
    size_t row = bytes_of(q4_k, COLS);
    float out[ROWS];
    struct backend *b = open(plain_c);
    struct random r = {16};
    packed_fill(q4_k, &r, ROWS * COLS);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, COLS);
    struct activations *a = put(b, ACTIVATIONS_INT8_256, COLS, 1), *narrow;
    struct row_run runs[] = {
        {packed,       1, 1},
        {packed + row, 2, 1},
        {packed + row, 4, 1}
    };
    struct matrix w = {q4_k, ROWS, COLS, runs, 3}, other = {q8_0, ROWS, COLS, runs, 3},
                  wide = {q4_k, ROWS, 512, runs, 3};
    assert_int_equal(b->matmul(b, &w, 1, 2, a, out, ROWS), 0);
    assert_int_equal(b->matmul(b, &w, 4, 1, a, out, ROWS), 0);
    assert_int_equal(b->matmul(b, &w, 0, 2, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &w, 2, 3, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &w, 4, 2, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &w, 6, 0, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &w, 1, UINT64_MAX, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &other, 1, 1, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &wide, 1, 1, a, out, ROWS), -EINVAL);
    assert_int_equal(b->activations_begin(b, a, ACTIVATIONS_INT8_256, 2), -EINVAL);
    assert_int_equal(b->activations_put(b, a, x, 1, 1), -EINVAL);
    assert_int_equal(b->activations_new(b, 288, 1, &narrow), 0);
    assert_int_equal(b->activations_begin(b, narrow, ACTIVATIONS_INT8_256, 1), -EINVAL);
    assert_int_equal(b->activations_begin(b, narrow, ACTIVATIONS_INT8_32, 1), 0);
    assert_int_equal(b->activations_new(b, UINT64_MAX / 8, 64, &narrow), -EOVERFLOW);
    b->activations_free(b, narrow);
    b->activations_free(b, a);
    b->close(b);
}

static void test_the_choice(void **state)
{
    (void)state;
    const struct dot_set *set;
    struct error err;
    assert_int_equal(dot_set_choose(NULL, &set, &err), 0);
    assert_true(dot_set_supported(set));
    for (const struct dot_set *const *i = dot_sets; *i; i++) {
        int rc = dot_set_choose((*i)->name, &set, &err);
        assert_int_equal(rc, dot_set_supported(*i) ? 0 : -ENOTSUP);
        if (!rc)
            assert_ptr_equal(set, *i);
    }
    assert_int_equal(dot_set_choose("sse9", &set, &err), -EINVAL);
    assert_non_null(strstr(err.text, "sse9"));
}

/* The tests of a set have its name behind theirs. */
int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction function;
    } of_a_set[] = {
        {"test_any_shape",      test_any_shape     },
        {"test_awkward_values", test_awkward_values},
        {"test_any_split",      test_any_split     },
    };
    enum { EACH = sizeof of_a_set / sizeof *of_a_set, SETS_MAX = 8, COMMON = 5 };
    struct CMUnitTest tests[COMMON + EACH * SETS_MAX] = {
        cmocka_unit_test(test_the_choice),
        cmocka_unit_test(test_integers_are_exact),
        cmocka_unit_test(test_floats_are_close),
        cmocka_unit_test(test_not_finite_stays_so),
        cmocka_unit_test(test_refusals),
    };
    char names[COMMON + EACH * SETS_MAX][80];
    size_t count = COMMON;
    struct error err;
    if (dot_set_choose("c", &plain_c, &err))
        return 1;
    for (const struct dot_set *const *set = dot_sets; *set; set++)
        for (int i = 0; i < EACH; i++, count++) {
            snprintf(names[count], sizeof *names, "%s_with_%s", of_a_set[i].name, (*set)->name);
            tests[count] =
                (struct CMUnitTest){names[count], of_a_set[i].function, NULL, NULL, (void *)*set};
        }
    return _cmocka_run_group_tests("kernels", tests, count, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 *
 * Products of packed weights: what they are, for plain C (the integers exactly, the floats within
 * rounding), and that every instruction set gives its bits, however rows and columns are split.
 */
#include "codec/float16.h"
#include "kernels/cpu/backend.h"
#include "tests/packed.h"
#include "tests/unit/edge.h"
#include "tests/weights.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

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

/* Any codes; floats are what gaussians are. */
static void weights_put(const struct format *f, struct random *r, size_t n)
{
    if (f->plain_float) {
        weights_fill(WEIGHTS_GAUSSIAN, r, weights, n);
        f->encode(weights, 1, n, NULL, packed);
        return;
    }
    packed_fill(f, r, packed, n / f->block);
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
    assert_int_equal(b->activations_begin(b, a, kind, batch, NULL), 0);
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
            weights_put(f, &r, 256);
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
            weights_put(f, &r, ROWS * COLS);
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
        weights_put(f, &r, COLS);
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
            weights_put(f, &r, 5 * cols);
            compare_kinds(set, f, 1 + batch % 5, cols, batch);
        }
        for (size_t i = 0; i < 6; i++) {
            size_t cols = f->block == 1 ? 256 * blocks[i] + 3 : f->block * blocks[i];
            weights_fill(WEIGHTS_HEAVY_TAILS, &r, x, BATCH_MAX * cols);
            weights_put(f, &r, ROWS_MAX * cols);
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
            weights_put(f, &r, ROWS * COLS);
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
        weights_put(f, &r, ROWS * COLS);
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
            assert_int_equal(b->activations_begin(b, a, activation_kind_of(f), batch, NULL), 0);
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

/* ---- attention ---- */

enum { DIM_MAX = 300, POSITIONS_MAX = 3000, HEADS_MAX = 9 };

static uint16_t keys[POSITIONS_MAX * DIM_MAX], values[POSITIONS_MAX * DIM_MAX];
static float queries[HEADS_MAX * DIM_MAX], attended[HEADS_MAX * DIM_MAX],
    attended_c[HEADS_MAX * DIM_MAX], 
    scores[HEADS_MAX * (POSITIONS_MAX + 1 + (POSITIONS_MAX / ATTEND_CHUNK + 1) * DIM_MAX)];

/* Some keys are much like the query, so that weights are of all magnitudes. */
static void attention_fill(struct backend *b, struct random *r, uint32_t heads, uint32_t count,
                           uint32_t dim)
{
    for (uint32_t i = 0; i < heads * dim; i++)
        queries[i] = random_gaussian(r);
    for (uint32_t p = 0; p < count; p++) {
        float row[2][DIM_MAX], like = random_bits(r) % 4 ? 0 : random_uniform(r);
        for (uint32_t i = 0; i < dim; i++) {
            row[0][i] = random_gaussian(r) + like * queries[p % heads * dim + i];
            row[1][i] = random_gaussian(r);
        }
        assert_int_equal(b->remember(b, row[0], row[1], 1, 1, dim, p, 0, keys, values), 0);
    }
}

/* One head in doubles; magnitude is what the sum of out's magnitudes is made of. */
static void attention_reference(const float *q, uint32_t first, uint32_t last, uint32_t dim,
                                float scale, double *out, double *magnitude)
{
    static double weight[POSITIONS_MAX];
    double most = -INFINITY, total = 0;
    for (uint32_t p = first; p <= last; p++) {
        weight[p] = 0;
        for (uint32_t i = 0; i < dim; i++)
            weight[p] += (double)q[i] * (double)f32_from_f16(keys[p * dim + i]);
        weight[p] *= (double)scale;
        most = fmax(most, weight[p]);
    }
    for (uint32_t p = first; p <= last; p++)
        total += weight[p] = exp(weight[p] - most);
    for (uint32_t i = 0; i < dim; i++) {
        out[i] = magnitude[i] = 0;
        for (uint32_t p = first; p <= last; p++) {
            double part = weight[p] / total * (double)f32_from_f16(values[p * dim + i]);
            out[i] += part;
            magnitude[i] += fabs(part);
        }
    }
}

static void test_attention_is_close(void **state)
{
    static const uint32_t dims[] = {1, 16, 64, 80, 128, 256}, counts[] = {1, 2, 40, 1000, 3000};
    struct backend *b = open(plain_c);
    struct random r = {18};
    (void)state;
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            uint32_t dim = dims[d], count = counts[c], first = count / 3, heads = 2;
            /* From scores that are all alike to weights most of which are too small to be. */
            float scale = ldexpf(1 / sqrtf((float)dim), 3 * (int)c - 4);
            double out[DIM_MAX], magnitude[DIM_MAX];
            attention_fill(b, &r, heads, count, dim);
            assert_int_equal(b->attend(b, queries, 1, heads, keys, values, 0, first, count - 1, dim,
                                       scale, scores, attended),
                             0);
            for (uint32_t h = 0; h < heads; h++) {
                double length = 0;
                attention_reference(queries + h * dim, first, count - 1, dim, scale, out,
                                    magnitude);
                for (uint32_t i = 0; i < dim; i++)
                    length += fabs((double)queries[h * dim + i]);
                /* A score's error is a weight's relative error. */
                double tolerance = 1e-6 + 1e-6 * (double)scale * length;
                for (uint32_t i = 0; i < dim; i++)
                    if (!(fabs((double)attended[h * dim + i] - out[i]) <= tolerance * magnitude[i]))
                        fail_msg("dim %u, %u positions, element %u: %g instead of %g (of %g)", dim,
                                 count, i, (double)attended[h * dim + i], out[i], magnitude[i]);
            }
        }
    b->close(b);
}

/* With keys of 1 and 0 and values of 0 and 1, what comes out is e / (1 + e) of an e = exp(-q). */
static void test_exp_is_close(void **state)
{
    const uint16_t key[] = {f16_from_f32(1), 0}, value[] = {0, f16_from_f32(1)};
    struct backend *b = open(plain_c);
    (void)state;
    for (float q = 0x1p-30f; q < 87; q += 0x1p-24f + q * 0x1p-10f) {
        float room[4], out;
        assert_int_equal(b->attend(b, &q, 1, 1, key, value, 0, 0, 1, 1, 1, room, &out), 0);
        double wanted = 1 / (1 + exp((double)q)), unit = ldexp(1, ilogb(wanted) - 23);
        if (!(fabs((double)out - wanted) <= 2 * unit))
            fail_msg("exp(-%a): %a instead of %a", (double)q, (double)out, wanted);
    }
    b->close(b);
}

static void attention_compare(struct backend *b, struct backend *c, uint32_t heads, uint32_t first,
                              uint32_t last, uint32_t dim, float scale)
{
    assert_int_equal(c->attend(c, queries, 1, heads, keys, values, 0, first, last, dim, scale,
                               scores, attended_c),
                     0);
    assert_int_equal(b->attend(b, queries, 1, heads, keys, values, 0, first, last, dim, scale,
                               scores, attended),
                     0);
    for (uint32_t i = 0; i < heads * dim; i++)
        if (f32_bits(attended[i]) != f32_bits(attended_c[i]) &&
            !(isnan(attended[i]) && isnan(attended_c[i])))
            fail_msg("%s, %u heads, positions %u to %u, dim %u: element %u is %a instead of %a",
                     b->name, heads, first, last, dim, i, (double)attended[i],
                     (double)attended_c[i]);
}

static void test_attention(void **state)
{
    static const uint32_t dims[] = {64, 80, 96, 128, 256, 1, 15, 17, 33, 100, 300},
                          counts[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 100, 1023, 3000};
    const struct dot_set *set = *state;
    struct random r = {19};
    if (!dot_set_supported(set))
        skip();
    struct backend *b = open(set), *c = open(plain_c);
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
            uint32_t count = counts[n], dim = dims[d], heads = 1 + (uint32_t)(d + n) % HEADS_MAX;
            float scale = (n % 3 ? 1 : 30) / sqrtf((float)dim);
            attention_fill(b, &r, heads, count, dim);
            attention_compare(b, c, heads, 0, count - 1, dim, scale);
            attention_compare(b, c, heads, count / 2, count - 1, dim, scale);
            /* Scores and values that are not finite. */
            queries[random_bits(&r) % dim] = d % 2 ? INFINITY : NAN;
            values[random_bits(&r) % count * dim] = 0x7c00;
            attention_compare(b, c, heads, 0, count - 1, dim, scale);
        }
    b->close(b);
    c->close(c);
}

/* Heads are alone in what they give, and nothing is read but the keys and values there are. */
static void test_attention_alone(void **state)
{
    enum { HEADS = 5, COUNT = 21, DIM = 80 };
    const struct dot_set *set = *state;
    struct random r = {20};
    if (!dot_set_supported(set))
        skip();
    struct backend *b = open(set);
    size_t size = COUNT * DIM * sizeof *keys, offset = 4 * DIM * sizeof *keys;
    uint8_t *at[] = {at_the_edge(size - offset), at_the_edge(size - offset)};
    float one[DIM];
    attention_fill(b, &r, HEADS, COUNT, DIM);
    memcpy(at[0], (const uint8_t *)keys + offset, size - offset);
    memcpy(at[1], (const uint8_t *)values + offset, size - offset);
    assert_int_equal(
        b->attend(b, queries, 1, HEADS, keys, values, 0, 4, COUNT - 1, DIM, 1, scores, attended),
        0);
    for (int h = 0; h < HEADS; h++) {
        assert_int_equal(b->attend(b, queries + h * DIM, 1, 1, (const uint16_t *)at[0],
                                   (const uint16_t *)at[1], 0, 0, COUNT - 5, DIM, 1, scores, one),
                         0);
        assert_memory_equal(one, attended + h * DIM, sizeof one);
    }
    b->close(b);
}

static void test_halves(void **state)
{
    const struct dot_set *set = *state;
    if (!dot_set_supported(set))
        skip();
    struct backend *b = open(set);
    for (uint32_t half = 0; half < 0x7c00; half++) {
        /* Itself, and between it and the next a little less, the middle, a little more. */
        double low = (double)f32_from_f16((uint16_t)half),
               next = half == 0x7bff ? 65536 : (double)f32_from_f16((uint16_t)(half + 1));
        float middle = (float)((low + next) / 2);
        float given[4] = {(float)low, nextafterf(middle, 0), middle, nextafterf(middle, 1e6f)};
        uint16_t wanted[4] = {(uint16_t)half, (uint16_t)half, (uint16_t)(half + half % 2),
                              (uint16_t)(half + 1)},
                 got[4], again[4];
        assert_int_equal(b->remember(b, given, given, 1, 1, 4, 0, 0, got, again), 0);
        assert_memory_equal(got, wanted, sizeof got);
        assert_memory_equal(again, wanted, sizeof got);
        for (int i = 0; i < 4; i++) {
            given[i] = -given[i];
            wanted[i] |= 0x8000;
        }
        assert_int_equal(b->remember(b, given, given, 1, 1, 4, 0, 0, got, again), 0);
        assert_memory_equal(got, wanted, sizeof got);
        assert_memory_equal(again, wanted, sizeof got);
    }
    const float strange[] = {INFINITY, -INFINITY, 1e9f, NAN};
    uint16_t got[4], again[4];
    assert_int_equal(b->remember(b, strange, strange, 1, 1, 4, 0, 0, got, again), 0);
    assert_true(got[0] == 0x7c00 && got[1] == 0xfc00 && got[2] == 0x7c00);
    assert_true(isnan(f32_from_f16(got[3])));
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
    weights_put(q4_k, &r, ROWS * COLS);
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
    assert_int_equal(b->activations_begin(b, a, ACTIVATIONS_INT8_256, 2, NULL), -EINVAL);
    assert_int_equal(b->activations_put(b, a, x, 1, 1), -EINVAL);
    assert_int_equal(b->activations_new(b, 288, 1, &narrow), 0);
    assert_int_equal(b->activations_begin(b, narrow, ACTIVATIONS_INT8_256, 1, NULL), -EINVAL);
    assert_int_equal(b->activations_begin(b, narrow, ACTIVATIONS_INT8_32, 1, NULL), 0);
    assert_int_equal(b->activations_new(b, UINT64_MAX / 8, 64, &narrow), -EOVERFLOW);
    b->activations_free(b, narrow);
    b->activations_free(b, a);
    assert_int_equal(b->attend(b, x, 1, 1, keys, values, 0, 1, 0, 64, 1, scores, out), -EINVAL);
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
        {"test_any_shape",       test_any_shape      },
        {"test_awkward_values",  test_awkward_values },
        {"test_any_split",       test_any_split      },
        {"test_attention",       test_attention      },
        {"test_attention_alone", test_attention_alone},
        {"test_halves",          test_halves         },
    };
    enum { EACH = sizeof of_a_set / sizeof *of_a_set, SETS_MAX = 8, COMMON = 7 };
    struct CMUnitTest tests[COMMON + EACH * SETS_MAX] = {
        cmocka_unit_test(test_the_choice),         cmocka_unit_test(test_integers_are_exact),
        cmocka_unit_test(test_floats_are_close),   cmocka_unit_test(test_not_finite_stays_so),
        cmocka_unit_test(test_attention_is_close), cmocka_unit_test(test_exp_is_close),
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

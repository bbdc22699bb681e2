/* SPDX-License-Identifier: MIT
 *
 * Products of SpQR stripes: what they are, for plain C, that every instruction set gives its bits,
 * and what of a stripe is refused.
 */
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/spqr/format.h"
#include "kernels/cpu/backend.h"
#include "tests/unit/edge.h"

#include <errno.h>
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/stripes.h"

enum { BATCH = STRIPE_COLUMNS_MAX + 1 };

typedef float products[BATCH][SPQR_ROWS];

static const struct dot_set *plain_c;

/* ---- stripes and activations ---- */

static void stripe_pack(const struct spqr_layout *l, struct random *r, size_t outliers,
                        uint8_t *out)
{
    struct spqr_stripe s;
    stripe_allocate(l, &s);
    stripe_fill(l, r, outliers, &s);
    spqr_pack(l, &s, out);
    stripe_free(&s);
}

static uint32_t *shuffled(struct random *r, size_t n)
{
    uint32_t *order = allocate(n, sizeof *order);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = random_bits(r) % (i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

static struct activations *put(enum activation_kind kind, size_t cols, uint32_t batch,
                               const uint32_t *order, const float *x)
{
    struct activations *a;
    assert_int_equal(activations_new(cols, batch, false, &a), 0);
    assert_int_equal(activations_begin(a, kind, batch, order), 0);
    assert_int_equal(activations_put(a, x, 0, batch), 0);
    return a;
}

static struct activations *made_up(enum weights_kind kind, struct random *r, size_t cols,
                                   uint32_t batch, const uint32_t *order)
{
    float *x = allocate(batch * cols, sizeof *x);
    weights_fill(kind, r, x, batch * cols);
    struct activations *a = put(ACTIVATIONS_INT8_64, cols, batch, order, x);
    free(x);
    return a;
}

static void same(const char *what, const float *got, const float *wanted, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(got[i]) != f32_bits(wanted[i]) && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s: product %zu of %zu is %a instead of %a", what, i, n, (double)got[i],
                     (double)wanted[i]);
}

/* ---- all sets alike ---- */

/* All columns with plain C, one by one. */
static void multiply_c(const struct spqr_layout *l, const uint8_t *stripe,
                       const struct activations *a, products out)
{
    for (uint32_t column = 0; column < a->batch; column++)
        assert_int_equal(plain_c->stripe(l, stripe, a, column, 1, out + column), 0);
}

/* Any number of columns at once, the last among them; and the stripe at another address. */
static void compare(const struct dot_set *set, const struct spqr_layout *l, const uint8_t *stripe,
                    const struct activations *a, const char *what)
{
    products wanted, got;
    uint8_t *odd = allocate(l->stripe_size + 1, 1);
    char text[120];
    memcpy(odd + 1, stripe, l->stripe_size);
    multiply_c(l, stripe, a, wanted);
    for (uint32_t count = 1; count <= STRIPE_COLUMNS_MAX && count <= a->batch; count++) {
        uint32_t first = a->batch - count;
        snprintf(text, sizeof text, "%s, %d bits, %zu columns, %s, %u of them", set->name, l->bits,
                 l->columns, what, count);
        assert_int_equal(set->stripe(l, stripe, a, first, count, got), 0);
        same(text, *got, wanted[first], count * SPQR_ROWS);
        assert_int_equal(set->stripe(l, odd + 1, a, first, count, got), 0);
        same(text, *got, wanted[first], count * SPQR_ROWS);
    }
    free(odd);
}

static void compare_shape(const struct dot_set *set, struct random *r, const struct spqr_layout *l)
{
    uint32_t *order = shuffled(r, l->columns);
    uint8_t *stripe = at_the_edge(l->stripe_size);
    for (size_t eighths = 0; eighths <= 8; eighths += 4) {
        char what[40];
        snprintf(what, sizeof what, "%zu slots, %zu/8 filled", l->slots, eighths);
        stripe_pack(l, r, l->slots * eighths / 8, stripe);
        /* Columns with numbers of four bytes are slow with every set. */
        uint32_t most = l->index_size == 2 ? BATCH : 1;
        for (uint32_t batch = 1; batch <= most; batch += BATCH - 1) {
            struct activations *a =
                made_up(WEIGHTS_HEAVY_TAILS, r, l->columns, batch, eighths ? order : NULL);
            compare(set, l, stripe, a, what);
            activations_free(a);
        }
    }
    free(order);
}

static void test_any_shape(void **state)
{
    static const size_t widths[] = {1, 16, 48, 64, 72, 80, 128, 200, 4112, 65552};
    static const double budgets[] = {0, 0.01, 0.05, 0.9};
    const struct dot_set *set = *state;
    struct random r = {21};
    if (!dot_set_supported(set))
        skip();
    for (int bits = 2; bits <= 4; bits++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
            for (size_t b = 0; b < (widths[i] > 200 ? 2 : 4); b++) {
                struct spqr_layout l = layout(bits, widths[i], budgets[b]);
                compare_shape(set, &r, &l);
            }
}

/* Every kind of activations, and planes of bits that are all alike; some activations, and then all
 * statistics, are not finite. */
static void test_awkward_values(void **state)
{
    enum { COLS = 272 };
    const struct dot_set *set = *state;
    struct random r = {22};
    float *x = allocate(BATCH * COLS, sizeof *x);
    if (!dot_set_supported(set))
        skip();
    for (int bits = 2; bits <= 4; bits++) {
        struct spqr_layout l = layout(bits, COLS, 0.02);
        uint8_t *stripe = allocate(l.stripe_size, 1);
        for (enum weights_kind kind = 0; kind < WEIGHTS_KINDS; kind++) {
            stripe_pack(&l, &r, l.slots, stripe);
            weights_fill(kind, &r, x, BATCH * COLS);
            x[70] = INFINITY;
            x[COLS + 100] = NAN;
            for (int c = 0; c < COLS; c += 9)
                x[2 * COLS + c] = -FLT_MAX; /* times a level's scale it may be infinite */
            struct activations *a = put(ACTIVATIONS_INT8_64, COLS, BATCH, NULL, x);
            compare(set, &l, stripe, a, weights_kind_names[kind]);
            activations_free(a);
        }
        for (int i = 0; i < BATCH * COLS; i++)
            x[i] = i % 3 ? -1 : 1;
        struct activations *a = put(ACTIVATIONS_INT8_64, COLS, BATCH, NULL, x);
        for (int byte = 0; byte < 256; byte += 51) {
            memset(stripe, byte, l.columns_at - 64);
            compare(set, &l, stripe, a, "bits alike");
        }
        /* Codes of all ones, with the largest halves there are. */
        for (size_t at = 0; at < l.columns_at - 64; at += l.supertile_size)
            for (size_t i = 1; i <= 16; i++)
                store_u16(stripe + at + l.supertile_size - 2 * i, i % 3 ? 0x7bff : 0xfbff);
        compare(set, &l, stripe, a, "largest halves");
        /* And the smallest. */
        for (size_t at = 0; at < l.columns_at - 64; at += l.supertile_size)
            for (size_t i = 1; i <= 16; i++)
                store_u16(stripe + at + l.supertile_size - 2 * i, i % 3 ? 0x0001 : 0x8003);
        compare(set, &l, stripe, a, "smallest halves");
        activations_free(a);
        free(stripe);
    }
    free(x);
}

/* Exactly what breaks the rules is refused, whatever the number of columns. */
static void test_corrupt_outliers(void **state)
{
    enum { COLS = 200 };
    const struct dot_set *set = *state;
    struct spqr_layout l = layout(3, COLS, 0.02); /* 64 slots */
    struct random r = {23};
    products out;
    if (!dot_set_supported(set))
        skip();
    uint8_t *stripe = at_the_edge(l.stripe_size), *good = allocate(l.stripe_size, 1);
    struct activations *a = made_up(WEIGHTS_GAUSSIAN, &r, COLS, BATCH, NULL);
    stripe_pack(&l, &r, 61, good);
    /* Slots of every row up to its end; row 0 has none, 15 has 61 - 60. */
    for (int row = 0; row < SPQR_ROWS; row++)
        put_end(&l, good, row, row == 15 ? 61 : (uint32_t)row * 4);
    for (uint32_t count = 1; count <= STRIPE_COLUMNS_MAX; count++) {
        memcpy(stripe, good, l.stripe_size);
        assert_int_equal(set->stripe(&l, stripe, a, 0, count, out), 0);
        for (int row = 0; row < SPQR_ROWS; row++) {
            static const uint32_t beyond[] = {65, 0x80000000, UINT32_MAX};
            for (size_t i = 0; i < 3; i++) {
                memcpy(stripe, good, l.stripe_size);
                put_end(&l, stripe, row, beyond[i]);
                assert_int_equal(set->stripe(&l, stripe, a, 0, count, out), -EINVAL);
            }
            memcpy(stripe, good, l.stripe_size);
            put_end(&l, stripe, row, row < 15 ? 62 : 55); /* the row behind, or this one, falls */
            assert_int_equal(set->stripe(&l, stripe, a, 0, count, out), -EINVAL);
        }
        for (size_t slot = 0; slot < l.slots; slot++) {
            memcpy(stripe, good, l.stripe_size);
            store_u16(stripe + l.columns_at + 2 * slot, slot % 2 ? COLS : UINT16_MAX);
            assert_int_equal(set->stripe(&l, stripe, a, 0, count, out), slot < 61 ? -EINVAL : 0);
        }
    }
    activations_free(a);
    free(good);
}

/* ---- what products are ---- */

/* The sum of all that is added up for a row, and of the magnitudes of it. */
static void sums_of(const struct spqr_layout *l, const uint8_t *stripe, const struct activations *a,
                    uint32_t column, double sum[SPQR_ROWS], double magnitude[SPQR_ROWS])
{
    struct spqr_stripe s;
    struct error err;
    float *weights = allocate(SPQR_ROWS * l->columns, sizeof *weights);
    stripe_allocate(l, &s);
    assert_int_equal(spqr_unpack(l, stripe, l->stripe_size, &s, &err), 0);
    assert_int_equal(spqr_decode(l, stripe, l->stripe_size, weights, &err), 0);
    for (size_t row = 0; row < SPQR_ROWS; row++) {
        sum[row] = magnitude[row] = 0;
        for (size_t c = 0; c < l->columns; c++) {
            const struct spqr_group *g = &s.groups[c / SPQR_GROUP];
            double x = (double)a->scale[column * a->scale_stride + c / SPQR_COLUMNS] *
                       a->q[column * a->q_stride + c];
            float scale = g->scale_scale * ((float)g->scales[row] - g->scale_zero);
            float zero = g->zero_scale * ((float)g->zeros[row] - g->zero_zero);
            double terms = fabs((double)scale) * (s.codes[c][row] + fabs((double)zero));
            if (s.outlier_rows[c] >> row & 1)
                terms += fabs((double)s.outliers[c][row]);
            sum[row] += (double)weights[row * l->columns + c] * x;
            magnitude[row] += terms * fabs(x);
        }
    }
    stripe_free(&s);
    free(weights);
}

/* Within a rounding for each supertile that is added, and 16 for what happens inside of one, among
 * outliers and in decoding: in units of 2^-24 of what is added up. */
static void test_c_is_close(void **state)
{
    static const size_t widths[] = {16, 72, 1000, 4096};
    struct random r = {24};
    (void)state;
    for (int i = 0; i < 3 * 4; i++) {
        struct spqr_layout l = layout(2 + i / 4, widths[i % 4], 0.02);
        uint8_t *stripe = allocate(l.stripe_size, 1);
        stripe_pack(&l, &r, l.slots * 9 / 10, stripe);
        struct activations *a = made_up(WEIGHTS_GAUSSIAN, &r, l.columns, BATCH, NULL);
        products out;
        multiply_c(&l, stripe, a, out);
        for (uint32_t column = 0; column < BATCH; column++) {
            double sum[SPQR_ROWS], magnitude[SPQR_ROWS];
            double roundings = (double)l.padded / SPQR_COLUMNS + 16;
            sums_of(&l, stripe, a, column, sum, magnitude);
            for (int row = 0; row < SPQR_ROWS; row++)
                if (!(fabs((double)out[column][row] - sum[row]) <=
                      roundings * 0x1p-24 * magnitude[row]))
                    fail_msg("%d bits, %zu columns: %g instead of %g (of %g)", l.bits, l.columns,
                             (double)out[column][row], sum[row], magnitude[row]);
        }
        activations_free(a);
        free(stripe);
    }
}

/* Levels and scales are those of the activations themselves, block by block, in their order. */
static void test_activations(void **state)
{
    enum { COLS = 200 };
    struct random r = {25};
    static float all[BATCH * COLS];
    (void)state;
    weights_fill(WEIGHTS_JUMPS, &r, all, BATCH * COLS);
    uint32_t *order = shuffled(&r, COLS);
    struct activations *a = put(ACTIVATIONS_INT8_64, COLS, BATCH, order, all);
    for (size_t column = 0; column < BATCH; column++) {
        const float *x = all + column * COLS, *scale = a->scale + column * a->scale_stride;
        const int8_t *q = a->q + column * a->q_stride;
        for (size_t c = 0; c < COLS; c++) {
            float largest = 0;
            for (size_t i = c / 64 * 64; i < COLS && i < c / 64 * 64 + 64; i++)
                largest = fmaxf(largest, fabsf(x[order[i]]));
            assert_true(fabsf(scale[c / 64] * (float)q[c] - x[order[c]]) <= largest / 253);
            assert_true(a->x[c * BATCH + column] == scale[c / 64] * (float)q[c]);
        }
        for (size_t c = COLS; c < 256; c++)
            assert_int_equal(q[c], 0);
    }
    activations_free(a);
    free(order);
}

static void test_an_order_is_for_stripes_and_floats(void **state)
{
    static const int expected[ACTIVATION_KINDS] = {
        [ACTIVATIONS_INT8_32] = -EINVAL, [ACTIVATIONS_INT8_256] = -EINVAL};
    struct random r = {26};
    struct activations *a;
    (void)state;
    uint32_t *order = shuffled(&r, 256);
    assert_int_equal(activations_new(256, 1, false, &a), 0);
    for (enum activation_kind kind = 0; kind < ACTIVATION_KINDS; kind++) {
        assert_int_equal(activations_begin(a, kind, 1, order), expected[kind]);
        assert_int_equal(activations_begin(a, kind, 1, NULL), 0);
    }
    activations_free(a);
    free(order);
}

/* ---- matrices ---- */

enum { ROWS = 41, STRIPES = 3 };

/* A matrix of ROWS rows, its stripes in runs that end where nothing may be read. */
struct made_up_matrix {
    struct matrix matrix;
    struct row_run runs[2];
    struct spqr_layout layout;
};

static void matrix_fill(struct made_up_matrix *m, struct random *r, const struct format *f,
                        uint64_t cols)
{
    static const uint64_t starts[] = {0, 16, ROWS};
    assert_int_equal(spqr_format_layout(f, cols, &m->layout, NULL), 0);
    for (int i = 0; i < 2; i++) {
        uint64_t rows = starts[i + 1] - starts[i], stripes = (rows + 15) / 16;
        uint8_t *data = at_the_edge(stripes * m->layout.stripe_size);
        for (uint64_t s = 0; s < stripes; s++)
            stripe_pack(&m->layout, r, m->layout.slots * 9 / 10, data + s * m->layout.stripe_size);
        m->runs[i] = (struct row_run){data, starts[i], rows};
    }
    m->matrix = (struct matrix){f, ROWS, cols, m->runs, 2};
}

/* Asked for in pieces, with activations in an order, a product is that of the stripes with the
 * activations put in that order before. Behind the last row nothing is written. */
static void test_a_matrix_in_runs(void **state)
{
    enum { COLS = 200 };
    const struct dot_set *set = *state;
    struct random r = {27};
    static float x[BATCH * COLS], in_order[BATCH * COLS];
    if (!dot_set_supported(set))
        skip();
    struct backend *b;
    assert_int_equal(backend_cpu_open(set, 1, &b), 0);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, BATCH * COLS);
    uint32_t *order = shuffled(&r, COLS);
    for (int i = 0; i < BATCH * COLS; i++)
        in_order[i] = x[i / COLS * COLS + (int)order[i % COLS]];
    struct activations *a = put(ACTIVATIONS_INT8_64, COLS, BATCH, order, x),
                       *plain = put(ACTIVATIONS_INT8_64, COLS, BATCH, NULL, in_order);
    for (int f = 0; f < SPQR_FORMAT_COUNT; f++) {
        struct made_up_matrix m;
        float out[BATCH][ROWS + 1];
        matrix_fill(&m, &r, &spqr_formats[f], COLS);
        for (int i = 0; i < BATCH; i++)
            out[i][ROWS] = 77;
        assert_int_equal(b->matmul(b, &m.matrix, 32, ROWS - 32, a, *out, ROWS + 1), 0);
        assert_int_equal(b->matmul(b, &m.matrix, 0, 32, a, *out, ROWS + 1), 0);
        for (int s = 0; s < STRIPES; s++) {
            const uint8_t *data = m.runs[s > 0].data;
            products wanted;
            multiply_c(&m.layout, data + (s > 1 ? m.layout.stripe_size : 0), plain, wanted);
            for (int i = 0; i < BATCH; i++)
                same(spqr_formats[f].title, out[i] + 16 * s, wanted[i], s == 2 ? ROWS - 32 : 16);
        }
        for (int i = 0; i < BATCH; i++)
            assert_true(out[i][ROWS] == 77);
    }
    activations_free(plain);
    activations_free(a);
    free(order);
    b->close(b);
}

/* With float activations it is the product of what the rows decode to. */
static void test_a_matrix_as_floats(void **state)
{
    enum { COLS = 200 };
    const struct dot_set *set = *state;
    struct random r = {28};
    static float x[BATCH * COLS], weights[48 * COLS];
    if (!dot_set_supported(set))
        skip();
    struct backend *b;
    assert_int_equal(backend_cpu_open(set, 1, &b), 0);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, BATCH * COLS);
    uint32_t *order = shuffled(&r, COLS);
    struct activations *a = put(ACTIVATIONS_F32, COLS, BATCH, order, x);
    for (int f = 0; f < SPQR_FORMAT_COUNT; f++) {
        struct made_up_matrix m;
        struct error err;
        static float out[BATCH * ROWS], wanted[BATCH * ROWS];
        size_t size;
        matrix_fill(&m, &r, &spqr_formats[f], COLS);
        size = m.layout.stripe_size;
        for (size_t s = 0; s < STRIPES; s++)
            assert_int_equal(spqr_decode(&m.layout,
                                         (const uint8_t *)m.runs[s > 0].data + (s > 1 ? size : 0),
                                         size, weights + s * 16 * COLS, &err),
                             0);
        struct row_run run = {weights, 0, ROWS};
        struct matrix decoded = {&formats[FORMAT_F32], ROWS, COLS, &run, 1};
        assert_int_equal(b->matmul(b, &decoded, 0, ROWS, a, wanted, ROWS), 0);
        assert_int_equal(b->matmul(b, &m.matrix, 0, ROWS, a, out, ROWS), 0);
        same(spqr_formats[f].title, out, wanted, BATCH * ROWS);
    }
    activations_free(a);
    free(order);
    b->close(b);
}

/* A column with a value that is not finite has no product; the others do not mind. */
static void test_not_finite_stays_so(void **state)
{
    enum { COLS = 200 };
    struct random r = {29};
    struct spqr_layout l = layout(3, COLS, 0.01);
    float *x = allocate(BATCH * COLS, sizeof *x);
    products out;
    (void)state;
    uint8_t *stripe = allocate(l.stripe_size, 1);
    stripe_pack(&l, &r, l.slots, stripe);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, BATCH * COLS);
    x[3] = INFINITY;
    x[2 * COLS + COLS - 1] = NAN;
    struct activations *a = put(ACTIVATIONS_INT8_64, COLS, BATCH, NULL, x);
    multiply_c(&l, stripe, a, out);
    for (int column = 0; column < BATCH; column++)
        for (int row = 0; row < SPQR_ROWS; row++)
            assert_int_equal(isnan(out[column][row]) != 0, column == 0 || column == 2);
    activations_free(a);
    free(stripe);
    free(x);
}

static void test_refusals(void **state)
{
    enum { COLS = 200 };
    struct random r = {30};
    struct made_up_matrix m;
    float x[COLS], out[ROWS];
    struct backend *b;
    (void)state;
    assert_int_equal(backend_cpu_open(plain_c, 1, &b), 0);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, COLS);
    matrix_fill(&m, &r, &spqr_formats[0], COLS);
    struct activations *a = put(ACTIVATIONS_INT8_64, COLS, 1, NULL, x),
                       *floats = put(ACTIVATIONS_F32, COLS, 1, NULL, x);
    struct matrix w = m.matrix, other = {&formats[FORMAT_Q8_0], ROWS, COLS, m.runs, 2};
    assert_int_equal(b->matmul(b, &w, 0, ROWS, a, out, ROWS), 0);
    assert_int_equal(b->matmul(b, &w, 8, 16, a, out, ROWS), -EINVAL); /* half a stripe */
    assert_int_equal(b->matmul(b, &w, 0, 8, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &w, 32, 16, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &w, 48, 0, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &other, 0, ROWS, a, out, ROWS), -EINVAL);
    w.run_count = 1;
    assert_int_equal(b->matmul(b, &w, 0, 16, a, out, ROWS), 0);
    assert_int_equal(b->matmul(b, &w, 0, 32, a, out, ROWS), -EINVAL);
    /* A stripe that breaks the rules, for either kind. */
    put_end(&m.layout, (uint8_t *)m.runs[0].data, 3, UINT32_MAX);
    assert_int_equal(b->matmul(b, &w, 0, 16, a, out, ROWS), -EINVAL);
    assert_int_equal(b->matmul(b, &w, 0, 16, floats, out, ROWS), -EINVAL);
    activations_free(floats);
    activations_free(a);
    b->close(b);
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction function;
    } of_a_set[] = {
        {"test_any_shape",          test_any_shape         },
        {"test_awkward_values",     test_awkward_values    },
        {"test_corrupt_outliers",   test_corrupt_outliers  },
        {"test_a_matrix_in_runs",   test_a_matrix_in_runs  },
        {"test_a_matrix_as_floats", test_a_matrix_as_floats},
    };
    enum { EACH = sizeof of_a_set / sizeof *of_a_set, SETS_MAX = 8, COMMON = 5 };
    struct CMUnitTest tests[COMMON + EACH * SETS_MAX] = {
        cmocka_unit_test(test_c_is_close),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_an_order_is_for_stripes_and_floats),
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
    return _cmocka_run_group_tests("stripe", tests, count, NULL, NULL);
}

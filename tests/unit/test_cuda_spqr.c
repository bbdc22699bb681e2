/* SPDX-License-Identifier: MIT
 *
 * A GPU's products of SpQR stripes with one column, or a few: each gives the bits of the
 * processor's, for any shape, whatever the order of threads.
 */
#include "kernels/cpu/activations.h"
#include "kernels/cpu/stripe.h"
#include "tests/unit/cuda_rooms.h"

/* ---- stripes ---- */

static float half_gaussian(struct random *r)
{
    return f32_from_f16(f16_from_f32(random_gaussian(r)));
}

/* Any codes and statistics, and as many outliers as there is room for, most of them in one row. */
static void stripe_fill(const struct spqr_layout *l, struct random *r, uint8_t *out)
{
    struct spqr_stripe s = {
        malloc(l->padded * sizeof *s.codes), malloc(l->padded / SPQR_GROUP * sizeof *s.groups),
        calloc(l->padded, sizeof *s.outlier_rows), malloc(l->padded * sizeof *s.outliers)};
    assert_true(s.codes && s.groups && s.outlier_rows && s.outliers);
    size_t left = l->slots;
    for (size_t c = 0; c < l->padded; c++)
        for (int row = 0; row < SPQR_ROWS; row++) {
            s.codes[c][row] = (uint8_t)(random_bits(r) >> (32 - l->bits));
            s.outliers[c][row] = 20 * half_gaussian(r);
            if (c < l->columns && left && random_bits(r) % (row == 5 ? 2 : 20) == 0) {
                s.outlier_rows[c] |= (uint16_t)(1 << row);
                left--;
            }
        }
    for (size_t g = 0; g < l->padded / SPQR_GROUP; g++) {
        struct spqr_group *group = &s.groups[g];
        for (int row = 0; row < SPQR_ROWS; row++) {
            group->scales[row] = random_bits(r) >> 29;
            group->zeros[row] = random_bits(r) >> 29;
        }
        group->scale_scale = half_gaussian(r);
        group->scale_zero = half_gaussian(r);
        group->zero_scale = half_gaussian(r);
        group->zero_zero = half_gaussian(r);
    }
    spqr_pack(l, &s, out);
    free(s.codes);
    free(s.groups);
    free(s.outlier_rows);
    free(s.outliers);
}

static struct spqr_places places_of(const struct spqr_layout *l)
{
    return (struct spqr_places){.stripe_size = l->stripe_size,
                                .ends_at = l->padded / SPQR_COLUMNS * l->supertile_size,
                                .columns_at = l->columns_at,
                                .values_at = l->values_at,
                                .cols = (uint32_t)l->columns,
                                .slots = (uint32_t)l->slots,
                                .wide = l->index_size == 4};
}

static void spqr_launch(const struct spqr_layout *l, const uint8_t *stripes, uint32_t rows,
                        struct activation_planes x, float *out)
{
    static emu_kernel_fn *const kernels[] = {gemv_spqr2, gemv_spqr3, gemv_spqr4};
    struct spqr_args args = {stripes, x, out, places_of(l), rows};
    emu_launch(emu, kernels[l->bits - 2], blocks_of(rows, SPQR_ROWS), SPQR_THREADS, &args);
}

static void spqr_columns_launch(const struct spqr_layout *l, const uint8_t *stripes, uint32_t rows,
                                struct matmul_spqr_args args)
{
    static emu_kernel_fn *const kernels[][3] = {
        {matmul8_spqr2,  matmul8_spqr3,  matmul8_spqr4 },
        {matmul16_spqr2, matmul16_spqr3, matmul16_spqr4}
    };
    args.stripes = stripes;
    args.layout = places_of(l);
    args.row_count = rows;
    emu_launch(emu, kernels[args.batch > 8][l->bits - 2], blocks_of(rows, SPQR_ROWS), TILE_THREADS,
               &args);
}

static void spqr_check(const struct spqr_layout *l, struct random *r, uint32_t rows)
{
    uint32_t stripes = blocks_of(rows, SPQR_ROWS), cols = (uint32_t)l->columns;
    uint8_t *packed = room(stripes * l->stripe_size);
    float *x = malloc(cols * sizeof *x), *out = room(rows * sizeof *out), wanted[1][SPQR_ROWS];
    struct activations *a;
    assert_non_null(x);
    weights_fill(WEIGHTS_GAUSSIAN, r, x, cols);
    assert_int_equal(activations_new(cols, 1, false, &a), 0);
    assert_int_equal(activations_begin(a, ACTIVATIONS_INT8_64, 1, NULL), 0);
    assert_int_equal(activations_put(a, x, 0, 1), 0);
    struct activation_planes planes = quantized(x, NULL, cols, 64, 1);
    for (uint32_t s = 0; s < stripes; s++)
        stripe_fill(l, r, packed + s * l->stripe_size);
    spqr_launch(l, packed, rows, planes, out);
    for (uint32_t s = 0; s < stripes; s++) {
        uint32_t first = s * SPQR_ROWS, left = rows - first;
        char what[80];
        snprintf(what, sizeof what, "%d bits, %u x %u, stripe %u", l->bits, rows, cols, s);
        assert_int_equal(stripe_c(l, packed + s * l->stripe_size, a, 0, 1, wanted), 0);
        same(what, out + first, wanted[0], left < SPQR_ROWS ? left : SPQR_ROWS);
    }
    activations_free(a);
    planes_free(planes);
    room_free(packed);
    room_free(out);
    free(x);
}

static void test_spqr(void **state)
{
    static const struct {
        uint32_t rows, cols;
        double budget;
    } cases[] = {
        {1,  64,       0    },
        {16, 64,       0.2  },
        {37, 320,      0.01 },
        {32, 576,      0    },
        {17, 1000,     0.05 },
        {16, 1024,     1    },
        {3,  64 * 130, 0.01 },
        {5,  65600,    0.001},
    };
    struct random r = {44};
    struct spqr_layout l;
    struct error err;
    (void)state;
    for (int bits = 2; bits <= 4; bits++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            assert_int_equal(spqr_layout(bits, cases[i].cols, cases[i].budget, &l, &err), 0);
            spqr_check(&l, &r, cases[i].rows);
        }
}

/* What each column alone gives; one is 0, and in the last something is no number. */
static void spqr_columns_check(const struct spqr_layout *l, struct random *r, uint32_t rows,
                               uint32_t batch)
{
    uint32_t stripes = blocks_of(rows, SPQR_ROWS), cols = (uint32_t)l->columns, stride = rows + 1;
    uint8_t *packed = room(stripes * l->stripe_size);
    float *x = malloc((size_t)batch * cols * sizeof *x), *wanted = room(rows * sizeof *wanted);
    float *out = room(batch * stride * sizeof *out);
    struct matmul_args s = strides_of(cols, 64);
    assert_non_null(x);
    for (uint32_t k = 0; k < stripes; k++)
        stripe_fill(l, r, packed + k * l->stripe_size);
    for (uint32_t c = 0; c < batch; c++)
        weights_fill(c == 2 ? WEIGHTS_ZERO : WEIGHTS_JUMPS, r, x + c * cols, cols);
    x[(batch - 1) * cols + cols / 2] = NAN;
    struct activation_planes all = quantized(x, NULL, cols, 64, batch);
    spqr_columns_launch(l, packed, rows,
                        (struct matmul_spqr_args){.x = all,
                                                  .out = out,
                                                  .level_stride = s.level_stride,
                                                  .scale_stride = s.scale_stride,
                                                  .sum_stride = s.sum_stride,
                                                  .out_stride = stride,
                                                  .batch = batch});
    for (uint32_t c = 0; c < batch; c++) {
        struct activation_planes one = quantized(x + c * cols, NULL, cols, 64, 1);
        spqr_launch(l, packed, rows, one, wanted);
        same("a column of several", out + c * stride, wanted, rows);
        assert_int_equal(f32_bits(out[c * stride + rows]), 0xffffffff);
        planes_free(one);
    }
    planes_free(all);
    room_free(packed);
    room_free(out);
    room_free(wanted);
    free(x);
}

static void test_spqr_with_columns(void **state)
{
    static const struct {
        uint32_t rows, cols;
        double budget;
        uint32_t batch;
    } cases[] = {
        {1,  64,    0,     2 },
        {37, 320,   0.01,  8 },
        {16, 1024,  0.2,   5 },
        {17, 1000,  0.05,  9 },
        {5,  1600,  0,     16},
        {3,  65600, 0.001, 2 },
    };
    struct random r = {47};
    struct spqr_layout l;
    struct error err;
    (void)state;
    for (int bits = 2; bits <= 4; bits++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            assert_int_equal(spqr_layout(bits, cases[i].cols, cases[i].budget, &l, &err), 0);
            spqr_columns_check(&l, &r, cases[i].rows, cases[i].batch);
        }
}

/* Nothing is read but the stripe, and where the processor refuses it, something is NaN. */
static void any_bytes_check(const struct spqr_layout *l, const uint8_t *packed,
                            const struct activations *a, const float *out, const char *what)
{
    float wanted[1][SPQR_ROWS];
    bool refused = stripe_c(l, packed, a, 0, 1, wanted) != 0, nan = false;
    for (int row = 0; row < SPQR_ROWS; row++)
        nan |= isnan(out[row]);
    if (!refused)
        same(what, out, wanted[0], SPQR_ROWS);
    else if (!nan)
        fail_msg("%s: a stripe that breaks the rules gives numbers", what);
}

static void test_spqr_of_any_bytes(void **state)
{
    enum { COLS = 320 };
    struct random r = {45};
    struct spqr_layout l;
    struct activations *a;
    struct error err;
    float x[COLS];
    (void)state;
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, COLS);
    assert_int_equal(spqr_layout(3, COLS, 0.02, &l, &err), 0);
    assert_int_equal(activations_new(COLS, 1, false, &a), 0);
    assert_int_equal(activations_begin(a, ACTIVATIONS_INT8_64, 1, NULL), 0);
    assert_int_equal(activations_put(a, x, 0, 1), 0);
    struct activation_planes planes = quantized(x, NULL, COLS, 64, 1);
    uint8_t *packed = room(l.stripe_size);
    float *out = room(SPQR_ROWS * sizeof *out);
    for (int round = 0; round < 60; round++) {
        if (round % 3 == 2) { /* a good one, but for one byte of its ends or columns */
            stripe_fill(&l, &r, packed);
            packed[l.columns_at - 64 + random_bits(&r) % (64 + 2 * l.slots)] ^= 1 << round % 8;
        } else
            for (size_t i = 0; i < l.stripe_size; i++)
                packed[i] = (uint8_t)(random_bits(&r) % (round % 3 ? 256 : 2));
        spqr_launch(&l, packed, SPQR_ROWS, planes, out);
        any_bytes_check(&l, packed, a, out, "one column");
        spqr_columns_launch(&l, packed, SPQR_ROWS,
                            (struct matmul_spqr_args){.x = planes, .out = out, .batch = 1});
        any_bytes_check(&l, packed, a, out, "columns");
    }
    activations_free(a);
    planes_free(planes);
    room_free(packed);
    room_free(out);
}

/* All kernels of one kind are alike here. */
static void test_banks(void **state)
{
    struct random r = {48};
    struct spqr_layout l;
    struct error err;
    (void)state;
    assert_int_equal(spqr_layout(3, 1024, 0.01, &l, &err), 0);
    emu_record(emu, true);
    spqr_check(&l, &r, 16);
    spqr_columns_check(&l, &r, 16, 8);
    spqr_columns_check(&l, &r, 16, 16);
    banks_check(6);
    emu_record(emu, false);
}

static const struct CMUnitTest tests[] = {
    BOTH(test_spqr),
    BOTH(test_spqr_with_columns),
    BOTH(test_spqr_of_any_bytes),
    BOTH(test_banks),
};
RUN_FORWARD_AND_BACKWARD(tests)

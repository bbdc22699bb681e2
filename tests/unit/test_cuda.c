/* SPDX-License-Identifier: MIT
 *
 * The kernels of a GPU, run by the emulator: each gives the bits of the processor's, for any shape,
 * whatever the order of threads. Memory is given to the emulator to the byte, so nothing around it
 * is read or written.
 */
#include "kernels/cpu/activations.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/stripe.h"
#include "kernels/cuda/emu.h"
#include "kernels/cuda/kernels.h"
#include "tests/packed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

emu_kernel_fn quantize_256, quantize_32, quantize_64, gemv_spqr2, gemv_spqr3, gemv_spqr4, gemv_q2_k,
    gemv_q3_k, gemv_q4_k, gemv_q5_k, gemv_q6_k, gemv_q4_0, gemv_q8_0, gemv_f16, gemv_bf16, gemv_f32,
    add, silu_gate, rope, remember, rms_norm, argmax, attend_scores, attend_weights, attend_values;

emu_kernel_fn matmul8_q2_k, matmul8_q3_k, matmul8_q4_k, matmul8_q5_k, matmul8_q6_k, matmul16_q2_k,
    matmul16_q3_k, matmul16_q4_k, matmul16_q5_k, matmul16_q6_k, matmul8_q8_0, matmul16_q8_0,
    matmul8_q4_0, matmul16_q4_0, matmul8_spqr2, matmul8_spqr3, matmul8_spqr4, matmul16_spqr2,
    matmul16_spqr3, matmul16_spqr4;

static struct emu *emu;

#include "tests/unit/emu_ways.h"

static uint32_t blocks_of(uint32_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

/* Memory that kernels may use, aligned as a device's, filled with what is no number. */
static void *room(size_t size)
{
    void *p = aligned_alloc(256, (size + 256) / 256 * 256);
    assert_non_null(p);
    memset(p, 0xff, size);
    emu_give(emu, p, size);
    return p;
}

/* The same with a copy of something in it. */
static void *room_of(const void *from, size_t size)
{
    return memcpy(room(size), from, size);
}

static void room_free(const void *p)
{
    emu_take(emu, p);
    free((void *)p);
}

static void same(const char *what, const float *got, const float *wanted, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(got[i]) != f32_bits(wanted[i]) && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s: element %zu of %zu is %a instead of %a", what, i, n, (double)got[i],
                     (double)wanted[i]);
}

/* ---- activations ---- */

static struct activation_planes planes_new(uint32_t cols, uint32_t block)
{
    cols = blocks_of(cols, block) * block;
    return (struct activation_planes){room(cols), room(cols / block * sizeof(float)),
                                      room(cols / (block == 32 ? 32 : 16) * sizeof(int16_t))};
}

static void planes_free(struct activation_planes p)
{
    room_free(p.levels);
    room_free(p.scales);
    room_free(p.sums);
}

/* order: NULL, or where each element comes from. */
static struct activation_planes quantized(const float *values, const uint32_t *order, uint32_t cols,
                                          uint32_t block)
{
    float *x = room_of(values, cols * sizeof *x);
    uint32_t *from = order ? room_of(order, cols * sizeof *from) : NULL;
    struct quantize_args args = {x, from, planes_new(cols, block), cols};
    emu_launch(emu,
               block == 32   ? quantize_32
               : block == 64 ? quantize_64
                             : quantize_256,
               blocks_of(cols, 256 * QUANTIZE_WARPS), QUANTIZE_THREADS, &args);
    room_free(x);
    if (order)
        room_free(from);
    return args.out;
}

static void planes_check(const float *x, uint32_t cols, uint32_t block, const char *what)
{
    struct activations *a;
    struct activation_planes p = quantized(x, NULL, cols, block);
    assert_int_equal(activations_new(cols, 1, false, &a), 0);
    assert_int_equal(
        activations_begin(a, block == 32 ? ACTIVATIONS_INT8_32 : ACTIVATIONS_INT8_256, 1, NULL), 0);
    assert_int_equal(activations_put(a, x, 0, 1), 0);
    same(what, p.scales, a->scale, cols / block);
    assert_memory_equal(p.levels, a->q, cols);
    assert_memory_equal(p.sums, a->sums, cols / (block == 32 ? 32 : 16) * sizeof *p.sums);
    activations_free(a);
    planes_free(p);
}

static void test_activations(void **state)
{
    enum { COLS = 2304 };
    static const uint32_t blocks[] = {32, 256};
    static float x[COLS];
    struct random r = {31};
    (void)state;
    for (int b = 0; b < 2; b++)
        for (int kind = 0; kind < WEIGHTS_KINDS; kind++)
            for (uint32_t n = 1; n <= COLS / blocks[b]; n += n < 10 ? 1 : 7) {
                weights_fill(kind, &r, x, COLS);
                planes_check(x, n * blocks[b], blocks[b], weights_kind_names[kind]);
                x[random_bits(&r) % COLS] = INFINITY;
                x[random_bits(&r) % COLS] = NAN;
                planes_check(x, n * blocks[b], blocks[b], "not finite");
            }
}

static void test_activations_in_another_order(void **state)
{
    enum { COLS = 512 };
    float x[COLS], moved[COLS];
    uint32_t order[COLS];
    struct random r = {32};
    (void)state;
    weights_fill(WEIGHTS_JUMPS, &r, x, COLS);
    for (uint32_t i = 0; i < COLS; i++) {
        order[i] = i * 37 % COLS;
        moved[i] = x[order[i]];
    }
    struct activation_planes got = quantized(x, order, COLS, 256);
    struct activation_planes wanted = quantized(moved, NULL, COLS, 256);
    same("in another order", got.scales, wanted.scales, COLS / 256);
    assert_memory_equal(got.levels, wanted.levels, COLS);
    assert_memory_equal(got.sums, wanted.sums, COLS / 16 * sizeof *got.sums);
    planes_free(got);
    planes_free(wanted);
}

/* A block of 64 is that of 256 with nothing else in it. */
static void test_activations_in_blocks_of_64(void **state)
{
    enum { COLS = 64 * 7 - 13, BLOCKS = 7 };
    float x[BLOCKS * 64] = {0};
    struct random r = {43};
    (void)state;
    weights_fill(WEIGHTS_JUMPS, &r, x, COLS);
    x[64 * 3 + 5] = NAN;
    struct activation_planes p = quantized(x, NULL, COLS, 64);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        float alone[256] = {0};
        memcpy(alone, x + 64 * b, 64 * sizeof *x);
        struct activation_planes wanted = quantized(alone, NULL, 256, 256);
        same("scale of 64", p.scales + b, wanted.scales, 1);
        assert_memory_equal(p.levels + 64 * b, wanted.levels, 64);
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(p.sums[4 * b + i], wanted.sums[i % 2 * 8 + i / 2]);
        planes_free(wanted);
    }
    planes_free(p);
}

/* ---- products ---- */

static const struct product {
    enum format_id format;
    emu_kernel_fn *gemv;
    uint32_t rows; /* of a block */
} products[] = {
    {FORMAT_Q2_K, gemv_q2_k, GEMV_ROWS_256},
    {FORMAT_Q3_K, gemv_q3_k, GEMV_ROWS_256},
    {FORMAT_Q4_K, gemv_q4_k, GEMV_ROWS_256},
    {FORMAT_Q5_K, gemv_q5_k, GEMV_ROWS_256},
    {FORMAT_Q6_K, gemv_q6_k, GEMV_ROWS_256},
    {FORMAT_Q4_0, gemv_q4_0, GEMV_ROWS_32 },
    {FORMAT_Q8_0, gemv_q8_0, GEMV_ROWS_32 },
};

static void multiply_cpu(const struct format *f, const uint8_t *packed, const float *x,
                         uint32_t rows, uint32_t cols, float *out)
{
    struct backend *b;
    struct activations *a;
    struct row_run run = {packed, 0, rows};
    struct matrix w = {f, rows, cols, &run, 1};
    assert_int_equal(backend_cpu_open(&dot_set_c, 1, &b), 0);
    assert_int_equal(b->activations_new(b, cols, 1, &a), 0);
    assert_int_equal(b->activations_begin(b, a, activation_kind_of(f), 1, NULL), 0);
    assert_int_equal(b->activations_put(b, a, x, 0, 1), 0);
    assert_int_equal(b->matmul(b, &w, 0, rows, a, out, rows), 0);
    b->activations_free(b, a);
    b->close(b);
}

static void multiply_check(const struct product *p, struct random *r, const float *x, uint32_t rows,
                           uint32_t cols)
{
    const struct format *f = &formats[p->format];
    size_t blocks = (size_t)rows * cols / f->block;
    uint8_t *packed = room(blocks * f->block_size);
    float *out = room(rows * sizeof *out), *wanted = malloc(rows * sizeof *wanted);
    assert_non_null(wanted);
    packed_fill(f, r, packed, blocks);
    multiply_cpu(f, packed, x, rows, cols, wanted);
    struct activation_planes planes = quantized(x, NULL, cols, f->block);
    struct gemv_args args = {packed, planes, out, rows, cols};
    emu_launch(emu, p->gemv, blocks_of(rows, p->rows), GEMV_THREADS, &args);
    char what[80];
    snprintf(what, sizeof what, "%s, %u x %u", f->title, rows, cols);
    same(what, out, wanted, rows);
    planes_free(planes);
    room_free(packed);
    room_free(out);
    free(wanted);
}

static void test_products(void **state)
{
    static const uint32_t rows[] = {1, 2, 5, 16, 35}, blocks[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 17};
    static float x[17 * 256];
    struct random r = {33};
    (void)state;
    for (size_t p = 0; p < sizeof products / sizeof *products; p++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (size_t k = 0; k < sizeof blocks / sizeof *blocks; k++) {
                weights_fill(WEIGHTS_JUMPS, &r, x, sizeof x / sizeof *x);
                multiply_check(&products[p], &r, x, rows[i],
                               blocks[k] * (uint32_t)formats[products[p].format].block);
            }
}

/* ---- a few columns ---- */

static const struct tile {
    enum format_id format;
    emu_kernel_fn *of_8, *of_16;
} tiles[] = {
    {FORMAT_Q2_K, matmul8_q2_k, matmul16_q2_k},
    {FORMAT_Q3_K, matmul8_q3_k, matmul16_q3_k},
    {FORMAT_Q4_K, matmul8_q4_k, matmul16_q4_k},
    {FORMAT_Q5_K, matmul8_q5_k, matmul16_q5_k},
    {FORMAT_Q6_K, matmul8_q6_k, matmul16_q6_k},
    {FORMAT_Q8_0, matmul8_q8_0, matmul16_q8_0},
    {FORMAT_Q4_0, matmul8_q4_0, matmul16_q4_0},
};

/* What of planes belongs to a column. */
static struct matmul_args strides_of(uint32_t cols, uint32_t block)
{
    return (struct matmul_args){.level_stride = cols,
                                .scale_stride = cols / block,
                                .sum_stride = cols / (block == 32 ? 32 : 16)};
}

static void column_put(const struct activation_planes *all, const struct matmul_args *s,
                       const float *x, uint32_t c, uint32_t block)
{
    struct activation_planes p = quantized(x, NULL, (uint32_t)s->level_stride, block);
    memcpy(all->levels + c * s->level_stride, p.levels, s->level_stride);
    memcpy(all->scales + c * s->scale_stride, p.scales, s->scale_stride * sizeof *p.scales);
    memcpy(all->sums + c * s->sum_stride, p.sums, s->sum_stride * sizeof *p.sums);
    planes_free(p);
}

static void tile_check(const struct tile *t, struct random *r, uint32_t rows, uint32_t cols,
                       uint32_t batch)
{
    const struct format *f = &formats[t->format];
    size_t blocks = (size_t)rows * cols / f->block, stride = rows + 3, n = batch * stride;
    struct matmul_args args = strides_of(cols, f->block);
    struct activation_planes all = planes_new(cols * batch, f->block);
    uint8_t *packed = room(blocks * f->block_size);
    float *x = malloc(cols * sizeof *x), *out = room(n * sizeof *out), *wanted = malloc(n * 4);
    assert_true(x && wanted);
    memset(wanted, 0xff, n * sizeof *wanted);
    packed_fill(f, r, packed, blocks);
    for (uint32_t c = 0; c < batch; c++) {
        weights_fill(WEIGHTS_JUMPS, r, x, cols);
        column_put(&all, &args, x, c, f->block);
        multiply_cpu(f, packed, x, rows, cols, wanted + c * stride);
    }
    args.rows = packed;
    args.x = all;
    args.out = out;
    args.out_stride = stride;
    args.row_count = rows;
    args.cols = cols;
    args.batch = batch;
    emu_launch(emu, batch <= 8 ? t->of_8 : t->of_16, blocks_of(rows, TILE_ROWS), TILE_THREADS,
               &args);
    char what[80];
    snprintf(what, sizeof what, "%s, %u x %u, batch %u", f->title, rows, cols, batch);
    same(what, out, wanted, n);
    planes_free(all);
    room_free(packed);
    room_free(out);
    free(x);
    free(wanted);
}

static void test_products_with_columns(void **state)
{
    static const uint32_t rows[] = {1, 9, 37}, blocks[] = {1, 3, 8, 17};
    static const uint32_t batches[] = {1, 2, 5, 8, 9, 16};
    struct random r = {46};
    (void)state;
    for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (size_t k = 0; k < sizeof blocks / sizeof *blocks; k++)
                for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
                    tile_check(&tiles[t], &r, rows[i],
                               blocks[k] * (uint32_t)formats[tiles[t].format].block, batches[b]);
}

/* ---- plain floats ---- */

static void floats_check(enum format_id id, emu_kernel_fn *gemv, struct random *r, uint32_t rows,
                         uint32_t cols)
{
    const struct format *f = &formats[id];
    size_t n = (size_t)rows * cols;
    uint8_t *packed = room(n * f->block_size);
    float *weights = malloc(n * sizeof *weights), *wanted = malloc(rows * sizeof *wanted);
    assert_true(weights && wanted);
    float *x = room(cols * sizeof *x), *out = room(rows * sizeof *out);
    weights_fill(WEIGHTS_JUMPS, r, x, cols);
    weights_fill(WEIGHTS_HEAVY_TAILS, r, weights, n);
    f->encode(weights, 1, n, NULL, packed);
    multiply_cpu(f, packed, x, rows, cols, wanted);
    struct gemv_floats_args args = {packed, x, out, rows, cols};
    emu_launch(emu, gemv, blocks_of(rows, GEMV_ROWS_FLOATS), GEMV_THREADS, &args);
    same(f->title, out, wanted, rows);
    room_free(packed);
    room_free(x);
    room_free(out);
    free(weights);
    free(wanted);
}

static void test_products_of_floats(void **state)
{
    static const uint32_t rows[] = {1, 3, 16, 65}, cols[] = {16, 32, 48, 576, 1040};
    struct random r = {34};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t k = 0; k < sizeof cols / sizeof *cols; k++) {
            floats_check(FORMAT_F16, gemv_f16, &r, rows[i], cols[k]);
            floats_check(FORMAT_BF16, gemv_bf16, &r, rows[i], cols[k]);
            floats_check(FORMAT_F32, gemv_f32, &r, rows[i], cols[k]);
        }
}

/* What is largest in magnitude does not overflow anywhere; what is no number stays so. */
static void test_products_of_extremes(void **state)
{
    enum { ROWS = 4, COLS = 256 };
    static const float levels[][2] = {
        {127,      127 },
        {-127,     -127},
        {127,      -127},
        {0,        127 },
        {INFINITY, 1   }
    };
    float x[COLS], wanted[ROWS];
    (void)state;
    for (size_t p = 0; p < sizeof products / sizeof *products; p++)
        for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
            for (int byte = 0; byte < 256; byte += 17) {
                const struct format *f = &formats[products[p].format];
                size_t size = ROWS * COLS / f->block * f->block_size;
                uint8_t *packed = room(size);
                float *out = room(ROWS * sizeof *out);
                memset(packed, byte, size);
                for (size_t b = 0; b < size; b += f->block_size)
                    scales_put(f, packed + b, 0.5f, -0.25f);
                for (int k = 0; k < COLS; k++)
                    x[k] = levels[i][k % 2];
                multiply_cpu(f, packed, x, ROWS, COLS, wanted);
                struct activation_planes planes = quantized(x, NULL, COLS, f->block);
                struct gemv_args args = {packed, planes, out, ROWS, COLS};
                emu_launch(emu, products[p].gemv, 1, GEMV_THREADS, &args);
                same(f->title, out, wanted, ROWS);
                planes_free(planes);
                room_free(packed);
                room_free(out);
            }
}

/* ---- SpQR ---- */

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
    struct activation_planes planes = quantized(x, NULL, cols, 64);
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

/* What each column alone gives. */
static void spqr_columns_check(const struct spqr_layout *l, struct random *r, uint32_t rows,
                               uint32_t batch)
{
    uint32_t stripes = blocks_of(rows, SPQR_ROWS), cols = (uint32_t)l->padded, stride = rows + 1;
    uint8_t *packed = room(stripes * l->stripe_size);
    float *x = calloc(cols, sizeof *x), *wanted = room(rows * sizeof *wanted);
    float *out = room(batch * stride * sizeof *out);
    struct matmul_args s = strides_of(cols, 64);
    struct activation_planes all = planes_new(cols * batch, 64);
    struct matmul_spqr_args args = {NULL,           all,          out,    {0}, s.level_stride,
                                    s.scale_stride, s.sum_stride, stride, 0,   batch};
    assert_non_null(x);
    for (uint32_t k = 0; k < stripes; k++)
        stripe_fill(l, r, packed + k * l->stripe_size);
    for (uint32_t c = 0; c < batch; c++) {
        weights_fill(WEIGHTS_JUMPS, r, x, l->columns);
        column_put(&all, &s, x, c, 64);
    }
    spqr_columns_launch(l, packed, rows, args);
    for (uint32_t c = 0; c < batch; c++) {
        struct activation_planes one = planes_new(cols, 64);
        memcpy(one.levels, all.levels + c * s.level_stride, s.level_stride);
        memcpy(one.scales, all.scales + c * s.scale_stride, s.scale_stride * sizeof *one.scales);
        memcpy(one.sums, all.sums + c * s.sum_stride, s.sum_stride * sizeof *one.sums);
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

/* Outliers that no encoder wrote: whatever comes out, nothing is read elsewhere. */
static void test_spqr_of_any_bytes(void **state)
{
    struct random r = {45};
    struct spqr_layout l;
    struct error err;
    float x[320];
    (void)state;
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, 320);
    assert_int_equal(spqr_layout(3, 320, 0.02, &l, &err), 0);
    struct activation_planes planes = quantized(x, NULL, 320, 64);
    uint8_t *packed = room(l.stripe_size);
    float *out = room(16 * sizeof *out);
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < l.stripe_size; i++)
            packed[i] = (uint8_t)(random_bits(&r) % (round % 2 ? 256 : 2));
        spqr_launch(&l, packed, 16, planes, out);
        spqr_columns_launch(&l, packed, 16,
                            (struct matmul_spqr_args){.x = planes, .out = out, .batch = 1});
    }
    planes_free(planes);
    room_free(packed);
    room_free(out);
}

/* ---- what memory has to do ---- */

/* At most one sector for 32 weights, of which the weights alone are 0.56. */
static void test_sectors(void **state)
{
    enum { ROWS = 16, COLS = 4096 };
    const struct format *f = &formats[FORMAT_Q4_K];
    size_t blocks = ROWS * COLS / f->block, count;
    uint64_t sectors = 0;
    static float x[COLS];
    struct random r = {42};
    (void)state;
    uint8_t *packed = room(blocks * f->block_size);
    packed_fill(f, &r, packed, blocks);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, COLS);
    float *out = room(ROWS * sizeof *out);
    struct activation_planes planes = quantized(x, NULL, COLS, 256);
    struct gemv_args args = {packed, planes, out, ROWS, COLS};
    emu_record(emu, true);
    emu_launch(emu, gemv_q4_k, ROWS / GEMV_ROWS_256, GEMV_THREADS, &args);
    const struct emu_site *sites = emu_sites(emu, &count);
    for (size_t i = 0; i < count; i++)
        sectors += sites[i].sectors;
    emu_record(emu, false);
    assert_true(sectors <= ROWS * COLS / 32);
    planes_free(planes);
    room_free(packed);
    room_free(out);
}

/* ---- attention ---- */

struct attention {
    uint32_t kv_heads, shared_by, dim, first, count;
};

static void attend_cpu(const struct attention *t, const float *q, const uint16_t *keys,
                       const uint16_t *values, size_t head_stride, float *out)
{
    struct backend *b;
    float *scores = malloc(t->shared_by * t->count * sizeof *scores);
    assert_non_null(scores);
    assert_int_equal(backend_cpu_open(&dot_set_c, 1, &b), 0);
    for (uint32_t kv = 0; kv < t->kv_heads; kv++) {
        size_t at = (size_t)kv * t->shared_by * t->dim;
        assert_int_equal(b->attend(b, q + at, t->shared_by, keys + kv * head_stride,
                                   values + kv * head_stride, t->dim, t->first,
                                   t->first + t->count - 1, t->dim, 0.125f, scores, out + at),
                         0);
    }
    b->close(b);
    free(scores);
}

static void attend_check(const struct attention *t, struct random *r)
{
    uint32_t heads = t->kv_heads * t->shared_by, n = heads * t->dim;
    size_t head_stride = (size_t)(t->first + t->count) * t->dim, kept = t->kv_heads * head_stride;
    uint16_t *keys = room(kept * 2), *values = room(kept * 2);
    float *q = room(n * sizeof *q), *out = room(n * sizeof *out), *wanted = malloc(n * sizeof *out);
    assert_non_null(wanted);
    for (size_t i = 0; i < kept; i++) {
        keys[i] = f16_from_f32(4 * random_gaussian(r));
        values[i] = f16_from_f32(random_gaussian(r));
    }
    for (uint32_t i = 0; i < n; i++)
        q[i] = 3 * random_gaussian(r);
    attend_cpu(t, q, keys, values, head_stride, wanted);
    struct attend_args args = {.q = q,
                               .keys = keys,
                               .values = values,
                               .scores = room(heads * t->count * sizeof(float)),
                               .totals = room(heads * sizeof(float)),
                               .out = out,
                               .head_stride = head_stride,
                               .shared_by = t->shared_by,
                               .dim = t->dim,
                               .first = t->first,
                               .count = t->count,
                               .scale = 0.125f};
    emu_launch(emu, attend_scores, t->kv_heads * blocks_of(t->count, ATTEND_POSITIONS),
               ATTEND_THREADS, &args);
    emu_launch(emu, attend_weights, heads, ATTEND_THREADS, &args);
    emu_launch(emu, attend_values, heads * blocks_of(t->dim, ATTEND_VALUE_THREADS),
               ATTEND_VALUE_THREADS, &args);
    char what[80];
    snprintf(what, sizeof what, "%u x %u heads of %u, %u positions from %u on", t->kv_heads,
             t->shared_by, t->dim, t->count, t->first);
    same(what, out, wanted, n);
    room_free(keys);
    room_free(values);
    room_free(q);
    room_free(out);
    room_free(args.scores);
    room_free(args.totals);
    free(wanted);
}

static void test_attention(void **state)
{
    static const struct attention cases[] = {
        {1, 1, 16,  0, 1  },
        {1, 1, 64,  0, 2  },
        {2, 3, 64,  0, 63 },
        {3, 4, 128, 5, 65 },
        {1, 7, 80,  1, 200},
        {2, 8, 96,  0, 17 },
        {1, 2, 256, 3, 130},
    };
    struct random r = {36};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        attend_check(&cases[i], &r);
}

static void test_keys_are_remembered(void **state)
{
    enum { HEADS = 3, DIM = 48, CONTEXT = 5, POSITION = 2, ALL = HEADS * CONTEXT * DIM };
    float *k = room(HEADS * DIM * sizeof *k), *v = room(HEADS * DIM * sizeof *v);
    uint16_t *keys = room(2 * ALL), *values = room(2 * ALL);
    struct random r = {37};
    (void)state;
    weights_fill(WEIGHTS_UNDERFLOW, &r, k, HEADS * DIM);
    weights_fill(WEIGHTS_JUMPS, &r, v, HEADS * DIM);
    v[7] = 65520;
    struct remember_args args = {k, v, keys, values, CONTEXT * DIM, HEADS, DIM, POSITION};
    emu_launch(emu, remember, blocks_of(HEADS * DIM, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    for (uint32_t i = 0; i < ALL; i++) {
        uint32_t head = i / DIM / CONTEXT, position = i / DIM % CONTEXT, at = head * DIM + i % DIM;
        bool new = position == POSITION;
        assert_int_equal(keys[i], new ? f16_from_f32(k[at]) : 0xffff);
        assert_int_equal(values[i], new ? f16_from_f32(v[at]) : 0xffff);
    }
    room_free(k);
    room_free(v);
    room_free(keys);
    room_free(values);
}

/* ---- the rest of a layer ---- */

static void test_sums_of_vectors(void **state)
{
    enum { N = 300 };
    float *x = room(N * sizeof *x), *y = room(N * sizeof *y), wanted[N];
    struct random r = {38};
    (void)state;
    weights_fill(WEIGHTS_JUMPS, &r, x, N);
    weights_fill(WEIGHTS_JUMPS, &r, y, N);
    for (int i = 0; i < N; i++)
        wanted[i] = x[i] + y[i];
    struct pair_args args = {x, y, N};
    emu_launch(emu, add, blocks_of(N, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    same("x + y", x, wanted, N);
    room_free(x);
    room_free(y);
}

static void test_silu_gate(void **state)
{
    enum { N = 1000 };
    float *x = room(N * sizeof *x), *y = room(N * sizeof *y);
    double wanted[N];
    struct random r = {39};
    (void)state;
    for (int i = 0; i < N; i++) {
        x[i] = i == 0 ? 0 : i == 1 ? 200 : i == 2 ? -200 : 10 * random_gaussian(&r);
        y[i] = random_gaussian(&r);
        wanted[i] = (double)x[i] / (1 + exp(-(double)x[i])) * (double)y[i];
    }
    struct pair_args args = {x, y, N};
    emu_launch(emu, silu_gate, blocks_of(N, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    for (int i = 0; i < N; i++)
        if (!(fabs((double)x[i] - wanted[i]) <= 4e-7 * fabs(wanted[i]) + 1e-35))
            fail_msg("element %d: %g instead of %g", i, (double)x[i], wanted[i]);
    x[0] = NAN;
    emu_launch(emu, silu_gate, blocks_of(N, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    assert_true(isnan(x[0]));
    room_free(x);
    room_free(y);
}

static void test_rope(void **state)
{
    enum { HEADS = 3, DIM = 80, N = HEADS * DIM };
    struct random r = {40};
    (void)state;
    for (uint32_t halves = 0; halves < 2; halves++)
        for (uint32_t pairs = 1; pairs <= DIM / 2; pairs += 13) {
            float *x = room(N * sizeof *x), wanted[N], *angles = room(2 * pairs * sizeof *angles);
            weights_fill(WEIGHTS_JUMPS, &r, x, N);
            memcpy(wanted, x, sizeof wanted);
            for (uint32_t i = 0; i < pairs; i++) {
                float c = angles[i] = cosf((float)i), s = angles[pairs + i] = sinf((float)i);
                for (float *head = wanted; head < wanted + N; head += DIM) {
                    float *a = head + (halves ? i : 2 * i), *b = a + (halves ? pairs : 1);
                    float x0 = *a, x1 = *b;
                    *a = x0 * c - x1 * s;
                    *b = x0 * s + x1 * c;
                }
            }
            struct rope_args args = {x, angles, angles + pairs, HEADS, DIM, pairs, halves};
            emu_launch(emu, rope, blocks_of(HEADS * pairs, ELEMENT_THREADS), ELEMENT_THREADS,
                       &args);
            same("rope", x, wanted, N);
            room_free(x);
            room_free(angles);
        }
}

/* In place. The scale may be another by a unit in its last place, for the sum has another order. */
static void norm_check(uint32_t rows, uint32_t cols, struct random *r)
{
    float eps = 1e-5f, *weight = room(cols * sizeof *weight), *x = room(rows * cols * sizeof *x);
    float *before = malloc(rows * cols * sizeof *before);
    assert_non_null(before);
    weights_fill(WEIGHTS_GAUSSIAN, r, weight, cols);
    weights_fill(WEIGHTS_JUMPS, r, x, rows * cols);
    memcpy(before, x, rows * cols * sizeof *x);
    struct norm_args args = {x, weight, x, cols, eps};
    emu_launch(emu, rms_norm, rows, NORM_THREADS, &args);
    for (uint32_t row = 0; row < rows; row++) {
        const float *from = before + row * cols, *got = x + row * cols;
        double sum = 0;
        for (uint32_t i = 0; i < cols; i++)
            sum += (double)(from[i] * from[i]);
        float scale = 1 / sqrtf((float)(sum / cols) + eps);
        for (uint32_t i = 0; i < cols; i++) {
            float wanted = from[i] * scale * weight[i];
            if (!(fabsf(got[i] - wanted) <= 3e-7f * fabsf(wanted)))
                fail_msg("%u x %u: element %u is %a instead of %a", rows, cols, i, (double)got[i],
                         (double)wanted);
        }
    }
    free(before);
    room_free(weight);
    room_free(x);
}

static void test_norm(void **state)
{
    static const uint32_t cols[] = {1, 31, 64, 256, 257, 2048};
    struct random r = {41};
    (void)state;
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        norm_check(1, cols[i], &r);
        norm_check(3, cols[i], &r);
    }
}

static void argmax_check(const float *values, uint32_t n, uint32_t wanted)
{
    float *x = room_of(values, n * sizeof *x);
    uint32_t *out = room(sizeof *out);
    struct argmax_args args = {x, out, n};
    emu_launch(emu, argmax, 1, ARGMAX_THREADS, &args);
    assert_int_equal(*out, wanted);
    room_free(x);
    room_free(out);
}

static void test_argmax(void **state)
{
    enum { N = 1500 };
    static float x[N];
    (void)state;
    for (uint32_t at = 0; at < N; at += 37) {
        for (uint32_t i = 0; i < N; i++)
            x[i] = -(float)(i % 100) - 1;
        x[at] = 1;
        argmax_check(x, N, at);
        argmax_check(x, at + 1, at);
        x[N - 1 - at / 2] = 1; /* the first of equal ones */
        argmax_check(x, N, at < N - 1 - at / 2 ? at : N - 1 - at / 2);
        x[(at + 1) % N] = NAN;
        argmax_check(x, N, at == N - 1 ? 0 : at < N - 1 - at / 2 ? at : N - 1 - at / 2);
    }
    argmax_check((float[]){-INFINITY, -INFINITY}, 2, 0);
}

/* All kernels that have shared memory: no more than two words of a bank at once. */
static void test_banks(void **state)
{
    const struct attention attention = {1, 2, 64, 0, 100};
    const struct emu_site *sites;
    struct random r = {48};
    struct spqr_layout l;
    struct error err;
    float x[600] = {0};
    size_t count, shared = 0;
    (void)state;
    assert_int_equal(spqr_layout(3, 1024, 0.01, &l, &err), 0);
    emu_record(emu, true);
    norm_check(1, 600, &r);
    argmax_check(x, 600, 0);
    attend_check(&attention, &r);
    spqr_check(&l, &r, 16);
    spqr_columns_check(&l, &r, 16, 8);
    spqr_columns_check(&l, &r, 16, 16);
    tile_check(&tiles[0], &r, 16, 512, 16);
    sites = emu_sites(emu, &count);
    for (size_t i = 0; i < count; i++) {
        shared += sites[i].shared;
        if (sites[i].ways > 2)
            fail_msg("%s:%d: %u ways", sites[i].file, sites[i].line, sites[i].ways);
    }
    emu_record(emu, false);
    assert_true(shared >= 14);
}

/* ---- all of it, forward and backward ---- */

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_activations),
        BOTH(test_activations_in_another_order),
        BOTH(test_activations_in_blocks_of_64),
        BOTH(test_products),
        BOTH(test_products_of_extremes),
        BOTH(test_products_with_columns),
        BOTH(test_products_of_floats),
        BOTH(test_spqr),
        BOTH(test_spqr_with_columns),
        BOTH(test_spqr_of_any_bytes),
        BOTH(test_sectors),
        BOTH(test_attention),
        BOTH(test_keys_are_remembered),
        BOTH(test_sums_of_vectors),
        BOTH(test_silu_gate),
        BOTH(test_rope),
        BOTH(test_norm),
        BOTH(test_argmax),
        BOTH(test_banks),
    };
    emu = emu_new();
    if (!emu)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    emu_free(emu);
    return failed;
}

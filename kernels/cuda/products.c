/* SPDX-License-Identifier: MIT
 *
 * Activations, and products of packed weights with them: which kernel for which format, and how many
 * columns at a time.
 */
#include "codec/spqr/format.h"
#include "kernels/cuda/parts.h"

#include <errno.h>
#include <stdlib.h>

/* ---- activations ---- */

/* Planes of each column lie one behind the other, for the smallest blocks that there are. */
struct activations {
    enum activation_kind kind;
    uint32_t batch, batch_max;
    uint64_t cols, padded;
    const uint32_t *order;
    const float *x; /* F32: where the caller has them */
    void *memory;
    struct activation_planes planes;
    uint64_t level_stride, scale_stride, sum_stride;
};

enum { PADDING = 256, LEAST_BLOCK = 32, LEAST_SUM = 16 };

static int cuda_activations_new(struct backend *b, uint64_t cols, uint32_t batch,
                                struct activations **out)
{
    if (cols > UINT32_MAX - PADDING)
        return -EOVERFLOW;
    struct activations *a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
    a->cols = cols;
    a->batch_max = batch;
    a->padded = blocks_of(cols, PADDING) * PADDING;
    a->level_stride = a->padded;
    a->scale_stride = a->padded / LEAST_BLOCK;
    a->sum_stride = a->padded / LEAST_SUM;
    uint64_t levels = batch * a->level_stride, scales = batch * a->scale_stride * sizeof(float);
    int rc = cuda_alloc(b, levels + scales + batch * a->sum_stride * sizeof(int16_t), &a->memory);
    if (rc) {
        free(a);
        return rc;
    }
    a->planes.levels = a->memory;
    a->planes.scales = (float *)((uint8_t *)a->memory + levels);
    a->planes.sums = (int16_t *)((uint8_t *)a->memory + levels + scales);
    *out = a;
    return 0;
}

static void cuda_activations_free(struct backend *b, struct activations *a)
{
    cuda_free(b, a->memory);
    free(a);
}

/* By kind; F32 is for plain floats alone, which have no other block. */
static const struct {
    enum kernel quantize;
    uint32_t block;
} kinds[ACTIVATION_KINDS] = {
    [ACTIVATIONS_F32] = {NO_KERNEL,           LEAST_SUM},
    [ACTIVATIONS_INT8_32] = {KERNEL_quantize_32,  32       },
    [ACTIVATIONS_INT8_256] = {KERNEL_quantize_256, 256      },
    [ACTIVATIONS_INT8_64] = {KERNEL_quantize_64,  1        }, /* the last block may be shorter */
};

static int cuda_activations_begin(struct backend *b, struct activations *a,
                                  enum activation_kind kind, uint32_t batch, const uint32_t *order)
{
    (void)b;
    if (batch > a->batch_max || a->cols % kinds[kind].block ||
        (order && kind != ACTIVATIONS_INT8_64))
        return -EINVAL;
    a->kind = kind;
    a->batch = batch;
    a->order = order;
    a->x = NULL;
    return 0;
}

static struct activation_planes planes_of(const struct activations *a, uint32_t column)
{
    return (struct activation_planes){a->planes.levels + column * a->level_stride,
                                      a->planes.scales + column * a->scale_stride,
                                      a->planes.sums + column * a->sum_stride};
}

static int cuda_activations_put(struct backend *b, struct activations *a, const float *x,
                                uint32_t first, uint32_t count)
{
    if (a->kind == ACTIVATIONS_F32) {
        a->x = x;
        return 0;
    }
    struct quantize_args args = {.x = x + first * a->cols,
                                 .order = a->order,
                                 .out = planes_of(a, first),
                                 .level_stride = a->level_stride,
                                 .scale_stride = a->scale_stride,
                                 .sum_stride = a->sum_stride,
                                 .cols = (uint32_t)a->cols,
                                 .batch = count};
    return cuda_launch(b, kinds[a->kind].quantize, count * blocks_of(a->cols, 256 * QUANTIZE_WARPS),
                       QUANTIZE_THREADS, &args);
}

/* ---- products ---- */

/* Of each format: a column, up to 8, up to 16; a block's rows with one column. */
static const struct product {
    enum kernel gemv, matmul8, matmul16;
    uint32_t gemv_rows;
} products[FORMAT_COUNT] = {
#define PRODUCT(format, name, rows)                                                                \
    [FORMAT_##format] = {KERNEL_gemv_##name, KERNEL_matmul8_##name, KERNEL_matmul16_##name, rows}
    PRODUCT(Q2_K, q2_k, GEMV_ROWS_256),
    PRODUCT(Q3_K, q3_k, GEMV_ROWS_256),
    PRODUCT(Q4_K, q4_k, GEMV_ROWS_256),
    PRODUCT(Q5_K, q5_k, GEMV_ROWS_256),
    PRODUCT(Q6_K, q6_k, GEMV_ROWS_256),
    PRODUCT(Q4_0, q4_0, GEMV_ROWS_32),
    PRODUCT(Q8_0, q8_0, GEMV_ROWS_32),
    PRODUCT(Q4_1, q4_1, GEMV_ROWS_32),
    PRODUCT(Q5_0, q5_0, GEMV_ROWS_32),
    PRODUCT(Q5_1, q5_1, GEMV_ROWS_32),
    PRODUCT(IQ4_NL, iq4_nl, GEMV_ROWS_32),
#undef PRODUCT
#define PRODUCT(format, name)                                                                      \
    [FORMAT_##format] = {KERNEL_gemv_##name, KERNEL_matmul8_##name, NO_KERNEL, GEMV_ROWS_FLOATS}
    PRODUCT(F16, f16),
    PRODUCT(BF16, bf16),
    PRODUCT(F32, f32),
#undef PRODUCT
};

/* Of stripes, by bits. */
static const struct product stripe_products[] = {
    [2] = {KERNEL_gemv_spqr2, KERNEL_matmul8_spqr2, KERNEL_matmul16_spqr2, SPQR_ROWS},
    [3] = {KERNEL_gemv_spqr3, KERNEL_matmul8_spqr3, KERNEL_matmul16_spqr3, SPQR_ROWS},
    [4] = {KERNEL_gemv_spqr4, KERNEL_matmul8_spqr4, KERNEL_matmul16_spqr4, SPQR_ROWS},
};

static const struct product *product_of(const struct format *f)
{
    return f->stripe_bits ? &stripe_products[f->stripe_bits] : &products[f - formats];
}

static bool cuda_multiplies(struct backend *b, const struct format *format, uint64_t cols)
{
    (void)b;
    return product_of(format)->gemv && cols <= UINT32_MAX - PADDING &&
           cols % kinds[activation_kind_of(format)].block == 0;
}

/* Some rows of one run, times some columns. */
struct call {
    struct backend *backend;
    const struct matrix *w;
    const struct product *product;
    const uint8_t *rows;
    const struct activations *a;
    float *out; /* of the first row and column */
    uint64_t row_count, stride;
    uint32_t column, batch;
};

static int multiply_blocks(const struct call *c)
{
    if (c->batch == 1) {
        struct gemv_args args = {c->rows, planes_of(c->a, c->column), c->out,
                                 (uint32_t)c->row_count, (uint32_t)c->w->cols};
        return cuda_launch(c->backend, c->product->gemv,
                           blocks_of(c->row_count, c->product->gemv_rows), GEMV_THREADS, &args);
    }
    struct matmul_args args = {.rows = c->rows,
                               .x = planes_of(c->a, c->column),
                               .out = c->out,
                               .level_stride = c->a->level_stride,
                               .scale_stride = c->a->scale_stride,
                               .sum_stride = c->a->sum_stride,
                               .out_stride = c->stride,
                               .row_count = (uint32_t)c->row_count,
                               .cols = (uint32_t)c->w->cols,
                               .batch = c->batch};
    return cuda_launch(c->backend, c->batch > 8 ? c->product->matmul16 : c->product->matmul8,
                       blocks_of(c->row_count, TILE_ROWS), TILE_THREADS, &args);
}

static int multiply_floats(const struct call *c)
{
    const float *x = c->a->x + c->column * c->w->cols;
    uint64_t blocks = blocks_of(c->row_count, GEMV_ROWS_FLOATS);
    if (c->batch == 1) {
        struct gemv_floats_args args = {c->rows, x, c->out, (uint32_t)c->row_count,
                                        (uint32_t)c->w->cols};
        return cuda_launch(c->backend, c->product->gemv, blocks, GEMV_THREADS, &args);
    }
    struct matmul_floats_args args = {
        c->rows, x, c->out, c->stride, (uint32_t)c->row_count, (uint32_t)c->w->cols, c->batch};
    return cuda_launch(c->backend, c->product->matmul8, blocks, GEMV_THREADS, &args);
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

static int multiply_stripes(const struct call *c)
{
    struct spqr_layout l;
    uint64_t blocks = blocks_of(c->row_count, SPQR_ROWS);
    if (spqr_format_layout(c->w->format, c->w->cols, &l, NULL))
        return -EINVAL;
    if (c->batch == 1) {
        struct spqr_args args = {c->rows, planes_of(c->a, c->column), c->out, places_of(&l),
                                 (uint32_t)c->row_count};
        return cuda_launch(c->backend, c->product->gemv, blocks, SPQR_THREADS, &args);
    }
    struct matmul_spqr_args args = {.stripes = c->rows,
                                    .x = planes_of(c->a, c->column),
                                    .out = c->out,
                                    .layout = places_of(&l),
                                    .level_stride = c->a->level_stride,
                                    .scale_stride = c->a->scale_stride,
                                    .sum_stride = c->a->sum_stride,
                                    .out_stride = c->stride,
                                    .row_count = (uint32_t)c->row_count,
                                    .batch = c->batch};
    return cuda_launch(c->backend, c->batch > 8 ? c->product->matmul16 : c->product->matmul8,
                       blocks, TILE_THREADS, &args);
}

/* All columns, as many at a time as there is a kernel for. */
static int multiply_columns(struct call *c)
{
    uint32_t most = c->product->matmul16 ? 16 : 8;
    float *out = c->out;
    int rc = 0;
    for (c->column = 0; !rc && c->column < c->a->batch; c->column += c->batch) {
        uint32_t left = c->a->batch - c->column;
        c->batch = left < most ? left : most;
        c->out = out + c->column * c->stride;
        rc = c->w->format->stripe_bits   ? multiply_stripes(c)
             : c->w->format->plain_float ? multiply_floats(c)
                                         : multiply_blocks(c);
    }
    return rc;
}

static int cuda_matmul(struct backend *b, const struct matrix *w, uint64_t first, uint64_t count,
                       const struct activations *a, float *out, size_t stride)
{
    uint64_t unit_rows, unit_size, row = first;
    if (!cuda_multiplies(b, w->format, w->cols) || a->kind != activation_kind_of(w->format) ||
        w->cols != a->cols || first > w->rows || count > w->rows - first || w->rows > UINT32_MAX ||
        !format_unit(w->format, w->cols, &unit_rows, &unit_size))
        return -EINVAL;
    for (size_t i = 0; i < w->run_count && row < first + count; i++) {
        const struct row_run *run = &w->runs[i];
        uint64_t end = run->first + run->count;
        if (end <= row)
            continue;
        end = end < first + count ? end : first + count;
        uint64_t skip = row - run->first;
        const uint8_t *rows = (const uint8_t *)run->data + skip / unit_rows * unit_size;
        bool whole = (end - run->first) % unit_rows == 0 || end == w->rows;
        if (run->first > row || skip % unit_rows || !whole || (uintptr_t)rows % b->run_alignment)
            return -EINVAL;
        struct call call = {b, w, product_of(w->format), rows, a, out + row, end - row, stride,
                            0, 0};
        int rc = multiply_columns(&call);
        if (rc)
            return rc;
        row = end;
    }
    return row == first + count ? 0 : -EINVAL;
}

void cuda_products(struct backend *b)
{
    b->activations_new = cuda_activations_new;
    b->activations_free = cuda_activations_free;
    b->activations_begin = cuda_activations_begin;
    b->activations_put = cuda_activations_put;
    b->multiplies = cuda_multiplies;
    b->matmul = cuda_matmul;
}

/* SPDX-License-Identifier: MIT
 *
 * A vector, or up to 8 columns, times rows of plain floats, with floats for activations and the order
 * of sums of kernels/cpu/dot.h. Two lanes take a row, a warp 16 rows, and share the sums as
 * sixteen_sums.h has it: with halves, each loads 16 bytes of a sector of its row; with floats, twice
 * 16. A lane makes them floats once for all columns, of each of which it has eight sums.
 * Activations, two times 16 bytes of each column, are the same for all rows.
 *
 * matmul8_* have code for 8 columns and for 4, so that few columns do not cost as much as many.
 * Columns beyond the last are the last again; nothing is written for them.
 */
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/sixteen_sums.h"

enum { FLOAT_WARP_ROWS = WARP_LANES / 2, LANE_COLUMNS = 4 };

struct weights_f16 {
    enum { SIZE = 2 };

    static DEVICE_MEMBER void load(const uint8_t *p, float *out)
    {
        halves_widen(load16_once(p), out);
    }
};

struct weights_bf16 {
    enum { SIZE = 2 };

    static DEVICE_MEMBER void load(const uint8_t *p, float *out)
    {
        struct words4 v = load16_once(p);
        for (int i = 0; i < HALF_SUMS; i++)
            out[i] = float_from(v.w[i / 2] >> 16 * (i % 2) << 16);
    }
};

struct weights_f32 {
    enum { SIZE = 4 };

    static DEVICE_MEMBER void load(const uint8_t *p, float *out)
    {
        for (int i = 0; i < HALF_SUMS; i += 4) {
            struct words4 v = load16_once(p + i * SIZE);
            for (int j = 0; j < 4; j++)
                out[i + j] = float_from(v.w[j]);
        }
    }
};

/* n columns from `first` on for the rows that `row` is one of, a row for each pair of lanes; all
 * lanes of the warp. Rows and columns that are not there are not stored. */
template <class W, int n>
DEVICE void floats_multiply(const struct matmul_floats_args *a, uint32_t row, uint32_t first)
{
    const uint8_t *weights = a->rows + (size_t)min_of(row, a->row_count - 1) * a->cols * W::SIZE;
    const float *columns[n];
    float sum[n][HALF_SUMS] = {}, w[HALF_SUMS], x[HALF_SUMS];
    for (uint32_t c = 0; c < n; c++)
        columns[c] = a->x + (size_t)min_of(first + c, a->batch - 1) * a->cols;
    for (uint32_t i = lane_eight(); i < a->cols; i += SUMS) {
        W::load(weights + (size_t)i * W::SIZE, w);
        for (int c = 0; c < n; c++) {
            floats_load(columns[c] + i, x);
            eight_add(sum[c], w, x);
        }
    }
    for (uint32_t c = 0; c < n; c++) {
        float product = sixteen_add(sum[c]);
        if (first + c < a->batch && row < a->row_count && lane_index() % 2 == 0)
            store4(a->out + (first + c) * a->out_stride + row, float_bits(product));
    }
}

/* The first of the warp's rows. */
DEVICE uint32_t floats_row(void)
{
    return (block_index() * GEMV_WARPS + warp_index()) * FLOAT_WARP_ROWS;
}

template <class W> DEVICE void gemv_floats(const struct gemv_floats_args *a)
{
    struct matmul_floats_args one = {a->rows, a->x, a->out, 0, a->row_count, a->cols, 1};
    floats_multiply<W, 1>(&one, floats_row() + lane_index() / 2, 0);
}

template <class W> DEVICE void matmul_floats(const struct matmul_floats_args *a)
{
    uint32_t row = floats_row();
    if (a->batch <= LANE_COLUMNS) {
        floats_multiply<W, LANE_COLUMNS>(a, row + lane_index() / 2, 0);
        return;
    }
    ONE_BY_ONE
    for (uint32_t i = 0; i < FLOAT_WARP_ROWS; i += FLOAT_WARP_ROWS / 2)
        floats_multiply<W, LANE_COLUMNS>(a, row + i + lane_index() / 4,
                                         lane_index() / 2 % 2 * LANE_COLUMNS);
}

#define FLOATS(name)                                                                               \
    KERNEL(gemv_##name, struct gemv_floats_args, GEMV_THREADS)                                     \
    {                                                                                              \
        gemv_floats<struct weights_##name>(a);                                                     \
    }                                                                                              \
    KERNEL(matmul8_##name, struct matmul_floats_args, GEMV_THREADS)                                \
    {                                                                                              \
        matmul_floats<struct weights_##name>(a);                                                   \
    }
FLOATS(f16)
FLOATS(bf16)
FLOATS(f32)

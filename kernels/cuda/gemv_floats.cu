/* SPDX-License-Identifier: MIT
 *
 * A vector times rows of plain floats, with floats for activations and the order of sums of
 * kernels/cpu/dot.h. Two lanes take a row, a warp 16 rows, and share the sums as sixteen_sums.h has
 * it: with halves, each loads 16 bytes of a sector of its row. Activations are the same for all
 * rows.
 */
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/sixteen_sums.h"

enum { FLOAT_WARP_ROWS = WARP_LANES / 2 };

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

template <class W> DEVICE void gemv_floats(const struct gemv_floats_args *a)
{
    uint32_t warp = block_index() * GEMV_WARPS + warp_index();
    uint32_t mine = warp * FLOAT_WARP_ROWS + lane_index() / 2;
    const uint8_t *row = a->rows + (size_t)min_of(mine, a->row_count - 1) * a->cols * W::SIZE;
    float sum[HALF_SUMS] = {}, w[HALF_SUMS], x[HALF_SUMS];
    for (uint32_t i = lane_eight(); i < a->cols; i += SUMS) {
        W::load(row + (size_t)i * W::SIZE, w);
        floats_load(a->x + i, x);
        eight_add(sum, w, x);
    }
    float product = sixteen_add(sum);
    if (mine < a->row_count && lane_index() % 2 == 0)
        store4(a->out + mine, float_bits(product));
}

KERNEL(gemv_f16, struct gemv_floats_args, GEMV_THREADS)
{
    gemv_floats<struct weights_f16>(a);
}
KERNEL(gemv_bf16, struct gemv_floats_args, GEMV_THREADS)
{
    gemv_floats<struct weights_bf16>(a);
}
KERNEL(gemv_f32, struct gemv_floats_args, GEMV_THREADS)
{
    gemv_floats<struct weights_f32>(a);
}

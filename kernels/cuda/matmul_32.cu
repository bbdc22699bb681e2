/* SPDX-License-Identifier: MIT
 *
 * Q8_0 and Q4_0 times 2 to 16 columns. As tile.h has it, but with products over the 32 weights of a
 * block, which have one scale: warp w takes the blocks w, w + 8, .... Lane t loads, of the rows g and
 * g + 8, the weights from 4 t and from 16 + 4 t on: two words in Q8_0; in Q4_0 one, of low and high
 * nibbles. Each product of a block becomes floats.
 */
#include "kernels/cuda/tile.h"
#include "kernels/cuda/unaligned.h"

/* codes: the two words of a row. */
struct tile_q8_0 {
    enum { SIZE = 34 };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        out[0] = load_word(block + 2 + 4 * t);
        out[1] = load_word(block + 18 + 4 * t);
    }
};

struct tile_q4_0 {
    enum { SIZE = 18 };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        uint32_t w = load_word(block + 2 + 4 * t);
        out[0] = bytes_less(w & 0x0f0f0f0f, 8);
        out[1] = bytes_less(w >> 4 & 0x0f0f0f0f, 8);
    }
};

/* Adds block k to the lane's sums of n groups of columns. codes: as mma32 wants them; d: of the two
 * rows. */
template <int n>
DEVICE void block_tile_add(const struct matmul_args *a, const uint32_t *codes, const float *d,
                           uint32_t k, float sum[n][TILE_SUMS])
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4;
    for (int group = 0; group < n; group++) {
        uint32_t column = min_of(8 * group + g, a->batch - 1);
        const int8_t *levels = a->x.levels + column * a->level_stride + 32 * (size_t)k + 4 * t;
        uint32_t q[2] = {load4(levels), load4(levels + 16)};
        int isum[TILE_SUMS] = {};
        mma32(isum, codes, q);
        for (int i = 0; i < TILE_SUMS; i++) {
            size_t c = min_of(8 * group + 2 * t + i % 2, a->batch - 1);
            float scale = float_from(load4(a->x.scales + c * a->scale_stride + k));
            sum[group][i] += d[i / 2] * scale * (float)isum[i];
        }
    }
}

template <class F, int n> DEVICE void matmul_blocks(const struct matmul_args *a)
{
    SHARED(uint32_t, words, TILE_WARPS * n * TILE_SUMS * WARP_LANES);
    uint32_t blocks = a->cols / 32, first = block_index() * TILE_ROWS + lane_index() / 4;
    size_t row_size = (size_t)blocks * F::SIZE;
    float sum[n][TILE_SUMS] = {};
    for (uint32_t k = warp_index(); k < blocks; k += TILE_WARPS) {
        uint32_t codes[4], of_row[2];
        float d[2];
        for (uint32_t r = 0; r < 2; r++) {
            const uint8_t *block =
                a->rows + min_of(first + 8 * r, a->row_count - 1) * row_size + (size_t)k * F::SIZE;
            F::codes(block, lane_index() % 4, of_row);
            codes[r] = of_row[0];
            codes[2 + r] = of_row[1];
            d[r] = half_to_float(load2(block));
        }
        block_tile_add<n>(a, codes, d, k, sum);
    }
    tile_store<n>(a, words, sum);
}

#define MATMUL_32(name)                                                                            \
    KERNEL(matmul8_##name, struct matmul_args, TILE_THREADS)                                       \
    {                                                                                              \
        matmul_blocks<struct tile_##name, 1>(a);                                                   \
    }                                                                                              \
    KERNEL(matmul16_##name, struct matmul_args, TILE_THREADS)                                      \
    {                                                                                              \
        matmul_blocks<struct tile_##name, 2>(a);                                                   \
    }
MATMUL_32(q8_0)
MATMUL_32(q4_0)

/* SPDX-License-Identifier: MIT
 *
 * Formats with blocks of 32 times 2 to 16 columns. As tile.h has it, but with products over the 32
 * weights of a block, which have one scale: warp w takes the blocks w, w + 8, .... Lane t loads, of
 * the rows g and g + 8, the weights from 4 t and from 16 + 4 t on: two words in Q8_0; in the others
 * one, of low and high nibbles, and what nibbles.h says of more. Each product of a block becomes
 * floats.
 */
#include "kernels/cuda/nibbles.h"
#include "kernels/cuda/tile.h"

struct tile_q8_0 {
    enum { SIZE = 34, MINS = 0 };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        out[0] = load_word(block + 2 + 4 * t);
        out[1] = load_word(block + 18 + 4 * t);
    }
};

template <class N> struct tile_nibbles {
    enum { SIZE = N::SIZE, MINS = N::MINS };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        N::codes(block, t, out);
        for (int i = 0; N::ZERO > 0 && i < 2; i++)
            out[i] = bytes_less(out[i], N::ZERO);
    }
};

/* A block of the lane's two rows, as mma32 wants it. */
struct tile_block {
    uint32_t codes[4];
    float d[2], m[2]; /* m where there is one */
};

template <class F>
DEVICE void tile_block_load(const uint8_t *const *rows, uint32_t k, struct tile_block *out)
{
    for (int r = 0; r < 2; r++) {
        const uint8_t *block = rows[r] + (size_t)k * F::SIZE;
        uint32_t codes[2], halves = F::MINS ? load4(block) : load2(block);
        F::codes(block, lane_index() % 4, codes);
        out->codes[r] = codes[0];
        out->codes[2 + r] = codes[1];
        out->d[r] = half_to_float((uint16_t)halves);
        out->m[r] = half_to_float((uint16_t)(halves >> 16));
    }
}

/* Adds block k to the lane's sums of n groups of columns. */
template <class F, int n>
DEVICE void tile_block_add(const struct matmul_args *a, const struct tile_block *block, uint32_t k,
                           float sum[n][TILE_SUMS])
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4;
    for (int group = 0; group < n; group++) {
        uint32_t column = min_of(8 * group + g, a->batch - 1);
        const int8_t *levels = a->x.levels + column * a->level_stride + 32 * (size_t)k + 4 * t;
        uint32_t q[2] = {load4(levels), load4(levels + 16)};
        int isum[TILE_SUMS] = {};
        mma32(isum, block->codes, q);
        for (int i = 0; i < TILE_SUMS; i++) {
            size_t c = min_of(8 * group + 2 * t + i % 2, a->batch - 1);
            float scale = float_from(load4(a->x.scales + c * a->scale_stride + k));
            float part = block->d[i / 2] * scale * (float)isum[i];
            if (F::MINS) {
                int16_t msum = (int16_t)load2(a->x.sums + c * a->sum_stride + k);
                part += block->m[i / 2] * scale * (float)msum;
            }
            sum[group][i] += part;
        }
    }
}

template <class F, int n> DEVICE void matmul_blocks(const struct matmul_args *a)
{
    SHARED(uint32_t, words, TILE_WARPS * n * TILE_SUMS * WARP_LANES);
    uint32_t blocks = a->cols / 32, first = block_index() * TILE_ROWS + lane_index() / 4;
    size_t row_size = (size_t)blocks * F::SIZE;
    float sum[n][TILE_SUMS] = {};
    const uint8_t *rows[2];
    for (uint32_t r = 0; r < 2; r++)
        rows[r] = a->rows + min_of(first + 8 * r, a->row_count - 1) * row_size;
    for (uint32_t k = warp_index(); k < blocks; k += TILE_WARPS) {
        struct tile_block block;
        tile_block_load<F>(rows, k, &block);
        tile_block_add<F, n>(a, &block, k, sum);
    }
    tile_store<n>(a, words, sum);
}

#define MATMUL_32(name, type)                                                                      \
    KERNEL(matmul8_##name, struct matmul_args, TILE_THREADS)                                       \
    {                                                                                              \
        matmul_blocks<type, 1>(a);                                                                 \
    }                                                                                              \
    KERNEL(matmul16_##name, struct matmul_args, TILE_THREADS)                                      \
    {                                                                                              \
        matmul_blocks<type, 2>(a);                                                                 \
    }
MATMUL_32(q8_0, struct tile_q8_0)
MATMUL_32(q4_0, struct tile_nibbles<struct nibbles_q4_0>)
MATMUL_32(q4_1, struct tile_nibbles<struct nibbles_q4_1>)
MATMUL_32(q5_0, struct tile_nibbles<struct nibbles_q5_0>)
MATMUL_32(q5_1, struct tile_nibbles<struct nibbles_q5_1>)
MATMUL_32(iq4_nl, struct tile_nibbles<struct nibbles_iq4_nl>)

/* SPDX-License-Identifier: MIT
 *
 * Floats to int8 blocks, as kernels/cpu/activations.c makes them, bit for bit.
 *
 * A warp takes 256 elements of a column, lane l the eight from 8 * l on: one block of 256, eight of 32 (four
 * lanes each) or four of 64 (eight lanes each). The largest magnitude is found among bits, which
 * compare as magnitudes do. A lane writes its eight levels as two words, the first lane of a block
 * its scale, and the first of two lanes (of four, in blocks of 32) the sum.
 */
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

enum { QUANTIZE_EACH = 8 };

struct quantized {
    uint32_t levels[2]; /* eight bytes */
    int sum;
    float scale;
};

/* largest: bits of the largest magnitude of the block. */
DEVICE struct quantized quantize(const float *x, uint32_t largest)
{
    float magnitude = float_from(largest);
    bool finite = largest < 0x7f800000;
    struct quantized out = {};
    out.scale = finite ? 0 : float_from(0x7fc00000);
    if (!finite || magnitude < 0x1p-119f)
        return out;
    float inverse = 127 / magnitude;
    for (int i = 0; i < QUANTIZE_EACH; i++) {
        /* To the nearest integer, halves to even; 1.5 * 2^23 leaves it in the low bits. */
        uint32_t level = float_bits(x[i] * inverse + 12582912.0f);
        out.levels[i / 4] |= (level & 0xff) << 8 * (i % 4);
        out.sum += (int8_t)level;
    }
    out.scale = 1 / inverse;
    return out;
}

/* A warp's 256 elements: the column that they are of, and their number in it. */
struct chunk {
    uint32_t column, index;
};

DEVICE struct chunk chunk_of_warp(const struct quantize_args *a)
{
    uint32_t of_block = 256 * QUANTIZE_WARPS;
    uint32_t blocks = a->cols / of_block + (a->cols % of_block > 0);
    return {block_index() / blocks, block_index() % blocks * QUANTIZE_WARPS + warp_index()};
}

/* The lane's elements of a column x, from `first` on. */
DEVICE void quantize_load(const struct quantize_args *a, const float *x, uint32_t first, float *out)
{
    for (uint32_t i = 0; i < QUANTIZE_EACH && first + i < a->cols; i++) {
        uint32_t from = a->order ? load4(a->order + first + i) : first + i;
        out[i] = float_from(load4(x + from));
    }
}

/* lanes: of a block. */
DEVICE uint32_t largest_magnitude(const float *x, uint32_t lanes)
{
    uint32_t largest = 0;
    for (int i = 0; i < QUANTIZE_EACH; i++) {
        uint32_t bits = float_bits(x[i]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    for (uint32_t mask = 1; mask < lanes; mask *= 2) {
        uint32_t other = shuffle_xor(largest, mask);
        largest = other > largest ? other : largest;
    }
    return largest;
}

/* lanes: of a block. sum_lanes: whose levels are added up. sum_at: of what they make, in the column's
 * sums. */
DEVICE void quantize_block(const struct quantize_args *a, struct chunk chunk, uint32_t lanes,
                           uint32_t sum_lanes, size_t sum_at)
{
    uint32_t first = chunk.index * 256 + lane_index() * QUANTIZE_EACH;
    uint32_t block = lanes * QUANTIZE_EACH;
    bool there = first / block * block < a->cols;
    float x[QUANTIZE_EACH] = {0};
    quantize_load(a, a->x + (size_t)chunk.column * a->cols, first, x);
    struct quantized q = quantize(x, largest_magnitude(x, lanes));
    for (uint32_t mask = 1; mask < sum_lanes; mask *= 2)
        q.sum += (int)shuffle_xor((uint32_t)q.sum, mask);
    if (!there)
        return;
    int8_t *levels = a->out.levels + chunk.column * a->level_stride + first;
    store4(levels, q.levels[0]);
    store4(levels + 4, q.levels[1]);
    if (lane_index() % sum_lanes == 0)
        store2(a->out.sums + chunk.column * a->sum_stride + sum_at, (uint16_t)q.sum);
    if (lane_index() % lanes == 0)
        store4(a->out.scales + chunk.column * a->scale_stride + first / block, float_bits(q.scale));
}

KERNEL(quantize_256, struct quantize_args, QUANTIZE_THREADS)
{
    struct chunk chunk = chunk_of_warp(a);
    uint32_t sixteen = lane_index() / 2;
    quantize_block(a, chunk, 32, 2, chunk.index * 16 + sixteen % 2 * 8 + sixteen / 2);
}

KERNEL(quantize_32, struct quantize_args, QUANTIZE_THREADS)
{
    struct chunk chunk = chunk_of_warp(a);
    quantize_block(a, chunk, 4, 4, chunk.index * 8 + lane_index() / 4);
}

KERNEL(quantize_64, struct quantize_args, QUANTIZE_THREADS)
{
    struct chunk chunk = chunk_of_warp(a);
    quantize_block(a, chunk, 8, 2, chunk.index * 16 + lane_index() / 2);
}

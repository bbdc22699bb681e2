/* SPDX-License-Identifier: MIT
 *
 * A vector times rows of a format with blocks of 32. What the formats have in common:
 *
 * Eight lanes take two rows, a warp eight, and eight blocks of each at a time; what is less than
 * eight at a row's end likewise, with the last block again for those behind it. A lane loads its 32
 * of the 256 levels once, as eight words, and uses them for both rows. Lane l has word l of each
 * block, or word l % 4 of every other where a block has but four: neighbouring lanes load
 * neighbouring words. Each makes its part of the blocks' sums of code * level, which are then added
 * up over the lanes in exchanges that halve them, as in superblock.h. Now each lane has the sum of
 * one block; it alone converts it, reads the scale (and m), and adds it to a float of its own.
 *
 * The order of float sums is that of kernels/cpu/dot.h: block k is added to sum k % 8, of which each
 * lane has one. They are added up, in halves, at the row's end.
 *
 * A format is a struct F with SIZE of its block, MINS (whether m lies behind d), and for lane l, of
 * eight blocks of which those behind `last` are not there,
 *   levels(x, last, l, q)   what it needs of the 256 levels from x on
 *   dot(row, last, l, q)    the sum, over all lanes, of one block: number block(l)
 *   zero(sum)               what is to be added for the codes' zero, given the sum of the levels
 *   meet(0), (1), (2)       the lane l ^ meet that has the block 4, 2 and 1 further or before
 */
#ifndef KERNELS_CUDA_BLOCK32_H
#define KERNELS_CUDA_BLOCK32_H

#include "kernels/cuda/superblock.h"
#include "kernels/cuda/unaligned.h"

enum { LANE_ROWS = 2 };

/* Adds what the lane has of blocks k to k + last of both rows. */
template <class F>
DEVICE void eight_blocks_add(const struct gemv_args *a, const uint8_t *const *row, uint32_t k,
                             uint32_t last, float *sum)
{
    uint32_t lane = lane_index() % BLOCK_LANES, mine = F::block(lane), at = min_of(mine, last),
             q[8];
    F::levels(a->x.levels + 32 * (size_t)k, last, lane, q);
    float scale = float_from(load4(a->x.scales + k + at));
    int msum = (int16_t)load2(a->x.sums + k + at);
    for (int r = 0; r < LANE_ROWS; r++) {
        const uint8_t *from = row[r] + (size_t)k * F::SIZE, *block = from + at * F::SIZE;
        int isum = F::dot(from, last, lane, q) + F::zero(msum);
        uint32_t halves = F::MINS ? load4(block) : load2(block);
        float part = half_to_float((uint16_t)halves) * scale * (float)isum;
        if (F::MINS)
            part += half_to_float((uint16_t)(halves >> 16)) * scale * (float)msum;
        sum[r] = mine <= last ? sum[r] + part : sum[r];
    }
}

template <class F> DEVICE void gemv_blocks(const struct gemv_args *a)
{
    uint32_t lane = lane_index() % BLOCK_LANES, blocks = a->cols / 32, k = 0;
    uint32_t first =
        ((block_index() * GEMV_WARPS + warp_index()) * WARP_BLOCKS + lane_index() / BLOCK_LANES) *
        LANE_ROWS;
    size_t row_size = (size_t)blocks * F::SIZE;
    const uint8_t *row[LANE_ROWS];
    float sum[LANE_ROWS] = {0};
    /* Rows beyond the last are the last again; nothing is written for them. */
    for (uint32_t r = 0; r < LANE_ROWS; r++)
        row[r] = a->rows + min_of(first + r, a->row_count - 1) * row_size;
    ONE_BY_ONE
    for (; k + 8 <= blocks; k += 8)
        eight_blocks_add<F>(a, row, k, 7, sum);
    if (k < blocks)
        eight_blocks_add<F>(a, row, k, blocks - 1 - k, sum);
    for (uint32_t r = 0; r < LANE_ROWS; r++) {
        for (int step = 0; step < 3; step++)
            sum[r] = add_of_lane(sum[r], F::meet(step));
        if (lane == r && first + r < a->row_count)
            store4(a->out + first + r, float_bits(sum[r]));
    }
}

#endif

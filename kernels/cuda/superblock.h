/* SPDX-License-Identifier: MIT
 *
 * A vector times rows of a K format. What the formats have in common:
 *
 * A warp takes four rows, eight lanes a superblock: four superblocks of each row at once. A lane
 * loads the levels of its 32 of the 256 columns once and uses them for all four rows. What it makes
 * of a row are two integers, its part of
 *
 *     isum = sum of scale * code * level      msum = sum of min * level
 *
 * over the superblock. The eight lanes then add up eight integers of each of them, isum and msum of
 * four rows, in three steps of exchanges (4 + 2 + 1, since with each step a lane keeps but half), so
 * that lane l has one of them: msum where l is odd, of row l / 2 % 4. It alone converts it, and
 * reads d or dmin. Two more exchanges of nothing but floats follow at the row's end.
 *
 * The order of float sums is that of kernels/cpu/dot.h: block k is added to sum k % 8. Lanes
 * 8 g to 8 g + 7 have the blocks 4 i + g, so with one sum for even i and one for odd they are sums
 * g and g + 4.
 *
 * A format is a struct F with SIZE of its block, MINS (whether there are any), HEADER (whether each
 * lane loads d and dmin anyway) or else D_AT and DMIN_AT, and
 *   levels(a, k, l, &x)       what lane l needs of the activations of block k
 *   dot(block, l, &x, sums)   sums[0] += its part of isum, sums[1] of msum; returns d and, in the
 *                             upper half, dmin, or nothing of interest without HEADER
 */
#ifndef KERNELS_CUDA_SUPERBLOCK_H
#define KERNELS_CUDA_SUPERBLOCK_H

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

enum { WARP_ROWS = 4, BLOCK_LANES = 8, WARP_BLOCKS = WARP_LANES / BLOCK_LANES };

/* Of a lane: 32 levels as eight words, and what a format makes of sums. */
struct lane_levels {
    uint32_t q[8], sums[4];
};

/* Sixteen levels from number `at` on, a multiple of 16. */
DEVICE void load_levels(const struct activation_planes *x, size_t at, uint32_t *out)
{
    struct words4 q = load16(x->levels + at);
    for (int i = 0; i < 4; i++)
        out[i] = q.w[i];
}

/* v[0 .. 2 * half - 1] of this lane and of lane ^ mask become half sums: the first ones where the
 * lane's bit is 0. */
DEVICE void sums_halve(int *v, int half, uint32_t mask)
{
    bool upper = lane_index() & mask;
    for (int i = 0; i < half; i++) {
        int mine = upper ? v[i + half] : v[i], other = upper ? v[i] : v[i + half];
        v[i] = mine + (int)shuffle_xor((uint32_t)other, mask);
    }
}

/* v[row][2] of eight lanes; lane l gets the sum of all v[l / 2 % 4][l % 2]. */
DEVICE int sums_with_mins(int v[WARP_ROWS][2])
{
    int *all = &v[0][0];
    sums_halve(all, 4, 4);
    sums_halve(all, 2, 2);
    sums_halve(all, 1, 1);
    return all[0];
}

/* Without the second ones, which are 0. Odd lanes get what their neighbours have. */
DEVICE int sums_without_mins(int v[WARP_ROWS][2])
{
    int all[WARP_ROWS] = {v[0][0], v[1][0], v[2][0], v[3][0]};
    sums_halve(all, 2, 4);
    sums_halve(all, 1, 2);
    return all[0] + (int)shuffle_xor((uint32_t)all[0], 1);
}

/* That of the lane's row. */
DEVICE uint32_t pick_of_lane(const uint32_t *of_rows)
{
    uint32_t row = lane_index() / 2;
    uint32_t first = row & 1 ? of_rows[1] : of_rows[0];
    uint32_t second = row & 1 ? of_rows[3] : of_rows[2];
    return row & 2 ? second : first;
}

/* Four rows of a warp. */
struct row_pointers {
    const uint8_t *row[WARP_ROWS];
    const uint8_t *mine; /* the one whose floats the lane makes */
};

/* sum + what block k adds to it, for the lane's row; all lanes of the warp, k as each has it. Beyond
 * the last block it stays. */
template <class F>
DEVICE float block_add(const struct gemv_args *a, const struct row_pointers *p, uint32_t k,
                       float sum)
{
    uint32_t blocks = a->cols / 256, lane = lane_index() % BLOCK_LANES;
    bool there = k < blocks;
    k = there ? k : blocks - 1;
    size_t at = (size_t)k * F::SIZE;
    struct lane_levels x;
    int v[WARP_ROWS][2] = {};
    uint32_t halves[WARP_ROWS];
    F::levels(&a->x, k, lane, &x);
    for (int r = 0; r < WARP_ROWS; r++)
        halves[r] = F::dot(p->row[r] + at, lane, &x, v[r]);
    int isum = F::MINS ? sums_with_mins(v) : sums_without_mins(v);
    uint32_t mine = F::HEADER ? pick_of_lane(halves) >> lane % 2 * 16
                              : load2(p->mine + at + (lane % 2 ? F::DMIN_AT : F::D_AT));
    float part = half_to_float((uint16_t)mine) * float_from(load4(a->x.scales + k)) * (float)isum;
    if (F::MINS)
        part -= float_from(shuffle_xor(float_bits(part), 1));
    return there ? sum + part : sum;
}

DEVICE float add_of_lane(float v, uint32_t mask)
{
    return v + float_from(shuffle_xor(float_bits(v), mask));
}

template <class F> DEVICE void gemv_superblocks(const struct gemv_args *a)
{
    uint32_t first = (block_index() * GEMV_WARPS + warp_index()) * WARP_ROWS;
    uint32_t blocks = a->cols / 256, group = lane_index() / BLOCK_LANES;
    uint32_t my_row = first + lane_index() % BLOCK_LANES / 2;
    size_t row_size = (size_t)blocks * F::SIZE;
    struct row_pointers p;
    /* Rows beyond the last are the last again; nothing is written for them. */
    for (uint32_t r = 0; r < WARP_ROWS; r++)
        p.row[r] = a->rows + min_of(first + r, a->row_count - 1) * row_size;
    p.mine = a->rows + min_of(my_row, a->row_count - 1) * row_size;
    float even = 0, odd = 0;
    for (uint32_t k = 0; k < blocks; k += 2 * WARP_BLOCKS) {
        even = block_add<F>(a, &p, k + group, even);
        if (k + WARP_BLOCKS < blocks)
            odd = block_add<F>(a, &p, k + WARP_BLOCKS + group, odd);
    }
    float sum = add_of_lane(add_of_lane(even + odd, 16), 8);
    if (lane_index() < BLOCK_LANES && lane_index() % 2 == 0 && my_row < a->row_count)
        store4(a->out + my_row, float_bits(sum));
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * Rows of a K format times a few columns, by int8 products of matrices.
 *
 * A block takes 16 rows and 8 columns, or 16; its warp w the superblocks w, w + 8, .... A product is
 * of 16 rows, 16 weights of each, and 8 columns, for so many weights have a scale of their own in
 * most formats. With g = lane / 4 and t = lane % 4 (see mma16) a lane loads of the rows g and g + 8,
 * of every 16 weights, those from 4 t on, which are four neighbouring bytes of the block or a part
 * of their bits; and the levels of column g for the same weights. The four sums that it gets are of
 * the rows g and g + 8 and the columns 2 t and 2 t + 1; it multiplies them with the scales of the two
 * rows, which it has unpacked for itself. So a weight is loaded once, and unpacked once for eight
 * columns.
 *
 * A superblock's sums are integers, as with one column (superblock.h), and each warp has one of the
 * eight sums of floats that kernels/cpu/dot.h wants; they meet in shared memory at the end.
 *
 * A format is a struct F with SIZE of its block, MINS (whether there are any), and
 *   load(block, t, &row)   what lanes t need of a row
 *   codes(&row, j)         four codes of the j-th sixteen, signed bytes, less what zero is
 *   scale(&row, j)         of the j-th sixteen
 *   mins(&row, m)          16 bytes, those of even sixteens first
 */
#ifndef KERNELS_CUDA_TILE_H
#define KERNELS_CUDA_TILE_H

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

enum { SIXTEENS = 16, TILE_SUMS = 4 };

/* Of a row, for one lane: words of codes, and what a format makes of its scales. */
struct tile_row {
    uint32_t low[8], high[4], scales[4], mins[2];
    float d, dmin;
};

/* Byte i of words, signed. */
DEVICE int byte_of(const uint32_t *words, int i)
{
    return (int8_t)(words[i / 4] >> 8 * (i % 4));
}

/* Each byte less n, which is at most 128, as a signed one; bytes are below 128. */
DEVICE uint32_t bytes_less(uint32_t v, uint32_t n)
{
    return ((v | 0x80808080) - n * 0x01010101) ^ 0x80808080;
}

/* sum of min * (sum of levels) over the superblock, for one column. */
DEVICE int tile_msum(const uint32_t *mins, const int16_t *sums)
{
    int msum = 0;
    for (int half = 0; half < 2; half++) {
        struct words4 s = load16(sums + 8 * half);
        for (int i = 0; i < 2; i++) {
            msum = dp2a_low_su(s.w[2 * i], mins[2 * half + i], msum);
            msum = dp2a_high_su(s.w[2 * i + 1], mins[2 * half + i], msum);
        }
    }
    return msum;
}

/* isum of the lane's four sums, for the group of eight columns to which `levels` is: the lane's
 * column, superblock and t. */
template <class F>
DEVICE void tile_dot(const struct tile_row *rows, const int8_t *levels, int *isum)
{
    UNROLLED
    for (int j = 0; j < SIXTEENS; j++) {
        uint32_t codes[2] = {F::codes(&rows[0], j), F::codes(&rows[1], j)};
        int scales[2] = {F::scale(&rows[0], j), F::scale(&rows[1], j)}, d[TILE_SUMS] = {};
        mma16(d, codes, load4(levels + 16 * j));
        for (int i = 0; i < TILE_SUMS; i++)
            isum[i] += scales[i / 2] * d[i];
    }
}

/* Adds a superblock to the lane's sums of n groups of columns. */
template <class F, int n>
DEVICE void tile_add(const struct matmul_args *a, const struct tile_row *rows, uint32_t k,
                     float sum[n][TILE_SUMS])
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4;
    uint32_t mins[2][4];
    if (F::MINS)
        for (int r = 0; r < 2; r++)
            F::mins(&rows[r], mins[r]);
    ONE_BY_ONE
    for (int group = 0; group < n; group++) {
        uint32_t column = min_of(8 * group + g, a->batch - 1);
        int isum[TILE_SUMS] = {};
        tile_dot<F>(rows, a->x.levels + column * a->level_stride + 256 * (size_t)k + 4 * t, isum);
        UNROLLED
        for (int i = 0; i < TILE_SUMS; i++) {
            const struct tile_row *row = &rows[i / 2];
            size_t c = min_of(8 * group + 2 * t + i % 2, a->batch - 1);
            float scale = float_from(load4(a->x.scales + c * a->scale_stride + k));
            float part = row->d * scale * (float)isum[i];
            if (F::MINS)
                part -= row->dmin * scale *
                        (float)tile_msum(mins[i / 2], a->x.sums + c * a->sum_stride + 16 * k);
            sum[group][i] += part;
        }
    }
}

/* What number `at` of a warp's sums is of: they lie sum by sum, lane by lane. */
struct tile_place {
    uint32_t row, column;
};

DEVICE struct tile_place tile_place_of(uint32_t at)
{
    uint32_t i = at / WARP_LANES, lane = at % WARP_LANES;
    return {lane / 4 + i % TILE_SUMS / 2 * 8, i / TILE_SUMS * 8 + lane % 4 * 2 + i % 2};
}

/* The sums of the warps, in halves, by as many threads as there are; each stores one number. */
template <int n>
DEVICE void tile_store(const struct matmul_args *a, uint32_t *words, float sum[n][TILE_SUMS])
{
    enum { WARP_WORDS = n * TILE_SUMS * WARP_LANES };
    for (int i = 0; i < n * TILE_SUMS; i++)
        shared_put4(words + warp_index() * WARP_WORDS + i * WARP_LANES + lane_index(),
                    float_bits(sum[i / TILE_SUMS][i % TILE_SUMS]));
    block_barrier();
    uint32_t at = thread_index();
    struct tile_place place = tile_place_of(at);
    uint32_t row = block_index() * TILE_ROWS + place.row;
    if (at >= WARP_WORDS || row >= a->row_count || place.column >= a->batch)
        return;
    float eight[TILE_WARPS];
    for (int w = 0; w < TILE_WARPS; w++)
        eight[w] = float_from(shared_get4(words + w * WARP_WORDS + at));
    for (int half = TILE_WARPS / 2; half; half /= 2)
        for (int w = 0; w < half; w++)
            eight[w] += eight[w + half];
    store4(a->out + place.column * a->out_stride + row, float_bits(eight[0]));
}

/* n groups of eight columns. */
template <class F, int n> DEVICE void matmul_superblocks(const struct matmul_args *a)
{
    SHARED(uint32_t, words, TILE_WARPS * n * TILE_SUMS * WARP_LANES);
    uint32_t blocks = a->cols / 256, first = block_index() * TILE_ROWS + lane_index() / 4;
    size_t row_size = (size_t)blocks * F::SIZE;
    float sum[n][TILE_SUMS] = {};
    for (uint32_t k = warp_index(); k < blocks; k += TILE_WARPS) {
        struct tile_row rows[2];
        for (uint32_t r = 0; r < 2; r++)
            F::load(a->rows + min_of(first + 8 * r, a->row_count - 1) * row_size +
                        (size_t)k * F::SIZE,
                    lane_index() % 4, &rows[r]);
        tile_add<F, n>(a, rows, k, sum);
    }
    tile_store<n>(a, words, sum);
}

#endif

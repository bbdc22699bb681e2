/* SPDX-License-Identifier: MIT
 *
 * Q8_0, 34 bytes: d, 32 signed bytes. With block32.h's eight lanes, lane l has bytes 4 l to 4 l + 3
 * of each of the eight blocks: two loads of two bytes, for blocks begin at even addresses. One load
 * of a warp is of 32 neighbouring bytes in each of four rows.
 */
#include "kernels/cuda/block32.h"

struct q8_0 {
    enum { SIZE = 34, MINS = 0 };

    static DEVICE_MEMBER uint32_t block(uint32_t l) { return l; }
    static DEVICE_MEMBER uint32_t meet(int step) { return 4 >> step; }
    static DEVICE_MEMBER int zero(int) { return 0; }

    static DEVICE_MEMBER void levels(const int8_t *x, uint32_t last, uint32_t l, uint32_t *q)
    {
        for (uint32_t b = 0; b < 8; b++)
            q[b] = load4(x + 32 * min_of(b, last) + 4 * l);
    }

    static DEVICE_MEMBER int dot(const uint8_t *row, uint32_t last, uint32_t l, const uint32_t *q)
    {
        int v[8];
        for (uint32_t b = 0; b < 8; b++)
            v[b] = dp4a_ss(load_word(row + min_of(b, last) * SIZE + 2 + 4 * l), q[b], 0);
        sums_halve(v, 4, 4);
        sums_halve(v, 2, 2);
        sums_halve(v, 1, 1);
        return v[0];
    }
};

KERNEL(gemv_q8_0, struct gemv_args, GEMV_THREADS)
{
    gemv_blocks<struct q8_0>(a);
}

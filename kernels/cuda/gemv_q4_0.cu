/* SPDX-License-Identifier: MIT
 *
 * Q4_0, 18 bytes: d, 16 bytes of codes, weight i in the low nibble of byte i and weight i + 16 in
 * the high one. With block32.h's eight lanes, lane l has bytes 4 (l % 4) and following of the
 * blocks l / 4, l / 4 + 2, 4 and 6: two loads of two bytes each, for blocks begin at even addresses.
 *
 * A code is 8 more than its weight, which the sum of the block's levels makes up for.
 */
#include "kernels/cuda/block32.h"

struct q4_0 {
    enum { SIZE = 18 };

    /* Of four sums the lane keeps the one that its low two bits say. */
    static DEVICE_MEMBER uint32_t block(uint32_t l) { return 2 * (l % 4) + l / 4; }
    static DEVICE_MEMBER uint32_t meet(int step) { return step == 2 ? 4 : 2 >> step; }
    static DEVICE_MEMBER int zero(int sum) { return -8 * sum; }

    static DEVICE_MEMBER void levels(const int8_t *x, uint32_t last, uint32_t l, uint32_t *q)
    {
        for (uint32_t b = 0; b < 4; b++) {
            const int8_t *from = x + 32 * min_of(2 * b + l / 4, last) + 4 * (l % 4);
            q[2 * b] = load4(from);
            q[2 * b + 1] = load4(from + 16);
        }
    }

    static DEVICE_MEMBER int dot(const uint8_t *row, uint32_t last, uint32_t l, const uint32_t *q)
    {
        int v[4];
        for (uint32_t b = 0; b < 4; b++) {
            uint32_t at = min_of(2 * b + l / 4, last);
            uint32_t codes = load_word(row + at * SIZE + 2 + 4 * (l % 4));
            v[b] = dp4a_us(codes & 0x0f0f0f0f, q[2 * b], 0);
            v[b] = dp4a_us(codes >> 4 & 0x0f0f0f0f, q[2 * b + 1], v[b]);
        }
        sums_halve(v, 2, 2);
        sums_halve(v, 1, 1);
        return v[0];
    }
};

KERNEL(gemv_q4_0, struct gemv_args, GEMV_THREADS)
{
    gemv_blocks<struct q4_0>(a);
}

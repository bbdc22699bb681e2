/* SPDX-License-Identifier: MIT
 *
 * A vector times rows of Q4_0, Q4_1, Q5_0, Q5_1 and IQ4_NL. With block32.h's eight lanes, lane l takes
 * the part l % 4 of nibbles.h of the blocks l / 4, l / 4 + 2, 4 and 6, and loads the levels for the
 * same weights, two words a block: neighbouring lanes load neighbouring words.
 *
 * Codes are multiplied as they are; the sum of the block's levels makes up for their zero.
 */
#include "kernels/cuda/block32.h"
#include "kernels/cuda/nibbles.h"

template <class N> struct block_nibbles {
    enum { SIZE = N::SIZE, MINS = N::MINS };

    /* Of four sums the lane keeps the one that its low two bits say. */
    static DEVICE_MEMBER uint32_t block(uint32_t l) { return 2 * (l % 4) + l / 4; }
    static DEVICE_MEMBER uint32_t meet(int step) { return step == 2 ? 4 : 2 >> step; }
    static DEVICE_MEMBER int zero(int sum) { return -N::ZERO * sum; }

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
            uint32_t codes[2];
            N::codes(row + min_of(2 * b + l / 4, last) * SIZE, l % 4, codes);
            v[b] = dp4a_ss(codes[0], q[2 * b], 0);
            v[b] = dp4a_ss(codes[1], q[2 * b + 1], v[b]);
        }
        sums_halve(v, 2, 2);
        sums_halve(v, 1, 1);
        return v[0];
    }
};

#define GEMV_NIBBLES(name)                                                                         \
    KERNEL(gemv_##name, struct gemv_args, GEMV_THREADS)                                            \
    {                                                                                              \
        gemv_blocks<struct block_nibbles<struct nibbles_##name>>(a);                               \
    }
GEMV_NIBBLES(q4_0)
GEMV_NIBBLES(q4_1)
GEMV_NIBBLES(q5_0)
GEMV_NIBBLES(q5_1)
GEMV_NIBBLES(iq4_nl)

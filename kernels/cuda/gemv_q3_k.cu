/* SPDX-License-Identifier: MIT
 *
 * Q3_K, 110 bytes: 32 of third bits, 64 of low bits, 12 of packed scales, d. Lanes share the low
 * bits as two_bits.h has it. The third bits of lane l are in the 8 bytes from 8 c on: bit 4 h of
 * each for the first run, the next for the second and so on; lanes c and c + 4 load the same ones.
 * All load the 12 bytes of scales. Blocks begin at even addresses: see unaligned.h.
 *
 * That a code is 4 more than its weight is taken off first: sums begin at -4 times the sum of the
 * levels, which is the same for all rows.
 */
#include "kernels/cuda/two_bits.h"
#include "kernels/cuda/unaligned.h"

/* The scales of the sixteens 8 h + e + 0, 2, 4, 6, a signed byte each. In the packed words s, the low
 * four bits of sixteens 0 to 7 are the low nibbles of s[0] and s[1], those of 8 to 15 the high ones;
 * the top two are, two bits a row of four, in s[2]. */
DEVICE uint32_t scales_q3_k(const uint32_t *s, uint32_t h, uint32_t e)
{
    uint32_t top = s[2] >> 4 * h;
    uint32_t first = (s[0] >> 4 * h & 0x0f0f0f0f) | (top << 4 & 0x30303030);
    uint32_t second = (s[1] >> 4 * h & 0x0f0f0f0f) | (top << 2 & 0x30303030);
    uint32_t scales = bytes_pick(first, second, e ? 0x7531 : 0x6420);
    /* Less 32, each byte by itself: the bit on top keeps it from its neighbour. */
    return ((scales | 0x80808080) - 0x20202020) ^ 0x80808080;
}

struct q3_k {
    enum { SIZE = 110, D_AT = 108, DMIN_AT = 108, MINS = 0, HEADER = 0 };

    static DEVICE_MEMBER void levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                                     struct lane_levels *out)
    {
        uint32_t sums[2];
        two_bit_levels(x, k, l, out);
        sums_of_four(x, k, l, sums);
        for (int run = 0; run < 4; run++)
            out->sums[run] = (uint32_t)(-4 * (int16_t)(sums[run / 2] >> 16 * (run % 2)));
    }

    static DEVICE_MEMBER uint32_t dot(const uint8_t *block, uint32_t l, const struct lane_levels *x,
                                      int *sums)
    {
        uint32_t h = l / 4, c = l % 4, low[2], third[2], packed[3], dots[4];
        struct even_block even = even_block_at(block);
        load_even<2>(even, 8 * c, third);
        load_even<2>(even, 32 + 8 * l, low);
        load_even<3>(even, 96, packed);
        uint32_t scales = scales_q3_k(packed, h, c / 2);
        /* The first run's bits to bit 2 of each byte; what goes around is not looked at. */
        for (int i = 0; i < 2; i++)
            third[i] = funnel_right(third[i], third[i], 4 * h - 2);
        for (int run = 0; run < 4; run++) {
            int dot = (int)x->sums[run];
            for (int i = 0; i < 2; i++) {
                uint32_t code = (low[i] >> 2 * run & 0x03030303) | (third[i] >> run & 0x04040404);
                dot = dp4a_us(code, x->q[2 * run + i], dot);
            }
            dots[run] = (uint32_t)dot;
        }
        /* 8 * 7 * 127, and 16 * 4 * 127 of the sums, fit a half of a word. */
        sums[0] = dp2a_low_ss(bytes_pick(dots[0], dots[1], 0x5410), scales, sums[0]);
        sums[0] = dp2a_high_ss(bytes_pick(dots[2], dots[3], 0x5410), scales, sums[0]);
        return 0;
    }
};

KERNEL(gemv_q3_k, struct gemv_args, GEMV_THREADS)
{
    gemv_superblocks<struct q3_k>(a);
}

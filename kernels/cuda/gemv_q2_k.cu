/* SPDX-License-Identifier: MIT
 *
 * Q2_K, 84 bytes: 16 of scales and mins, 64 of codes, d, dmin. Lanes share the codes as two_bits.h
 * has it, two loads of four bytes each, and each loads the 8 bytes of scales of its half.
 *
 * Codes stay where they are: dp4a makes 1, 4, 16 and 64 times the sums of them, exactly.
 */
#include "kernels/cuda/two_bits.h"

struct q2_k {
    enum { SIZE = 84, D_AT = 80, DMIN_AT = 82, MINS = 1, HEADER = 0 };

    static DEVICE_MEMBER void levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                                     struct lane_levels *out)
    {
        two_bit_levels(x, k, l, out);
        sums_of_four(x, k, l, out->sums);
    }

    static DEVICE_MEMBER uint32_t dot(const uint8_t *block, uint32_t l, const struct lane_levels *x,
                                      int *sums)
    {
        uint32_t h = l / 4, c = l % 4, dots[4];
        uint32_t codes[2] = {load4(block + 16 + 8 * l), load4(block + 20 + 8 * l)};
        /* Of the sixteens 8 h + c / 2 + 0, 2, 4, 6. */
        uint32_t both =
            bytes_pick(load4(block + 8 * h), load4(block + 8 * h + 4), c / 2 ? 0x7531 : 0x6420);
        uint32_t scales = both & 0x0f0f0f0f, mins = both >> 4 & 0x0f0f0f0f;
        for (int run = 0; run < 4; run++) {
            uint32_t mask = 0x03030303u << 2 * run;
            int dot = dp4a_us(codes[0] & mask, x->q[2 * run], 0);
            dots[run] = (uint32_t)dp4a_us(codes[1] & mask, x->q[2 * run + 1], dot) >> 2 * run;
        }
        sums[0] = dp2a_low_su(bytes_pick(dots[0], dots[1], 0x5410), scales, sums[0]);
        sums[0] = dp2a_high_su(bytes_pick(dots[2], dots[3], 0x5410), scales, sums[0]);
        sums[1] = dp2a_low_su(x->sums[0], mins, sums[1]);
        sums[1] = dp2a_high_su(x->sums[1], mins, sums[1]);
        return 0;
    }
};

KERNEL(gemv_q2_k, struct gemv_args, GEMV_THREADS)
{
    gemv_superblocks<struct q2_k>(a);
}

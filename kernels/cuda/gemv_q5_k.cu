/* SPDX-License-Identifier: MIT
 *
 * Q5_K, 176 bytes: 16 of d, dmin and packed scales, 32 of fifth bits, 128 of low bits. As Q4_K
 * (gemv_q4_k.cu), and lane l loads the 16 bytes of fifth bits from 16 * (l % 2) on: byte i has the
 * bits of its 16 weights in sub-block 2 p at 2 p, and those in 2 p + 1 above. Four lanes load the
 * same ones.
 */
#include "kernels/cuda/scales_q4_k.h"

struct q5_k {
    enum { SIZE = 176, D_AT = 0, DMIN_AT = 2, MINS = 1, HEADER = 1 };

    static DEVICE_MEMBER void levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                                     struct lane_levels *out)
    {
        pair_of_levels(x, k, l, out);
    }

    static DEVICE_MEMBER uint32_t dot(const uint8_t *block, uint32_t l, const struct lane_levels *x,
                                      int *sums)
    {
        struct words4 head = load16_once(block), fifth = load16_once(block + 16 + 16 * (l % 2));
        struct words4 codes = load16_once(block + 48 + 16 * l);
        uint32_t scales, mins;
        int low = 0, high = 0;
        pair_of_scales(head.w + 1, l / 2, &scales, &mins);
        for (int i = 0; i < 4; i++) {
            uint32_t bits = fifth.w[i] >> l / 2 * 2;
            uint32_t first = (codes.w[i] & 0x0f0f0f0f) | (bits << 4 & 0x10101010);
            uint32_t second = (codes.w[i] >> 4 & 0x0f0f0f0f) | (bits << 3 & 0x10101010);
            low = dp4a_us(first, x->q[i], low);
            high = dp4a_us(second, x->q[4 + i], high);
        }
        /* 16 * 31 * 127 does not fit a half of a word. */
        sums[0] += (int)(scales & 0xff) * low + (int)(scales >> 8) * high;
        sums[1] = dp2a_low_su(x->sums[0], mins, sums[1]);
        return head.w[0];
    }
};

KERNEL(gemv_q5_k, struct gemv_args, GEMV_THREADS)
{
    gemv_superblocks<struct q5_k>(a);
}

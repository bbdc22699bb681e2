/* SPDX-License-Identifier: MIT
 *
 * Q4_K, 144 bytes: 16 of d, dmin and packed scales, 128 of codes. With superblock.h's eight lanes,
 * lane l loads the 16 bytes of codes from 16 * l on: half of the codes of the sub-blocks 2 p (low
 * nibbles) and 2 p + 1 (high ones), with p = l / 2. All eight load the first 16 bytes. So a warp
 * reads four runs of 144 bytes at once, each byte once but for the first 16.
 *
 * High nibbles stay where they are: dp4a makes 16 times the sum of them, exactly.
 */
#include "kernels/cuda/scales_q4_k.h"

struct q4_k {
    enum { SIZE = 144, D_AT = 0, DMIN_AT = 2, MINS = 1, HEADER = 1 };

    static DEVICE_MEMBER void levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                                     struct lane_levels *out)
    {
        pair_of_levels(x, k, l, out);
    }

    static DEVICE_MEMBER uint32_t dot(const uint8_t *block, uint32_t l, const struct lane_levels *x,
                                      int *sums)
    {
        struct words4 head = load16_once(block), codes = load16_once(block + 16 + 16 * l);
        uint32_t scales, mins;
        int low = 0, high = 0;
        pair_of_scales(head.w + 1, l / 2, &scales, &mins);
        for (int i = 0; i < 4; i++) {
            low = dp4a_us(codes.w[i] & 0x0f0f0f0f, x->q[i], low);
            high = dp4a_us(codes.w[i] & 0xf0f0f0f0, x->q[4 + i], high);
        }
        /* 16 * 15 * 127 fits a half of a word. */
        uint32_t both = bytes_pick((uint32_t)low, (uint32_t)high >> 4, 0x5410);
        sums[0] = dp2a_low_su(both, scales, sums[0]);
        sums[1] = dp2a_low_su(x->sums[0], mins, sums[1]);
        return head.w[0];
    }
};

KERNEL(gemv_q4_k, struct gemv_args, GEMV_THREADS)
{
    gemv_superblocks<struct q4_k>(a);
}

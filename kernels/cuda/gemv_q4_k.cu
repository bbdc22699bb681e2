/* SPDX-License-Identifier: MIT
 *
 * Q4_K, 144 bytes: 16 of d, dmin and packed scales, 128 of codes. With superblock.h's eight lanes,
 * lane l loads the 16 bytes of codes from 16 * l on: half of the codes of the sub-blocks 2 p (low
 * nibbles) and 2 p + 1 (high ones), with p = l / 2. All eight load the first 16 bytes. So a warp
 * reads four runs of 144 bytes at once, each byte once but for the first 16.
 *
 * High nibbles stay where they are: dp4a makes 16 times the sum of them, exactly.
 */
#include "kernels/cuda/superblock.h"

/* Scales and mins of the sub-blocks 2 p and 2 p + 1, each two in the low bytes. In the packed words
 * s, sub-blocks 0 to 3 have the low six bits of s[0] (mins: s[1]); 4 to 7 have four bits in s[2]
 * (mins: in its high nibbles) and the top two of s[0] (s[1]). */
DEVICE void pair_of_scales(const uint32_t *s, uint32_t p, uint32_t *scales, uint32_t *mins)
{
    bool upper = p >= 2;
    uint32_t shift = 16 * (p % 2), low_bits = upper ? 0x0f0f : 0x3f3f;
    uint32_t top_bits = upper ? 0x3030 : 0;
    *scales = ((upper ? s[2] : s[0]) >> shift & low_bits) | (s[0] >> shift >> 2 & top_bits);
    *mins = ((upper ? s[2] >> 4 : s[1]) >> shift & low_bits) | (s[1] >> shift >> 2 & top_bits);
}

/* Of the levels lane l needs 16 from each of two sub-blocks, and their sums as two halves of a
 * word: those of the sixteens 4 p + l % 2 and 4 p + 2 + l % 2, which lie side by side. */
DEVICE void nibble_levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                          struct lane_levels *out)
{
    uint32_t p = l / 2, half = l % 2;
    for (uint32_t sub = 0; sub < 2; sub++) {
        struct words4 q = load16(x->levels + k * 256 + 32 * (2 * p + sub) + 16 * half);
        for (int i = 0; i < 4; i++)
            out->q[4 * sub + i] = q.w[i];
    }
    out->sums[0] = load4(x->sums + k * 16 + 8 * half + 2 * p);
}

struct q4_k {
    enum { SIZE = 144, D_AT = 0, DMIN_AT = 2, MINS = 1 };

    static DEVICE_MEMBER void levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                                     struct lane_levels *out)
    {
        nibble_levels(x, k, l, out);
    }

    static DEVICE_MEMBER void dot(const uint8_t *block, uint32_t l, const struct lane_levels *x,
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
    }
};

KERNEL(gemv_q4_k, struct gemv_args, GEMV_THREADS) { gemv_superblocks<struct q4_k>(a); }

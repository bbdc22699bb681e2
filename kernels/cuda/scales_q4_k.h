/* SPDX-License-Identifier: MIT
 *
 * What Q4_K and Q5_K have in common, for lane l of superblock.h's eight, which takes half (l % 2) of
 * the codes of the sub-blocks 2 p and 2 p + 1, with p = l / 2.
 */
#ifndef KERNELS_CUDA_SCALES_Q4_K_H
#define KERNELS_CUDA_SCALES_Q4_K_H

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

/* Sixteen levels of each of the two sub-blocks, and their sums as the two halves of a word: those of
 * the sixteens 4 p + l % 2 and 4 p + 2 + l % 2, which lie side by side. */
DEVICE void pair_of_levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                           struct lane_levels *out)
{
    uint32_t p = l / 2, half = l % 2;
    load_levels(x, k * 256 + 64 * p + 16 * half, out->q);
    load_levels(x, k * 256 + 64 * p + 32 + 16 * half, out->q + 4);
    out->sums[0] = load4(x->sums + k * 16 + 8 * half + 2 * p);
}

#endif

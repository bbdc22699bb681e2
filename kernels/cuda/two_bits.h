/* SPDX-License-Identifier: MIT
 *
 * What Q2_K and Q3_K have in common: 64 bytes of two bits each. With superblock.h's eight lanes,
 * lane l takes the 8 bytes from 8 * l on. With h = l / 4 and c = l % 4 those are, from the lowest
 * bits up, the eight weights from 128 h + 8 c on, and those 32, 64 and 96 behind; of the sixteens
 * 8 h + c / 2 and 2, 4, 6 behind.
 */
#ifndef KERNELS_CUDA_TWO_BITS_H
#define KERNELS_CUDA_TWO_BITS_H

#include "kernels/cuda/superblock.h"

/* Eight levels of each of the four runs. */
DEVICE void two_bit_levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                           struct lane_levels *out)
{
    for (uint32_t run = 0; run < 4; run++) {
        const int8_t *from = x->levels + k * 256 + 128 * (l / 4) + 8 * (l % 4) + 32 * run;
        out->q[2 * run] = load4(from);
        out->q[2 * run + 1] = load4(from + 4);
    }
}

/* The sums of the levels of its four sixteens, which two lanes share: the second one gets zeros. */
DEVICE void sums_of_four(const struct activation_planes *x, uint32_t k, uint32_t l, uint32_t *out)
{
    const int16_t *from = x->sums + k * 16 + 8 * (l % 4 / 2) + 4 * (l / 4);
    out[0] = l % 2 ? 0 : load4(from);
    out[1] = l % 2 ? 0 : load4(from + 2);
}

#endif

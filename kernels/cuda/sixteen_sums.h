/* SPDX-License-Identifier: MIT
 *
 * Products of floats are added to sixteen sums, element i to sum i % 16 (kernels/cpu/dot.h and
 * attend.h). Two neighbouring lanes share them: the first has sums 0 to 7, the other 8 to 15, so a
 * lane takes eight neighbouring elements of each sixteen.
 */
#ifndef KERNELS_CUDA_SIXTEEN_SUMS_H
#define KERNELS_CUDA_SIXTEEN_SUMS_H

#include "kernels/cuda/device.h"

enum { SUMS = 16, HALF_SUMS = SUMS / 2 };

/* Where a lane's first eight elements begin. */
DEVICE uint32_t lane_eight(void)
{
    return lane_index() % 2 * HALF_SUMS;
}

/* sum[i] += x[i] * y[i] */
DEVICE void eight_add(float *sum, const float *x, const float *y)
{
    for (int i = 0; i < HALF_SUMS; i++)
        sum[i] += x[i] * y[i];
}

/* What all sixteen add up to, in halves: the same for both lanes. */
DEVICE float sixteen_add(float *sum)
{
    for (int i = 0; i < HALF_SUMS; i++)
        sum[i] += float_from(shuffle_xor(float_bits(sum[i]), 1));
    for (int half = HALF_SUMS / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return sum[0];
}

DEVICE void floats_load(const float *p, float *out)
{
    for (int i = 0; i < HALF_SUMS; i += 4) {
        struct words4 v = load16(p + i);
        for (int j = 0; j < 4; j++)
            out[i + j] = float_from(v.w[j]);
    }
}

/* Eight halves, as load16 or load16_once brought them. */
DEVICE void halves_widen(struct words4 v, float *out)
{
    for (int i = 0; i < HALF_SUMS; i++)
        out[i] = half_to_float((uint16_t)(v.w[i / 2] >> 16 * (i % 2)));
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * exp by kernels/exp.h, step by step as in kernels/cpu/attend_c.c.
 */
#ifndef KERNELS_CUDA_FLOAT_EXP_H
#define KERNELS_CUDA_FLOAT_EXP_H

#include "kernels/cuda/device.h"
#include "kernels/exp.h"

/* Of no x above 0. What is NaN stays so. */
DEVICE float float_exp(float x)
{
    if (x < EXP_LEAST)
        return 0;
    float rounded = x * LOG2_E + EXP_ROUND, n = rounded - EXP_ROUND;
    float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float rest = (((EXP_6 * r + EXP_5) * r + EXP_4) * r + EXP_3) * r + EXP_2;
    return (1 + (r + r * r * rest)) * float_from(float_bits(rounded) << 23);
}

#endif

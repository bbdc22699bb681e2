/* SPDX-License-Identifier: MIT
 *
 * exp by kernels/exp.h, in plain C.
 */
#ifndef KERNELS_CPU_EXP_H
#define KERNELS_CPU_EXP_H

#include "codec/float16.h"
#include "kernels/exp.h"

/* Of no x above 0. What is NaN stays so. */
static inline float exp_c(float x)
{
    if (x < EXP_LEAST)
        return 0;
    float rounded = x * LOG2_E + EXP_ROUND, n = rounded - EXP_ROUND;
    float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float rest = (((EXP_6 * r + EXP_5) * r + EXP_4) * r + EXP_3) * r + EXP_2;
    return (1 + (r + r * r * rest)) * f32_from_bits(f32_bits(rounded) << 23);
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * exp by kernels/exp.h, in plain C.
 */
#ifndef KERNELS_CPU_EXP_H
#define KERNELS_CPU_EXP_H

#include "codec/float16.h"
#include "kernels/exp.h"

EXP(static inline, exp_c, f32_bits, f32_from_bits)

#endif

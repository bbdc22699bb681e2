/* SPDX-License-Identifier: MIT
 *
 * exp by kernels/exp.h, on a device.
 */
#ifndef KERNELS_CUDA_FLOAT_EXP_H
#define KERNELS_CUDA_FLOAT_EXP_H

#include "kernels/cuda/device.h"
#include "kernels/exp.h"

EXP(DEVICE, float_exp, float_bits, float_from)

#endif

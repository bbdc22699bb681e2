/* SPDX-License-Identifier: MIT
 *
 * The small operations of a pass, as backend.h has them. Their order of float operations is theirs
 * alone, so there is one plain source for all instruction sets; kernels/cuda repeats it.
 */
#ifndef KERNELS_CPU_ELEMENTWISE_H
#define KERNELS_CPU_ELEMENTWISE_H

#include "kernels/backend.h"

void gate_floats(enum gate gate, float *x, const float *y, size_t count);

/* Squares are floats and their sum a double: element i belongs to sum i % NORM_SUMS. Of these 32
 * neighbours at a time are added up in halves, and what they make one after the other. */
enum { NORM_SUMS = 256 };
void rms_norm_row(const float *x, const float *weight, uint32_t cols, float eps, float *out);

void rope_heads(float *x, const float *cosines, const float *sines, uint32_t heads, uint32_t dim,
                uint32_t pairs, bool halves);

/* Where the largest is; NaN is never larger, but stays where it is the first. */
uint32_t argmax_floats(const float *x, uint32_t count, bool *finite);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Attention of a few heads that share keys and values, for an instruction set. All sets give the
 * same bits.
 *
 * The order of sums, for one head; every operation is rounded by itself:
 *
 *     sum[i % 16] += q[i] * key p [i]               added up in halves as dot.h has it
 *     score[p] = scale * sum
 *     weight[p] = exp(score[p] - the largest score)
 *     total[p % 16] += weight[p]                    likewise
 *     chunk[p / ATTEND_CHUNK][i] += weight[p] * value p [i]
 *     out[i] = (chunk[0][i] + chunk[1][i] + ...) / total
 *
 * exp is that of kernels/exp.h.
 */
#ifndef KERNELS_CPU_ATTEND_H
#define KERNELS_CPU_ATTEND_H

#include "kernels/attention.h"
#include "kernels/exp.h"

#include <stddef.h>
#include <stdint.h>

/* What attend of backend.h does for heads that share keys and values, count positions of dim each, one
 * behind the other; scores has room for count floats a head. Nothing but count keys and values is
 * read. */
typedef void attend_fn(const float *q, uint32_t heads, const uint16_t *keys, const uint16_t *values,
                       uint32_t count, uint32_t dim, float scale, float *scores,
                       float *out);

extern attend_fn attend_c, attend_avx2, attend_avx512;

#endif

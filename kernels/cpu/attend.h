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
 *     out[i] = (weight[0] * value 0 [i] + weight[1] * value 1 [i] + ...) / total
 *
 * exp is exp_c of attend_c.c: within one unit in the last place, and 0 below EXP_LEAST, where it
 * would soon be no normal number.
 */
#ifndef KERNELS_CPU_ATTEND_H
#define KERNELS_CPU_ATTEND_H

#include <stddef.h>
#include <stdint.h>

/* What attend of backend.h does, for count positions from the first of keys and values; scores has
 * room for count floats a head. Nothing but count keys and values is read. */
typedef void attend_fn(const float *q, uint32_t heads, const uint16_t *keys, const uint16_t *values,
                       size_t stride, uint32_t count, uint32_t dim, float scale, float *scores,
                       float *out);

extern attend_fn attend_c, attend_avx2, attend_avx512;

/* exp(x) is 2^n * exp(r) with n the integer nearest to x / ln 2. Adding EXP_ROUND leaves n + 127,
 * the exponent of 2^n, in a float's low bits. LN2_HIGH has so few bits that n * LN2_HIGH is exact.
 * exp(r) is 1 + r + r^2 * (a polynomial of least relative error, 3e-9, for |r| <= ln 2 / 2). */
#define EXP_LEAST (-87.0f)
#define EXP_ROUND (0x1.8p23f + 127)
#define LOG2_E    0x1.715476p0f
#define LN2_HIGH  0x1.63p-1f
#define LN2_LOW   (-0x1.bd0106p-13f)
#define EXP_2     0x1.fffffcp-2f
#define EXP_3     0x1.555490p-3f
#define EXP_4     0x1.5558f8p-5f
#define EXP_5     0x1.123b02p-7f
#define EXP_6     0x1.6a2256p-10f

#endif

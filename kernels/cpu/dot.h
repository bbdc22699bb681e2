/* SPDX-License-Identifier: MIT
 *
 * Products of packed rows with activations, for an instruction set. All sets give the same bits.
 *
 * The order of sums, for int8 activations. Of block k of a row (32 or 256 weights, as the format
 * and the activations have it), with d and dmin the weights' scales and a the activations':
 *
 *     isum = sum of scale[j] * (q[i] - zero) * level[i]       exact, in integers
 *     msum = sum of min[j] * level[i]                         likewise, where there are mins
 *     sum[k % 8] += (d * a) * (float)isum - (dmin * a) * (float)msum
 *
 * (Q4_1, Q5_1: + (m * a) * (float)msum.) Then sum[l] += sum[l + 4] for l < 4, sum[l] += sum[l + 2]
 * for l < 2, and sum[0] + sum[1] is the product.
 *
 * For float activations, weight i decoded as codec/decode.h has it: sum[i % 16] += w * x, then in
 * halves as above. Every operation is rounded by itself; nothing is fused. Where a result is NaN,
 * which NaN it is may differ. attend.h has the order of attention's sums.
 */
#ifndef KERNELS_CPU_DOT_H
#define KERNELS_CPU_DOT_H

#include "codec/error.h"
#include "kernels/cpu/activations.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/stripe.h"

enum { FLOAT_LANES = 16, TILE_ROWS_MAX = 4, TILES_MAX = 4 };

/* One row with count columns of the activations from `column` on; column c goes to
 * out[c * stride]. */
typedef void dot_fn(const uint8_t *row, const struct activations *a, uint32_t column,
                    uint32_t count, float *out, size_t stride);

/* tile_rows rows with up to TILES_MAX tiles from `tile` on; out as for matmul, with the first of
 * the rows at out[0]. Columns of the batch only are written. */
typedef void dot_tile_fn(const uint8_t *const *rows, const struct activations *a, uint32_t tile,
                         uint32_t tiles, float *out, size_t stride);

/* The same with float activations. */
typedef void dot_float_fn(const struct format *format, const uint8_t *row,
                          const struct activations *a, uint32_t column, uint32_t count, float *out,
                          size_t stride);

struct dot_set {
    const char *name;          /* "c", "avx2", "avx512", "avx512_vnni" */
    dot_fn *dot[FORMAT_COUNT]; /* int8 activations; NULL for plain floats */
    uint32_t tile_rows;        /* 0: no tiles */
    dot_tile_fn *tile[FORMAT_COUNT];
    dot_float_fn *dot_float;
    stripe_fn *stripe;
    attend_fn *attend;
};

extern const struct dot_set dot_set_c, dot_set_avx2, dot_set_avx512, dot_set_avx512_vnni;

/* The sets that this program was built with, the fastest first and the one in plain C last, then
 * NULL. */
extern const struct dot_set *const dot_sets[];

/* Whether this processor can run it. */
bool dot_set_supported(const struct dot_set *set);

/* The fastest set, or the one of that name. -EINVAL for a name that is not there, -ENOTSUP where
 * the processor cannot run it, with a sentence. */
int dot_set_choose(const char *name, const struct dot_set **out, struct error *err);

#endif

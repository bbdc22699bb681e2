/* SPDX-License-Identifier: MIT
 *
 * Products of SpQR stripes (codec/spqr/FORMAT.md) with activations, for an instruction set. All sets
 * give the same bits. Activations are in the order of the matrix's columns, in blocks of 64.
 *
 * The order of sums, for int8 activations. Of supertile k of a row, with a for the activations' scale:
 *
 *     isum[g] = sum of q[i] * level[i]                        exact, over the 16 columns of group g
 *     lsum[g] = sum of level[i]                               likewise
 *     v = sum over g, from 0 on, of scale[g] * ((float)isum[g] - zero[g] * (float)lsum[g])
 *     sum += a * v                                            from k = 0 on
 *
 * Outlier j of a row adds residual * (a * (float)level) to own[j % 8]. Then own[l] += own[l + 4] for
 * l < 4, own[l] += own[l + 2] for l < 2, and sum + (own[0] + own[1]) is the product. Every operation is
 * rounded by itself; nothing is fused.
 *
 * For float activations weights are decoded as spqr_decode does, and multiplied as rows of F32 are.
 */
#ifndef KERNELS_CPU_STRIPE_H
#define KERNELS_CPU_STRIPE_H

#include "codec/spqr/stripe.h"
#include "kernels/cpu/activations.h"

#include <errno.h>
#include <string.h>

/* The most columns of activations that a stripe is multiplied with at once. */
enum { STRIPE_COLUMNS_MAX = 8 };

/* A stripe, times `count` columns of the activations from `column` on, 1 to STRIPE_COLUMNS_MAX: row r
 * of the i-th goes to sums[i][r]. -EINVAL where outliers break the rules of the format. */
typedef int stripe_fn(const struct spqr_layout *l, const uint8_t *stripe,
                      const struct activations *a, uint32_t column, uint32_t count,
                      float (*sums)[SPQR_ROWS]);

stripe_fn stripe_c, stripe_avx2, stripe_avx512, stripe_avx512_vnni;

enum { OUTLIER_LANES = 8 };

/* What goes with the sets: row r has the slots from ends[r] to before ends[r + 1]. -EINVAL where they
 * are in no order. */
static inline int stripe_ends(const struct spqr_layout *l, const uint8_t *stripe,
                              uint32_t ends[SPQR_ROWS + 1])
{
    ends[0] = 0;
    memcpy(ends + 1, stripe + l->columns_at - SPQR_ROWS * sizeof *ends, SPQR_ROWS * sizeof *ends);
    for (int row = 0; row < SPQR_ROWS; row++)
        if (ends[row + 1] < ends[row] || ends[row + 1] > l->slots)
            return -EINVAL;
    return 0;
}

#endif

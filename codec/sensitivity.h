/* SPDX-License-Identifier: MIT
 *
 * How much it costs to round a weight, which is what outliers are chosen by (SpQR, Dettmers and
 * others, 2023, section 3): with inputs X, and all other weights free to make up for it,
 *
 *     s_ij = (w_ij - round(w_ij))^2 / (2 [(X X^T)^-1]_jj)
 *
 * Rounding is to 3 bits, in groups of 16 neighbours of a row, from the group's least weight to its
 * greatest.
 */
#ifndef CODEC_SENSITIVITY_H
#define CODEC_SENSITIVITY_H

#include <stddef.h>

/* The sensitivities of a row. inverse: of each column the diagonal element of (X X^T)^-1, infinite
 * where no input reaches it; NULL: all are 1. */
void sensitivity_row(const float *weights, size_t columns, const float *inverse, float *out);

#endif

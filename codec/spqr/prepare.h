/* SPDX-License-Identifier: MIT
 *
 * What an SpQR encoder needs besides weights: the order of columns, the packed factor, the
 * reference's threshold. Each is made once, for a matrix or for all that share its input.
 *
 * The factor is the upper Cholesky factor U of the inverse of the damped Hessian, U^T U = H^-1,
 * with rows and columns in permuted order. It is packed in panels of 16 columns, from left to
 * right: panel p has the first 16 (p + 1) rows, 16 floats each. An encoder reads it from front to
 * back.
 */
#ifndef CODEC_SPQR_PREPARE_H
#define CODEC_SPQR_PREPARE_H

#include <stddef.h>
#include <stdint.h>

/* Columns with the greatest element of the Hessian's diagonal first, equal ones as they stand:
 * permuted column j is column order[j]. No element may be NaN. -ENOMEM. */
int spqr_activation_order(const float *diagonal, size_t columns, uint32_t *order);

/* Floats in a packed factor. */
size_t spqr_factor_size(size_t columns);

/* Packs row by row: first this, then each row of U from its diagonal on. */
void spqr_factor_begin(float *packed, size_t columns);
void spqr_factor_put_row(float *packed, size_t columns, size_t row, const float *values);

/* upper: row-major, [columns][columns]; what stands below its diagonal is not looked at. */
void spqr_factor_pack(const float *upper, size_t columns, float *out);

/* The diagonal of U^T U, the inverse of the damped Hessian. */
void spqr_factor_inverse(const float *packed, size_t columns, float *diagonal);

/* One threshold for all of a matrix, as the reference computes it: `relative` times the mean over
 * columns of the variance of their weights by the square of the factor's diagonal element. Permuted
 * weights, [rows][columns], at least two rows; factor: packed, NULL for the identity. */
float spqr_threshold(const float *x, size_t rows, size_t columns, const float *factor,
                     float relative);

#endif

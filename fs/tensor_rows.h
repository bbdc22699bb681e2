/* SPDX-License-Identifier: MIT
 *
 * The rows of a form of a matrix as weights, in the order of rows and columns that the checkpoint
 * has: its packed bytes, from their tiles, decoded.
 */
#ifndef FS_TENSOR_ROWS_H
#define FS_TENSOR_ROWS_H

#include "fs/tensor_file.h"

/* Rows come so many at a time, and so long at most: a band of them fits into memory. */
enum { BAND_ROWS = SPQR_ROWS, BAND_COLUMNS_MAX = 1 << 17 };

struct tensor_rows;

/* Of a form that the tensor has and that is not as stored; or of the weights that all forms are made
 * of, as floats. The matrix has at most BAND_COLUMNS_MAX columns. -errno with a sentence. */
int tensor_rows_open(const struct checkpoint *c, const struct tensor *t, unsigned form,
                     struct tensor_rows **out, struct error *err);
int tensor_rows_open_source(const struct checkpoint *c, const struct tensor *t,
                            struct tensor_rows **out, struct error *err);
void tensor_rows_close(struct tensor_rows *r);

/* Decodes the band that begins with row `first`, a multiple of BAND_ROWS: rows as long as there are
 * any, in out, which has room for BAND_ROWS. Not by two threads at once. */
int tensor_rows_read(struct tensor_rows *r, struct tiles *tiles, uint64_t first, float *out,
                     struct error *err);

#endif

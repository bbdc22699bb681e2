/* SPDX-License-Identifier: MIT
 *
 * SpQR's formats as a mount offers them: rows of the same table as the others, but packed in stripes
 * of 16 rows, not in blocks (FORMAT.md).
 */
#ifndef CODEC_SPQR_FORMAT_H
#define CODEC_SPQR_FORMAT_H

#include "codec/format.h"
#include "codec/spqr/stripe.h"

enum {
    SPQR_FORMAT_COUNT = 3,
    /* With the bits added: the id in a tensor info of GGUF, and of a file of such tensors. ggml knows
     * nothing from there up, so that what is not made for these files refuses them. */
    SPQR_GGML_TYPE = 1000,
};

/* spqr4, spqr3, spqr2. block and block_size are 0, encode and decode NULL. */
extern const struct format spqr_formats[SPQR_FORMAT_COUNT];

/* Of each weight so many are outliers: one in a hundred. */
#define SPQR_BUDGET 0.01

/* The layout of matrices that wide. Errors as of spqr_layout. */
int spqr_format_layout(const struct format *f, uint64_t columns, struct spqr_layout *out,
                       struct error *err);

/* What is packed as a whole, in any format: a row, or a stripe of rows, and its bytes. False where the
 * width is none that the format can pack. */
bool format_unit(const struct format *f, uint64_t cols, uint64_t *rows, uint64_t *size);

/* Bytes of matrices that are packed one behind the other, in any format: rows of blocks; or the
 * stripes of all, then the permutations of all. rows: of each. False where the width is none that
 * the format can pack, or the bytes are beyond 64 bits. */
bool matrices_size(const struct format *f, uint64_t matrices, uint64_t rows, uint64_t cols,
                 uint64_t *bytes);

#endif

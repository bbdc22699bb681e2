/* SPDX-License-Identifier: MIT
 *
 * A stripe of an SpQR matrix, 16 rows of all its columns: its layout, the way from codes to bytes
 * and back, and from bytes to weights. FORMAT.md says what each bit means. Columns are permuted
 * here and everywhere in this folder.
 */
#ifndef CODEC_SPQR_STRIPE_H
#define CODEC_SPQR_STRIPE_H

#include "codec/error.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SPQR_ROWS = 16,    /* of a stripe */
    SPQR_GROUP = 16,   /* columns that share a row's scale and zero */
    SPQR_COLUMNS = 64, /* of a supertile */
};

/* What follows from a matrix's format, width and budget. */
struct spqr_layout {
    int bits;                     /* of a weight's code: 2, 3, 4 */
    size_t columns, padded;       /* of the matrix; to a multiple of 64 */
    size_t slots;                 /* outliers of a stripe */
    size_t index_size;            /* bytes of a column's number: 2, 4 */
    size_t supertile_size;        /* bytes */
    size_t columns_at, values_at; /* where in a stripe the two planes of its slots lie */
    size_t stripe_size;           /* bytes, a multiple of 16 */
};

/* budget: outliers for each weight, 0 to 1. -EINVAL, with a sentence, where one of these is not
 * allowed or a stripe is too large for the address space. */
int spqr_layout(int bits, uint64_t columns, double budget, struct spqr_layout *out,
                struct error *err);

/* Bytes of a matrix of so many rows: stripes, then the permutation. -EINVAL beyond 64 bits. */
int spqr_size(const struct spqr_layout *l, uint64_t rows, uint64_t *size, struct error *err);

/* The statistics of 16 by 16 weights. */
struct spqr_group {
    uint8_t scales[SPQR_ROWS], zeros[SPQR_ROWS]; /* codes, 0 to 7 */
    float scale_scale, scale_zero, zero_scale, zero_zero;
};

/* A stripe in pieces, as the encoder leaves it. The arrays are the owner's; columns are those of
 * the layout with its padding. */
struct spqr_stripe {
    uint8_t (*codes)[SPQR_ROWS];  /* [padded] */
    struct spqr_group *groups;    /* [padded / 16] */
    uint16_t *outlier_rows;       /* [padded]: bit r: row r has an outlier in this column */
    float (*outliers)[SPQR_ROWS]; /* [padded]: its residual, where there is one; else anything */
};

/* Writes l->stripe_size bytes. The statistics and residuals must be values of binary16, and the
 * outliers not more than the slots. */
void spqr_pack(const struct spqr_layout *l, const struct spqr_stripe *s, uint8_t *out);

/* The way back. -EINVAL where size is not that of a stripe, or the outliers are not in order. */
int spqr_unpack(const struct spqr_layout *l, const uint8_t *bytes, size_t size,
                struct spqr_stripe *out, struct error *err);

/* The weights: row r, column c at out[r * l->columns + c]; residuals are added. Errors as above. */
int spqr_decode(const struct spqr_layout *l, const uint8_t *bytes, size_t size, float *out,
                struct error *err);

/* The permutation behind the stripes: the column at each place. order: room for l->columns. -EINVAL
 * where size is not that of one, or it is none; -ENOMEM. */
int spqr_order_parse(const struct spqr_layout *l, const uint8_t *bytes, size_t size, uint32_t *order,
                     struct error *err);

#endif

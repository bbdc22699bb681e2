/* SPDX-License-Identifier: MIT
 *
 * The SpQR encoder: weights of 16 rows become codes, statistics and outliers. Columns are quantized
 * one after the other, and what each loses is taken from those that are still to come, in the
 * measure that the factor says (prepare.h). Stripes know nothing of each other.
 *
 * A struct isa (isa.h) has the encoder of its set; all give the same codes.
 */
#ifndef CODEC_SPQR_ENCODE_H
#define CODEC_SPQR_ENCODE_H

#include "codec/spqr/stripe.h"

#include <stdbool.h>

struct spqr_settings {
    int bits; /* of a weight's code: 2, 3, 4 */

    /* The computation of the reference, without what FORMAT.md departs in: statistics stay
     * binary32, s->outliers are the weights themselves, and this threshold decides what is one;
     * INFINITY: nothing is. Its unit is that of (weight / diagonal element of the factor)^2. What
     * comes out is not to be packed. */
    bool reference;
    float threshold;

    /* Without reference: as many outliers at most, and nine in ten of them. */
    size_t slots;
};

/* Bytes that an encoder works in; they must begin at a multiple of 64. */
size_t spqr_scratch_size(size_t columns);

/* Weights must be smaller than that. */
#define SPQR_WEIGHT_MAX 0x1p96f

/* x: [rows][columns], 1 to 16 rows, permuted, finite, below 2^96; columns that no input reaches
 * must be 0. factor: packed, of so many columns; NULL: the identity, that is no feedback. *out
 * gets arrays that lie in scratch, in the shape of the layout of these columns. */
typedef void spqr_encode_fn(const struct spqr_settings *settings, const float *x, size_t rows,
                            size_t columns, const float *factor, void *scratch,
                            struct spqr_stripe *out);

spqr_encode_fn spqr_encode;

#endif

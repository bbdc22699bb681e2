/* SPDX-License-Identifier: MIT
 *
 * How far the weights of a form are from those that it was made of.
 */
#ifndef CODEC_DEVIATION_H
#define CODEC_DEVIATION_H

#include <stddef.h>
#include <stdint.h>

/* Sums over the rows so far. Zero-initialise. */
struct deviation {
    double squares;  /* of the errors */
    double source;   /* of the weights */
    double weighted; /* of the errors, each times the importance of its column */
    double greatest; /* of the errors' absolute values, and where it is first found */
    uint64_t row, column;
};

/* Adds a row; the absolute errors are left in `errors`. importance: of each column; NULL: none. */
void deviation_add_row(struct deviation *d, uint64_t row, const float *weights,
                       const float *decoded, size_t columns, const float *importance,
                       float *errors);

#endif

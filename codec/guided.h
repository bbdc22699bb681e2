/* SPDX-License-Identifier: MIT
 *
 * Guided K-quants: llama.cpp's own types, whose codes are chosen by feedback of errors. A row is
 * first encoded as ever, with the importance of its columns; its scales and mins stay. Then, column
 * by column in the factor's order, the code next to the weight is taken, and what is lost is fed
 * back (feedback.h). Where a scale is 0, and without feedback, the plain code stands. Every reader of
 * the plain type reads them.
 */
#ifndef CODEC_GUIDED_H
#define CODEC_GUIDED_H

#include "codec/format.h"

enum { GUIDED_FORMAT_COUNT = 4 };

/* q5_k-guided, q4_k-guided, q3_k-guided, q2_k-guided. encode is NULL. */
extern const struct format guided_formats[GUIDED_FORMAT_COUNT];

/* The guided format of a plain one; NULL if it has none. */
const struct format *guided_format_of(const struct format *plain);

#endif

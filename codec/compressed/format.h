/* SPDX-License-Identifier: MIT
 *
 * The formats of compressed-tensors as a mount offers them (FORMAT.md). The encoders are in
 * encode.c. All arithmetic is that of the type that a model has, so there is one of each for every
 * type.
 */
#ifndef CODEC_COMPRESSED_FORMAT_H
#define CODEC_COMPRESSED_FORMAT_H

#include "codec/format.h"

enum { COMPRESSED_FORMAT_COUNT = 6, COMPRESSED_GROUP = 128 };

/* w4a16-g128, in groups of columns, and w8a16, in rows, of BF16; then the same of F16 and of F32. */
extern const struct format compressed_formats[COMPRESSED_FORMAT_COUNT];

/* The same format, of another type. NULL for a format that is none of these. */
const struct format *compressed_of_type(const struct format *f, const struct format *type);

/* Bits of a code. */
int compressed_bits(const struct format *f);

#endif

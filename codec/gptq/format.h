/* SPDX-License-Identifier: MIT
 *
 * GPTQ's formats as a mount offers them, in rows (FORMAT.md), with the encoder and decoders that
 * belong to them.
 */
#ifndef CODEC_GPTQ_FORMAT_H
#define CODEC_GPTQ_FORMAT_H

#include "codec/format.h"

enum { GPTQ_FORMAT_COUNT = 15 };

/* gptq4-g128, gptq4-g128-natural, rtn4-g128; likewise with 4 bits in groups of 32, 3 bits of 128 and
 * of 32, 8 bits of 128. A block is a group; encode is NULL. */
extern const struct format gptq_formats[GPTQ_FORMAT_COUNT];

/* Bits of a code. */
int gptq_bits(const struct format *f);

#endif

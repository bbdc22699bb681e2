/* SPDX-License-Identifier: MIT
 *
 * The formats of bitsandbytes as a mount offers them (FORMAT.md), with what their loaders need
 * beside the codes. The encoders are in encode.c.
 */
#ifndef CODEC_BNB_FORMAT_H
#define CODEC_BNB_FORMAT_H

#include "codec/format.h"

enum { BNB_NF4, BNB_INT8, BNB_FORMAT_COUNT };

enum {
    NF4_BLOCK = 64,
    NF4_SIZE = 36,    /* bytes of a block: absmax, then codes */
    NF4_NESTED = 256, /* blocks whose absmax is quantized together */
};

/* nf4, int8. */
extern const struct format bnb_formats[BNB_FORMAT_COUNT];

/* What NF4's codes mean, in ascending order, and the middle between each and the next. */
extern const float nf4_values[16], nf4_thresholds[15];

/* Adds absmax of each of n packed blocks to the sum, in their order. */
double nf4_add_absmax(double sum, const void *blocks, size_t n);

/* What the codes of a quantized absmax mean, in ascending order. */
void nf4_nested_values(float values[256]);

/* Quantizes n of them, at most NF4_NESTED, less the mean of the whole matrix: codes, and their
 * scale. */
float nf4_nest(const float values[256], const float *absmax, size_t n, float mean, uint8_t *codes);

#endif

/* SPDX-License-Identifier: MIT
 *
 * AWQ's groups as a mount offers them, in rows (FORMAT.md), and how a group is quantized. What makes
 * weights AWQ's is done to them before (scales.h): the codes themselves are rounded, so the format of
 * weights as they are is called that.
 */
#ifndef CODEC_AWQ_FORMAT_H
#define CODEC_AWQ_FORMAT_H

#include "codec/format.h"

enum {
    AWQ_FORMAT_COUNT = 1,
    AWQ_GROUP = 128, /* columns that share a scale and a zero */
    AWQ_CODE_MAX = 15,
    /* Where in a block they lie. */
    AWQ_SCALE_SIZE = 2,
    AWQ_ZERO_SIZE = 1,
    AWQ_HEAD_SIZE = AWQ_SCALE_SIZE + AWQ_ZERO_SIZE,
    AWQ_BLOCK_SIZE = AWQ_HEAD_SIZE + AWQ_GROUP / 2,
};

/* rtn-awq4-g128. A block is a group; encode is NULL. */
extern const struct format awq_formats[AWQ_FORMAT_COUNT];

/* A group as it was quantized: a weight is scale * (code - zero). */
struct awq_group {
    float scale; /* as binary16 has it; not finite where that has no such number */
    uint8_t zero;
};

/* Finds the group of n weights, and their codes, in the arithmetic of binary16. */
struct awq_group awq_quantize(const float *x, size_t n, uint8_t *codes);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The element types that a checkpoint may store. All are known by name and size; those that can
 * be widened to float can be encoded, the others are only passed through as they are.
 */
#ifndef CODEC_DTYPE_H
#define CODEC_DTYPE_H

#include "codec/format.h"

#include <stddef.h>
#include <stdint.h>

struct dtype {
    const char *name;  /* as in safetensors: "BF16" */
    const char *lower; /* in file names: "bf16" */
    uint16_t bits;     /* of one element */
    /* n elements to float: exact for F16, BF16 and F32, rounded to nearest for F64. NULL: this
     * type cannot be encoded. */
    decode_fn *widen;
    /* Whether n elements are finite, as floats. */
    bool (*finite)(const void *data, size_t n);
    /* The format with the same bytes, or NULL. */
    const struct format *format;
};

enum { DTYPE_COUNT = 22 };
extern const struct dtype dtypes[DTYPE_COUNT];

/* NULL if safetensors knows no such name (exact case). */
const struct dtype *dtype_by_name(const char *name);

/* Bytes of n elements. False on overflow or where they do not end at a byte. */
bool dtype_bytes(const struct dtype *t, uint64_t n, uint64_t *bytes);

#endif

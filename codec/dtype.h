/* SPDX-License-Identifier: MIT
 *
 * The element types that a container may store: those of safetensors, and the packed ones of GGUF.
 * All are known by name and size; those that can be widened to float can be encoded, the others
 * are only passed through as they are.
 */
#ifndef CODEC_DTYPE_H
#define CODEC_DTYPE_H

#include "codec/format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dtype {
    const char *name;  /* as in safetensors or ggml: "BF16", "Q4_K" */
    const char *lower; /* in file names: "bf16" */
    uint16_t block, block_size; /* elements that are stored together, and their bytes; of SpQR a
                                   supertile's, which is not all that there is */
    int16_t ggml_type;          /* id in a GGUF tensor info; -1: GGUF has no such type */
    bool scaled;                /* its values mean nothing without scales from elsewhere */
    /* n elements to float: exact but for F64, which is rounded to nearest. NULL: this type cannot
     * be encoded. */
    decode_fn *widen;
    /* Whether n elements are all finite as floats; NULL for packed types, whose scales tell. */
    bool (*finite)(const void *data, size_t n);
    /* The format with the same bytes, or NULL. */
    const struct format *format;
};

enum { DTYPE_COUNT = 52 };
extern const struct dtype dtypes[DTYPE_COUNT];

/* By the name that safetensors has for it (exact case); NULL if it knows none. */
const struct dtype *dtype_by_name(const char *name);

/* By ggml's id; NULL for ids that are not in use. */
const struct dtype *dtype_by_ggml_type(uint32_t ggml_type);

/* Bytes of n elements. False on overflow or where they are no whole blocks. */
bool dtype_bytes(const struct dtype *t, uint64_t n, uint64_t *bytes);

/* Bits of one element. */
double dtype_bits(const struct dtype *t);

/* Whether n elements, whole blocks of them, are finite. The type can be encoded. */
bool dtype_finite(const struct dtype *t, const void *data, size_t n);

/* Whether the type packs weights: what is made from it has lost something already. */
static inline bool dtype_is_quantized(const struct dtype *t) { return t->block > 4; }

#endif

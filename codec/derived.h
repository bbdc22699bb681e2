/* SPDX-License-Identifier: MIT
 *
 * A tensor that lies in no file, but follows from tensors that do: one that a checkpoint stores packed,
 * by a method of quantizing that is none of our formats, one that an adapter adds to, or one that is
 * scaled. To everybody else it is a tensor of floats. Its parts are read through a function of the caller's, a few rows at a
 * time, so nothing is ever unpacked as a whole.
 */
#ifndef CODEC_DERIVED_H
#define CODEC_DERIVED_H

#include "codec/error.h"
#include "codec/tensor.h"

struct isa;
struct derived;

enum { DERIVED_PARTS = 12 };

struct derived_reader {
    /* Bytes [at, at + n) of a part's tensor, which has so many. */
    int (*read)(void *context, uint32_t part, uint64_t at, void *out, size_t n, struct error *err);
    void *context;
};

/* A row of a table, one for each method. */
struct derived_method {
    const char *name; /* in cache keys, messages and info.json: "nf4", "gptq" */
    uint32_t version; /* of our decoder; a change of its values raises it (cache keys) */
    bool quantized;   /* what is made from it has lost something already */
    /* Weights [first, first + n) of all rows x cols, as the float that the tensor's type rounds them
     * to (derived_round). A whole number of rows, or a piece of one. -errno of the reader with its
     * sentence; -EINVAL where the parts break the rules of the method; -ENOMEM. */
    int (*weights)(const struct derived *d, const struct isa *isa, const struct derived_reader *r,
                   uint64_t first, size_t n, float *out, struct error *err);
};

struct derived {
    const struct derived_method *method;
    /* What there is, in the method's order; NULL where one that may be missing is. Those of `base`, if
     * there is one, come first. All lie in files. */
    const struct tensor *parts[DERIVED_PARTS];
    uint32_t part_count;
    const struct derived *base; /* what an adapter adds to, where that is derived, too; or NULL */
    const struct dtype *type;   /* F32, F16 or BF16 */
    uint64_t rows, cols;
    bool across; /* rows lie across the parts, so that many of them cost little more than one */
    /* What a method needs to know, each what it has a use for. They are part of cache keys. */
    uint32_t bits;    /* of a code */
    uint32_t variant; /* of the layout */
    uint64_t group;   /* columns that share a scale */
    uint64_t rank;    /* of what is added */
    float number;     /* an offset, or a scale */
    /* [cols] and [rows]: what columns are multiplied with, and rows divided by; or NULL. They must live
     * as long as whoever is given this. */
    const float *col_scale, *row_scale;
};

/* Whether a tensor has lost something already: it is packed, or follows from one that is. */
bool tensor_is_quantized(const struct tensor *t);

/* v as the tensor's type has it. isa: NULL for a few, in plain C. */
void derived_round(const struct derived *d, const struct isa *isa, float *v, size_t n);

#endif

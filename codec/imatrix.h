/* SPDX-License-Identifier: MIT
 *
 * Importance matrices: how much each input column of a matrix matters, as llama-imatrix collects
 * it. The legacy .dat layout: i32 entry count; per entry i32 name length, name, i32 calls, i32
 * value count, f32 values; then, optional, i32 chunk count, i32 length and name of the dataset.
 * The weight that encoders use is value / calls.
 */
#ifndef CODEC_IMATRIX_H
#define CODEC_IMATRIX_H

#include "codec/arena.h"
#include "codec/bytes.h"
#include "codec/error.h"

struct imatrix_entry {
    const char *name; /* of the GGUF tensor */
    const float *weights;
    size_t count;    /* columns, times matrices for stacked tensors */
    size_t position; /* in the file */
};

struct imatrix {
    struct imatrix_entry *entries; /* sorted by name, names unique */
    size_t count;
    const char *dataset; /* NULL if not said */
    int32_t chunks;      /* 0 or less if not said */
    struct arena arena;
};

/* Parses a file. -EINVAL (with the place; also for weights that are not finite), -ENOTSUP for the
 * GGUF layout, or -ENOMEM. Free with imatrix_free. */
int imatrix_parse(struct blob file, struct imatrix *m, struct error *err);
void imatrix_free(struct imatrix *m);

/* NULL if the tensor has no entry. */
const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name);

#endif

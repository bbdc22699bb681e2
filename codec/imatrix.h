/* SPDX-License-Identifier: MIT
 *
 * Importance matrices: how much each input column of a matrix matters, as llama-imatrix collects
 * it, in either of its layouts.
 *
 * The legacy one (.dat): i32 entry count; per entry i32 name length, name, i32 calls, i32 value
 * count, f32 values; then, optional, i32 chunk count, i32 length and name of the dataset. The
 * weight that encoders use is value / calls.
 *
 * GGUF: keys imatrix.datasets, .chunk_count, .chunk_size; per entry two F32 tensors, NAME.in_sum2 of
 * sums and NAME.counts, one count for each equal slice of the sums (an expert's columns). The weight
 * is sum / count, and 1 in a slice that was never used.
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

/* Parses a file. -EINVAL (with the place; also for weights that are not finite) or -ENOMEM. Free
 * with imatrix_free. */
int imatrix_parse(struct blob file, struct imatrix *m, struct error *err);
void imatrix_free(struct imatrix *m);

/* NULL if the tensor has no entry. */
const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name);

#endif

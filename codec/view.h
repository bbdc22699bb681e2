/* SPDX-License-Identifier: MIT
 *
 * Where the rows of an output tensor come from: a source tensor's rows, in its order or in that of
 * RoPE. Mapping a model to another layout makes views, never copies.
 */
#ifndef CODEC_VIEW_H
#define CODEC_VIEW_H

#include "codec/tensor.h"

struct view {
    const struct tensor *tensor;
    uint64_t rows, cols; /* cols: the innermost extent; rows * cols = the tensor's elements */
    /* 0: rows as stored. Else the number of heads whose rows are interleaved: a checkpoint keeps
     * the two halves of each rotated pair apart, llama's GGUF keeps the pair together. */
    uint32_t rope_heads;
};

/* The tensor as it is: all extents but the last are rows. */
struct view view_make(const struct tensor *t);

/* The source row that output row `row` is. */
uint64_t view_source_row(const struct view *v, uint64_t row);

#endif

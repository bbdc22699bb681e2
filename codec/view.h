/* SPDX-License-Identifier: MIT
 *
 * Where the rows of an output tensor come from: the rows of a source tensor, or of several alike
 * that are stacked; in their own order or in that of RoPE; with at most one elementwise step.
 * Mapping a model to another layout makes views, never copies.
 */
#ifndef CODEC_VIEW_H
#define CODEC_VIEW_H

#include "codec/tensor.h"

enum row_order {
    ROWS_AS_STORED,
    ROWS_TO_PAIRS,  /* a head's rows come as two halves and go as pairs: from Hugging Face's RoPE
                       to llama's */
    ROWS_TO_HALVES, /* the way back */
};

struct view {
    const struct tensor *tensor;       /* the only one, or the first of the stack */
    const struct tensor *const *stack; /* stack_count tensors of one shape and type, or NULL */
    uint32_t stack_count;              /* 1 without a stack */
    uint64_t rows, cols;               /* cols: the innermost extent; rows: over all matrices */
    uint64_t first_row;                /* rows of the only tensor that are left out before these */
    uint64_t matrices;                 /* that follow each other; each has its own importance */
    enum row_order order;
    uint32_t heads;                    /* whose rows are reordered, each on its own */
    float add;                         /* to every weight; 0: none */
    /* Every weight is multiplied by the element of `scale` that its block of scale_rows x
     * scale_cols weights has. NULL: none. */
    const struct tensor *scale;         /* the only one, or the first of the stack's */
    const struct tensor *const *scales; /* one for each tensor of the stack, or NULL */
    uint64_t scale_rows, scale_cols;
    const struct format *round; /* a plain float, what weights are rounded to at last; NULL: not */
};

/* The tensor as it is: all extents but the last are rows. */
struct view view_make(const struct tensor *t);

/* Whether weights come out as they are stored, if not where. */
static inline bool view_keeps_values(const struct view *v) { return !v->scale && v->add == 0 && !v->round; }

/* Whether the view is one tensor, all of it, as it is stored in a file. */
static inline bool view_is_whole(const struct view *v)
{
    return view_keeps_values(v) && !v->tensor->derived && v->stack_count == 1 &&
           v->order == ROWS_AS_STORED &&
           !v->first_row && v->rows * v->cols == v->tensor->elements;
}

/* The number of tensors that scales come from. */
static inline uint32_t view_scale_count(const struct view *v)
{
    return v->scale ? v->stack_count : 0;
}

/* Where output row `row` comes from: the tensor of the stack, and the row in that. */
uint64_t view_source_row(const struct view *v, uint64_t row, uint32_t *which);

/* Adds view->add to n weights that were stored as t. */
void view_add(const struct view *v, const struct dtype *t, float *weights, size_t n);

#endif

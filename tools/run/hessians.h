/* SPDX-License-Identifier: MIT
 *
 * The Hessians of a model's inputs, and the files that are made of them. They are collected for as
 * many layers at once as there is memory for, so that a long text is read several times rather than
 * a machine filled; files that are there already are not made again.
 */
#ifndef TOOLS_RUN_HESSIANS_H
#define TOOLS_RUN_HESSIANS_H

#include "tools/run/awq.h"
#include "tools/run/factor_file.h"

enum { DAMPINGS_MAX = 8 };

struct hessians {
    /* What is wanted: */
    const char *folder;
    struct factor_kind kinds[2 * DAMPINGS_MAX + 1]; /* files of each input */
    size_t kind_count;                              /* 0: nothing is wanted */
    uint32_t first, end;                            /* layers */
    bool one_by_one;                                /* no two layers at once */
    uint32_t at_once;                               /* layers that there is memory for */
    unsigned threads;                               /* that factor */
    const struct facts *facts;
    struct origin from;
    struct awq *awq; /* which finds scales in all layers; NULL: none are wanted */
    /* What there is to do: */
    struct unfinished {
        uint32_t layer, files; /* files: that are missing; 0 where only scales are */
    } * todo;
    uint32_t todo_count, done;
    uint64_t missing_bytes;
    /* Under way: */
    uint32_t group;      /* so many of todo, from `done` on */
    struct hessian *all; /* [group][INPUT_COUNT][parts] */
};

/* Decides how many layers are collected at once: as many as fit into `room` bytes beside the
 * model's weights, or into a quarter of it where they do not fit themselves; at least one. Returns
 * what that takes. */
uint64_t hessians_fit(struct hessians *h, const struct facts *f, uint64_t room, uint64_t weights);

/* Finds out what is missing. -ERANGE for layers that the model has not, -EEXIST for files of
 * another size. */
int hessians_plan(struct hessians *h, struct error *err);

/* Begins with the next layers. While they are summed up BLAS takes one thread: its others would go on
 * spinning in the way of the forward pass, which made all of it half as slow again. -ENOMEM. */
int hessians_begin(struct hessians *h, struct error *err);

void hessians_add(struct hessians *h, uint32_t layer, enum layer_input input, uint32_t part,
                  const float *x, uint32_t tokens);

/* Writes the files of these layers that are missing, and finds scales. -EDOM where a factor cannot be had; then those
 * before it are there. */
int hessians_write(struct hessians *h, struct error *err);

void hessians_free(struct hessians *h);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The scales of AWQ: for each input of a layer that can be scaled a number for each of its columns,
 * by which weights grow where the input is great, and whatever makes the input is divided. Twenty
 * candidates are tried, and the one stays whose rounded weights change the least of what the input's
 * matrices put out. That change follows from the Hessian, so no token is looked at twice; it is that of
 * the matrices alone, where AutoAWQ looks at what the attention or the MLP around them puts out.
 *
 * An input can be scaled where nothing but this and its matrices knows of it. The bytes of the file
 * are in codec/CALIBRATION.md.
 */
#ifndef TOOLS_RUN_AWQ_H
#define TOOLS_RUN_AWQ_H

#include "tools/run/factor_file.h"
#include "tools/run/model.h"
#include "tools/run/team.h"

enum { AWQ_RATIOS = 20 }; /* 0, 0.05, ... 0.95 */

struct awq {
    const struct run_model *model;
    struct source *file; /* its weights' */
    struct team *team;
    char path[PATH_MAX]; /* of the file */
    struct awq_set {
        float *found;   /* [2][cols]: the scales, and the mean of |x|; NULL: not yet */
        uint32_t ratio; /* number of the candidate */
    } * sets;           /* [layers][INPUT_COUNT] */
};

/* Bytes that the search takes in memory. */
uint64_t awq_memory(const struct facts *f);

/* Bytes of the file, at most. */
uint64_t awq_file_bytes(const struct facts *f);

/* -ENOTSUP where no input of the model can be scaled, or where loaders could not take what would be made
 * of it, with the cause; -ENAMETOOLONG. */
int awq_begin(struct awq *a, const struct run_model *m, struct source *file, struct team *team,
              const char *folder, struct error *err);

/* How many inputs of a layer are scaled. */
uint32_t awq_sets(const struct facts *f);

/* Finds the scales of an input; none of one that cannot be scaled. h: as hessian_finish left it. */
int awq_search(struct awq *a, uint32_t layer, enum layer_input input, const struct hessian *h,
               struct error *err);

/* Writes the file, once all have been found. */
int awq_write(const struct awq *a, const struct origin *from, struct error *err);

void awq_free(struct awq *a);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Matrices of a checkpoint, encoded with what is known of their inputs, as a part of an image.
 */
#ifndef FS_ENCODED_H
#define FS_ENCODED_H

#include "fs/checkpoint.h"

/* What is encoded. */
struct encoded {
    const struct view *view;
    const struct format *format;
    const struct model_tensor *mapped; /* by which GGUF knows the matrices; NULL: it does not */
    uint64_t first;                    /* number of the first of them there */
    bool own; /* columns have the importance that the calibration's own matrix tells (guidance.h) */
};

/* Appends its bytes; behind stripes the orders of columns, one for each matrix. */
int encoded_add(const struct checkpoint *c, const struct encoded *what, struct image *image,
                struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The files of Hessians and of their factors, in a calibration's folder. The bytes are in
 * codec/CALIBRATION.md.
 */
#ifndef TOOLS_RUN_FACTOR_FILE_H
#define TOOLS_RUN_FACTOR_FILE_H

#include "tools/run/hessian.h"
#include "tools/run/inputs.h"
#include "tools/run/origin.h"

#include <limits.h>

/* One input of one layer. */
struct factor_input {
    uint32_t layer;
    enum layer_input input;
    uint32_t part; /* expert */
};

/* What is made of it. */
struct factor_kind {
    float damping; /* 0: the Hessian itself */
    bool natural;  /* a factor with the columns in their own order */
};

/* What such a file is called. -ENAMETOOLONG. */
int factor_path(const char *folder, const struct facts *f, const struct factor_input *input,
                struct factor_kind kind, char path[PATH_MAX], struct error *err);

/* Bytes of it. */
uint64_t factor_size(uint64_t cols, struct factor_kind kind);

/* A factor as hessian_factor left it. */
struct factor_parts {
    float damping;
    const uint32_t *order; /* [cols] */
    const float *work;
};

/* Writes it, in place of one that is there. factor: NULL for the Hessian itself. */
int factor_write(const char *path, const struct origin *from, const struct factor_input *input,
                 const struct hessian *h, const struct factor_parts *factor, struct error *err);

#endif

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

/* What such a file is called; damping: 0 for the Hessian itself. -ENAMETOOLONG. */
int factor_path(const char *folder, const struct facts *f, const struct factor_input *input,
                float damping, char path[PATH_MAX], struct error *err);

/* Bytes of it. */
uint64_t factor_size(uint64_t cols, float damping);

/* Write it, in place of one that is there. work: as hessian_factor left it. */
int factor_write(const char *path, const struct origin *from, const struct factor_input *input,
                 const struct hessian *h, const uint32_t *order, float damping, const float *work,
                 struct error *err);
int factor_write_hessian(const char *path, const struct origin *from,
                         const struct factor_input *input, const struct hessian *h,
                         struct error *err);

#endif

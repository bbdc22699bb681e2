/* SPDX-License-Identifier: MIT
 *
 * What is known of the inputs of a model's matrices, for the formats that look at it: importance of
 * columns and factors, from an importance matrix or a calibration.
 */
#ifndef FS_GUIDANCE_H
#define FS_GUIDANCE_H

#include "fs/checkpoint.h"

/* Where importance comes from: from the calibration's own matrix, or from the one that was given.
 * NULL: nowhere. */
struct calibration *guidance_calibration(const struct checkpoint *c, bool own);

/* From there the importance of a GGUF tensor's columns, for each of its matrices, or NULL. -EINVAL
 * where the importance matrix does not fit, or cannot be read. */
int guidance_importance(const struct checkpoint *c, const struct model_tensor *t, bool own,
                        const float **importance, struct error *err);

/* The factors that a format takes for `count` matrices of a GGUF tensor from matrix `first` on, new
 * references; NULL where there is none. -errno with a sentence where there is one, but it cannot be
 * used, also because the calibration is for another format alone; then all are NULL. */
int guidance_factors(const struct checkpoint *c, const struct model_tensor *t, uint64_t first,
                     uint64_t count, const struct format *f, struct factor **out,
                     struct error *err);

/* Whether a calibration is given that knows the inputs of such a tensor. */
bool guidance_knows(const struct checkpoint *c, const struct model_tensor *t);

#endif

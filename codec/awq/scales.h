/* SPDX-License-Identifier: MIT
 *
 * AWQ's scales of a model (CALIBRATION.md), and its tensors as they are with them: columns of matrices
 * are multiplied, and what makes the input of these is divided, norms or rows of the matrix before. So
 * a scaled tensor means something among the others alone, and all of a folder are scaled, or none.
 */
#ifndef CODEC_AWQ_SCALES_H
#define CODEC_AWQ_SCALES_H

#include "codec/bytes.h"
#include "codec/derived.h"
#include "codec/model.h"
#include "codec/view.h"

struct awq_scales {
    struct awq_vector {
        const char *name; /* "blk.0.ffn_down.scale" */
        const float *values;
        uint64_t count;
    } * vectors; /* by name */
    size_t count;
    struct arena arena;
};

/* Parses awq.safetensors. -EINVAL where it is none, or a scale is no positive number; -ENOMEM. Free with
 * awq_scales_free. */
int awq_scales_parse(struct blob file, struct awq_scales *s, struct error *err);
void awq_scales_free(struct awq_scales *s);

/* Whether they are those of such a model: for each of them all tensors are there that it changes, and
 * have its extent. -EINVAL with the names. */
int awq_scales_check(const struct awq_scales *s, const struct model *m, struct error *err);

/* A view of a tensor as it is scaled. */
struct awq_scaled {
    struct derived derived;
    struct tensor tensor;
    struct view view;
};

/* Makes `out` of a view of the tensor that GGUF knows as t. False where no scale changes it. `out`
 * refers to the scales and to the tensor, and must stay where it is. */
bool awq_scale(const struct awq_scales *s, const struct model_tensor *t, const struct view *view,
               struct awq_scaled *out);

#endif

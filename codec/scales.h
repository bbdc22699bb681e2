/* SPDX-License-Identifier: MIT
 *
 * Checkpoints whose weights are 8-bit floats keep scales beside them, by which weights are to be
 * multiplied: one for each block, row, or tensor. config.json says so in quantization_config; what
 * it does not say is not guessed.
 */
#ifndef CODEC_SCALES_H
#define CODEC_SCALES_H

#include "codec/config.h"
#include "codec/view.h"

struct scales {
    const char *method;               /* quant_method; NULL: nothing is scaled */
    uint64_t block_rows, block_cols;  /* of weights that share a scale; 0: the scales' shape tells */
};

/* -ENOTSUP where weights are quantized in a way that is not known, by its name. */
int scales_of(const struct config *config, struct scales *out, struct error *err);

/* Whether a tensor is one of the scales, or of those of activations, and not part of the model. */
bool scales_has(const struct scales *s, const char *name);

/* Gives a view of scaled weights its scales, out of the list, which is sorted by name. Memory comes
 * from the arena. -ENOTSUP where there are none, -EINVAL where they do not fit. Other views are left
 * alone. */
int scales_apply(const struct scales *s, const struct tensor_list *tensors, struct view *view,
                 struct arena *arena, struct error *err);

#endif

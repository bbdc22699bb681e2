/* SPDX-License-Identifier: MIT
 *
 * Rotary embeddings whose frequencies are scaled by factors: GGUF has the factors as tensors. They
 * follow from the config alone.
 */
#ifndef CODEC_ROPE_H
#define CODEC_ROPE_H

#include "codec/arena.h"
#include "codec/config.h"

/* Factors, in an arena; count 0: the config has none. */
struct rope_factors {
    const float *values;
    uint32_t count;
};

/* Llama 3's factors, which the converter computes; for rope type "llama3". -EINVAL, -ENOMEM. */
int rope_llama3_factors(const struct config *c, struct arena *arena, struct rope_factors *out,
                        struct error *err);

/* Phi-3's factors for long and for short contexts, which the config lists. -EINVAL where there are
 * more or fewer than the rotary dimensions take, -ENOTSUP for a scaling that is not known. */
int rope_long_factors(const struct config *c, struct arena *arena, struct rope_factors *longs,
                      struct rope_factors *shorts, struct error *err);

/* How much attention grows with a context that those factors extend. */
int rope_attn_factor(const struct config *c, double *out, struct error *err);

/* The dimensions of a head that are rotated: partial_rotary_factor of them. */
int rope_dimensions(const struct config *c, uint32_t *out, struct error *err);

#endif

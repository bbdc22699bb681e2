/* SPDX-License-Identifier: MIT
 *
 * What the forward pass needs to know of a model: its sizes and habits from the keys, and which of
 * the weights belong to which layer.
 */
#ifndef TOOLS_RUN_MODEL_H
#define TOOLS_RUN_MODEL_H

#include "tools/run/facts.h"
#include "tools/run/weights.h"

struct layer {
    const float *attn_norm, *ffn_norm;
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* NULL: none */
    const float *q_norm, *k_norm;                   /* of each head; NULL: none */
    const float *attn_post_norm, *ffn_post_norm;    /* NULL: none */
    const struct weight *q, *k, *v, *o;
    const struct weight *router;              /* NULL: no experts */
    const struct weight **gate, **up, **down; /* one, or one for each expert */
    bool window;
};

struct run_model {
    struct facts facts;
    struct weight embedding; /* a table */
    const struct weight *output;
    const float *output_norm, *output_bias;
    struct layer *layers; /* in the weights' arena */
};

/* -ENOTSUP for architectures and RoPE scalings that are not known, -EINVAL where tensors are missing
 * or do not fit. The model refers to the weights. */
int run_model_open(struct weights *w, struct run_model *m, struct error *err);

#endif

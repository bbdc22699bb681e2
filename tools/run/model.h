/* SPDX-License-Identifier: MIT
 *
 * What the forward pass needs to know of a model: its sizes and habits from the keys, and which of
 * the weights belong to which layer.
 */
#ifndef TOOLS_RUN_MODEL_H
#define TOOLS_RUN_MODEL_H

#include "tools/run/weights.h"

enum {
    EXPERTS_MAX = 1024,
    LAYERS_MAX = 4096,
    WIDTH_MAX = 1 << 20, /* of any vector */
};

/* What one architecture does otherwise than the others. */
struct habits {
    const char *arch;
    bool halves;       /* RoPE turns element i with i + half, not 2i with 2i + 1 */
    bool gelu;         /* in place of SiLU */
    bool scaled_input; /* embeddings are multiplied by the root of their width */
    bool windows;      /* all layers but every sixth look back through a window, with a base for
                          RoPE of their own */
};

/* By general.architecture; NULL where it cannot be run. */
const struct habits *habits_by_arch(struct gguf_string arch);

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

struct facts {
    const struct habits *habits;
    uint32_t layers, width, heads, kv_heads, head_dim, rope_dim, ffn, vocab, trained_context;
    uint32_t experts, experts_used; /* 0: none */
    uint32_t window;                /* positions */
    float eps, rope_base, rope_base_window, rope_scale, query_scale, softcap; /* softcap 0: none */
    const float *rope_factors;      /* rope_dim / 2 of them, or NULL */
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

/* SPDX-License-Identifier: MIT
 *
 * The memory of a forward pass: keys and values, which stay, and what is made of the tokens at hand.
 */
#ifndef TOOLS_RUN_WORKSPACE_H
#define TOOLS_RUN_WORKSPACE_H

#include "tools/run/facts.h"
#include "tools/run/mirror.h"

struct workspace_sizes {
    uint32_t context; /* positions of keys and values */
    uint32_t batch;   /* tokens at hand, at most */
    uint32_t outputs; /* of them, those whose logits are wanted */
    uint32_t shares;  /* that attend at the same time, */
    uint32_t kv_heads_at_once;
    size_t row; /* bytes of one of the embedding */
};

struct workspace {
    uint64_t bytes;                     /* of the backend's memory */
    uint8_t *row;                       /* the host's */
    uint16_t *keys, *values;            /* halves: [layer][kv_head][position][head_dim] */
    struct mirror x;                    /* [token][width] */
    struct mirror cosines[2], sines[2]; /* [token][rope_dim / 2]; 1: of windows */
    struct mirror logits;               /* [output][vocab] */
    struct mirror best;                 /* of argmax */
    /* Of the tokens at hand, [token][...]: */
    float *normed;                 /* width */
    float *q, *k, *v;              /* heads and kv_heads of head_dim */
    float *mixed;                  /* heads * head_dim: what attention gives */
    float *gate, *up;              /* ffn */
    float *out;                    /* width: what a half of a layer adds */
    float *scores;                 /* [share][heads at once][attend_room] */
    size_t share_scores;           /* of a share */
    float *expert_in, *expert_out; /* width; NULL without experts, */
    struct mirror routed;          /* and experts */
    struct mirror rows, portions;  /* experts_used: tokens of experts, and the shares */
    struct inputs {
        uint64_t cols;
        struct activations *activations;
    } inputs[3]; /* as wide as the matrices are: width, heads * head_dim, ffn */
};

/* -ENOMEM, -EOVERFLOW; workspace_free is right in any case. */
int workspace_new(struct backend *b, const struct facts *k, const struct workspace_sizes *sizes,
                  struct workspace *out);
void workspace_free(struct backend *b, struct workspace *s);

#endif

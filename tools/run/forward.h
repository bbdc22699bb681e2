/* SPDX-License-Identifier: MIT
 *
 * The forward pass: tokens in, logits out. It takes packed weights as they come and knows nothing of
 * where from. What it has seen stays in the KV cache, up to the context's length.
 */
#ifndef TOOLS_RUN_FORWARD_H
#define TOOLS_RUN_FORWARD_H

#include "tools/run/inputs.h"
#include "tools/run/model.h"
#include "tools/run/team.h"

struct forward;

/* The weights need not be placed yet. context: positions in the KV cache. batch: the most tokens in
 * one call; outputs: 1, or batch where the logits of all of them will be wanted. -ENOMEM; -ENOTSUP
 * where the backend has no attention for such heads. */
int forward_new(const struct run_model *m, struct weights *weights, struct team *team,
                uint32_t context, uint32_t batch, uint32_t outputs, struct forward **out,
                struct error *err);
void forward_free(struct forward *f);

/* What it takes of the backend's memory, once it has been used: above all the KV cache. */
uint64_t forward_bytes(const struct forward *f);

/* Runs n tokens, 1 to batch, at positions from `position` on, which must be where the last call
 * ended or before; makes the logits of all tokens, or of the last alone. -ERANGE where the context is
 * too short, -EINVAL for a token that is not in the vocabulary. What goes wrong where the backend
 * computes may be told by a later call. */
int forward_run(struct forward *f, const uint32_t *tokens, uint32_t n, uint32_t position, bool all,
                struct error *err);

/* What the last run made: all logits, facts.vocab floats for each token, until the next run; or only
 * where the last token's largest is, of equal ones the first. -EIO where they are not finite. */
int forward_logits(struct forward *f, const float **logits, struct error *err);
int forward_best(struct forward *f, uint32_t *token, struct error *err);

/* ---- a layer at a time, where the backend's memory is the host's ---- */

/* What the first layer is given: x [n][width]. -EINVAL for a token that is not in the vocabulary. */
int forward_embed(struct forward *f, const uint32_t *tokens, uint32_t n, float *x,
                  struct error *err);

/* Runs one layer over x [n][width], in place; all its matrices are resident. Positions as above, of
 * each layer on its own. */
int forward_layer(struct forward *f, uint32_t layer, float *x, uint32_t n, uint32_t position,
                  struct error *err);

/* ---- what matrices are multiplied with ---- */

struct observer {
    /* x: [tokens][cols], until it returns. expert: of INPUT_GATE_UP and INPUT_DOWN, where there are
     * experts; then the tokens are those that chose it. Else 0. */
    void (*see)(void *context, uint32_t layer, enum layer_input input, uint32_t expert,
                const float *x, uint32_t tokens);
    void *context;
};

/* From now on o sees every input of every layer, in the backend's memory, which is the host's. It must
 * live as long; NULL: nobody looks. */
void forward_observe(struct forward *f, const struct observer *o);

#endif

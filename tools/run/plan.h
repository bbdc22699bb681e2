/* SPDX-License-Identifier: MIT
 *
 * What of a model stays in memory, what is read again in every pass, and how fast that can be.
 *
 * With S bytes of weights that a pass touches, of which D are not resident and come over a link of
 * L bytes a second, and memory that weights are multiplied from at V bytes a second:
 *
 *     passes a second = 1 / max(D / L, S / V)
 *
 * for both go on at once. A pass decodes one token, or takes in a batch of a prompt.
 */
#ifndef TOOLS_RUN_PLAN_H
#define TOOLS_RUN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Weights that stay or go together: a layer, the output, or a layer's experts. */
struct plan_block {
    uint32_t layer; /* the output's is the one behind the last */
    bool experts;
    uint64_t bytes;
    double share;      /* of its bytes that a pass touches: 1, or the experts used by all */
    uint64_t resident; /* bytes, by plan_place: all, none, or so many from its start */
};

/* Spreads a budget over the blocks: as many whole ones as fit, evenly between those that are not,
 * so that the link is never idle for long; then what is left of it goes to the first that are not.
 * Blocks with a greater share go first, all of them. */
void plan_place(struct plan_block *blocks, size_t count, uint64_t budget);

struct plan_rates {
    double link, memory; /* bytes a second */
    double launch;       /* seconds of a pass that go by beside the memory's */
};

/* Of blocks that have been placed: the bytes of all, those that a pass touches, and of these those
 * that come over the link. */
uint64_t plan_bytes(const struct plan_block *blocks, size_t count);
uint64_t plan_resident(const struct plan_block *blocks, size_t count);
double plan_touched(const struct plan_block *blocks, size_t count);
double plan_streamed(const struct plan_block *blocks, size_t count);

/* Passes a second. */
double plan_speed(double touched, double streamed, struct plan_rates rates);

/* Tokens a second of a pass that takes in `batch` of them: products of so many weights for each at
 * so many operations a second, two for a weight, while the bytes come over the link. */
double plan_prefill(double streamed, double weights, uint32_t batch, double link, double flops);

/* ---- what else takes memory ---- */

/* Bytes of a ring on a processor: enough for the link to go on while a block that is resident runs,
 * a quarter of the budget at most, and what the smallest ring takes at least. */
uint64_t plan_ring(const struct plan_block *blocks, size_t count, uint64_t budget, uint64_t least);

/* Rows and columns of a model's matrices. */
struct plan_sizes {
    uint64_t layers, width, queries, keys, ffn, vocab, experts; /* queries, keys: of all heads */
};

/* Bytes of keys and values in half precision. */
uint64_t plan_cache(const struct plan_sizes *s, uint32_t context);

/* Bytes of what the forward pass holds of a batch of tokens between products, but for the scores of
 * attention, of which every thread has a few rows. */
uint64_t plan_activations(const struct plan_sizes *s, uint32_t batch);

/* Bytes of one token's. */
uint64_t plan_logits(const struct plan_sizes *s);

#endif

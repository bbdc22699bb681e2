/* SPDX-License-Identifier: MIT
 *
 * What of a model stays in memory, what is read again in every pass, and how fast that can be.
 *
 * With S bytes of weights that a pass touches, of which R are resident and the rest comes over a
 * link of L bytes a second, and memory that weights are multiplied from at V bytes a second:
 *
 *     passes a second = 1 / max((S - R) / L, S / V)
 *
 * for both go on at once. A pass decodes one token, or takes in a batch of a prompt.
 */
#ifndef TOOLS_RUN_PLAN_H
#define TOOLS_RUN_PLAN_H

#include <stddef.h>
#include <stdint.h>

/* Weights that stay or go together: a layer, the output, or a layer's experts. */
struct plan_block {
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
};

/* Of blocks that have been placed: the bytes a pass touches, and of these, those that come over
 * the link. */
double plan_touched(const struct plan_block *blocks, size_t count);
double plan_streamed(const struct plan_block *blocks, size_t count);

/* Passes a second. */
double plan_speed(double touched, double streamed, struct plan_rates rates);

#endif

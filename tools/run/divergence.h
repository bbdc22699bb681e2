/* SPDX-License-Identifier: MIT
 *
 * How far a model's expectations are from those of a baseline: the figures that llama-perplexity
 * --kl-divergence prints. Where a logarithm or an error has no meaning, it is 0.
 */
#ifndef TOOLS_RUN_DIVERGENCE_H
#define TOOLS_RUN_DIVERGENCE_H

#include "tools/run/baseline.h"

#include <jansson.h>

enum { DIVERGENCE_TOKENS_MIN = 100 }; /* fewer say nothing */

struct divergence {
    uint64_t count, same_top;
    double own, own_squares, base, base_squares, products; /* sums of -ln p of the tokens */
    double kld, kld_squares;
    double change, change_squares, change_fourths; /* of the tokens' p */
    float *klds, *changes;
    uint64_t room; /* in these */
};

/* tokens: how many will be added at most, DIVERGENCE_TOKENS_MIN at least. -ERANGE, -ENOMEM. */
int divergence_new(struct divergence *d, uint64_t tokens, struct error *err);
void divergence_free(struct divergence *d);

/* One token: what was expected in its place, by finite logits and by the baseline. */
void divergence_add(struct divergence *d, const float *logits, uint32_t vocab,
                    const struct baseline_row *base, uint32_t token);

/* Adds the figures to a JSON object, or prints them if that is NULL. To be called once. */
void divergence_report(struct divergence *d, json_t *root);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Chooses the next token from logits.
 */
#ifndef TOOLS_RUN_SAMPLE_H
#define TOOLS_RUN_SAMPLE_H

#include <stdint.h>

struct sampler {
    double temperature; /* 0: the most probable token, always */
    double top_p;       /* of the probability that is kept, the most probable first; 1: all */
    uint64_t top_k;     /* so many tokens are kept at most; 0: all */
    uint64_t state;     /* of the random numbers; the seed at first */
};

/* vocab logits; order: room for as many ids. The same seed and logits give the same tokens. */
uint32_t sample(struct sampler *s, const float *logits, uint32_t vocab, uint32_t *order);

#endif

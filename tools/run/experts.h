/* SPDX-License-Identifier: MIT
 *
 * Which experts of a layer run, and with which tokens.
 */
#ifndef TOOLS_RUN_EXPERTS_H
#define TOOLS_RUN_EXPERTS_H

#include "tools/run/facts.h"

/* Keeps the experts_used best experts of each token and makes their shares sum to 1. scores:
 * [tokens][experts], of the router. rows and shares, [tokens * experts_used]: the tokens of each
 * expert and its share in them, those of expert e from first[e] on, up to first[e + 1]. */
void experts_choose(const struct facts *k, float *scores, uint32_t tokens, uint32_t *rows,
                    float *shares, uint32_t first[EXPERTS_MAX + 1]);

#endif

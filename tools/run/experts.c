/* SPDX-License-Identifier: MIT */
#include "tools/run/experts.h"

#include <math.h>

static void softmax(float *x, uint32_t n)
{
    float most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        most = fmaxf(most, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - most);
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* Makes shares of a token's scores; those of the experts that do not run become negative. */
static void choose(const struct facts *k, float *shares)
{
    softmax(shares, k->experts);
    float sum = 0;
    bool kept[EXPERTS_MAX] = {false};
    for (uint32_t n = 0; n < k->experts_used; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < k->experts; e++)
            if (!kept[e] && (best == UINT32_MAX || shares[e] > shares[best]))
                best = e;
        kept[best] = true;
        sum += shares[best];
    }
    for (uint32_t e = 0; e < k->experts; e++)
        shares[e] = kept[e] ? shares[e] / sum : -1;
}

void experts_choose(const struct facts *k, float *scores, uint32_t tokens, uint32_t *rows,
                    float *shares, uint32_t first[EXPERTS_MAX + 1])
{
    uint32_t count = 0;
    for (uint32_t t = 0; t < tokens; t++)
        choose(k, scores + (size_t)t * k->experts);
    for (uint32_t e = 0; e < k->experts; e++) {
        first[e] = count;
        for (uint32_t t = 0; t < tokens; t++) {
            float share = scores[(size_t)t * k->experts + e];
            if (share < 0)
                continue;
            rows[count] = t;
            shares[count++] = share;
        }
    }
    first[k->experts] = count;
}

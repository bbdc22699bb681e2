/* SPDX-License-Identifier: MIT */
#include "tools/run/sample.h"

#include <math.h>
#include <stdlib.h>

/* The more probable first; of the same, the lower id. */
static int compare(const void *a, const void *b, void *context)
{
    const float *logits = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (logits[x] != logits[y])
        return logits[x] > logits[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

static uint32_t most_probable(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* Uniform in [0, 1), by SplitMix64 (Steele, Lea, Flood 2014). */
static double next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

uint32_t sample(struct sampler *s, const float *logits, uint32_t vocab, uint32_t *order)
{
    uint32_t best = most_probable(logits, vocab);
    if (s->temperature <= 0)
        return best;
    for (uint32_t i = 0; i < vocab; i++)
        order[i] = i;
    qsort_r(order, vocab, sizeof *order, compare, (void *)logits);
    uint32_t kept = s->top_k && s->top_k < vocab ? (uint32_t)s->top_k : vocab;
    /* top_p is of what top_k left, before the temperature, as in llama.cpp's order of samplers. */
    double all = 0, sum = 0;
    for (uint32_t i = 0; i < kept; i++)
        all += exp((double)(logits[order[i]] - logits[best]));
    uint32_t n = 0;
    while (n < kept && (n == 0 || sum < s->top_p * all))
        sum += exp((double)(logits[order[n++]] - logits[best]));
    double total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += exp((double)(logits[order[i]] - logits[best]) / s->temperature);
    double at = next_random(&s->state) * total;
    for (uint32_t i = 0; i + 1 < n; i++) {
        at -= exp((double)(logits[order[i]] - logits[best]) / s->temperature);
        if (at < 0)
            return order[i];
    }
    return order[n - 1];
}

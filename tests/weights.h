/* SPDX-License-Identifier: MIT
 *
 * Made-up weights, the same on every run: a stream of random numbers, and the kinds of weights
 * that tensors have or that encoders stumble over.
 */
#ifndef TESTS_WEIGHTS_H
#define TESTS_WEIGHTS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct random {
    uint64_t state;
};

static inline uint32_t random_bits(struct random *r)
{
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->state >> 32);
}

/* In [0, 1). */
static inline float random_uniform(struct random *r)
{
    return (float)(random_bits(r) >> 8) * 0x1p-24f;
}

static inline float random_gaussian(struct random *r)
{
    float u = random_uniform(r) + 0x1p-25f;
    return sqrtf(-2 * logf(u)) * cosf(6.2831853f * random_uniform(r));
}

/* The first WEIGHTS_STRESS kinds are the stress mix: each of them has shown encoders to differ
 * that agreed on gaussian weights. */
enum weights_kind {
    WEIGHTS_GAUSSIAN,
    WEIGHTS_HEAVY_TAILS,
    WEIGHTS_MOSTLY_ZERO,
    WEIGHTS_TIES,      /* few levels: halfway cases, equal errors */
    WEIGHTS_UNDERFLOW, /* scales around the smallest binary16 */
    WEIGHTS_JUMPS,     /* the magnitude changes by e^8 between superblocks */
    WEIGHTS_STRESS,
    WEIGHTS_BFLOAT16 = WEIGHTS_STRESS, /* gaussian, as checkpoints store it */
    WEIGHTS_TINY,                      /* around the magnitude that counts as zero */
    WEIGHTS_HUGE,                      /* around the largest scales of binary16 */
    WEIGHTS_CONSTANT,                  /* groups of 16 equal weights */
    WEIGHTS_ONE_SIGN,                  /* groups of 16 weights of one sign */
    WEIGHTS_OUTLIERS,                  /* one weight in 64 is 64 times as large */
    WEIGHTS_SUBNORMAL,
    WEIGHTS_EXPONENTS,                 /* each superblock has a binary exponent of its own */
    WEIGHTS_ZERO,                      /* of both signs */
    WEIGHTS_OVERFLOW,                  /* groups of 16 whose sums overflow among others */
    WEIGHTS_KINDS
};

static const char *const weights_kind_names[WEIGHTS_KINDS] = {
    "gaussian", "heavy tails", "mostly zero", "ties",     "underflow", "jumps",     "bfloat16",
    "tiny",     "huge",        "constant",    "one sign", "outliers",  "subnormal", "exponents",
    "zero",     "overflow"};

static inline float weights_one(enum weights_kind kind, struct random *r, float group)
{
    float g = 0.02f * random_gaussian(r), bfloat16;
    uint32_t bits;
    switch (kind) {
    case WEIGHTS_HEAVY_TAILS: return g * expf(3 * random_gaussian(r));
    case WEIGHTS_MOSTLY_ZERO: return random_bits(r) % 10 ? 0 : g;
    case WEIGHTS_TIES: return roundf(g * 1600) / 64;
    case WEIGHTS_UNDERFLOW: return g * expf(4 * random_gaussian(r) - 8);
    case WEIGHTS_BFLOAT16:
        memcpy(&bits, &g, sizeof bits);
        bits &= 0xffff0000;
        memcpy(&bfloat16, &bits, sizeof bfloat16);
        return bfloat16;
    case WEIGHTS_TINY: return g * 0x1p-44f;
    case WEIGHTS_HUGE: return g * 0x1p26f;
    case WEIGHTS_CONSTANT: return group;
    case WEIGHTS_ONE_SIGN: return copysignf(g, group);
    case WEIGHTS_OUTLIERS: return random_bits(r) % 64 ? g : 64 * g;
    case WEIGHTS_SUBNORMAL: return g * 0x1p-126f;
    case WEIGHTS_ZERO: return copysignf(0, g);
    case WEIGHTS_OVERFLOW: return ldexpf(g, (int)fminf(131, 20 + 3000 * fabsf(group)));
    default: return g;
    }
}

/* What a superblock's weights are multiplied with. */
static inline float weights_jump(enum weights_kind kind, struct random *r)
{
    switch (kind) {
    case WEIGHTS_JUMPS:
    case WEIGHTS_HUGE: return expf(8 * (float)(random_bits(r) % 3) - 8);
    case WEIGHTS_EXPONENTS: return ldexpf(1, (int)(random_bits(r) % 260) - 136);
    default: return 1;
    }
}

static inline void weights_fill(enum weights_kind kind, struct random *r, float *x, size_t n)
{
    float group = 0, jump = 1;
    for (size_t i = 0; i < n; i++) {
        if (i % 16 == 0)
            group = 0.02f * random_gaussian(r);
        if (i % 256 == 0)
            jump = weights_jump(kind, r);
        x[i] = jump * weights_one(kind, r, group);
    }
}

/* The importance of n columns: the larger the spread (0 to 5), the more they differ. One in eight
 * is zero, and so is one superblock in eight, all of it. */
static inline void importance_fill(int spread, struct random *r, float *w, size_t n)
{
    bool none = false;
    for (size_t i = 0; i < n; i++) {
        if (i % 256 == 0)
            none = random_bits(r) % 8 == 0;
        w[i] = none || random_bits(r) % 8 == 0 ? 0
                                               : expf((float)(spread + 1) * random_gaussian(r));
    }
}

#endif

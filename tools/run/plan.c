/* SPDX-License-Identifier: MIT */
#include "tools/run/plan.h"

enum { RING_USEFUL = 64 << 20, RING_MOST = 256 << 20 };

/* Whether number i of n is among k of them that lie evenly. */
static bool among(uint64_t i, uint64_t k, uint64_t n)
{
    return (i + 1) * k / n > i * k / n;
}

/* Blocks of one share that lie among k of the n; makes them resident, or only tells their size. */
static uint64_t spread(struct plan_block *blocks, size_t count, double share, uint64_t k,
                       uint64_t n, bool place)
{
    uint64_t bytes = 0, i = 0;
    for (size_t b = 0; b < count; b++) {
        if (blocks[b].share != share)
            continue;
        if (among(i++, k, n)) {
            bytes += blocks[b].bytes;
            if (place)
                blocks[b].resident = blocks[b].bytes;
        }
    }
    return bytes;
}

static uint64_t place_share(struct plan_block *blocks, size_t count, double share, uint64_t budget)
{
    uint64_t n = 0;
    for (size_t b = 0; b < count; b++)
        n += blocks[b].share == share;
    uint64_t k = n;
    while (k && spread(blocks, count, share, k, n, false) > budget)
        k--;
    budget -= spread(blocks, count, share, k, n, true);
    for (size_t b = 0; b < count; b++)
        if (blocks[b].share == share && blocks[b].resident == 0) {
            blocks[b].resident = blocks[b].bytes < budget ? blocks[b].bytes : budget;
            budget -= blocks[b].resident;
        }
    return budget;
}

void plan_place(struct plan_block *blocks, size_t count, uint64_t budget)
{
    double share = 0;
    for (size_t b = 0; b < count; b++) {
        blocks[b].resident = 0;
        share = blocks[b].share > share ? blocks[b].share : share;
    }
    while (share > 0) {
        budget = place_share(blocks, count, share, budget);
        double next = 0;
        for (size_t b = 0; b < count; b++)
            if (blocks[b].share < share && blocks[b].share > next)
                next = blocks[b].share;
        share = next;
    }
}

uint64_t plan_bytes(const struct plan_block *blocks, size_t count)
{
    uint64_t bytes = 0;
    for (size_t b = 0; b < count; b++)
        bytes += blocks[b].bytes;
    return bytes;
}

uint64_t plan_resident(const struct plan_block *blocks, size_t count)
{
    uint64_t bytes = 0;
    for (size_t b = 0; b < count; b++)
        bytes += blocks[b].resident;
    return bytes;
}

double plan_touched(const struct plan_block *blocks, size_t count)
{
    double bytes = 0;
    for (size_t b = 0; b < count; b++)
        bytes += (double)blocks[b].bytes * blocks[b].share;
    return bytes;
}

double plan_streamed(const struct plan_block *blocks, size_t count)
{
    double bytes = 0;
    for (size_t b = 0; b < count; b++)
        bytes += (double)(blocks[b].bytes - blocks[b].resident) * blocks[b].share;
    return bytes;
}

double plan_speed(double touched, double streamed, struct plan_rates rates)
{
    double link = streamed > 0 ? streamed / rates.link : 0;
    double memory = touched / rates.memory + rates.launch;
    double seconds = link > memory ? link : memory;
    return seconds > 0 ? 1 / seconds : 0;
}

double plan_prefill(double streamed, double weights, uint32_t batch, double link, double flops)
{
    double read = streamed / link, run = 2 * weights * batch / flops;
    return batch / (read > run ? read : run);
}

/* ---- what else takes memory ---- */

uint64_t plan_ring(const struct plan_block *blocks, size_t count, uint64_t budget, uint64_t least)
{
    uint64_t largest = 0;
    for (size_t b = 0; b < count; b++)
        largest = blocks[b].bytes > largest ? blocks[b].bytes : largest;
    uint64_t size = largest / 4 < RING_USEFUL ? RING_USEFUL
                    : largest / 4 < RING_MOST ? largest / 4
                                              : RING_MOST;
    size = size < budget / 4 ? size : budget / 4;
    return size > least ? size : least;
}

uint64_t plan_cache(const struct plan_sizes *s, uint32_t context)
{
    return 2 * s->layers * context * s->keys * sizeof(uint16_t);
}

uint64_t plan_activations(const struct plan_sizes *s, uint32_t batch)
{
    uint64_t floats = 3 * s->width + 2 * s->queries + 2 * s->keys + 2 * s->ffn;
    floats += s->width + s->queries + s->ffn; /* what is multiplied, once more, quantized */
    floats += s->experts ? 2 * s->width + s->experts : 0;
    return floats * batch * sizeof(float);
}

uint64_t plan_logits(const struct plan_sizes *s)
{
    return s->vocab * sizeof(float);
}

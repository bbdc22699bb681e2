/* SPDX-License-Identifier: MIT */
#include "tools/run/plan.h"

#include <stdbool.h>

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
    double link = streamed > 0 ? streamed / rates.link : 0, memory = touched / rates.memory;
    double seconds = link > memory ? link : memory;
    return seconds > 0 ? 1 / seconds : 0;
}

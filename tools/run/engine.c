/* SPDX-License-Identifier: MIT */
#include "tools/run/engine.h"

#include "kernels/cpu/backend.h"
#include "tools/command.h"
#include "tools/run/clock.h"
#include "tools/run/ram.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>

static unsigned processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? (unsigned)n : 1;
}

static int start(struct engine *e, unsigned threads, struct error *err)
{
    const struct dot_set *set;
    threads = threads ? threads : processors();
    int rc = dot_set_choose(getenv("QUANTFS_ISA"), &set, err);
    if (rc)
        return rc;
    e->team = team_new(threads);
    if (!e->team)
        return error_set(err, -EAGAIN, "no %u threads can be had", threads);
    rc = backend_cpu_open(set, threads, &e->backend);
    return rc ? error_set(err, rc, "out of memory") : 0;
}

static int choose_context(struct engine *e, uint32_t wanted, struct error *err)
{
    uint32_t trained = e->model.facts.trained_context;
    e->context = wanted ? wanted : trained < ENGINE_CONTEXT ? trained : ENGINE_CONTEXT;
    return e->context
               ? 0
               : error_set(err, -EINVAL, "the file does not say how long its context is: give -c");
}

/* ---- how fast it can be ---- */

struct reading_memory {
    const uint64_t *words;
    size_t count;
    _Atomic uint64_t sum;
};

static void read_share(void *context, unsigned i, unsigned shares)
{
    struct reading_memory *r = context;
    uint64_t sum = 0;
    for (size_t at = r->count * i / shares; at < r->count * (i + 1) / shares; at++)
        sum += r->words[at];
    r->sum += sum;
}

#define MEASURE_SECONDS 0.02

/* Bytes a second that all threads together read. */
static double measure_memory(struct team *team, const void *memory, uint64_t size)
{
    enum { ENOUGH = 256 << 20 };
    size = size < ENOUGH ? size : ENOUGH;
    struct reading_memory r = {memory, size / sizeof(uint64_t), 0};
    double best = 0, begun = clock_seconds(), last = begun;
    do {
        team_run(team, read_share, &r);
        double now = clock_seconds(), rate = (double)size / (now - last + 1e-9);
        best = rate > best ? rate : best;
        last = now;
    } while (last - begun < MEASURE_SECONDS);
    return best;
}

static void expect(struct engine *e)
{
    const struct weights *w = &e->weights;
    uint64_t bytes;
    double seconds;
    if (w->ring) {
        ring_fill(w->ring, &bytes, &seconds);
        e->rates.link = (double)bytes / (seconds + 1e-9);
    }
    if (w->resident_bytes)
        e->rates.memory = measure_memory(e->team, w->memory, w->resident_bytes);
    else
        e->rates.memory = measure_memory(e->team, ring_memory(w->ring), w->slots * w->slot_size);
    e->expected = plan_speed(plan_touched(w->blocks, w->block_count),
                             plan_streamed(w->blocks, w->block_count), e->rates);
}

/* ---- life ---- */

static int place(struct engine *e, const struct run_options *o, struct error *err)
{
    const struct facts *k = &e->model.facts;
    uint64_t here = ram_resident(), rest = forward_bytes(e->forward), available = ram_available();
    /* a sixteenth for what the machine wants meanwhile */
    uint64_t all = o->ram ? o->ram : here + available - available / 16;
    uint64_t taken = here + rest, least = weights_ring_least(&e->weights);
    if (o->takes)
        taken += o->takes(o->takes_context, k, all > taken ? all - taken : 0, e->weights.bytes);
    char has[16], takes[16], needs[16];
    least = least < e->weights.bytes ? least : e->weights.bytes;
    if (e->by_layer && all < taken)
        return error_set(err, -ENOMEM,
                         "%s of memory are not enough: a context of %" PRIu32 " and the program"
                         " take %s, a layer of weights with it",
                         text_bytes(all, has), e->context, text_bytes(taken, takes));
    if (e->by_layer)
        return 0;
    if (all < taken + least)
        return error_set(err, -ENOMEM,
                         "%s of memory are not enough: a context of %" PRIu32 " and the program"
                         " take %s, and the weights need %s at least",
                         text_bytes(all, has), e->context, text_bytes(taken, takes),
                         text_bytes(least, needs));
    double share = k->experts ? (double)k->experts_used / k->experts : 1;
    return weights_place(&e->weights, &(struct placing){all - taken, o->ring, o->io, share}, err);
}

static int load(struct engine *e, const struct run_options *o, uint32_t context, struct error *err)
{
    int rc = run_model_open(&e->weights, &e->model, err);
    rc = rc ? rc : choose_context(e, o->context ? o->context : context, err);
    uint32_t batch = e->context < ENGINE_BATCH ? e->context : ENGINE_BATCH;
    rc = rc ? rc
            : forward_new(&e->model, &e->weights, e->team, e->context, batch, &e->forward, err);
    rc = rc ? rc : place(e, o, err);
    if (!rc && !e->by_layer)
        expect(e);
    return rc;
}

int engine_open(struct engine *e, const char *path, const struct run_options *o, uint32_t context,
                struct error *err)
{
    *e = (struct engine){.by_layer = o->by_layer};
    int rc = start(e, o->threads, err);
    rc = rc ? rc : weights_open(&e->weights, path, e->backend, err);
    if (!rc) {
        rc = load(e, o, context, err);
        rc = rc ? error_prefix(err, rc, "%s", path) : 0;
    }
    if (rc)
        engine_close(e);
    return rc;
}

void engine_close(struct engine *e)
{
    forward_free(e->forward);
    if (e->weights.backend)
        weights_close(&e->weights);
    if (e->backend)
        e->backend->close(e->backend);
    team_free(e->team);
    *e = (struct engine){0};
}

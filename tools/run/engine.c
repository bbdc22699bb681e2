/* SPDX-License-Identifier: MIT */
#include "tools/run/engine.h"

#include "tools/command.h"
#include "tools/run/clock.h"
#include "tools/run/ram.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRACED_PIECES = 512 };

static unsigned processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? (unsigned)n : 1;
}

static int check_options(const struct run_options *o, struct error *err)
{
    if (o->machine == MACHINE_CPU && (o->vram || o->lift_given || o->trace))
        return error_set(err, -EINVAL, "--vram, --lift and --trace are for --backend cuda, or emu");
    if (o->machine != MACHINE_CPU && o->threads)
        return error_set(err, -EINVAL, "--threads is for --backend cpu");
    return 0;
}

static int start(struct engine *e, const struct run_options *o, struct error *err)
{
    unsigned threads = o->machine != MACHINE_CPU ? 1 : o->threads ? o->threads : processors();
    int rc = check_options(o, err);
    rc = rc ? rc : machine_open(&e->machine, o->machine, threads, o->vram, err);
    if (rc)
        return rc;
    e->backend = e->machine.backend;
    e->team = team_new(threads);
    return e->team ? 0 : error_set(err, -EAGAIN, "no %u threads can be had", threads);
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

/* Bytes a second of copies to the device, out of what is pinned already. */
static double measure_lift(const struct engine *e)
{
    const struct weights *w = &e->weights;
    struct backend *b = e->backend;
    const void *from = w->ring ? ring_memory(w->ring) : w->held;
    uint64_t size = w->ring ? w->slot_size : w->held_size, bytes = 0;
    size = size < w->slot_size ? size : w->slot_size;
    void *to;
    struct event *done = NULL;
    if (b->alloc(b, size, &to))
        return 0;
    int rc = b->event_new(b, &done);
    double begun = clock_seconds(), seconds = 0;
    while (!rc && seconds < MEASURE_SECONDS) {
        rc = b->copy_in(b, QUEUE_COPY, to, from, size);
        rc = rc ? rc : b->event_record(b, done, QUEUE_COPY);
        rc = rc ? rc : b->event_wait(b, done);
        bytes += size;
        seconds = clock_seconds() - begun;
    }
    if (done)
        b->event_free(b, done);
    b->free(b, to);
    return rc ? 0 : (double)bytes / seconds;
}

/* What a GPU multiplies with comes over two links, of which the slower one counts for each byte. */
static void expect_of_device(struct engine *e)
{
    const struct weights *w = &e->weights;
    e->rates.memory = e->backend->memory_rate;
    double lifted = plan_streamed(w->blocks, w->block_count),
           all = (double)(w->bytes - w->resident_bytes);
    double read = all > 0 ? lifted * (all - (double)w->held_bytes) / all : 0, seconds = 0;
    if (w->lift)
        e->lift_rate = measure_lift(e);
    if (!e->rates.memory || (w->lift && !e->lift_rate))
        return;
    if (read > 0)
        seconds = read / e->rates.link;
    if (w->lift && lifted / e->lift_rate > seconds)
        seconds = lifted / e->lift_rate;
    double link = seconds > 0 ? lifted / seconds : 0;
    e->expected = plan_speed(plan_touched(w->blocks, w->block_count), lifted,
                             (struct plan_rates){link, e->rates.memory, 0});
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
    if (!e->backend->unified) {
        expect_of_device(e);
        return;
    }
    if (w->resident_bytes)
        e->rates.memory = measure_memory(e->team, w->memory, w->resident_bytes);
    else
        e->rates.memory = measure_memory(e->team, ring_memory(w->ring), w->slots * w->slot_size);
    e->expected = plan_speed(plan_touched(w->blocks, w->block_count),
                             plan_streamed(w->blocks, w->block_count), e->rates);
}

/* ---- life ---- */

/* Bytes of the host's memory: what was asked for, or what there is. */
static uint64_t host_memory(const struct run_options *o)
{
    uint64_t available = ram_available();
    /* a sixteenth for what the machine wants meanwhile */
    return o->ram ? o->ram : ram_resident() + available - available / 16;
}

static int place_on_host(struct engine *e, const struct run_options *o, struct placing *p,
                         struct error *err)
{
    const struct facts *k = &e->model.facts;
    uint64_t all = host_memory(o), taken = ram_resident() + forward_bytes(e->forward);
    uint64_t least = weights_ring_least(&e->weights);
    if (o->takes)
        taken += o->takes(o->takes_context, k, all > taken ? all - taken : 0, e->weights.bytes);
    char has[16], takes[16], needs[16];
    least = least < e->weights.bytes ? least : e->weights.bytes;
    if (e->by_layer && all < taken)
        return error_set(err, -ENOMEM,
                         "%s of memory are not enough: a context of %" PRIu32 " and the program"
                         " take %s, a layer of weights with it",
                         text_bytes(all, has), e->context, text_bytes(taken, takes));
    if (!e->by_layer && all < taken + least)
        return error_set(err, -ENOMEM,
                         "%s of memory are not enough: a context of %" PRIu32 " and the program"
                         " take %s, and the weights need %s at least",
                         text_bytes(all, has), e->context, text_bytes(taken, takes),
                         text_bytes(least, needs));
    p->budget = all - taken;
    return 0;
}

static int place_on_device(struct engine *e, const struct run_options *o, struct placing *p,
                           struct error *err)
{
    uint64_t taken = e->backend->allocated, least = weights_slots_least(&e->weights, o->lift);
    uint64_t host = host_memory(o), here = ram_resident(), ring = weights_ring_least(&e->weights);
    char has[16], takes[16], needs[16];
    least = least < e->weights.bytes ? least : e->weights.bytes;
    if (e->vram < taken + least)
        return error_set(err, -ENOMEM,
                         "%s of the GPU's memory are not enough: a context of %" PRIu32
                         " takes %s, and the weights need %s at least",
                         text_bytes(e->vram, has), e->context, text_bytes(taken, takes),
                         text_bytes(least, needs));
    p->budget = e->vram - taken;
    p->host = host > here ? host - here : 0;
    if (p->budget < e->weights.bytes && p->host < ring)
        return error_set(
            err, -ENOMEM,
            "%s of memory are not enough: the program takes %s, and weights on their way"
            " need %s at least",
            text_bytes(host, has), text_bytes(here, takes), text_bytes(ring, needs));
    return 0;
}

static int place(struct engine *e, const struct run_options *o, struct error *err)
{
    const struct facts *k = &e->model.facts;
    double share = k->experts ? (double)k->experts_used / k->experts : 1;
    struct placing p = {.ring = o->ring,
                        .io = o->io,
                        .lift = o->lift,
                        .traced = o->trace ? TRACED_PIECES : 0,
                        .expert_share = share};
    int rc = e->backend->unified ? place_on_host(e, o, &p, err) : place_on_device(e, o, &p, err);
    return rc || e->by_layer ? rc : weights_place(&e->weights, &p, err);
}

/* Its name is claimed before anything runs for it. */
static int open_trace(struct engine *e, const struct run_options *o, struct error *err)
{
    if (!o->trace)
        return 0;
    if (!e->weights.lift)
        return error_set(err, -EINVAL, "--trace: all weights are resident, and none is lifted");
    int rc = output_open(&e->trace, o->trace, err);
    if (rc)
        e->trace.path = NULL;
    return rc;
}

/* Tokens at once: of a device's memory, what they take is an eighth, if 16 of them take no more. */
static void choose_batch(struct engine *e)
{
    const struct facts *k = &e->model.facts;
    const struct plan_sizes s = {.width = k->width,
                                 .queries = (uint64_t)k->heads * k->head_dim,
                                 .keys = (uint64_t)k->kv_heads * k->head_dim,
                                 .ffn = k->ffn,
                                 .experts = k->experts};
    e->batch = e->context < ENGINE_BATCH ? e->context : ENGINE_BATCH;
    while (!e->backend->unified && e->batch > 16 && plan_activations(&s, e->batch) > e->vram / 8)
        e->batch = (e->batch + 1) / 2;
}

static int load(struct engine *e, const struct run_options *o, uint32_t context, struct error *err)
{
    int rc = run_model_open(&e->weights, &e->model, err);
    rc = rc ? rc : choose_context(e, o->context ? o->context : context, err);
    if (rc)
        return rc;
    uint64_t room = e->backend->room(e->backend);
    /* a sixteenth for what the driver wants meanwhile */
    if (!e->backend->unified)
        e->vram = o->vram ? o->vram : room - room / 16;
    choose_batch(e);
    rc = forward_new(&e->model, &e->weights, e->team, e->context, e->batch,
                     o->all_logits ? e->batch : 1, &e->forward, err);
    rc = rc ? rc : weights_send(&e->weights, err);
    rc = rc ? rc : place(e, o, err);
    rc = rc ? rc : open_trace(e, o, err);
    if (!rc && !e->by_layer)
        expect(e);
    return rc;
}

int engine_open(struct engine *e, const char *path, const struct run_options *o, uint32_t context,
                struct error *err)
{
    *e = (struct engine){.by_layer = o->by_layer};
    int rc = start(e, o, err);
    rc = rc ? rc : weights_open(&e->weights, path, e->backend, err);
    if (!rc) {
        rc = load(e, o, context, err);
        rc = rc ? error_prefix(err, rc, "%s", path) : 0;
    }
    if (rc)
        engine_close(e);
    return rc;
}

static int write_trace(struct engine *e, struct error *err)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    int rc = out ? lift_trace_write(lift_traced(e->weights.lift), out) : -ENOMEM;
    if (out && fclose(out) && !rc)
        rc = -ENOMEM;
    rc = rc ? error_set(err, rc, "--trace: %s", strerror(-rc))
            : output_write(&e->trace, text, size, err);
    free(text);
    return rc;
}

int engine_trace(struct engine *e, struct error *err)
{
    if (!e->trace.path)
        return 0;
    int rc = output_close(&e->trace, write_trace(e, err), true, err);
    e->trace.path = NULL;
    return rc;
}

void engine_close(struct engine *e)
{
    if (e->trace.path)
        output_close(&e->trace, -ECANCELED, false, NULL);
    forward_free(e->forward);
    if (e->weights.backend)
        weights_close(&e->weights);
    machine_close(&e->machine);
    team_free(e->team);
    *e = (struct engine){0};
}

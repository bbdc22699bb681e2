/* SPDX-License-Identifier: MIT */
#include "tools/run/lift.h"

#include "tools/run/clock.h"
#include "tools/run/trouble.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* A slot of the backend's memory. */
struct lift_slot {
    struct event *lifted, *ran;
    size_t piece; /* in it */
};

struct lift {
    struct backend *backend;
    struct lift_parts parts;
    struct lift_stats stats;
    struct lift_trace *trace; /* NULL: nobody traces */
    uint8_t *memory;          /* of all slots */
    struct lift_slot *slots;
    uint64_t lifted, taken, given; /* slots so far: copied to, multiplied with, done with */
    struct event **released;       /* for each slot of the ring: when it may be given back */
    uint64_t ring_taken, ring_released, ring_given;
    const uint8_t *ring_mapped, *held_mapped; /* the host's memory, as kernels see it */
    bool ring_pinned, held_pinned;
    struct event *last; /* behind all that is under way, at the end */
};

/* ---- the ring's slots ---- */

/* What was asked of the queue until now is the last that needs the pieces taken from the ring. */
static int release(struct lift *l, enum backend_queue queue)
{
    int rc = 0;
    for (; !rc && l->ring_released < l->ring_taken; l->ring_released++)
        rc = l->backend->event_record(l->backend,
                                      l->released[l->ring_released % l->parts.ring_slots], queue);
    return rc;
}

/* Gives back what the device is done with. */
static int reclaim(struct lift *l)
{
    while (l->ring_given < l->ring_released) {
        struct event *e = l->released[l->ring_given % l->parts.ring_slots];
        int done = l->backend->event_done(l->backend, e);
        if (done <= 0)
            return done;
        ring_give(l->parts.ring, 1);
        l->ring_given++;
    }
    return 0;
}

/* Waits until a slot of the ring is free, if none is: within a pass the device is waited for here, and
 * where a router has to say which experts run. */
static int wait_released(struct lift *l)
{
    if (l->ring_taken - l->ring_given < l->parts.ring_slots)
        return 0;
    double begun = clock_seconds();
    int rc = l->backend->event_wait(l->backend, l->released[l->ring_given % l->parts.ring_slots]);
    l->stats.waited += clock_seconds() - begun;
    return rc ? rc : reclaim(l);
}

/* A piece in the host's memory; NULL where it has not landed and nobody waits. *mapped: the same for
 * kernels. */
static int land(struct lift *l, size_t number, bool wait, const uint8_t **host,
                const uint8_t **mapped, struct error *err)
{
    const struct piece *p = &l->parts.pieces[number];
    *host = p->held;
    if (p->held) {
        *mapped = l->held_mapped + (p->held - (const uint8_t *)l->parts.held);
        return 0;
    }
    int rc = reclaim(l);
    if (!rc && wait)
        rc = wait_released(l);
    if (rc)
        return trouble_set(err, l->backend, rc, "a copy");
    if (l->ring_taken - l->ring_given == l->parts.ring_slots)
        return 0;
    rc = ring_take(l->parts.ring, number, wait, host, err);
    if (!rc && *host) {
        l->ring_taken++;
        *mapped = l->ring_mapped + (*host - (const uint8_t *)ring_memory(l->parts.ring));
    }
    return rc;
}

/* ---- the device's slots ---- */

static uint8_t *slot_memory(const struct lift *l, uint64_t slot)
{
    return l->memory + slot % l->parts.slots * l->parts.slot_size;
}

static int copy(struct lift *l, struct lift_slot *s, uint8_t *to, const uint8_t *host)
{
    struct backend *b = l->backend;
    int rc = b->event_queue_wait(b, s->ran, QUEUE_COPY);
    rc = rc ? rc : lift_trace_copy_begins(l->trace);
    rc = rc ? rc : b->copy_in(b, QUEUE_COPY, to, host, l->parts.pieces[s->piece].size);
    rc = rc ? rc : lift_trace_copy_ends(l->trace);
    rc = rc ? rc : b->event_record(b, s->lifted, QUEUE_COPY);
    return rc ? rc : release(l, QUEUE_COPY);
}

/* Copies a piece to the next slot. *done: false where it has not landed, or there is no slot. */
static int lift_one(struct lift *l, size_t number, bool wait, bool *done, struct error *err)
{
    const uint8_t *host, *mapped;
    *done = false;
    if (l->lifted - l->given == l->parts.slots)
        return 0;
    int rc = land(l, number, wait, &host, &mapped, err);
    if (rc || !host)
        return rc;
    struct lift_slot *s = &l->slots[l->lifted % l->parts.slots];
    s->piece = number;
    rc = copy(l, s, slot_memory(l, l->lifted), host);
    if (rc)
        return trouble_set(err, l->backend, rc, "a copy");
    l->lifted++;
    *done = true;
    return 0;
}

static int take_copied(struct lift *l, size_t number, bool wait, const uint8_t **data,
                       struct error *err)
{
    bool done = true;
    int rc = l->taken == l->lifted ? lift_one(l, number, wait, &done, err) : 0;
    if (rc || !done)
        return rc;
    struct lift_slot *s = &l->slots[l->taken % l->parts.slots];
    if (s->piece != number)
        return error_set(err, -EINVAL, "a piece was taken out of its turn");
    rc = l->backend->event_queue_wait(l->backend, s->lifted, QUEUE_COMPUTE);
    if (rc)
        return trouble_set(err, l->backend, rc, "a copy");
    *data = slot_memory(l, l->taken++);
    return 0;
}

int lift_take(struct lift *l, size_t piece, bool wait, const uint8_t **data, struct error *err)
{
    const uint8_t *host;
    *data = NULL;
    int rc = l->parts.kind == LIFT_COPY ? take_copied(l, piece, wait, data, err)
                                        : land(l, piece, wait, &host, data, err);
    if (!rc && *data) {
        l->stats.bytes += l->parts.pieces[piece].size;
        l->stats.pieces++;
        rc = lift_trace_run_begins(l->trace, piece, l->parts.pieces[piece].size);
        trouble_set(err, l->backend, rc, "a trace");
    }
    /* Between two calls everything is given, so there is a slot for who waits. */
    if (!rc && wait && !*data)
        rc = error_set(err, -EINVAL, "there is no room for a piece");
    return rc;
}

int lift_give(struct lift *l)
{
    int rc = lift_trace_run_ends(l->trace);
    if (!rc && l->parts.kind == LIFT_MAPPED)
        return release(l, QUEUE_COMPUTE);
    for (; !rc && l->given < l->taken; l->given++)
        rc = l->backend->event_record(l->backend, l->slots[l->given % l->parts.slots].ran,
                                      QUEUE_COMPUTE);
    return rc;
}

int lift_ahead(struct lift *l, struct error *err)
{
    bool done = l->parts.kind == LIFT_COPY && l->lifted == l->given;
    for (size_t p = 0; done && p < l->parts.count && l->parts.pieces[p].expert == PIECE_ALWAYS;
         p++) {
        int rc = lift_one(l, p, false, &done, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- life ---- */

static int pin(struct lift *l, const void *memory, uint64_t size, const uint8_t **mapped,
               bool *pinned, struct error *err)
{
    void *device = NULL;
    if (!size)
        return 0;
    int rc = l->backend->pin(l->backend, (void *)memory, size,
                             l->parts.kind == LIFT_MAPPED ? &device : NULL);
    *mapped = device;
    *pinned = rc == 0;
    return trouble_set(err, l->backend, rc, "pinning memory for the GPU");
}

static int make_slots(struct lift *l)
{
    struct backend *b = l->backend;
    void *memory;
    l->slots = calloc(l->parts.slots, sizeof *l->slots);
    int rc = l->slots ? b->alloc(b, l->parts.slots * l->parts.slot_size, &memory) : -ENOMEM;
    if (rc)
        return rc;
    l->memory = memory;
    for (uint32_t i = 0; !rc && i < l->parts.slots; i++) {
        rc = b->event_new(b, &l->slots[i].lifted);
        rc = rc ? rc : b->event_new(b, &l->slots[i].ran);
    }
    return rc;
}

static int make(struct lift *l, struct error *err)
{
    const struct lift_parts *p = &l->parts;
    uint64_t ring_size = p->ring ? p->ring_slots * p->slot_size : 0;
    int rc = pin(l, p->ring ? ring_memory(p->ring) : NULL, ring_size, &l->ring_mapped,
                 &l->ring_pinned, err);
    rc = rc ? rc : pin(l, p->held, p->held_size, &l->held_mapped, &l->held_pinned, err);
    if (rc)
        return rc;
    if (p->kind == LIFT_COPY)
        rc = make_slots(l);
    if (!rc && p->traced)
        rc = lift_trace_new(l->backend, p->traced, p->kind == LIFT_COPY, &l->trace);
    l->released = calloc(p->ring_slots + 1, sizeof *l->released);
    rc = rc || l->released ? rc : -ENOMEM;
    rc = rc ? rc : l->backend->event_new(l->backend, &l->last);
    for (uint64_t i = 0; !rc && i < p->ring_slots; i++)
        rc = l->backend->event_new(l->backend, &l->released[i]);
    return trouble_set(err, l->backend, rc, "setting up the way to the GPU");
}

int lift_open(struct backend *b, const struct lift_parts *parts, struct lift **out,
              struct error *err)
{
    struct lift *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, -ENOMEM, "out of memory");
    l->backend = b;
    l->parts = *parts;
    int rc = make(l, err);
    if (rc)
        lift_close(l);
    else
        *out = l;
    return rc;
}

static void end_event(struct backend *b, struct event *e)
{
    if (e)
        b->event_free(b, e);
}

/* What is under way still reads the ring and what is held, also where an error came in between; whether
 * it failed is of no use now. */
static void wait_queues(struct lift *l)
{
    struct backend *b = l->backend;
    for (int q = 0; l->last && q < QUEUE_COUNT; q++)
        if (b->event_record(b, l->last, (enum backend_queue)q) == 0)
            b->event_wait(b, l->last);
}

void lift_close(struct lift *l)
{
    if (!l)
        return;
    wait_queues(l);
    end_event(l->backend, l->last);
    for (uint64_t i = 0; l->released && i < l->parts.ring_slots; i++)
        end_event(l->backend, l->released[i]);
    for (uint32_t i = 0; l->slots && i < l->parts.slots; i++) {
        end_event(l->backend, l->slots[i].lifted);
        end_event(l->backend, l->slots[i].ran);
    }
    lift_trace_free(l->trace);
    if (l->ring_pinned)
        l->backend->unpin(l->backend, (void *)ring_memory(l->parts.ring));
    if (l->held_pinned)
        l->backend->unpin(l->backend, l->parts.held);
    l->backend->free(l->backend, l->memory);
    free(l->released);
    free(l->slots);
    free(l);
}

const struct lift_stats *lift_stats(const struct lift *l)
{
    return &l->stats;
}

const struct lift_trace *lift_traced(const struct lift *l)
{
    return l->trace;
}

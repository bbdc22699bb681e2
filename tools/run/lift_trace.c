/* SPDX-License-Identifier: MIT */
#include "tools/run/lift_trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { BEGIN, END, SIDES };

struct traced {
    size_t piece;
    uint64_t bytes;
    struct event *copy[SIDES], *run[SIDES];
    size_t last; /* of those that are multiplied with together: its run is that of all */
};

struct lift_trace {
    struct backend *backend;
    bool copies;
    size_t most, copied, begun, ended; /* of the entries: in all, and so far */
    struct traced entries[];
};

/* ---- while it runs ---- */

static int record(struct lift_trace *t, struct event *e, enum backend_queue queue)
{
    return t->backend->event_record(t->backend, e, queue);
}

int lift_trace_copy_begins(struct lift_trace *t)
{
    if (!t || t->copied == t->most)
        return 0;
    return record(t, t->entries[t->copied].copy[BEGIN], QUEUE_COPY);
}

int lift_trace_copy_ends(struct lift_trace *t)
{
    if (!t || t->copied == t->most)
        return 0;
    return record(t, t->entries[t->copied++].copy[END], QUEUE_COPY);
}

int lift_trace_run_begins(struct lift_trace *t, size_t piece, uint64_t bytes)
{
    if (!t || t->ended == t->most)
        return 0;
    if (t->begun < t->most) {
        struct traced *e = &t->entries[t->begun++];
        e->piece = piece;
        e->bytes = bytes;
    }
    /* Behind the last entry there may be pieces of the same call, which it waits for. */
    return record(t, t->entries[t->begun - 1].run[BEGIN], QUEUE_COMPUTE);
}

int lift_trace_run_ends(struct lift_trace *t)
{
    if (!t || t->ended == t->begun)
        return 0;
    size_t last = t->begun - 1;
    while (t->ended < t->begun)
        t->entries[t->ended++].last = last;
    return record(t, t->entries[last].run[END], QUEUE_COMPUTE);
}

/* ---- what it tells ---- */

static void print_span(const struct lift_trace *t, struct event *first, const char *name,
                       struct event *const *span, FILE *out)
{
    struct backend *b = t->backend;
    fprintf(out, ", \"%s\": [%.9f, %.9f]", name, b->event_seconds(b, first, span[BEGIN]),
            b->event_seconds(b, first, span[END]));
}

int lift_trace_write(const struct lift_trace *t, FILE *out)
{
    const struct traced *all = t->entries;
    if (t->ended == 0)
        return 0;
    /* The queue does things in order, and nothing is multiplied with before it was copied. */
    int rc = t->backend->event_wait(t->backend, all[t->ended - 1].run[END]);
    struct event *first = t->copies ? all[0].copy[BEGIN] : all[all[0].last].run[BEGIN];
    for (size_t i = 0; !rc && i < t->ended; i++) {
        fprintf(out, "{\"piece\": %zu, \"bytes\": %" PRIu64, all[i].piece, all[i].bytes);
        if (t->copies)
            print_span(t, first, "copy", all[i].copy, out);
        print_span(t, first, "run", all[all[i].last].run, out);
        fputs("}\n", out);
    }
    return rc;
}

/* ---- life ---- */

static int make_span(struct backend *b, struct event **span)
{
    int rc = b->event_new(b, &span[BEGIN]);
    return rc ? rc : b->event_new(b, &span[END]);
}

static void free_span(struct backend *b, struct event **span)
{
    for (int side = 0; side < SIDES; side++)
        if (span[side]) {
            b->event_wait(b, span[side]);
            b->event_free(b, span[side]);
        }
}

int lift_trace_new(struct backend *b, size_t most, bool copies, struct lift_trace **out)
{
    struct lift_trace *t = calloc(1, sizeof *t + most * sizeof *t->entries);
    if (!t)
        return -ENOMEM;
    *t = (struct lift_trace){.backend = b, .copies = copies, .most = most};
    int rc = 0;
    for (size_t i = 0; !rc && i < most; i++) {
        rc = copies ? make_span(b, t->entries[i].copy) : 0;
        rc = rc ? rc : make_span(b, t->entries[i].run);
    }
    if (rc)
        lift_trace_free(t);
    else
        *out = t;
    return rc;
}

void lift_trace_free(struct lift_trace *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->most; i++) {
        free_span(t->backend, t->entries[i].copy);
        free_span(t->backend, t->entries[i].run);
    }
    free(t);
}

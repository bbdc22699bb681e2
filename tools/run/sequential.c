/* SPDX-License-Identifier: MIT */
#include "tools/run/sequential.h"

#include "tools/run/chunks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Hidden states of the whole text, and those of a batch. */
struct states {
    int fd;
    uint64_t row; /* bytes of a token's */
    float *x;     /* [ENGINE_BATCH][width] */
};

/* Some tokens of the text: of one chunk, from a position on. */
struct batch {
    uint32_t chunk, position, count;
};

/* ---- the file ---- */

static int open_states(struct states *states, const struct sequential *s, struct error *err)
{
    char path[PATH_MAX];
    const char *folder = s->hessians->folder;
    *states = (struct states){.fd = -1, .row = s->engine->model.facts.width * sizeof(float)};
    if (snprintf(path, sizeof path, "%s/.statesXXXXXX", folder) >= (int)sizeof path)
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", folder);
    states->x = calloc(ENGINE_BATCH, states->row);
    if (!states->x)
        return error_set(err, -ENOMEM, "out of memory");
    states->fd = mkstemp(path);
    if (states->fd < 0)
        return error_set(err, -errno, "%s: %s", folder, strerror(errno));
    unlink(path);
    return 0;
}

static void close_states(struct states *states)
{
    if (states->fd >= 0)
        close(states->fd);
    free(states->x);
}

static int move_states(const struct sequential *s, const struct states *states,
                       const struct batch *b, bool out, struct error *err)
{
    uint64_t first = (uint64_t)b->chunk * s->engine->context + b->position;
    uint64_t at = first * states->row, left = b->count * states->row;
    char *data = (char *)states->x;
    while (left) {
        ssize_t n = out ? pwrite(states->fd, data, left, (off_t)at)
                        : pread(states->fd, data, left, (off_t)at);
        if (n == 0 || (n < 0 && errno != EINTR))
            return error_set(err, n ? -errno : -EIO, "%s: hidden states: %s", s->hessians->folder,
                             strerror(n ? errno : EIO));
        if (n < 0)
            continue;
        data += n;
        at += (uint64_t)n;
        left -= (uint64_t)n;
    }
    return 0;
}

/* ---- over the text ---- */

typedef int batch_fn(struct sequential *s, struct states *states, uint32_t layer,
                     const struct batch *b, struct error *err);

static int each_batch(struct sequential *s, struct states *states, uint32_t layer, batch_fn *run,
                      struct error *err)
{
    uint32_t context = s->engine->context;
    int rc = 0;
    for (struct batch b = {0}; !rc && b.chunk < s->chunks; b.chunk++) {
        for (b.position = 0; !rc && b.position < context; b.position += b.count) {
            uint32_t left = context - b.position;
            b.count = left < ENGINE_BATCH ? left : ENGINE_BATCH;
            rc = run(s, states, layer, &b, err);
        }
        if (rc)
            return error_prefix(err, rc, "chunk %" PRIu32, b.chunk);
        progress_add(s->progress, 1);
    }
    return rc;
}

static int embed(struct sequential *s, struct states *states, uint32_t layer, const struct batch *b,
                 struct error *err)
{
    (void)layer;
    const uint32_t *tokens =
        chunks_get(&s->engine->weights.vocab, s->ids, s->engine->context, b->chunk);
    int rc = forward_embed(s->engine->forward, tokens + b->position, b->count, states->x, err);
    return rc ? rc : move_states(s, states, b, true, err);
}

static int observe(struct sequential *s, struct states *states, uint32_t layer,
                   const struct batch *b, struct error *err)
{
    int rc = move_states(s, states, b, false, err);
    return rc ? rc
              : forward_layer(s->engine->forward, layer, states->x, b->count, b->position, err);
}

static int advance(struct sequential *s, struct states *states, uint32_t layer,
                   const struct batch *b, struct error *err)
{
    int rc = observe(s, states, layer, b, err);
    return rc ? rc : move_states(s, states, b, true, err);
}

/* ---- a layer ---- */

static bool is_todo(const struct hessians *h, uint32_t layer)
{
    return h->done < h->todo_count && h->todo[h->done].layer == layer;
}

static int sum_up(struct sequential *s, struct states *states, uint32_t layer, struct error *err)
{
    struct forward *f = s->engine->forward;
    bool todo = is_todo(s->hessians, layer);
    int rc = todo ? hessians_begin(s->hessians, err) : 0;
    forward_observe(f, s->observer);
    rc = rc ? rc : each_batch(s, states, layer, observe, err);
    forward_observe(f, NULL);
    progress_clear(s->progress);
    return !rc && todo ? hessians_write(s->hessians, err) : rc;
}

static int run_layer(struct sequential *s, struct states *states, uint32_t layer, struct error *err)
{
    struct held held;
    int rc = held_load(&held, &s->engine->model, layer, &s->engine->weights, err);
    if (rc)
        return rc;
    rc = sum_up(s, states, layer, err);
    if (!rc && layer + 1 < s->engine->model.facts.layers) {
        rc = packing_apply(&s->packing, layer, &held, err);
        rc = rc ? rc : each_batch(s, states, layer, advance, err);
    }
    held_free(&held);
    return rc;
}

uint64_t sequential_bytes(const struct sequential *s)
{
    const struct engine *e = s->engine;
    return (uint64_t)s->chunks * e->context * e->model.facts.width * sizeof(float);
}

uint64_t sequential_runs(const struct sequential *s)
{
    return 2 * (uint64_t)s->engine->model.facts.layers; /* no layer, all, all but the last */
}

int sequential_run(struct sequential *s, struct error *err)
{
    struct states states;
    uint32_t layers = s->engine->model.facts.layers;
    int rc = open_states(&states, s, err);
    rc = rc ? rc : each_batch(s, &states, 0, embed, err);
    for (uint32_t l = 0; !rc && l < layers; l++)
        rc = run_layer(s, &states, l, err);
    close_states(&states);
    return rc;
}

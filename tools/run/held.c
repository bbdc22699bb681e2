/* SPDX-License-Identifier: MIT */
#include "tools/run/held.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

uint64_t held_bytes(const struct facts *f)
{
    uint64_t head = f->head_dim, width = f->width, experts = f->experts ? f->experts : 1;
    uint64_t attention = width * head * (2 * (uint64_t)f->heads + 2 * (uint64_t)f->kv_heads);
    uint64_t router = width * f->experts;
    return (attention + router + 3 * experts * width * f->ffn) * sizeof(float);
}

static void add(struct held *h, const struct weight **place, enum layer_input input, uint32_t part)
{
    h->matrices[h->count++] =
        (struct held_matrix){.place = place, .stored = *place, .input = input, .part = part};
}

static int list(struct held *h, struct layer *l, const struct facts *f, struct error *err)
{
    uint32_t experts = f->experts ? f->experts : 1;
    h->matrices = calloc(5 + 3 * (size_t)experts, sizeof *h->matrices);
    if (!h->matrices)
        return error_set(err, -ENOMEM, "out of memory");
    add(h, &l->q, INPUT_QKV, 0);
    add(h, &l->k, INPUT_QKV, 0);
    add(h, &l->v, INPUT_QKV, 0);
    add(h, &l->o, INPUT_O, 0);
    if (l->router)
        add(h, &l->router, INPUT_ROUTER, 0);
    for (uint32_t e = 0; e < experts; e++) {
        add(h, &l->gate[e], INPUT_GATE_UP, e);
        add(h, &l->up[e], INPUT_GATE_UP, e);
        add(h, &l->down[e], INPUT_DOWN, e);
    }
    return 0;
}

static uint64_t size_of(const struct weight *w)
{
    return w->units * w->unit_size;
}

/* The layer takes a matrix from memory, as w describes it. */
static void describe(struct held_matrix *m, const struct weight *w)
{
    m->here = *w;
    m->here.resident_units = w->units;
    m->here.resident = m->memory;
    *m->place = &m->here;
}

float *held_replace(struct held_matrix *m)
{
    describe(m, &m->floats);
    return m->memory;
}

/* There is room for floats at once: nothing moves when they come. */
static int load(struct held *h, struct held_matrix *m, struct error *err)
{
    const struct weight *s = m->stored;
    struct backend *b = h->weights->backend;
    m->floats = *s;
    m->floats.format = &formats[FORMAT_F32];
    m->floats.order = m->floats.backend_order = NULL;
    bool good = weight_set_units(&m->floats);
    uint64_t floats = size_of(&m->floats), stored = size_of(s);
    if (!good || b->alloc(b, floats > stored ? floats : stored, &m->memory))
        return error_set(err, -ENOMEM, "no memory for a matrix of %" PRIu64 " x %" PRIu64, s->rows,
                         s->cols);
    describe(m, s);
    return source_read(h->weights->file, m->memory, s->offset, stored, err);
}

int held_load(struct held *h, struct run_model *m, uint32_t layer, struct weights *weights,
              struct error *err)
{
    *h = (struct held){.weights = weights};
    int rc = list(h, &m->layers[layer], &m->facts, err);
    for (size_t i = 0; !rc && i < h->count; i++)
        rc = load(h, &h->matrices[i], err);
    if (rc)
        held_free(h);
    return rc;
}

void held_free(struct held *h)
{
    for (size_t i = 0; i < h->count; i++) {
        struct held_matrix *m = &h->matrices[i];
        *m->place = m->stored;
        if (m->memory)
            h->weights->backend->free(h->weights->backend, m->memory);
    }
    free(h->matrices);
    *h = (struct held){0};
}

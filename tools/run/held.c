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

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The layer takes a matrix from memory, where its rows lie in some format. */
static void describe(struct held_matrix *m, const struct format *format, uint64_t row_size)
{
    m->here = *m->stored;
    m->here.format = format;
    m->here.row_size = row_size;
    m->here.resident_rows = m->here.rows;
    m->here.resident = m->memory;
    *m->place = &m->here;
}

float *held_replace(struct held_matrix *m)
{
    describe(m, &formats[FORMAT_F32], m->stored->cols * sizeof(float));
    return m->memory;
}

/* There is room for floats at once: nothing moves when they come. */
static int load(struct held *h, struct held_matrix *m, struct error *err)
{
    const struct weight *s = m->stored;
    struct backend *b = h->weights->backend;
    uint64_t row = most(s->row_size, s->cols * sizeof(float));
    if (b->alloc(b, s->rows * row, &m->memory))
        return error_set(err, -ENOMEM, "no memory for a matrix of %" PRIu64 " x %" PRIu64, s->rows,
                         s->cols);
    describe(m, s->format, s->row_size);
    return source_read(h->weights->file, m->memory, s->offset, s->rows * s->row_size, err);
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

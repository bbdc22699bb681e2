/* SPDX-License-Identifier: MIT */
#include "tools/run/workspace.h"

#include <errno.h>
#include <stdlib.h>

struct making {
    struct backend *backend;
    struct workspace *space;
    int rc;
};

/* a * b elements; NULL where that failed, now or before. */
static void *array(struct making *m, size_t a, size_t b, size_t element)
{
    size_t n, size;
    void *out = NULL;
    if (m->rc)
        return NULL;
    if (__builtin_mul_overflow(a, b, &n) || __builtin_mul_overflow(n, element, &size))
        m->rc = -EOVERFLOW;
    else
        m->rc = m->backend->alloc(m->backend, size ? size : 1, &out);
    m->space->bytes += m->rc ? 0 : size;
    return out;
}

static float *floats(struct making *m, size_t a, size_t b)
{
    return array(m, a, b, sizeof(float));
}

static void both(struct making *m, size_t a, size_t b, struct mirror *out)
{
    size_t n;
    if (m->rc)
        return;
    m->rc = __builtin_mul_overflow(a, b, &n) ? -EOVERFLOW
                                             : mirror_new(m->backend, n, sizeof(float), out);
    m->space->bytes += m->rc ? 0 : n * sizeof(float);
}

static void make_experts(struct making *m, const struct facts *k, size_t n)
{
    struct workspace *s = m->space;
    s->expert_in = floats(m, n, k->width);
    s->expert_out = floats(m, n, k->width);
    both(m, n, k->experts, &s->routed);
    both(m, n, k->experts_used, &s->rows);
    both(m, n, k->experts_used, &s->portions);
}

static void make_inputs(struct making *m, const uint64_t *widths, uint32_t batch)
{
    struct backend *b = m->backend;
    for (int i = 0; !m->rc && i < 3; i++) {
        struct inputs *in = &m->space->inputs[i];
        in->cols = widths[i];
        m->rc = b->activations_new(b, widths[i], batch, &in->activations);
        m->space->bytes += widths[i] * batch * sizeof(float);
    }
}

int workspace_new(struct backend *b, const struct facts *k, const struct workspace_sizes *sizes,
                  struct workspace *s)
{
    struct making m = {b, s, 0};
    size_t n = sizes->batch, half = k->rope_dim / 2, context = sizes->context;
    size_t queries = (size_t)k->heads * k->head_dim, row = (size_t)k->kv_heads * k->head_dim;
    *s = (struct workspace){0};
    s->keys = array(&m, k->layers * row, context, sizeof *s->keys); /* each below 2^21 */
    s->values = array(&m, k->layers * row, context, sizeof *s->values);
    both(&m, n, k->width, &s->x);
    for (int i = 0; i < 2; i++) {
        both(&m, n, half, &s->cosines[i]);
        both(&m, n, half, &s->sines[i]);
    }
    both(&m, sizes->outputs, k->vocab, &s->logits);
    both(&m, 2, 1, &s->best);
    s->normed = floats(&m, n, k->width);
    s->q = floats(&m, n, queries);
    s->k = floats(&m, n, row);
    s->v = floats(&m, n, row);
    s->mixed = floats(&m, n, queries);
    s->gate = floats(&m, n, k->ffn);
    s->up = floats(&m, n, k->ffn);
    s->out = floats(&m, n, k->width);
    s->share_scores = attend_room(sizes->context, k->head_dim) * sizes->kv_heads_at_once *
                      (k->heads / k->kv_heads);
    s->scores = floats(&m, sizes->shares, s->share_scores);
    if (k->experts)
        make_experts(&m, k, n);
    make_inputs(&m, (const uint64_t[]){k->width, queries, k->ffn}, sizes->batch);
    if (!m.rc && !(s->row = malloc(sizes->row)))
        m.rc = -ENOMEM;
    return m.rc;
}

void workspace_free(struct backend *b, struct workspace *s)
{
    void *const arrays[] = {s->keys,   s->values,    s->normed,    s->q,  s->k,
                            s->v,      s->mixed,     s->gate,      s->up, s->out,
                            s->scores, s->expert_in, s->expert_out};
    struct mirror *const mirrors[] = {&s->x,        &s->cosines[0], &s->cosines[1], &s->sines[0],
                                      &s->sines[1], &s->logits,     &s->best,       &s->routed,
                                      &s->rows,     &s->portions};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        b->free(b, arrays[i]);
    for (size_t i = 0; i < sizeof mirrors / sizeof *mirrors; i++)
        mirror_free(b, mirrors[i]);
    for (int i = 0; i < 3; i++)
        if (s->inputs[i].activations)
            b->activations_free(b, s->inputs[i].activations);
    free(s->row);
    *s = (struct workspace){0};
}

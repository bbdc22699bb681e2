/* SPDX-License-Identifier: MIT */
#include "tools/run/forward.h"

#include "tools/run/experts.h"
#include "tools/run/trouble.h"
#include "tools/run/workspace.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct forward {
    const struct run_model *model;
    struct weights *weights;
    struct backend *backend;
    struct team *team;
    const struct observer *observer; /* NULL: none */
    uint32_t context, batch, outputs;
    uint32_t kv_heads_at_once; /* that one call attends with */
    struct workspace space;
    float *frequencies[2]; /* [rope_dim / 2]; 1: of windows */
    uint32_t made;         /* logits of so many tokens, by the last run, */
    bool capped;           /* which were fetched */
    struct event *done;    /* behind all that the last run asked for */
};

static int failed(const struct forward *f, struct error *err, int rc, const char *what)
{
    return trouble_set(err, f->backend, rc, what);
}

/* Adds a bias, if there is one, to each row. */
static int add_bias(const struct forward *f, float *x, const float *bias, uint32_t cols,
                    uint32_t rows)
{
    return bias ? f->backend->add(f->backend, x, bias, (size_t)rows * cols, cols) : 0;
}

static int norm(const struct forward *f, const float *x, const float *weight, uint32_t tokens,
                float *out)
{
    const struct facts *k = &f->model->facts;
    return f->backend->rms_norm(f->backend, x, weight, tokens, k->width, k->eps, out);
}

/* A norm that not every model has, in place. */
static int norm_more(const struct forward *f, float *x, const float *weight, uint32_t rows,
                     uint32_t cols)
{
    float eps = f->model->facts.eps;
    return weight ? f->backend->rms_norm(f->backend, x, weight, rows, cols, eps, x) : 0;
}

/* Shares work out, unless it is over before another thread has woken. */
static void run_shares(struct forward *f, uint32_t tokens,
                       void (*share)(void *context, unsigned i, unsigned shares), void *context)
{
    enum { WORTHWHILE = 4 };
    if (tokens < WORTHWHILE)
        share(context, 0, 1);
    else
        team_run(f->team, share, context);
}

static void show(const struct forward *f, uint32_t layer, enum layer_input input, uint32_t expert,
                 const float *x, uint32_t tokens)
{
    if (f->observer)
        f->observer->see(f->observer->context, layer, input, expert, x, tokens);
}

/* ---- products ---- */

static struct activations *activations_of(const struct forward *f, uint64_t cols)
{
    int i = 0;
    while (f->space.inputs[i].cols != cols)
        i++;
    return f->space.inputs[i].activations;
}

struct put {
    struct forward *f;
    struct activations *activations;
    const float *x;
    uint32_t tokens;
    _Atomic int rc;
};

static void put_share(void *context, unsigned i, unsigned shares)
{
    struct put *p = context;
    struct backend *b = p->f->backend;
    uint32_t first = p->tokens * i / shares, end = p->tokens * (i + 1) / shares;
    int rc = first < end ? b->activations_put(b, p->activations, p->x, first, end - first) : 0;
    if (rc)
        p->rc = rc;
}

/* One input times some matrices; outs: [matrix][token][rows]. */
struct multiply {
    struct forward *f;
    struct taking taking;
    float *const *outs;
    struct activations *activations;
    _Atomic int rc;
};

/* Where share i of some rows begins: kernels like several rows at once. */
static uint64_t cut_rows(uint64_t rows, unsigned i, unsigned shares)
{
    enum { AT_ONCE = 16 };
    return i == shares ? rows : rows * i / shares / AT_ONCE * AT_ONCE;
}

static void multiply_share(void *context, unsigned i, unsigned shares)
{
    struct multiply *m = context;
    struct backend *b = m->f->backend;
    for (size_t p = 0; p < m->taking.portion_count; p++) {
        const struct portion *portion = &m->taking.portions[p];
        const struct weight *w = m->taking.weights[portion->weight];
        struct matrix matrix = {w->format, w->rows, w->cols, &portion->run, 1};
        uint64_t first = cut_rows(portion->run.count, i, shares);
        uint64_t end = cut_rows(portion->run.count, i + 1, shares);
        int rc = first < end ? b->matmul(b, &matrix, portion->run.first + first, end - first,
                                         m->activations, m->outs[portion->weight], w->rows)
                             : 0;
        if (rc)
            m->rc = rc;
    }
}

/* Whether two matrices of one input take the same activations. */
static bool same_activations(const struct weight *a, const struct weight *b)
{
    if (activation_kind_of(a->format) != activation_kind_of(b->format) || !a->order != !b->order)
        return false;
    return !a->order || memcmp(a->order, b->order, a->cols * sizeof *a->order) == 0;
}

/* Matrices of one kind of activations. */
static int multiply_kind(struct forward *f, const struct weight *const *weights, size_t count,
                         enum activation_kind kind, const float *x, uint32_t tokens,
                         float *const *outs, struct error *err)
{
    struct activations *a = activations_of(f, weights[0]->cols);
    struct put put = {f, a, x, tokens, 0};
    struct multiply m = {
        f, {.weights = weights, .count = count},
         outs, a, 0
    };
    const uint32_t *order = weights[0]->backend_order;
    int rc = f->backend->activations_begin(f->backend, a, kind, tokens, order), more = 0;
    if (!rc) {
        run_shares(f, tokens, put_share, &put);
        rc = put.rc;
    }
    while (!rc && (more = weights_take(f->weights, &m.taking, err)) > 0) {
        team_run(f->team, multiply_share, &m);
        rc = weights_give(f->weights, &m.taking);
        rc = m.rc ? m.rc : rc;
    }
    return rc ? failed(f, err, rc, "a product") : more;
}

/* All products of x [tokens][cols] with some matrices, in order. */
static int multiply(struct forward *f, const struct weight *const *weights, size_t count,
                    const float *x, uint32_t tokens, float *const *outs, struct error *err)
{
    int rc = 0;
    for (size_t at = 0, n; !rc && at < count; at += n) {
        enum activation_kind kind = activation_kind_of(weights[at]->format);
        for (n = 1; at + n < count && same_activations(weights[at], weights[at + n]);)
            n++;
        rc = multiply_kind(f, weights + at, n, kind, x, tokens, outs + at, err);
    }
    return rc;
}

static int multiply_one(struct forward *f, const struct weight *weight, const float *x,
                        uint32_t tokens, float *out, struct error *err)
{
    return multiply(f, &weight, 1, x, tokens, &out, err);
}

/* ---- attention ---- */

static int set_angles(struct forward *f, uint32_t position, uint32_t tokens)
{
    uint32_t half = f->model->facts.rope_dim / 2;
    size_t size = (size_t)tokens * half * sizeof(float);
    int rc = 0;
    for (int window = 0; !rc && window < 2; window++) {
        float *cosines = f->space.cosines[window].host, *sines = f->space.sines[window].host;
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t i = 0; i < half; i++) {
                float angle = (float)(position + t) * f->frequencies[window][i];
                cosines[(size_t)t * half + i] = cosf(angle);
                sines[(size_t)t * half + i] = sinf(angle);
            }
        rc = mirror_send(f->backend, &f->space.cosines[window], size);
        rc = rc ? rc : mirror_send(f->backend, &f->space.sines[window], size);
    }
    return rc;
}

/* Norms and turns heads of queries or keys. */
static int prepare_heads(const struct forward *f, float *x, const float *bias, const float *weight,
                         uint32_t heads, uint32_t tokens, bool window)
{
    const struct facts *k = &f->model->facts;
    int rc = add_bias(f, x, bias, heads * k->head_dim, tokens);
    rc = rc ? rc : norm_more(f, x, weight, heads * tokens, k->head_dim);
    return rc ? rc
              : f->backend->rope(f->backend, x, f->space.cosines[window].device,
                                 f->space.sines[window].device, tokens, heads, k->head_dim,
                                 k->rope_dim / 2, k->habits->halves);
}

struct attend {
    struct forward *f;
    const struct layer *layer;
    uint16_t *keys, *values; /* of the layer */
    uint32_t position, tokens;
    _Atomic int rc;
};

/* Appends new keys and values to those before. */
static void remember_share(void *context, unsigned i, unsigned shares)
{
    struct attend *a = context;
    struct forward *f = a->f;
    const struct facts *k = &f->model->facts;
    uint32_t first = a->tokens * i / shares, end = a->tokens * (i + 1) / shares;
    size_t from = (size_t)first * k->kv_heads * k->head_dim;
    int rc = first < end
                 ? f->backend->remember(f->backend, f->space.k + from, f->space.v + from,
                                        end - first, k->kv_heads, k->head_dim, a->position + first,
                                        (size_t)f->context * k->head_dim, a->keys, a->values)
                 : 0;
    if (rc)
        a->rc = rc;
}

/* One token with some of the heads of keys and values, over all that came before it. */
static int attend_heads(const struct attend *a, uint32_t token, uint32_t head, uint32_t heads,
                        float *scores)
{
    struct forward *f = a->f;
    const struct facts *k = &f->model->facts;
    uint32_t shared_by = k->heads / k->kv_heads, last = a->position + token;
    uint32_t first = a->layer->window && last >= k->window ? last - k->window + 1 : 0;
    size_t head_stride = (size_t)f->context * k->head_dim;
    size_t at = ((size_t)token * k->heads + (size_t)head * shared_by) * k->head_dim;
    return f->backend->attend(f->backend, f->space.q + at, heads, shared_by,
                              a->keys + head * head_stride, a->values + head * head_stride,
                              head_stride, first, last, k->head_dim, k->query_scale, scores,
                              f->space.mixed + at);
}

static void attend_share(void *context, unsigned i, unsigned shares)
{
    struct attend *a = context;
    uint32_t heads = a->f->kv_heads_at_once, groups = a->f->model->facts.kv_heads / heads;
    float *scores = a->f->space.scores + i * a->f->space.share_scores;
    uint64_t all = (uint64_t)a->tokens * groups;
    for (uint64_t at = all * i / shares; at < all * (i + 1) / shares; at++) {
        int rc = attend_heads(a, (uint32_t)(at / groups), (uint32_t)(at % groups) * heads, heads,
                              scores);
        if (rc)
            a->rc = rc;
    }
}

static int attention(struct forward *f, uint32_t number, uint32_t position, uint32_t tokens,
                     struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct layer *l = &f->model->layers[number];
    struct workspace *s = &f->space;
    uint32_t row = k->kv_heads * k->head_dim;
    size_t cache = (size_t)number * f->context * row;
    struct attend attend = {f, l, s->keys + cache, s->values + cache, position, tokens, 0};
    int rc = failed(f, err, norm(f, s->x.device, l->attn_norm, tokens, s->normed), "a norm");
    if (rc)
        return rc;
    show(f, number, INPUT_QKV, 0, s->normed, tokens);
    rc = multiply(f, (const struct weight *[]){l->q, l->k, l->v}, 3, s->normed, tokens,
                  (float *[]){s->q, s->k, s->v}, err);
    if (rc)
        return rc;
    rc = prepare_heads(f, s->q, l->q_bias, l->q_norm, k->heads, tokens, l->window);
    rc = rc ? rc : prepare_heads(f, s->k, l->k_bias, l->k_norm, k->kv_heads, tokens, l->window);
    rc = rc ? rc : add_bias(f, s->v, l->v_bias, row, tokens);
    if (rc)
        return failed(f, err, rc, "attention");
    run_shares(f, tokens, remember_share, &attend);
    team_run(f->team, attend_share, &attend);
    if (attend.rc)
        return failed(f, err, attend.rc, "attention");
    show(f, number, INPUT_O, 0, s->mixed, tokens);
    rc = multiply_one(f, l->o, s->mixed, tokens, s->out, err);
    return rc ? rc : failed(f, err, add_bias(f, s->out, l->o_bias, k->width, tokens), "a bias");
}

/* ---- the second half of a layer ---- */

struct gating {
    struct forward *f;
    size_t count; /* floats */
    _Atomic int rc;
};

static void gate_share(void *context, unsigned i, unsigned shares)
{
    struct gating *g = context;
    struct backend *b = g->f->backend;
    size_t first = g->count * i / shares, end = g->count * (i + 1) / shares;
    enum gate gate = g->f->model->facts.habits->gelu ? GATE_GELU : GATE_SILU;
    int rc = b->gate(b, gate, g->f->space.gate + first, g->f->space.up + first, end - first);
    if (rc)
        g->rc = rc;
}

static int feed(struct forward *f, uint32_t number, uint32_t expert, const float *x,
                uint32_t tokens, float *out, struct error *err)
{
    const struct layer *l = &f->model->layers[number];
    struct gating gating = {f, (size_t)tokens * f->model->facts.ffn, 0};
    show(f, number, INPUT_GATE_UP, expert, x, tokens);
    int rc = multiply(f, (const struct weight *[]){l->gate[expert], l->up[expert]}, 2, x, tokens,
                      (float *[]){f->space.gate, f->space.up}, err);
    if (rc)
        return rc;
    team_run(f->team, gate_share, &gating);
    if (gating.rc)
        return failed(f, err, gating.rc, "a gate");
    show(f, number, INPUT_DOWN, expert, f->space.gate, tokens);
    return multiply_one(f, l->down[expert], f->space.gate, tokens, out, err);
}

static int wait_done(struct forward *f)
{
    int rc = f->backend->event_record(f->backend, f->done, QUEUE_COMPUTE);
    return rc ? rc : f->backend->event_wait(f->backend, f->done);
}

/* Asks the router, which the host has to wait for; first: see experts_choose. */
static int route(struct forward *f, uint32_t number, uint32_t tokens, uint32_t *first,
                 struct error *err)
{
    const struct facts *k = &f->model->facts;
    struct workspace *s = &f->space;
    size_t size = sizeof(float) * tokens * k->experts_used;
    show(f, number, INPUT_ROUTER, 0, s->normed, tokens);
    int rc =
        multiply_one(f, f->model->layers[number].router, s->normed, tokens, s->routed.device, err);
    if (rc)
        return rc;
    rc = mirror_fetch(f->backend, &s->routed, sizeof(float) * tokens * k->experts);
    rc = rc ? rc : wait_done(f);
    if (rc)
        return failed(f, err, rc, "the router");
    experts_choose(k, s->routed.host, tokens, s->rows.host, s->portions.host, first);
    bool chosen[EXPERTS_MAX];
    for (uint32_t e = 0; e < k->experts; e++)
        chosen[e] = first[e] < first[e + 1];
    weights_choose(f->weights, number, chosen);
    rc = mirror_send(f->backend, &s->rows, size);
    return failed(f, err, rc ? rc : mirror_send(f->backend, &s->portions, size), "the router");
}

/* Every expert is run once, for all the tokens that chose it. */
static int feed_experts(struct forward *f, uint32_t number, uint32_t tokens, struct error *err)
{
    const struct facts *k = &f->model->facts;
    struct backend *b = f->backend;
    struct workspace *s = &f->space;
    uint32_t first[EXPERTS_MAX + 1];
    int rc = route(f, number, tokens, first, err);
    rc = rc ? rc : failed(f, err, b->clear(b, s->out, (size_t)tokens * k->width), "an expert");
    for (uint32_t e = 0; !rc && e < k->experts; e++) {
        uint32_t n = first[e + 1] - first[e];
        const uint32_t *rows = (const uint32_t *)s->rows.device + first[e];
        const float *portions = (const float *)s->portions.device + first[e];
        if (!n)
            continue;
        rc = failed(f, err, b->gather(b, s->normed, rows, n, k->width, s->expert_in), "an expert");
        rc = rc ? rc : feed(f, number, e, s->expert_in, n, s->expert_out, err);
        rc = rc ? rc
                : failed(f, err, b->scatter(b, s->expert_out, rows, portions, n, k->width, s->out),
                         "an expert");
    }
    return rc;
}

/* ---- the whole ---- */

/* Adds what half of a layer made. */
static int add_half(struct forward *f, const float *post_norm, uint32_t tokens)
{
    uint32_t width = f->model->facts.width;
    size_t count = (size_t)tokens * width;
    int rc = norm_more(f, f->space.out, post_norm, tokens, width);
    return rc ? rc : f->backend->add(f->backend, f->space.x.device, f->space.out, count, count);
}

static int run_layer(struct forward *f, uint32_t number, uint32_t position, uint32_t tokens,
                     struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct layer *l = &f->model->layers[number];
    struct workspace *s = &f->space;
    int rc = attention(f, number, position, tokens, err);
    if (rc)
        return rc;
    rc = add_half(f, l->attn_post_norm, tokens);
    rc = rc ? rc : norm(f, s->x.device, l->ffn_norm, tokens, s->normed);
    if (rc)
        return failed(f, err, rc, "a norm");
    rc = k->experts ? feed_experts(f, number, tokens, err)
                    : feed(f, number, 0, s->normed, tokens, s->out, err);
    return rc ? rc : failed(f, err, add_half(f, l->ffn_post_norm, tokens), "a norm");
}

/* Rows of the embedding, as they are needed, from the file. */
static int embed(struct forward *f, const uint32_t *tokens, uint32_t n, struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct weight *m = &f->model->embedding;
    float scale = k->habits->scaled_input ? sqrtf((float)k->width) : 1;
    for (uint32_t t = 0; t < n; t++) {
        float *x = (float *)f->space.x.host + (size_t)t * k->width;
        if (tokens[t] >= k->vocab)
            return error_set(err, -EINVAL, "token %" PRIu32 " is not in the vocabulary", tokens[t]);
        int rc = weights_row(f->weights, m, tokens[t], f->space.row, err);
        if (rc)
            return rc;
        m->format->decode(f->space.row, k->width, x);
        for (uint32_t i = 0; i < k->width; i++)
            x[i] *= scale;
    }
    return failed(f, err, mirror_send(f->backend, &f->space.x, sizeof(float) * n * k->width),
                  "a copy");
}

static int make_logits(struct forward *f, uint32_t first, uint32_t n, struct error *err)
{
    const struct run_model *m = f->model;
    const float *x = (const float *)f->space.x.device + (size_t)first * m->facts.width;
    int rc = failed(f, err, norm(f, x, m->output_norm, n, f->space.normed), "a norm");
    rc = rc ? rc : multiply_one(f, m->output, f->space.normed, n, f->space.logits.device, err);
    if (rc)
        return rc;
    f->made = n;
    f->capped = false;
    return failed(f, err, add_bias(f, f->space.logits.device, m->output_bias, m->facts.vocab, n),
                  "a bias");
}

static int check_range(const struct forward *f, uint32_t n, uint32_t position, struct error *err)
{
    if (n && n <= f->batch && position <= f->context && n <= f->context - position)
        return 0;
    return error_set(err, -ERANGE, "position %" PRIu32 " is beyond the context of %" PRIu32,
                     position + n, f->context);
}

int forward_embed(struct forward *f, const uint32_t *tokens, uint32_t n, float *x,
                  struct error *err)
{
    int rc = check_range(f, n, 0, err);
    rc = rc ? rc : embed(f, tokens, n, err);
    if (!rc)
        memcpy(x, f->space.x.host, (size_t)n * f->model->facts.width * sizeof *x);
    return rc;
}

int forward_layer(struct forward *f, uint32_t layer, float *x, uint32_t n, uint32_t position,
                  struct error *err)
{
    size_t size = (size_t)n * f->model->facts.width * sizeof *x;
    int rc = check_range(f, n, position, err);
    if (rc)
        return rc;
    memcpy(f->space.x.host, x, size);
    rc = failed(f, err, set_angles(f, position, n), "a copy");
    rc = rc ? rc : run_layer(f, layer, position, n, err);
    memcpy(x, f->space.x.host, size);
    return rc;
}

int forward_run(struct forward *f, const uint32_t *tokens, uint32_t n, uint32_t position, bool all,
                struct error *err)
{
    int rc = check_range(f, n, position, err);
    if (rc)
        return rc;
    f->made = 0;
    weights_begin(f->weights);
    /* What the host is about to write may not have been read yet. */
    rc = failed(f, err, f->backend->event_wait(f->backend, f->done), "the last pass");
    rc = rc ? rc : embed(f, tokens, n, err);
    rc = rc ? rc : failed(f, err, set_angles(f, position, n), "a copy");
    for (uint32_t l = 0; !rc && l < f->model->facts.layers; l++)
        rc = run_layer(f, l, position, n, err);
    rc = rc ? rc : make_logits(f, all ? 0 : n - 1, all ? n : 1, err);
    rc =
        rc ? rc
           : failed(f, err, f->backend->event_record(f->backend, f->done, QUEUE_COMPUTE), "a pass");
    return rc ? rc : weights_end(f->weights, err);
}

static int not_finite(struct error *err)
{
    return error_set(err, -EIO, "the model's output is not finite");
}

int forward_logits(struct forward *f, const float **out, struct error *err)
{
    const struct facts *k = &f->model->facts;
    size_t count = (size_t)f->made * k->vocab;
    float *logits = f->space.logits.host;
    *out = logits;
    if (f->capped)
        return 0;
    int rc = mirror_fetch(f->backend, &f->space.logits, count * sizeof *logits);
    rc = failed(f, err, rc ? rc : wait_done(f), "a pass");
    if (rc)
        return rc;
    for (size_t i = 0; k->softcap > 0 && i < count; i++)
        logits[i] = k->softcap * tanhf(logits[i] / k->softcap);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(logits[i]))
            return not_finite(err);
    f->capped = true;
    return 0;
}

/* A cap never changes which is the largest. */
int forward_best(struct forward *f, uint32_t *token, struct error *err)
{
    struct backend *b = f->backend;
    uint32_t vocab = f->model->facts.vocab, *best = f->space.best.host;
    const float *last = (const float *)f->space.logits.device + (size_t)(f->made - 1) * vocab;
    int rc = b->argmax(b, last, vocab, f->space.best.device);
    rc = rc ? rc : mirror_fetch(b, &f->space.best, 2 * sizeof *best);
    rc = failed(f, err, rc ? rc : wait_done(f), "a pass");
    if (rc)
        return rc;
    *token = best[0];
    return best[1] ? 0 : not_finite(err);
}

/* ---- life ---- */

static int set_frequencies(struct forward *f, struct error *err)
{
    const struct facts *k = &f->model->facts;
    for (int window = 0; window < 2; window++) {
        f->frequencies[window] = calloc(k->rope_dim / 2 + 1, sizeof(float));
        if (!f->frequencies[window])
            return error_set(err, -ENOMEM, "out of memory");
        for (uint32_t i = 0; i < k->rope_dim / 2; i++) {
            float base = window ? k->rope_base_window : k->rope_base;
            float frequency = powf(base, -2.0f * (float)i / (float)k->rope_dim);
            if (!window)
                frequency /= (k->rope_factors ? k->rope_factors[i] : 1) * k->rope_scale;
            f->frequencies[window][i] = frequency;
        }
    }
    return 0;
}

static int make(struct forward *f, struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct workspace_sizes sizes = {f->context,          f->batch,
                                          f->outputs,          team_shares(f->team),
                                          f->kv_heads_at_once, f->model->embedding.unit_size};
    if (k->head_dim % f->backend->head_multiple)
        return error_set(err, -ENOTSUP,
                         "%s: heads of %" PRIu32 " elements, which are no multiple of %u",
                         f->backend->name, k->head_dim, f->backend->head_multiple);
    int rc = workspace_new(f->backend, k, &sizes, &f->space);
    rc = rc ? rc : f->backend->event_new(f->backend, &f->done);
    if (rc)
        return f->backend->trouble
                   ? failed(f, err, rc, "setting up")
                   : error_set(err, rc, "no memory for a context of %" PRIu32, f->context);
    return set_frequencies(f, err);
}

int forward_new(const struct run_model *m, struct weights *weights, struct team *team,
                uint32_t context, uint32_t batch, uint32_t outputs, struct forward **out,
                struct error *err)
{
    struct forward *f = calloc(1, sizeof *f);
    if (!f)
        return error_set(err, -ENOMEM, "out of memory");
    f->model = m;
    f->weights = weights;
    f->backend = weights->backend;
    f->team = team;
    f->context = context;
    f->batch = batch;
    f->outputs = outputs;
    /* One thread has them all at once: on a GPU, that is one call for all. */
    f->kv_heads_at_once = team_shares(team) == 1 ? m->facts.kv_heads : 1;
    int rc = make(f, err);
    if (rc)
        forward_free(f);
    else
        *out = f;
    return rc;
}

uint64_t forward_bytes(const struct forward *f)
{
    return f->space.bytes;
}

void forward_observe(struct forward *f, const struct observer *o)
{
    f->observer = o;
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    if (f->done) {
        wait_done(f); /* also for what a pass asked for that failed since */
        f->backend->event_free(f->backend, f->done);
    }
    workspace_free(f->backend, &f->space);
    free(f->frequencies[0]);
    free(f->frequencies[1]);
    free(f);
}

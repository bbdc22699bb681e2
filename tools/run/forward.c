/* SPDX-License-Identifier: MIT */
#include "tools/run/forward.h"

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
    uint32_t context, batch;
    uint64_t bytes; /* of all that is below, but for small things */
    uint8_t *row;   /* of the embedding */
    uint16_t *keys, *values;      /* halves: [layer][kv_head][position][head_dim] */
    float *cosines[2], *sines[2]; /* [position of the batch][rope_dim / 2]; 1: of windows */
    float *frequencies[2];        /* [rope_dim / 2] */
    /* Of the tokens at hand, [token][...]: */
    float *x;                      /* width */
    float *normed;                 /* width */
    float *q, *k, *v;              /* heads and kv_heads of head_dim */
    float *mixed;                  /* heads * head_dim: what attention gives */
    float *gate, *up;              /* ffn */
    float *out;                    /* width: what a half of a layer adds */
    float *expert_in, *expert_out; /* width; NULL without experts */
    float *shares;                 /* experts */
    float *scores;                 /* [share][heads that share a kv head][context] */
    uint32_t *expert_tokens;
    struct inputs {
        uint64_t cols;
        struct activations *activations;
    } inputs[3]; /* as wide as the matrices are: width, heads * head_dim, ffn */
};

/* ---- small operations ---- */

static void rms_norm(const float *x, const float *weight, uint32_t n, float eps, float *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)(x[i] * x[i]);
    float scale = 1 / sqrtf((float)(sum / n) + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

static void norm_all(const float *x, const float *weight, uint32_t width, uint32_t tokens,
                     float eps, float *out)
{
    for (uint32_t t = 0; t < tokens; t++)
        rms_norm(x + (size_t)t * width, weight, width, eps, out + (size_t)t * width);
}

static void add_bias(float *x, const float *bias, uint32_t width, uint32_t tokens)
{
    for (uint32_t t = 0; bias && t < tokens; t++)
        for (uint32_t i = 0; i < width; i++)
            x[(size_t)t * width + i] += bias[i];
}

static void add_to(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static float silu(float v)
{
    return v / (1 + expf(-v));
}

static float gelu(float v)
{
    return 0.5f * v * (1 + tanhf(0.79788456080286535588f * v * (1 + 0.044715f * v * v)));
}

static void softmax(float *x, uint32_t n)
{
    float most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        most = fmaxf(most, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - most);
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sum;
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
    while (f->inputs[i].cols != cols)
        i++;
    return f->inputs[i].activations;
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
    struct multiply m = {f, {.weights = weights, .count = count}, outs, a, 0};
    int rc = f->backend->activations_begin(f->backend, a, kind, tokens, weights[0]->order), more = 0;
    if (!rc) {
        run_shares(f, tokens, put_share, &put);
        rc = put.rc;
    }
    while (!rc && (more = weights_take(f->weights, &m.taking, err)) > 0) {
        team_run(f->team, multiply_share, &m);
        weights_give(f->weights, &m.taking);
        rc = m.rc;
    }
    return rc ? error_set(err, rc, "a product failed: %s", strerror(-rc)) : more;
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

/* Turns pairs of every head by the angles of its token. */
static void rotate(const struct forward *f, float *x, uint32_t heads, uint32_t tokens, bool window)
{
    const struct facts *k = &f->model->facts;
    uint32_t half = k->rope_dim / 2;
    for (uint32_t t = 0; t < tokens; t++) {
        const float *cosine = f->cosines[window] + (size_t)t * half;
        const float *sine = f->sines[window] + (size_t)t * half;
        for (uint32_t h = 0; h < heads; h++) {
            float *v = x + ((size_t)t * heads + h) * k->head_dim;
            for (uint32_t i = 0; i < half; i++) {
                float *a = k->habits->halves ? v + i : v + 2 * i;
                float *b = k->habits->halves ? v + i + half : v + 2 * i + 1;
                float x0 = *a, x1 = *b;
                *a = x0 * cosine[i] - x1 * sine[i];
                *b = x0 * sine[i] + x1 * cosine[i];
            }
        }
    }
}

static void set_angles(struct forward *f, uint32_t position, uint32_t tokens)
{
    uint32_t half = f->model->facts.rope_dim / 2;
    for (int window = 0; window < 2; window++)
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t i = 0; i < half; i++) {
                float angle = (float)(position + t) * f->frequencies[window][i];
                f->cosines[window][(size_t)t * half + i] = cosf(angle);
                f->sines[window][(size_t)t * half + i] = sinf(angle);
            }
}

static void norm_heads(float *x, const float *weight, const struct facts *k, uint32_t heads,
                       uint32_t tokens)
{
    for (size_t i = 0; weight && i < (size_t)heads * tokens; i++)
        rms_norm(x + i * k->head_dim, weight, k->head_dim, k->eps, x + i * k->head_dim);
}

struct attend {
    struct forward *f;
    const struct layer *layer;
    uint16_t *keys, *values; /* of the layer */
    uint32_t position, tokens;
    _Atomic int rc;
};

/* Appends the new keys and values of a head to those before. */
static int remember(const struct attend *a, uint32_t head)
{
    struct forward *f = a->f;
    const struct facts *k = &f->model->facts;
    int rc = 0;
    for (uint32_t t = 0; !rc && t < a->tokens; t++) {
        size_t from = ((size_t)t * k->kv_heads + head) * k->head_dim;
        size_t to = ((size_t)head * f->context + a->position + t) * k->head_dim;
        rc = f->backend->to_f16(f->backend, f->k + from, k->head_dim, a->keys + to);
        rc = rc ? rc : f->backend->to_f16(f->backend, f->v + from, k->head_dim, a->values + to);
    }
    return rc;
}

static void remember_share(void *context, unsigned i, unsigned shares)
{
    struct attend *a = context;
    uint32_t heads = a->f->model->facts.kv_heads;
    for (uint32_t h = heads * i / shares; h < heads * (i + 1) / shares; h++) {
        int rc = remember(a, h);
        if (rc)
            a->rc = rc;
    }
}

/* The heads of one token that share keys and values, over all that came before it. */
static int attend_heads(const struct attend *a, uint32_t token, uint32_t head, float *scores)
{
    struct forward *f = a->f;
    const struct facts *k = &f->model->facts;
    uint32_t dim = k->head_dim, heads = k->heads / k->kv_heads, last = a->position + token;
    uint32_t first = a->layer->window && last >= k->window ? last - k->window + 1 : 0;
    size_t cache = (size_t)head * f->context * dim;
    size_t at = ((size_t)token * k->heads + (size_t)head * heads) * dim;
    return f->backend->attend(f->backend, f->q + at, heads, a->keys + cache, a->values + cache, dim,
                              first, last, dim, k->query_scale, scores, f->mixed + at);
}

static void attend_share(void *context, unsigned i, unsigned shares)
{
    struct attend *a = context;
    const struct facts *k = &a->f->model->facts;
    float *scores = a->f->scores + (size_t)i * (k->heads / k->kv_heads) * a->f->context;
    uint64_t all = (uint64_t)a->tokens * k->kv_heads;
    for (uint64_t at = all * i / shares; at < all * (i + 1) / shares; at++) {
        int rc =
            attend_heads(a, (uint32_t)(at / k->kv_heads), (uint32_t)(at % k->kv_heads), scores);
        if (rc)
            a->rc = rc;
    }
}

static int attention(struct forward *f, uint32_t number, uint32_t position, uint32_t tokens,
                     struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct layer *l = &f->model->layers[number];
    uint32_t row = k->kv_heads * k->head_dim;
    size_t cache = (size_t)number * f->context * row;
    struct attend attend = {f, l, f->keys + cache, f->values + cache, position, tokens, 0};
    norm_all(f->x, l->attn_norm, k->width, tokens, k->eps, f->normed);
    show(f, number, INPUT_QKV, 0, f->normed, tokens);
    int rc = multiply(f, (const struct weight *[]){l->q, l->k, l->v}, 3, f->normed, tokens,
                      (float *[]){f->q, f->k, f->v}, err);
    if (rc)
        return rc;
    add_bias(f->q, l->q_bias, k->heads * k->head_dim, tokens);
    add_bias(f->k, l->k_bias, row, tokens);
    add_bias(f->v, l->v_bias, row, tokens);
    norm_heads(f->q, l->q_norm, k, k->heads, tokens);
    norm_heads(f->k, l->k_norm, k, k->kv_heads, tokens);
    rotate(f, f->q, k->heads, tokens, l->window);
    rotate(f, f->k, k->kv_heads, tokens, l->window);
    run_shares(f, tokens, remember_share, &attend);
    team_run(f->team, attend_share, &attend);
    if (attend.rc)
        return error_set(err, attend.rc, "attention failed: %s", strerror(-attend.rc));
    show(f, number, INPUT_O, 0, f->mixed, tokens);
    rc = multiply_one(f, l->o, f->mixed, tokens, f->out, err);
    if (!rc)
        add_bias(f->out, l->o_bias, k->width, tokens);
    return rc;
}

/* ---- the second half of a layer ---- */

struct gating {
    struct forward *f;
    size_t count; /* floats */
};

/* gate becomes activation(gate) * up */
static void gate_share(void *context, unsigned i, unsigned shares)
{
    struct gating *g = context;
    float *gate = g->f->gate, *up = g->f->up;
    bool gelu_gate = g->f->model->facts.habits->gelu;
    for (size_t at = g->count * i / shares; at < g->count * (i + 1) / shares; at++)
        gate[at] = (gelu_gate ? gelu(gate[at]) : silu(gate[at])) * up[at];
}

static int feed(struct forward *f, uint32_t number, uint32_t expert, const float *x,
                uint32_t tokens, float *out, struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct layer *l = &f->model->layers[number];
    show(f, number, INPUT_GATE_UP, expert, x, tokens);
    int rc = multiply(f, (const struct weight *[]){l->gate[expert], l->up[expert]}, 2, x, tokens,
                      (float *[]){f->gate, f->up}, err);
    if (rc)
        return rc;
    team_run(f->team, gate_share, &(struct gating){f, (size_t)tokens * k->ffn});
    show(f, number, INPUT_DOWN, expert, f->gate, tokens);
    return multiply_one(f, l->down[expert], f->gate, tokens, out, err);
}

/* Keeps the experts_used best of a token's experts and makes their shares sum to 1; those of the
 * others become negative. Adds them to those that were chosen. */
static void choose_experts(const struct facts *k, float *shares, bool *chosen)
{
    softmax(shares, k->experts);
    float sum = 0;
    bool kept[EXPERTS_MAX] = {false};
    for (uint32_t n = 0; n < k->experts_used; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < k->experts; e++)
            if (!kept[e] && (best == UINT32_MAX || shares[e] > shares[best]))
                best = e;
        kept[best] = chosen[best] = true;
        sum += shares[best];
    }
    for (uint32_t e = 0; e < k->experts; e++)
        shares[e] = kept[e] ? shares[e] / sum : -1;
}

/* Every expert is run once, for all the tokens that chose it. */
static int feed_experts(struct forward *f, uint32_t number, uint32_t tokens, struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct layer *l = &f->model->layers[number];
    show(f, number, INPUT_ROUTER, 0, f->normed, tokens);
    int rc = multiply_one(f, l->router, f->normed, tokens, f->shares, err);
    bool chosen[EXPERTS_MAX] = {false};
    for (uint32_t t = 0; t < tokens; t++)
        choose_experts(k, f->shares + (size_t)t * k->experts, chosen);
    weights_choose(f->weights, number, chosen);
    memset(f->out, 0, (size_t)tokens * k->width * sizeof *f->out);
    for (uint32_t e = 0; !rc && e < k->experts; e++) {
        uint32_t n = 0;
        for (uint32_t t = 0; chosen[e] && t < tokens; t++)
            if (f->shares[(size_t)t * k->experts + e] >= 0) {
                memcpy(f->expert_in + (size_t)n * k->width, f->normed + (size_t)t * k->width,
                       k->width * sizeof *f->x);
                f->expert_tokens[n++] = t;
            }
        rc = n ? feed(f, number, e, f->expert_in, n, f->expert_out, err) : 0;
        for (uint32_t i = 0; !rc && i < n; i++) {
            float weight = f->shares[(size_t)f->expert_tokens[i] * k->experts + e];
            float *out = f->out + (size_t)f->expert_tokens[i] * k->width;
            for (uint32_t c = 0; c < k->width; c++)
                out[c] += weight * f->expert_out[(size_t)i * k->width + c];
        }
    }
    return rc;
}

/* ---- the whole ---- */

static int run_layer(struct forward *f, uint32_t number, uint32_t position, uint32_t tokens,
                     struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct layer *l = &f->model->layers[number];
    int rc = attention(f, number, position, tokens, err);
    if (rc)
        return rc;
    if (l->attn_post_norm)
        norm_all(f->out, l->attn_post_norm, k->width, tokens, k->eps, f->out);
    add_to(f->x, f->out, (size_t)tokens * k->width);
    norm_all(f->x, l->ffn_norm, k->width, tokens, k->eps, f->normed);
    rc = k->experts ? feed_experts(f, number, tokens, err)
                    : feed(f, number, 0, f->normed, tokens, f->out, err);
    if (rc)
        return rc;
    if (l->ffn_post_norm)
        norm_all(f->out, l->ffn_post_norm, k->width, tokens, k->eps, f->out);
    add_to(f->x, f->out, (size_t)tokens * k->width);
    return 0;
}

static int embed(struct forward *f, const uint32_t *tokens, uint32_t n, struct error *err)
{
    const struct facts *k = &f->model->facts;
    const struct weight *m = &f->model->embedding;
    float scale = k->habits->scaled_input ? sqrtf((float)k->width) : 1;
    for (uint32_t t = 0; t < n; t++) {
        float *x = f->x + (size_t)t * k->width;
        if (tokens[t] >= k->vocab)
            return error_set(err, -EINVAL, "token %" PRIu32 " is not in the vocabulary", tokens[t]);
        int rc = weights_row(f->weights, m, tokens[t], f->row, err);
        if (rc)
            return rc;
        m->format->decode(f->row, k->width, x);
        for (uint32_t i = 0; i < k->width; i++)
            x[i] *= scale;
    }
    return 0;
}

static int put_logits(struct forward *f, uint32_t first, uint32_t n, float *logits,
                      struct error *err)
{
    const struct run_model *m = f->model;
    const struct facts *k = &m->facts;
    norm_all(f->x + (size_t)first * k->width, m->output_norm, k->width, n, k->eps, f->normed);
    int rc = multiply_one(f, m->output, f->normed, n, logits, err);
    if (rc)
        return rc;
    add_bias(logits, m->output_bias, k->vocab, n);
    for (size_t i = 0; k->softcap > 0 && i < (size_t)n * k->vocab; i++)
        logits[i] = k->softcap * tanhf(logits[i] / k->softcap);
    for (size_t i = 0; i < (size_t)n * k->vocab; i++)
        if (!isfinite(logits[i]))
            return error_set(err, -EIO, "the model's output is not finite");
    return 0;
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
        memcpy(x, f->x, (size_t)n * f->model->facts.width * sizeof *x);
    return rc;
}

int forward_layer(struct forward *f, uint32_t layer, float *x, uint32_t n, uint32_t position,
                  struct error *err)
{
    size_t size = (size_t)n * f->model->facts.width * sizeof *x;
    int rc = check_range(f, n, position, err);
    if (rc)
        return rc;
    memcpy(f->x, x, size);
    set_angles(f, position, n);
    rc = run_layer(f, layer, position, n, err);
    memcpy(x, f->x, size);
    return rc;
}

int forward_run(struct forward *f, const uint32_t *tokens, uint32_t n, uint32_t position, bool all,
                float *logits, struct error *err)
{
    int rc = check_range(f, n, position, err);
    if (rc)
        return rc;
    weights_begin(f->weights);
    rc = embed(f, tokens, n, err);
    set_angles(f, position, n);
    for (uint32_t l = 0; !rc && l < f->model->facts.layers; l++)
        rc = run_layer(f, l, position, n, err);
    rc = rc ? rc : put_logits(f, all ? 0 : n - 1, all ? n : 1, logits, err);
    return rc ? rc : weights_end(f->weights, err);
}

/* ---- life ---- */

static void set_frequencies(struct forward *f)
{
    const struct facts *k = &f->model->facts;
    for (int window = 0; window < 2; window++)
        for (uint32_t i = 0; i < k->rope_dim / 2; i++) {
            float base = window ? k->rope_base_window : k->rope_base;
            float frequency = powf(base, -2.0f * (float)i / (float)k->rope_dim);
            if (!window)
                frequency /= (k->rope_factors ? k->rope_factors[i] : 1) * k->rope_scale;
            f->frequencies[window][i] = frequency;
        }
}

static bool floats(struct forward *f, float **out, size_t a, size_t b)
{
    size_t n;
    *out = __builtin_mul_overflow(a, b, &n) ? NULL : calloc(n ? n : 1, sizeof **out);
    f->bytes += *out ? n * sizeof **out : 0;
    return *out != NULL;
}

/* Keys or values of all layers. */
static bool cache(struct forward *f, uint16_t **out)
{
    const struct facts *k = &f->model->facts;
    size_t n = (size_t)k->layers * k->kv_heads * k->head_dim, size; /* each below 2^21 */
    void *memory;
    if (__builtin_mul_overflow(n, f->context * sizeof **out, &size) ||
        f->backend->alloc(f->backend, size, &memory))
        return false;
    *out = memory;
    f->bytes += size;
    return true;
}

static bool allocate(struct forward *f)
{
    const struct facts *k = &f->model->facts;
    size_t n = f->batch, row = (size_t)k->kv_heads * k->head_dim, half = k->rope_dim / 2;
    bool ok = cache(f, &f->keys) && cache(f, &f->values) && floats(f, &f->x, n, k->width) && floats(f, &f->normed, n, k->width) &&
              floats(f, &f->q, n, (size_t)k->heads * k->head_dim) && floats(f, &f->k, n, row) &&
              floats(f, &f->v, n, row) && floats(f, &f->mixed, n, (size_t)k->heads * k->head_dim) &&
              floats(f, &f->gate, n, k->ffn) && floats(f, &f->up, n, k->ffn) &&
              floats(f, &f->out, n, k->width) && floats(f, &f->scores, (size_t)team_shares(f->team) * (k->heads / k->kv_heads), f->context);
    ok = ok && (f->row = malloc(f->model->embedding.unit_size));
    for (int i = 0; i < 2; i++)
        ok = ok && floats(f, &f->cosines[i], n, half) && floats(f, &f->sines[i], n, half) &&
             floats(f, &f->frequencies[i], half, 1);
    if (k->experts)
        ok = ok && floats(f, &f->expert_in, n, k->width) && floats(f, &f->expert_out, n, k->width) &&
             floats(f, &f->shares, n, k->experts) && (f->expert_tokens = calloc(n, sizeof(uint32_t)));
    const uint64_t widths[] = {k->width, (uint64_t)k->heads * k->head_dim, k->ffn};
    for (int i = 0; ok && i < 3; i++) {
        f->inputs[i].cols = widths[i];
        f->bytes += widths[i] * f->batch * sizeof(float);
        ok = f->backend->activations_new(f->backend, widths[i], f->batch,
                                         &f->inputs[i].activations) == 0;
    }
    return ok;
}

int forward_new(const struct run_model *m, struct weights *weights, struct team *team,
                uint32_t context, uint32_t batch, struct forward **out, struct error *err)
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
    if (!allocate(f)) {
        forward_free(f);
        return error_set(err, -ENOMEM, "no memory for a context of %" PRIu32, context);
    }
    set_frequencies(f);
    *out = f;
    return 0;
}

uint64_t forward_bytes(const struct forward *f) { return f->bytes; }

void forward_observe(struct forward *f, const struct observer *o) { f->observer = o; }

void forward_free(struct forward *f)
{
    if (!f)
        return;
    float *const all[] = {f->x,
                          f->normed,
                          f->q,
                          f->k,
                          f->v,
                          f->mixed,
                          f->gate,
                          f->up,
                          f->out,
                          f->scores,
                          f->cosines[0],
                          f->cosines[1],
                          f->sines[0],
                          f->sines[1],
                          f->frequencies[0],
                          f->frequencies[1],
                          f->expert_in,
                          f->expert_out,
                          f->shares};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(f->expert_tokens);
    free(f->row);
    f->backend->free(f->backend, f->keys);
    f->backend->free(f->backend, f->values);
    for (int i = 0; i < 3; i++)
        if (f->inputs[i].activations)
            f->backend->activations_free(f->backend, f->inputs[i].activations);
    free(f);
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

enum { WINDOW_PERIOD = 6 };

/* Where names are put together, and the first error kept. */
struct finder {
    struct weights *weights;
    uint32_t layer;
    int rc;
    struct error *err;
};

/* out: in the layer, where it stays. */
static void vector(struct finder *f, const char *name, uint64_t n, bool required, const float **out)
{
    char full[GGUF_NAME_MAX + 1];
    snprintf(full, sizeof full, "blk.%" PRIu32 ".%s", f->layer, name);
    if (!f->rc)
        f->rc = weights_vector(f->weights, full, n, out, f->err);
    if (!f->rc && required && !*out)
        f->rc = error_set(f->err, -EINVAL, "tensor \"%s\" is missing", full);
}

static int check_shape(const struct weight *m, const char *name, uint64_t rows, uint64_t cols,
                       struct error *err)
{
    if (m->rows == rows && m->cols == cols)
        return 0;
    return error_set(err, -EINVAL,
                     "tensor \"%s\" is %" PRIu64 " x %" PRIu64 ", not %" PRIu64 " x %" PRIu64, name,
                     m->rows, m->cols, rows, cols);
}

static const struct weight *matrix(struct finder *f, const char *name, uint32_t part, uint64_t rows,
                                   uint64_t cols)
{
    char full[GGUF_NAME_MAX + 1];
    const struct weight *out = NULL;
    snprintf(full, sizeof full, "blk.%" PRIu32 ".%s.weight", f->layer, name);
    if (!f->rc)
        f->rc = weights_matrix(f->weights, full, f->layer, part, &out, f->err);
    if (!f->rc)
        f->rc = check_shape(out, full, rows, cols, f->err);
    return out;
}

static void find_ffn(struct finder *f, const struct facts *k, struct layer *l)
{
    uint32_t count = k->experts ? k->experts : 1;
    const struct weight **all = arena_array(&f->weights->arena, 3 * (size_t)count, sizeof *all);
    if (!all) {
        f->rc = f->rc ? f->rc : error_set(f->err, -ENOMEM, "out of memory");
        return;
    }
    l->gate = all;
    l->up = all + count;
    l->down = all + 2 * count;
    if (k->experts)
        l->router = matrix(f, "ffn_gate_inp", 0, count, k->width);
    for (uint32_t e = 0; e < count; e++) {
        l->gate[e] = matrix(f, k->experts ? "ffn_gate_exps" : "ffn_gate", e, k->ffn, k->width);
        l->up[e] = matrix(f, k->experts ? "ffn_up_exps" : "ffn_up", e, k->ffn, k->width);
        l->down[e] = matrix(f, k->experts ? "ffn_down_exps" : "ffn_down", e, k->width, k->ffn);
    }
}

static void find_layer(struct finder *f, const struct facts *k, struct layer *l)
{
    uint64_t q = (uint64_t)k->heads * k->head_dim, kv = (uint64_t)k->kv_heads * k->head_dim;
    vector(f, "attn_norm.weight", k->width, true, &l->attn_norm);
    vector(f, "ffn_norm.weight", k->width, true, &l->ffn_norm);
    vector(f, "attn_q.bias", q, false, &l->q_bias);
    vector(f, "attn_k.bias", kv, false, &l->k_bias);
    vector(f, "attn_v.bias", kv, false, &l->v_bias);
    vector(f, "attn_output.bias", k->width, false, &l->o_bias);
    vector(f, "attn_q_norm.weight", k->head_dim, false, &l->q_norm);
    vector(f, "attn_k_norm.weight", k->head_dim, false, &l->k_norm);
    vector(f, "post_attention_norm.weight", k->width, false, &l->attn_post_norm);
    vector(f, "post_ffw_norm.weight", k->width, false, &l->ffn_post_norm);
    l->q = matrix(f, "attn_q", 0, q, k->width);
    l->k = matrix(f, "attn_k", 0, kv, k->width);
    l->v = matrix(f, "attn_v", 0, kv, k->width);
    l->o = matrix(f, "attn_output", 0, k->width, q);
    find_ffn(f, k, l);
    l->window = k->habits->windows && k->window && (f->layer + 1) % WINDOW_PERIOD;
}

static int find_ends(struct weights *w, struct run_model *m, struct error *err)
{
    struct facts *f = &m->facts;
    int rc = weights_table(w, "token_embd.weight", &m->embedding, err);
    if (rc)
        return rc;
    f->vocab = (uint32_t)m->embedding.rows;
    rc = check_shape(&m->embedding, "token_embd.weight", w->vocab.count, f->width, err);
    rc = rc ? rc : weights_matrix(w, "output.weight", f->layers, 0, &m->output, err);
    if (rc == -ENOENT) /* then the output is the embedding again */
        rc = weights_matrix(w, "token_embd.weight", f->layers, 0, &m->output, err);
    rc = rc ? rc : check_shape(m->output, "output.weight", f->vocab, f->width, err);
    rc = rc ? rc : weights_vector(w, "output_norm.weight", f->width, &m->output_norm, err);
    rc = rc ? rc : weights_vector(w, "output.bias", f->vocab, &m->output_bias, err);
    if (!rc && !m->output_norm)
        rc = error_set(err, -EINVAL, "tensor \"output_norm.weight\" is missing");
    return rc ? rc : weights_floats(w, "rope_freqs.weight", f->rope_dim / 2, &f->rope_factors, err);
}

int run_model_open(struct weights *w, struct run_model *m, struct error *err)
{
    *m = (struct run_model){0};
    int rc = facts_read(&w->gguf.header, &m->facts, err);
    if (rc)
        return rc;
    m->layers = arena_array(&w->arena, m->facts.layers, sizeof *m->layers);
    if (!m->layers)
        return error_set(err, -ENOMEM, "out of memory");
    struct finder f = {.weights = w, .err = err};
    for (; !f.rc && f.layer < m->facts.layers; f.layer++)
        find_layer(&f, &m->facts, &m->layers[f.layer]);
    return f.rc ? f.rc : find_ends(w, m, err);
}

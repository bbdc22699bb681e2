/* SPDX-License-Identifier: MIT */
#include "tools/run/model.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct habits habits[] = {
    {.arch = "llama"},
    {.arch = "qwen2", .halves = true},
    {.arch = "qwen3", .halves = true},
    {.arch = "gemma3", .halves = true, .gelu = true, .scaled_input = true, .windows = true},
};

enum {
    WINDOW_PERIOD = 6,
    GEMMA3_LARGE_LAYERS = 62, /* whose queries are scaled by another rule */
};

const struct habits *habits_by_arch(struct gguf_string arch)
{
    for (size_t i = 0; i < sizeof habits / sizeof *habits; i++)
        if (gguf_string_is(arch, habits[i].arch))
            return &habits[i];
    return NULL;
}

struct reader_of_keys {
    const struct gguf_header *header;
    const char *arch;
};

static double number(const struct reader_of_keys *r, const char *key, double otherwise)
{
    char name[128];
    double v;
    snprintf(name, sizeof name, "%s.%s", r->arch, key);
    return gguf_find_number(r->header, name, &v) ? v : otherwise;
}

static uint32_t whole(const struct reader_of_keys *r, const char *key, uint32_t otherwise)
{
    double v = number(r, key, otherwise);
    return v >= 0 && v <= UINT32_MAX ? (uint32_t)v : 0;
}

static int read_scaling(const struct reader_of_keys *r, struct facts *f, struct error *err)
{
    char name[128];
    struct gguf_string type;
    snprintf(name, sizeof name, "%s.rope.scaling.type", r->arch);
    f->rope_scale = 1;
    if (!gguf_find_text(r->header, name, &type) || gguf_string_is(type, "none"))
        return 0;
    if (!gguf_string_is(type, "linear"))
        return error_set(err, -ENOTSUP, "%s \"%.*s\" is not known", name,
                         (int)(type.size < 60 ? type.size : 60), type.data);
    f->rope_scale = (float)number(r, "rope.scaling.factor", 1);
    return f->rope_scale > 0 ? 0 : error_set(err, -EINVAL, "%s.rope.scaling.factor is invalid", r->arch);
}

static int read_facts(struct weights *w, struct facts *f, struct error *err)
{
    const struct gguf_header *h = &w->gguf.header;
    struct gguf_string arch = {"", 0};
    gguf_find_text(h, "general.architecture", &arch);
    *f = (struct facts){.habits = habits_by_arch(arch)};
    if (!f->habits)
        return error_set(err, -ENOTSUP, "architecture \"%.*s\" cannot be run",
                         (int)(arch.size < 60 ? arch.size : 60), arch.data);
    struct reader_of_keys r = {h, f->habits->arch};
    f->layers = whole(&r, "block_count", 0);
    f->width = whole(&r, "embedding_length", 0);
    f->heads = whole(&r, "attention.head_count", 0);
    f->kv_heads = whole(&r, "attention.head_count_kv", f->heads);
    f->ffn = whole(&r, "feed_forward_length", 0);
    f->trained_context = whole(&r, "context_length", 0);
    f->head_dim = whole(&r, "attention.key_length", f->heads ? f->width / f->heads : 0);
    f->rope_dim = whole(&r, "rope.dimension_count", f->head_dim);
    f->experts = whole(&r, "expert_count", 0);
    f->experts_used = whole(&r, "expert_used_count", 0);
    f->window = whole(&r, "attention.sliding_window", 0);
    f->eps = (float)number(&r, "attention.layer_norm_rms_epsilon", 1e-5);
    f->rope_base = (float)number(&r, "rope.freq_base", 10000);
    f->rope_base_window = (float)number(&r, "rope.freq_base_swa", 10000);
    f->softcap = (float)number(&r, "final_logit_softcapping", 0);
    if (!f->layers || f->layers > LAYERS_MAX || !f->width || !f->heads || !f->kv_heads || !f->ffn ||
        !f->head_dim || f->head_dim % 2 || f->heads % f->kv_heads || f->rope_dim > f->head_dim ||
        f->rope_dim % 2 || f->experts > EXPERTS_MAX || f->experts_used > f->experts ||
        (f->experts && !f->experts_used) || f->width > WIDTH_MAX || f->ffn > WIDTH_MAX ||
        (uint64_t)f->heads * f->head_dim > WIDTH_MAX ||
        whole(&r, "attention.value_length", f->head_dim) != f->head_dim)
        return error_set(err, -EINVAL, "the sizes in the keys of %s contradict each other", r.arch);
    bool large = f->habits->windows && f->layers == GEMMA3_LARGE_LAYERS;
    f->query_scale = 1 / sqrtf((float)(large ? f->width / f->heads : f->head_dim));
    return read_scaling(&r, f, err);
}

/* ---- tensors ---- */

/* Where names are put together, and the first error kept. */
struct finder {
    struct weights *weights;
    uint32_t layer;
    int rc;
    struct error *err;
};

static const float *vector(struct finder *f, const char *name, uint64_t n, bool required)
{
    char full[GGUF_NAME_MAX + 1];
    const float *out = NULL;
    snprintf(full, sizeof full, "blk.%" PRIu32 ".%s", f->layer, name);
    if (!f->rc)
        f->rc = weights_vector(f->weights, full, n, &out, f->err);
    if (!f->rc && required && !out)
        f->rc = error_set(f->err, -EINVAL, "tensor \"%s\" is missing", full);
    return out;
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
    l->attn_norm = vector(f, "attn_norm.weight", k->width, true);
    l->ffn_norm = vector(f, "ffn_norm.weight", k->width, true);
    l->q_bias = vector(f, "attn_q.bias", q, false);
    l->k_bias = vector(f, "attn_k.bias", kv, false);
    l->v_bias = vector(f, "attn_v.bias", kv, false);
    l->o_bias = vector(f, "attn_output.bias", k->width, false);
    l->q_norm = vector(f, "attn_q_norm.weight", k->head_dim, false);
    l->k_norm = vector(f, "attn_k_norm.weight", k->head_dim, false);
    l->attn_post_norm = vector(f, "post_attention_norm.weight", k->width, false);
    l->ffn_post_norm = vector(f, "post_ffw_norm.weight", k->width, false);
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
    return rc ? rc : weights_vector(w, "rope_freqs.weight", f->rope_dim / 2, &f->rope_factors, err);
}

int run_model_open(struct weights *w, struct run_model *m, struct error *err)
{
    *m = (struct run_model){0};
    int rc = read_facts(w, &m->facts, err);
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

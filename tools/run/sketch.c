/* SPDX-License-Identifier: MIT */
#include "tools/run/sketch.h"

#include "codec/config.h"
#include "codec/model.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHTS_MAX ((uint64_t)1 << 56) /* so that their bytes fit 64 bits in any format */

/* ---- sizes ---- */

static int read_size(const struct config *c, const char *key, uint32_t most, uint32_t *out,
                     struct error *err)
{
    int rc = config_u32(c, key, out, err);
    if (!rc && *out > most)
        rc = error_set(err, -EINVAL, "%s %" PRIu32 " is above %" PRIu32, key, *out, most);
    return rc;
}

/* The first of the keys, 0 where none is there or it is null. */
static int read_optional(const struct config *c, const char *const *keys, uint32_t most,
                         uint32_t *out, struct error *err)
{
    *out = 0;
    for (; *keys; keys++) {
        const json_t *v = json_object_get(c->full, *keys);
        if (v && !json_is_null(v) && !(json_is_integer(v) && json_integer_value(v) == 0))
            return read_size(c, *keys, most, out, err);
    }
    return 0;
}

static int read_experts(const struct config *c, struct facts *f, struct error *err)
{
    static const char *const all[] = {"num_local_experts", "num_experts", NULL};
    static const char *const used[] = {"num_experts_per_tok", "num_experts_per_token",
                                       "top_k_experts", NULL};
    int rc = read_optional(c, all, EXPERTS_MAX, &f->experts, err);
    if (rc || !f->experts)
        return rc;
    rc = read_optional(c, used, f->experts, &f->experts_used, err);
    return rc || f->experts_used ? rc : error_set(err, -EINVAL, "%s is missing", used[0]);
}

static int check_heads(const struct facts *f, struct error *err)
{
    if (f->heads % f->kv_heads)
        return error_set(err, -EINVAL,
                         "num_key_value_heads %" PRIu32 " does not divide num_attention_heads"
                         " %" PRIu32,
                         f->kv_heads, f->heads);
    if (f->head_dim % 2)
        return error_set(err, -EINVAL, "head_dim %" PRIu32 " is odd", f->head_dim);
    if ((uint64_t)f->heads * f->head_dim > WIDTH_MAX)
        return error_set(err, -EINVAL, "num_attention_heads of %" PRIu32 " are wider than %d",
                         f->head_dim, WIDTH_MAX);
    return 0;
}

static int read_sizes(const struct config *c, struct facts *f, struct error *err)
{
    static const char *const context[] = {"max_position_embeddings", NULL};
    int rc = read_size(c, "num_hidden_layers", LAYERS_MAX, &f->layers, err);
    rc = rc ? rc : read_size(c, "hidden_size", WIDTH_MAX, &f->width, err);
    rc = rc ? rc : read_size(c, "intermediate_size", WIDTH_MAX, &f->ffn, err);
    rc = rc ? rc : read_size(c, "num_attention_heads", WIDTH_MAX, &f->heads, err);
    rc = rc ? rc : read_size(c, "num_key_value_heads", WIDTH_MAX, &f->kv_heads, err);
    rc = rc ? rc : read_size(c, "vocab_size", UINT32_MAX, &f->vocab, err);
    rc = rc ? rc : config_head_dim(c, &f->head_dim, err);
    rc = rc ? rc : check_heads(f, err);
    rc = rc ? rc : read_optional(c, context, UINT32_MAX, &f->trained_context, err);
    return rc ? rc : read_experts(c, f, err);
}

static int read_architecture(const struct config *c, struct sketch *s, struct error *err)
{
    const char *name = config_architecture(c);
    if (!name)
        return error_set(err, -ENOTSUP, "architectures does not name a class");
    s->arch = arch_by_class(name);
    if (!s->arch)
        return error_set(err, -ENOTSUP, "architectures: %.100s is not known", name);
    int rc = read_sizes(c, &s->facts, err);
    /* transformers' default, which configs leave out */
    const json_t *tied = json_object_get(c->full, "tie_word_embeddings");
    s->tied = tied ? json_is_true(tied) : strcmp(s->arch->gguf, "gemma3") == 0;
    return rc ? rc : model_read_facts(s->arch, c, &s->recipe_facts, err);
}

/* ---- matrices ---- */

enum side { WIDTH, QUERIES, KEYS, FFN, EXPERTS, SIDES };

/* Of a layer, in the file's order: by name. */
struct part {
    const char *name;
    enum side rows, cols;
    bool experts; /* one for each */
};

static const struct part attention[] = {
    {"attn_k",      KEYS,    WIDTH,   false},
    {"attn_output", WIDTH,   QUERIES, false},
    {"attn_q",      QUERIES, WIDTH,   false},
    {"attn_v",      KEYS,    WIDTH,   false},
};
static const struct part dense[] = {
    {"ffn_down", WIDTH, FFN,   false},
    {"ffn_gate", FFN,   WIDTH, false},
    {"ffn_up",   FFN,   WIDTH, false},
};
static const struct part sparse[] = {
    {"ffn_down_exps", WIDTH,   FFN,   true },
    {"ffn_gate_exps", FFN,     WIDTH, true },
    {"ffn_gate_inp",  EXPERTS, WIDTH, false},
    {"ffn_up_exps",   FFN,     WIDTH, true },
};
enum { PARTS_MAX = 8, ENDS = 2 };

static void add_parts(struct sketch *s, uint32_t layer, const struct part *parts, size_t count)
{
    const struct facts *f = &s->facts;
    const uint64_t sides[SIDES] = {
        [WIDTH] = f->width,
        [QUERIES] = (uint64_t)f->heads * f->head_dim,
        [KEYS] = (uint64_t)f->kv_heads * f->head_dim,
        [FFN] = f->ffn,
        [EXPERTS] = f->experts,
    };
    for (size_t i = 0; i < count; i++) {
        struct sketch_tensor *t = &s->tensors[s->count++];
        snprintf(t->name, sizeof t->name, "blk.%" PRIu32 ".%s.weight", layer, parts[i].name);
        t->layer = layer;
        t->rows = sides[parts[i].rows];
        t->cols = sides[parts[i].cols];
        t->experts = parts[i].experts ? f->experts : 0;
    }
}

static void add_end(struct sketch *s, const char *name)
{
    struct sketch_tensor *t = &s->tensors[s->count++];
    *t = (struct sketch_tensor){
        .layer = s->facts.layers, .rows = s->facts.vocab, .cols = s->facts.width};
    strcpy(t->name, name);
}

/* Factors are below 2^32, 2^20 and 2^10. */
static uint64_t weights_of(const struct sketch_tensor *t)
{
    return t->rows * t->cols * (t->experts ? t->experts : 1);
}

static int add_tensors(struct sketch *s, struct error *err)
{
    s->tensors = calloc(ENDS + (size_t)s->facts.layers * PARTS_MAX, sizeof *s->tensors);
    if (!s->tensors)
        return error_set(err, -ENOMEM, "out of memory");
    if (!s->tied)
        add_end(s, "output.weight");
    add_end(s, "token_embd.weight");
    for (uint32_t l = 0; l < s->facts.layers; l++) {
        add_parts(s, l, attention, sizeof attention / sizeof *attention);
        if (s->facts.experts)
            add_parts(s, l, sparse, sizeof sparse / sizeof *sparse);
        else
            add_parts(s, l, dense, sizeof dense / sizeof *dense);
    }
    uint64_t weights = 0;
    for (size_t i = 0; i < s->count && weights <= WEIGHTS_MAX; i++)
        weights += weights_of(&s->tensors[i]);
    return weights <= WEIGHTS_MAX
               ? 0
               : error_set(err, -EINVAL,
                           "num_hidden_layers and the other sizes make a model of"
                           " more than 2^56 weights");
}

int sketch_parse(struct blob file, struct sketch *s, struct error *err)
{
    struct config c;
    *s = (struct sketch){0};
    int rc = config_parse(file, &c, err);
    if (rc)
        return rc;
    rc = read_architecture(&c, s, err);
    rc = rc ? rc : add_tensors(s, err);
    config_free(&c);
    if (rc)
        sketch_free(s);
    return rc;
}

void sketch_free(struct sketch *s)
{
    free(s->tensors);
    *s = (struct sketch){0};
}

/* ---- packed ---- */

static int assign(const struct sketch *s, const struct recipe *recipe,
                  const struct format **formats_of, struct error *err)
{
    struct recipe_tensor *tensors = calloc(s->count, sizeof *tensors);
    if (!tensors)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < s->count; i++) {
        const struct sketch_tensor *t = &s->tensors[i];
        tensors[i] = (struct recipe_tensor){t->name, t->experts > 1 ? 3 : 2, t->cols};
    }
    recipe_assign(recipe, &s->recipe_facts, tensors, s->count, formats_of);
    free(tensors);
    return 0;
}

/* format: NULL for what stays as the converter writes it, which is the routers. */
static struct weight pack(const struct sketch_tensor *t, const struct format *format, double bits)
{
    struct weight m = {.format = format ? format : &formats[FORMAT_F32],
                       .rows = t->rows * (t->experts ? t->experts : 1),
                       .cols = t->cols,
                       .layer = t->layer,
                       .expert = t->experts ? 0 : PIECE_ALWAYS};
    if (format && bits > 0 && strncmp(t->name, "blk.", 4) == 0) {
        m.format = NULL;
        m.units = m.rows;
        m.unit_rows = 1;
        m.unit_size = (uint64_t)ceil((double)t->cols * bits / 8);
    } else {
        weight_set_units(&m); /* cols are below 2^20 */
    }
    return m;
}

/* Those of the layer that tensor `first` begins, but for experts' or only those. */
static size_t pack_kind(const struct sketch *s, size_t first, bool experts,
                        const struct format *const *formats_of, double bits, struct weight *packed)
{
    size_t n = 0;
    for (size_t i = first; i < s->count && s->tensors[i].layer == s->tensors[first].layer; i++)
        if ((s->tensors[i].experts > 0) == experts)
            packed[n++] = pack(&s->tensors[i], formats_of[i], bits);
    return n;
}

int sketch_pack(const struct sketch *s, struct packing p, struct weight *packed, struct error *err)
{
    const struct format **formats_of = calloc(s->count, sizeof *formats_of);
    int rc = formats_of ? assign(s, p.recipe, formats_of, err)
                        : error_set(err, -ENOMEM, "out of memory");
    size_t ends = s->tied ? 1 : 2, n = 0;
    for (size_t i = ends; !rc && i < s->count; i++)
        if (i == ends || s->tensors[i].layer != s->tensors[i - 1].layer) {
            n += pack_kind(s, i, false, formats_of, p.bits, packed + n);
            n += pack_kind(s, i, true, formats_of, p.bits, packed + n);
        }
    for (size_t i = 0; !rc && i < ends; i++)
        packed[n++] = pack(&s->tensors[i], formats_of[i], p.bits);
    free(formats_of);
    return rc;
}

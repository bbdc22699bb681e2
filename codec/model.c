/* SPDX-License-Identifier: MIT */
#include "codec/model.h"

#include "codec/affix.h"
#include "codec/rope.h"
#include "codec/scales.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* ---- tensors that are computed ---- */

static void add_generated(struct model *m, const char *name, const struct rope_factors *factors)
{
    if (factors->count == 0)
        return;
    struct model_tensor *t = &m->tensors[m->count++];
    *t = (struct model_tensor){
        .ndim = 1,
        .ne = {factors->count, 1, 1, 1},
        .generated = factors->values,
        .stored = &formats[FORMAT_F32],
    };
    strcpy(t->name, name);
}

static int add_rope_factors(struct model *m, const struct config *c, struct error *err)
{
    struct rope_factors freqs = {0}, longs = {0}, shorts = {0};
    int rc = m->arch->rope_rows ? rope_llama3_factors(c, &m->arena, &freqs, err) : 0;
    if (!rc && m->arch->rope_factors)
        rc = rope_long_factors(c, &m->arena, &longs, &shorts, err);
    if (rc)
        return rc;
    add_generated(m, "rope_freqs.weight", &freqs);
    add_generated(m, "rope_factors_long.weight", &longs);
    add_generated(m, "rope_factors_short.weight", &shorts);
    return 0;
}

/* ---- tensors ---- */

static int set_shape(struct model_tensor *t, struct error *err)
{
    const struct tensor *source = t->view.tensor;
    uint32_t own = t->view.stack ? 1 : 0; /* the extent that counts the experts */
    if (source->ndim < 1 || source->ndim + own > GGUF_DIMS_MAX || source->elements == 0)
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\" has %" PRIu32 " dimensions and %" PRIu64
                         " elements, which GGUF cannot hold",
                         source->name, source->ndim, source->elements);
    t->ndim = source->ndim + own;
    for (uint32_t d = 0; d < GGUF_DIMS_MAX; d++)
        t->ne[d] = d < source->ndim ? source->shape[source->ndim - 1 - d] : 1;
    if (own)
        t->ne[source->ndim] = t->view.stack_count;
    while (t->ndim > 1 && t->ne[t->ndim - 1] == 1)
        t->ndim--;
    return 0;
}

/* Rows of q and k, weight and bias, go from halves to pairs. */
static int set_rope_rows(struct model *m, struct model_tensor *t, struct error *err)
{
    uint32_t heads = 0;
    if (ends_with(t->view.tensor->name, "q_proj.weight") ||
        ends_with(t->view.tensor->name, "q_proj.bias"))
        heads = m->facts.heads;
    else if (ends_with(t->view.tensor->name, "k_proj.weight") ||
             ends_with(t->view.tensor->name, "k_proj.bias"))
        heads = m->facts.kv_heads;
    if (!heads)
        return 0;
    if (t->view.tensor->ndim == 1) { /* a bias: its elements are rows */
        t->view.rows = t->view.cols;
        t->view.cols = 1;
    }
    if (t->view.rows % (2 * (uint64_t)heads))
        return error_set(err, -EINVAL,
                         "tensor \"%s\": %" PRIu64 " rows cannot be split into pairs for %" PRIu32
                         " heads",
                         t->view.tensor->name, t->view.rows, heads);
    t->view.order = ROWS_TO_PAIRS;
    t->view.heads = heads;
    return 0;
}

/* What the architecture does to a tensor that has its name and shape. */
static int apply_arch(struct model *m, struct model_tensor *t, uint32_t vocab, struct error *err)
{
    if (m->arch->norm_plus_1 && ends_with(t->view.tensor->name, "norm.weight"))
        t->view.add = 1;
    if (m->arch->cuts_embedding && strcmp(t->name, "token_embd.weight") == 0 && t->ndim == 2 &&
        t->view.rows > vocab)
        t->view.rows = t->ne[1] = vocab;
    return m->arch->rope_rows ? set_rope_rows(m, t, err) : 0;
}

/* A tensor of the checkpoint under the name that it has in GGUF; those of experts share one. */
struct part {
    char name[GGUF_NAME_MAX + 1];
    int64_t expert; /* -1: none */
    const struct tensor *source;
};

static int by_name_and_expert(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->expert > y->expert) - (x->expert < y->expert);
}

static int gather_parts(const struct model *m, const struct scales *scales,
                        const struct tensor_list *tensors, struct part *parts, size_t *count,
                        struct error *err)
{
    *count = 0;
    for (size_t i = 0; i < tensors->count; i++) {
        const struct tensor *source = &tensors->items[i];
        if (arch_drops_tensor(m->arch, source->name) || scales_has(scales, source->name))
            continue;
        struct part *p = &parts[(*count)++];
        p->source = source;
        if (!arch_tensor_name(m->arch, source->name, m->facts.layers, p->name, sizeof p->name,
                              &p->expert))
            return error_set(err, -ENOTSUP, "tensor \"%s\" has no name in GGUF's %s",
                             source->name, m->arch->gguf);
        if (!source->dtype->widen)
            return error_set(err, -ENOTSUP,
                             "tensor \"%s\" is stored as %s, which cannot be quantized",
                             source->name, source->dtype->name);
    }
    if (*count)
        qsort(parts, *count, sizeof *parts, by_name_and_expert);
    return 0;
}

/* The matrices of all experts, one behind the other. */
static int stack_experts(struct model *m, struct model_tensor *t, const struct part *parts,
                         size_t count, struct error *err)
{
    const struct tensor *first = parts[0].source;
    const struct tensor **stack = arena_array(&m->arena, count, sizeof *stack);
    if (!stack)
        return error_set(err, -ENOMEM, "out of memory");
    if (count != m->facts.experts)
        return error_set(err, -EINVAL, "there are %zu experts of \"%s\", not %" PRIu32, count,
                         parts[0].name, m->facts.experts);
    for (size_t i = 0; i < count; i++) {
        const struct tensor *source = parts[i].source;
        if (parts[i].expert != (int64_t)i)
            return error_set(err, -EINVAL, "expert %zu of \"%s\" is missing", i, parts[0].name);
        if (source->dtype != first->dtype || source->ndim != first->ndim ||
            memcmp(source->shape, first->shape, first->ndim * sizeof *first->shape) != 0)
            return error_set(err, -EINVAL, "tensor \"%s\" is not like \"%s\"", source->name,
                             first->name);
        stack[i] = source;
    }
    t->view.stack = stack;
    t->view.stack_count = (uint32_t)count;
    t->view.rows *= count;
    t->view.matrices = count;
    return 0;
}

/* Turns the parts that stand under one name into a tensor. */
static int add_tensor(struct model *m, const struct scales *scales,
                      const struct tensor_list *tensors, const struct part *parts, size_t count,
                      uint32_t vocab, struct error *err)
{
    struct model_tensor *t = &m->tensors[m->count];
    *t = (struct model_tensor){.view = view_make(parts[0].source)};
    strcpy(t->name, parts[0].name);
    int rc = parts[0].expert >= 0 ? stack_experts(m, t, parts, count, err)
             : count > 1          ? error_set(err, -EINVAL, "two tensors would be called \"%s\"",
                                              parts[0].name)
                                  : 0;
    rc = rc ? rc : scales_apply(scales, tensors, &t->view, &m->arena, err);
    rc = rc ? rc : set_shape(t, err);
    rc = rc ? rc : apply_arch(m, t, vocab, err);
    m->count += rc == 0;
    return rc;
}

/* The type that the converter writes matrices in: the source's own, or F32 where types mix or
 * where there is no such type in GGUF. */
static const struct format *outtype(const struct model *m)
{
    const struct dtype *common = NULL;
    for (size_t i = 0; i < m->count; i++) {
        const struct tensor *source = m->tensors[i].view.tensor;
        if (!source)
            continue;
        if (common && source->dtype != common)
            return &formats[FORMAT_F32];
        common = source->dtype;
    }
    return common && common->format ? common->format : &formats[FORMAT_F32];
}

static void set_stored_types(struct model *m)
{
    const struct format *matrices = outtype(m);
    for (size_t i = 0; i < m->count; i++) {
        struct model_tensor *t = &m->tensors[i];
        bool matrix = t->view.tensor && t->view.tensor->ndim > 1 && ends_with(t->name, ".weight") &&
                      !ends_with(t->name, "_norm.weight") &&
                      !ends_with(t->name, ".ffn_gate_inp.weight");
        t->stored = matrix ? matrices : &formats[FORMAT_F32];
    }
}

/* Tensors outside the layers come first. */
static long layer_of(const char *name)
{
    return strncmp(name, "blk.", 4) == 0 ? strtol(name + 4, NULL, 10) : -1;
}

static int by_layer_and_name(const void *a, const void *b)
{
    const struct model_tensor *x = a, *y = b;
    long i = layer_of(x->name), j = layer_of(y->name);
    return i != j ? (i < j ? -1 : 1) : strcmp(x->name, y->name);
}

int model_sort(struct model *m, struct error *err)
{
    if (m->count == 0)
        return error_set(err, -EINVAL, "there are no tensors");
    qsort(m->tensors, m->count, sizeof *m->tensors, by_layer_and_name);
    m->parameters = 0;
    for (size_t i = 0; i < m->count; i++) {
        if (i && strcmp(m->tensors[i - 1].name, m->tensors[i].name) == 0)
            return error_set(err, -EINVAL, "two tensors would be called \"%s\"",
                             m->tensors[i].name);
        const uint64_t *ne = m->tensors[i].ne;
        m->parameters += ne[0] * ne[1] * ne[2] * ne[3];
    }
    return 0;
}

static int map_tensors(struct model *m, const struct config *c, const struct tensor_list *tensors,
                       struct error *err)
{
    enum { GENERATED_MAX = 3 };
    size_t count = 0, run;
    uint32_t vocab = UINT32_MAX;
    struct scales scales;
    int rc = scales_of(c, &scales, err);
    if (!rc && m->arch->cuts_embedding)
        rc = config_u32(c, "vocab_size", &vocab, err);
    if (rc)
        return error_prefix(err, rc, "config.json");
    struct part *parts = calloc(tensors->count + 1, sizeof *parts);
    m->tensors = calloc(tensors->count + GENERATED_MAX, sizeof *m->tensors);
    if (!parts || !m->tensors) {
        free(parts);
        return error_set(err, -ENOMEM, "out of memory");
    }
    rc = add_rope_factors(m, c, err);
    rc = rc ? error_prefix(err, rc, "config.json")
            : gather_parts(m, &scales, tensors, parts, &count, err);
    for (size_t i = 0; !rc && i < count; i += run) {
        for (run = 1; i + run < count && strcmp(parts[i].name, parts[i + run].name) == 0;)
            run++;
        rc = add_tensor(m, &scales, tensors, &parts[i], run, vocab, err);
    }
    free(parts);
    if (rc)
        return rc;
    set_stored_types(m);
    return model_sort(m, err);
}

int model_read_facts(const struct arch *arch, const struct config *c, struct recipe_facts *f,
                     struct error *err)
{
    enum { LAYERS_MAX = 1 << 16 };
    static const char *const experts[] = {"num_local_experts", "num_experts", NULL};
    *f = (struct recipe_facts){0};
    int rc = config_u32(c, "num_hidden_layers", &f->layers, err);
    if (!rc && f->layers > LAYERS_MAX)
        rc = error_set(err, -EINVAL, "num_hidden_layers %" PRIu32 " is implausible", f->layers);
    rc = rc ? rc : config_u32(c, "num_attention_heads", &f->heads, err);
    rc = rc ? rc : config_u32(c, "num_key_value_heads", &f->kv_heads, err);
    const json_t *v = config_first(c->full, experts);
    f->experts = json_integer_value(v) > 0 && json_integer_value(v) <= UINT32_MAX
                     ? (uint32_t)json_integer_value(v)
                     : 0;
    f->large = f->layers == 80 && f->experts != 8 &&
               (arch->large == LARGE_ALWAYS ||
                (arch->large == LARGE_WITH_GQA && f->heads != f->kv_heads));
    return rc;
}

int model_map(const struct config *config, const struct tensor_list *tensors, struct model *m,
              struct error *err)
{
    *m = (struct model){0};
    const char *class_name = config_architecture(config);
    if (!class_name)
        return error_set(err, -ENOTSUP, "config.json: architectures does not name a class");
    m->arch = arch_by_class(class_name);
    if (!m->arch)
        return error_set(err, -ENOTSUP, "config.json: architecture %.100s is not known",
                         class_name);
    int rc = model_read_facts(m->arch, config, &m->facts, err);
    rc = rc ? error_prefix(err, rc, "config.json") : map_tensors(m, config, tensors, err);
    if (rc)
        model_free(m);
    return rc;
}

void model_free(struct model *m)
{
    free(m->tensors);
    arena_free(&m->arena);
    *m = (struct model){0};
}

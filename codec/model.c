/* SPDX-License-Identifier: MIT */
#include "codec/model.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* ---- rope factors ---- */

static double rope_number(const json_t *rope, const char *name, double otherwise)
{
    const json_t *v = json_object_get(rope, name);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static float reciprocal(float v) { return 1 / v; }

/* One factor of llama3's frequency scaling. The converter computes it with 32-bit tensors, where
 * a scalar divided by a tensor is the tensor's reciprocal times the scalar; so is it here. */
static float rope_factor(uint32_t j, uint32_t dim, double theta, double factor, double low,
                         double high, double context)
{
    float exponent = (float)j / (float)dim;
    float frequency = reciprocal(powf((float)theta, exponent));
    float wavelength = reciprocal(frequency) * 6.2831855f;
    if (wavelength < (float)(context / high))
        return 1;
    if (wavelength > (float)(context / low))
        return (float)factor;
    float smooth = reciprocal(wavelength) * (float)context;
    smooth = (smooth - (float)low) / (float)(high - low);
    return reciprocal((1 - smooth) / (float)factor + smooth);
}

/* rope_freqs.weight, for configs with rope type "llama3". */
static int add_rope_factors(struct model *m, const struct config *c, struct error *err)
{
    json_t *rope = config_rope(c);
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    int rc = rope ? 0 : error_set(err, -ENOMEM, "out of memory");
    uint32_t dim;
    if (rc || !type || strcasecmp(type, "llama3") != 0)
        goto out;
    rc = config_head_dim(c, &dim, err);
    if (rc)
        goto out;
    if (dim > 1 << 16) {
        rc = error_set(err, -EINVAL, "head_dim %" PRIu32 " is too large", dim);
        goto out;
    }
    float *factors = arena_array(&m->arena, dim / 2 + 1, sizeof *factors);
    if (!factors) {
        rc = error_set(err, -ENOMEM, "out of memory");
        goto out;
    }
    for (uint32_t j = 0; j < dim; j += 2)
        factors[j / 2] = rope_factor(
            j, dim, rope_number(rope, "rope_theta", 10000), rope_number(rope, "factor", 8),
            rope_number(rope, "low_freq_factor", 1), rope_number(rope, "high_freq_factor", 4),
            rope_number(rope, "original_max_position_embeddings", 8192));
    struct model_tensor *t = &m->tensors[m->count++];
    *t = (struct model_tensor){
        .ndim = 1,
        .ne = {(dim + 1) / 2, 1, 1, 1},
        .generated = factors,
        .stored = &formats[FORMAT_F32],
    };
    strcpy(t->name, "rope_freqs.weight");
out:
    json_decref(rope);
    return rc;
}

/* ---- tensors ---- */

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

static int set_shape(struct model_tensor *t, const struct tensor *source, struct error *err)
{
    if (source->ndim < 1 || source->ndim > GGUF_DIMS_MAX || source->elements == 0)
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\" has %" PRIu32 " dimensions and %" PRIu64
                         " elements, which GGUF cannot hold",
                         source->name, source->ndim, source->elements);
    for (uint32_t d = 0; d < GGUF_DIMS_MAX; d++)
        t->ne[d] = d < source->ndim ? source->shape[source->ndim - 1 - d] : 1;
    for (t->ndim = source->ndim; t->ndim > 1 && t->ne[t->ndim - 1] == 1;)
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

static int add_tensor(struct model *m, const struct tensor *source, struct error *err)
{
    struct model_tensor *t = &m->tensors[m->count];
    *t = (struct model_tensor){.view = view_make(source)};
    if (!arch_tensor_name(m->arch, source->name, m->facts.layers, t->name, sizeof t->name))
        return error_set(err, -ENOTSUP, "tensor \"%s\" has no name in GGUF's %s", source->name,
                         m->arch->gguf);
    if (!source->dtype->widen)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is stored as %s, which cannot be quantized",
                         source->name, source->dtype->name);
    int rc = set_shape(t, source, err);
    if (!rc && m->arch->rope_rows)
        rc = set_rope_rows(m, t, err);
    if (!rc)
        m->count++;
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
                      !ends_with(t->name, "_norm.weight");
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
    m->tensors = calloc(tensors->count + 1, sizeof *m->tensors); /* + rope_freqs */
    if (!m->tensors)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = m->arch->rope_rows ? add_rope_factors(m, c, err) : 0;
    if (rc)
        return error_prefix(err, rc, "config.json");
    for (size_t i = 0; i < tensors->count; i++) {
        if (arch_drops_tensor(tensors->items[i].name))
            continue;
        rc = add_tensor(m, &tensors->items[i], err);
        if (rc)
            return rc;
    }
    set_stored_types(m);
    return model_sort(m, err);
}

static int read_facts(struct model *m, const struct config *c, struct error *err)
{
    struct recipe_facts *f = &m->facts;
    int rc = config_u32(c, "num_hidden_layers", &f->layers, err);
    rc = rc ? rc : config_u32(c, "num_attention_heads", &f->heads, err);
    rc = rc ? rc : config_u32(c, "num_key_value_heads", &f->kv_heads, err);
    f->large = !rc && f->layers == 80 && (f->heads != f->kv_heads || !m->arch->large_needs_gqa);
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
    int rc = read_facts(m, config, err);
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

/* SPDX-License-Identifier: MIT */
#include "codec/awq/scales.h"

#include "codec/affix.h"
#include "codec/isa.h"
#include "codec/layer_input.h"
#include "codec/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNSCALED = INPUT_COUNT, NAME_SIZE = 64 };

/* What scales do to the tensors of a layer: by those of which input their columns are multiplied, and
 * their rows divided; rows of a vector are its elements. */
static const struct rule {
    const char *tensor; /* behind "blk.N." */
    int columns, rows;
    bool optional;
} rules[] = {
    {"attn_norm.weight",   UNSCALED,      INPUT_QKV,     false},
    {"attn_q.weight",      INPUT_QKV,     UNSCALED,      false},
    {"attn_k.weight",      INPUT_QKV,     UNSCALED,      false},
    {"attn_v.weight",      INPUT_QKV,     INPUT_O,       false},
    {"attn_v.bias",        UNSCALED,      INPUT_O,       true },
    {"attn_output.weight", INPUT_O,       UNSCALED,      false},
    {"ffn_norm.weight",    UNSCALED,      INPUT_GATE_UP, false},
    {"ffn_gate.weight",    INPUT_GATE_UP, UNSCALED,      false},
    {"ffn_up.weight",      INPUT_GATE_UP, INPUT_DOWN,    false},
    {"ffn_up.bias",        UNSCALED,      INPUT_DOWN,    true },
    {"ffn_down.weight",    INPUT_DOWN,    UNSCALED,      false},
};

enum { RULE_COUNT = sizeof rules / sizeof *rules };

/* ---- the file ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct awq_vector *)a)->name, ((const struct awq_vector *)b)->name);
}

static int take_vector(struct awq_scales *s, const struct tensor *t, struct blob file,
                       struct error *err)
{
    if (strcmp(t->dtype->name, "F32") != 0 || t->ndim != 1)
        return error_set(err, -EINVAL, "\"%s\" is no vector of F32", t->name);
    float *values = arena_array(&s->arena, (size_t)t->elements + 1, sizeof *values);
    const char *name = arena_strdup(&s->arena, t->name);
    if (!values || !name)
        return error_set(err, -ENOMEM, "out of memory");
    memcpy(values, (const char *)file.data + t->offset, (size_t)t->size);
    for (uint64_t i = 0; i < t->elements; i++)
        if (!isfinite(values[i]) || values[i] <= 0)
            return error_set(err, -EINVAL, "\"%s\": scale %" PRIu64 " is no positive number",
                             t->name, i);
    s->vectors[s->count++] = (struct awq_vector){name, values, t->elements};
    return 0;
}

static int list_tensors(struct blob file, struct tensor_list *list, struct error *err)
{
    uint64_t header;
    const char *data = file.data;
    int rc = safetensors_header_size(file.data, file.size, file.size, &header, err);
    return rc ? rc
              : safetensors_parse(data + SAFETENSORS_PREFIX, (size_t)header, file.size, 0, list,
                                  err);
}

int awq_scales_parse(struct blob file, struct awq_scales *s, struct error *err)
{
    struct tensor_list list = {0};
    *s = (struct awq_scales){0};
    int rc = list_tensors(file, &list, err);
    if (!rc) {
        s->vectors = arena_array(&s->arena, list.count + 1, sizeof *s->vectors);
        rc = s->vectors ? 0 : error_set(err, -ENOMEM, "out of memory");
    }
    for (size_t i = 0; !rc && i < list.count; i++)
        if (ends_with(list.items[i].name, ".scale"))
            rc = take_vector(s, &list.items[i], file, err);
    if (!rc && !s->count)
        rc = error_set(err, -EINVAL, "there are no scales in it");
    if (!rc)
        qsort(s->vectors, s->count, sizeof *s->vectors, by_name);
    tensor_list_free(&list);
    if (rc)
        awq_scales_free(s);
    return rc;
}

void awq_scales_free(struct awq_scales *s)
{
    arena_free(&s->arena);
    *s = (struct awq_scales){0};
}

static const struct awq_vector *find(const struct awq_scales *s, uint32_t layer, int input)
{
    char name[NAME_SIZE];
    struct awq_vector key = {.name = name};
    if (input == UNSCALED)
        return NULL;
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.scale", layer, input_names[input].input);
    return bsearch(&key, s->vectors, s->count, sizeof key, by_name);
}

/* ---- whether they fit ---- */

static bool parse_name(const char *name, uint32_t *layer, int *input)
{
    char what[NAME_SIZE];
    int end = 0;
    if (sscanf(name, "blk.%" SCNu32 ".%31[a-z_].scale%n", layer, what, &end) != 2 || name[end])
        return false;
    for (*input = 0; *input < INPUT_COUNT; ++*input)
        if (*input != INPUT_ROUTER && strcmp(input_names[*input].input, what) == 0)
            return end > 0;
    return false;
}

static const struct model_tensor *find_tensor(const struct model *m, const char *name)
{
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->tensors[i].name, name) == 0)
            return &m->tensors[i];
    return NULL;
}

/* One that a vector changes. */
static int check_tensor(const struct awq_vector *v, const struct rule *rule, int input,
                        const struct model *m, const char *name, struct error *err)
{
    const struct model_tensor *t = find_tensor(m, name);
    if (!t)
        return rule->optional ? 0
                              : error_set(err, -EINVAL, "\"%s\": the model has no %s to be scaled",
                                          v->name, name);
    uint64_t extent = t->ne[rule->columns == input || t->ndim == 1 ? 0 : 1];
    if (!t->view.tensor || t->view.stack_count != 1 || t->ndim > 2 || extent != v->count)
        return error_set(err, -EINVAL, "\"%s\" has %" PRIu64 " scales, which do not fit %s",
                         v->name, v->count, name);
    return 0;
}

static int check_vector(const struct awq_vector *v, const struct model *m, struct error *err)
{
    uint32_t layer;
    int input, rc = 0;
    if (!parse_name(v->name, &layer, &input))
        return error_set(err, -EINVAL, "\"%s\": there is no such input", v->name);
    for (int i = 0; !rc && i < RULE_COUNT; i++) {
        char name[NAME_SIZE];
        if (rules[i].columns != input && rules[i].rows != input)
            continue;
        snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", layer, rules[i].tensor);
        rc = check_tensor(v, &rules[i], input, m, name, err);
    }
    return rc;
}

int awq_scales_check(const struct awq_scales *s, const struct model *m, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < s->count; i++)
        rc = check_vector(&s->vectors[i], m, err);
    return rc;
}

/* ---- scaled tensors ---- */

/* Reads weights [first, first + n) of the tensor as it lies in its file, whole blocks of it. */
static int read_blocks(const struct derived *d, const struct isa *isa,
                       const struct derived_reader *r, uint64_t first, size_t n, float *out,
                       struct error *err)
{
    const struct dtype *t = d->parts[0]->dtype;
    size_t size = n / t->block * t->block_size;
    uint8_t *raw = malloc(size);
    int rc = raw ? r->read(r->context, 0, first / t->block * t->block_size, raw, size, err)
                 : error_set(err, -ENOMEM, "out of memory");
    if (!rc)
        (t->format ? isa->decode[t->format - formats] : t->widen)(raw, n, out);
    free(raw);
    return rc;
}

static int read_stored(const struct derived *d, const struct isa *isa,
                       const struct derived_reader *r, uint64_t first, size_t n, float *out,
                       struct error *err)
{
    uint64_t block = d->parts[0]->dtype->block, lead = first % block;
    size_t all = (size_t)((lead + n + block - 1) / block * block);
    if (all == n)
        return read_blocks(d, isa, r, first, n, out, err);
    float *blocks = malloc(all * sizeof *blocks);
    int rc = blocks ? read_blocks(d, isa, r, first - lead, all, blocks, err)
                    : error_set(err, -ENOMEM, "out of memory");
    if (!rc)
        memcpy(out, blocks + lead, n * sizeof *out);
    free(blocks);
    return rc;
}

/* Weights of one row, from a column on. What is stored as its distance from a number is scaled as what it
 * means. */
static void scale_row(const struct derived *d, uint64_t row, uint64_t col, size_t n, float *out)
{
    for (size_t i = 0; d->number != 0 && i < n; i++)
        out[i] += d->number;
    for (size_t i = 0; d->col_scale && i < n; i++)
        out[i] *= d->col_scale[col + i];
    for (size_t i = 0; d->row_scale && i < n; i++)
        out[i] /= d->row_scale[row];
    for (size_t i = 0; d->number != 0 && i < n; i++)
        out[i] -= d->number;
}

static int scaled_weights(const struct derived *d, const struct isa *isa,
                          const struct derived_reader *r, uint64_t first, size_t n, float *out,
                          struct error *err)
{
    int rc = d->base ? d->base->method->weights(d->base, isa, r, first, n, out, err)
                     : read_stored(d, isa, r, first, n, out, err);
    for (size_t done = 0; !rc && done < n;) {
        uint64_t row = (first + done) / d->cols, col = (first + done) % d->cols;
        size_t run = n - done < d->cols - col ? n - done : (size_t)(d->cols - col);
        scale_row(d, row, col, run, out + done);
        done += run;
    }
    return rc;
}

static const struct derived_method awq_method = {"awq", 1, false, scaled_weights};

static const struct rule *rule_of(const char *name, uint32_t *layer)
{
    int end = 0;
    if (sscanf(name, "blk.%" SCNu32 ".%n", layer, &end) != 1 || !end)
        return NULL;
    for (int i = 0; i < RULE_COUNT; i++)
        if (strcmp(name + end, rules[i].tensor) == 0)
            return &rules[i];
    return NULL;
}

/* Parts are those of a tensor that is derived itself, or the tensor. */
static void set_parts(struct derived *d, const struct tensor *t)
{
    d->parts[0] = t;
    d->part_count = 1;
    if (t->derived) {
        memcpy(d->parts, t->derived->parts, sizeof d->parts);
        d->part_count = t->derived->part_count;
        d->base = t->derived;
    }
}

bool awq_scale(const struct awq_scales *s, const struct model_tensor *t, const struct view *view,
               struct awq_scaled *out)
{
    uint32_t layer;
    const struct rule *rule = t ? rule_of(t->name, &layer) : NULL;
    const struct awq_vector *columns = rule ? find(s, layer, rule->columns) : NULL;
    const struct awq_vector *rows = rule ? find(s, layer, rule->rows) : NULL;
    if (!columns && !rows)
        return false;
    const struct tensor *from = view->tensor;
    struct derived *d = &out->derived;
    bool vector = from->ndim == 1;
    *d = (struct derived){.method = &awq_method,
                          .type = dtype_by_name("F32"),
                          .rows = vector ? from->elements : from->shape[0],
                          .cols = vector ? 1 : from->shape[1],
                          .number = t->view.add,
                          .col_scale = columns ? columns->values : NULL,
                          .row_scale = rows ? rows->values : NULL};
    set_parts(d, from);
    out->tensor = *from;
    out->tensor.dtype = d->type;
    out->tensor.derived = d;
    out->view = *view;
    out->view.tensor = &out->tensor;
    return true;
}

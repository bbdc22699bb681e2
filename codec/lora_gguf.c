/* SPDX-License-Identifier: MIT */
#include "codec/lora_gguf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What the adapter has for a tensor of the model. */
struct entry {
    const struct tensor *merged;
    const struct model_tensor *mapped;
    const struct tensor *first; /* of the adapter's tensors, the one that stands first */
};

static int refuse(const struct tensor *t, const char *why, struct error *err)
{
    return error_set(err, -ENOTSUP, "tensor \"%s\": %s", t->name, why);
}

static bool is_added_to(const struct tensor *t)
{
    return t->derived && t->derived->method == &lora_method;
}

static const struct tensor *earlier(const struct tensor *a, const struct tensor *b)
{
    return b->file < a->file || (b->file == a->file && b->offset < a->offset) ? b : a;
}

/* Norms first, then the others, both as they lie in the files. */
static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = is_added_to(x->merged) - is_added_to(y->merged);
    return order                                     ? order
           : x->first == y->first                    ? 0
           : earlier(x->first, y->first) == x->first ? -1
                                                     : 1;
}

static const struct model_tensor *find_mapped(const struct model *m, const struct tensor *t)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct view *v = &m->tensors[i].view;
        for (uint32_t k = 0; v->tensor && k < v->stack_count; k++)
            if ((v->stack ? v->stack[k] : v->tensor) == t)
                return &m->tensors[i];
    }
    return NULL;
}

/* What the converter takes along, by the name; all else that is trained as a whole it refuses. */
static bool is_norm(const struct tensor *t)
{
    return t->ndim == 1 && (strstr(t->name, "_layernorm") || strstr(t->name, ".norm"));
}

static int check(const struct tensor *t, const struct model_tensor *mapped, struct error *err)
{
    if (!is_added_to(t))
        return is_norm(t) && mapped ? 0 : refuse(t, "it is trained as a whole", err);
    if (!mapped)
        return refuse(t, "GGUF has no tensor for it", err);
    const struct view *v = &mapped->view;
    bool embedding = strcmp(mapped->name, "token_embd.weight") == 0;
    if (t->derived->variant & LORA_DORA)
        return refuse(t, "it has magnitudes (DoRA)", err);
    if (v->stack_count > 1)
        return refuse(t, "it is one of several experts", err);
    if (v->first_row || v->rows != t->shape[0] || !view_keeps_values(v) ||
        embedding != ((t->derived->variant & LORA_TRANSPOSED) != 0))
        return refuse(t, "its weights are arranged anew", err);
    return 0;
}

static int find_entries(const struct model *m, const struct tensor_list *merged,
                        uint32_t first_file, struct entry *entries, size_t *count,
                        struct error *err)
{
    int rc = 0;
    bool pairs = false;
    for (size_t i = 0; !rc && i < merged->count; i++) {
        const struct tensor *t = &merged->items[i];
        if (!is_added_to(t) && (t->derived || t->file < first_file))
            continue;
        struct entry *e = &entries[(*count)++];
        *e = (struct entry){t, find_mapped(m, t), t};
        rc = check(t, e->mapped, err);
        if (is_added_to(t)) {
            e->first = earlier(lora_a(t->derived), lora_b(t->derived));
            pairs = true;
        }
    }
    if (!rc && !pairs)
        rc = error_set(err, -ENOTSUP, "it adds to no tensor");
    return rc;
}

/* A or B with a factor, or turned: rows x cols then. */
static const struct tensor *make_factor(struct lora_gguf *l, const struct tensor *t, uint64_t rows,
                                        uint64_t cols, bool turned, float number)
{
    struct derived *d = arena_alloc(&l->arena, sizeof *d);
    struct tensor *out = arena_alloc(&l->arena, sizeof *out);
    uint64_t *shape = arena_array(&l->arena, 2, sizeof *shape);
    if (!d || !out || !shape)
        return NULL;
    *d = (struct derived){.method = &lora_factor_method,
                          .parts = {t},
                          .part_count = 1,
                          .type = dtype_by_name("F32"),
                          .rows = rows,
                          .cols = cols,
                          .variant = turned ? LORA_TRANSPOSED : 0,
                          .number = number};
    shape[0] = rows;
    shape[1] = cols;
    *out = *t;
    out->dtype = d->type;
    out->shape = shape;
    out->size = t->elements * sizeof(float);
    out->derived = d;
    return out;
}

static int add(struct lora_gguf *l, const struct model_tensor *mapped, const char *suffix,
               const struct tensor *t, struct error *err)
{
    struct lora_gguf_tensor *out = &l->tensors[l->count];
    if (!t)
        return error_set(err, -ENOMEM, "out of memory");
    int n = snprintf(out->name, sizeof out->name, "%s%s", mapped->name, suffix);
    if (n < 0 || (size_t)n >= sizeof out->name)
        return refuse(t, "its name in GGUF would be too long", err);
    bool matrix = t->ndim == 2;
    out->ndim = t->ndim;
    out->ne[0] = t->shape[t->ndim - 1];
    out->ne[1] = matrix ? t->shape[0] : 1;
    out->view = matrix ? view_make(t) : mapped->view;
    out->format = &formats[matrix ? FORMAT_F16 : FORMAT_F32];
    l->count++;
    return 0;
}

static int add_pair(struct lora_gguf *l, const struct entry *e, struct error *err)
{
    const struct derived *d = e->merged->derived;
    const struct tensor *a = lora_a(d), *b = lora_b(d);
    bool embedding = d->variant & LORA_TRANSPOSED;
    uint64_t rank = d->rank, rows = embedding ? d->cols : d->rows;
    /* what llama.cpp makes of alpha and rank; of an alpha of 0 it makes 1 */
    double scale = l->alpha != 0 ? l->alpha / (double)rank : 1;
    if (d->number != (float)scale) {
        b = make_factor(l, b, rows, rank, false, (float)(d->number / scale));
        l->folded = true;
    }
    if (embedding)
        a = make_factor(l, a, d->rows, rank, true, 1);
    int rc = add(l, e->mapped, ".lora_a", a, err);
    rc = rc ? rc : add(l, e->mapped, ".lora_b", b, err);
    if (rc)
        return rc;
    if (!embedding) {
        struct view *view = &l->tensors[l->count - 1].view;
        view->order = e->mapped->view.order;
        view->heads = e->mapped->view.heads;
    }
    l->parameters -= (int64_t)(rows * (embedding ? rank : d->cols));
    return 0;
}

int lora_gguf_map(double alpha, const struct model *m, const struct tensor_list *merged,
                  uint32_t first_file, struct lora_gguf *out, struct error *err)
{
    size_t count = 0;
    struct entry *entries = calloc(merged->count + 1, sizeof *entries);
    *out = (struct lora_gguf){.alpha = alpha};
    out->tensors = calloc(2 * merged->count + 1, sizeof *out->tensors);
    int rc = entries && out->tensors ? find_entries(m, merged, first_file, entries, &count, err)
                                     : error_set(err, -ENOMEM, "out of memory");
    if (!rc)
        qsort(entries, count, sizeof *entries, by_place);
    for (size_t i = 0; !rc && i < count; i++) {
        const struct tensor *t = entries[i].merged;
        if (is_added_to(t)) {
            rc = add_pair(out, &entries[i], err);
        } else {
            rc = add(out, entries[i].mapped, "", t, err);
            out->parameters -= (int64_t)t->elements;
        }
    }
    free(entries);
    if (rc)
        lora_gguf_free(out);
    return rc;
}

void lora_gguf_free(struct lora_gguf *l)
{
    free(l->tensors);
    arena_free(&l->arena);
    *l = (struct lora_gguf){0};
}

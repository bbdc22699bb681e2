/* SPDX-License-Identifier: MIT */
#include "tools/run/weights.h"

#include "codec/gguf_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct beneath anywhere = {AT_FDCWD, true};

static int load_tensor(struct weights *w, size_t i, struct error *err)
{
    const struct tensor *t = &w->tensors.items[i];
    struct backend *b = w->backend;
    if (!t->dtype->format)
        return error_set(err, -ENOTSUP, "tensor \"%s\": there is no kernel for %s", t->name,
                         t->dtype->name);
    int rc = b->alloc(b, t->size, &w->memory[i]);
    if (rc)
        return error_set(err, rc, "tensor \"%s\": no memory for %" PRIu64 " bytes", t->name, t->size);
    rc = source_read(w->file, w->memory[i], t->offset, t->size, err);
    if (rc)
        return rc;
    uint64_t cols = t->ndim ? t->shape[t->ndim - 1] : 1;
    w->runs[i] = (struct row_run){w->memory[i], 0, t->elements / cols};
    w->bytes += t->size;
    return 0;
}

static int load(struct weights *w, struct error *err)
{
    int rc = container_read_gguf(w->file, &w->gguf, err);
    rc = rc ? rc : container_list_gguf(w->file, &w->gguf, 0, &w->tensors, err);
    rc = rc ? rc : gguf_vocab_load(&w->gguf.header, &w->vocab, err);
    if (rc)
        return rc;
    w->memory = calloc(w->tensors.count + 1, sizeof *w->memory);
    w->runs = calloc(w->tensors.count + 1, sizeof *w->runs);
    rc = w->memory && w->runs ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < w->tensors.count; i++)
        rc = load_tensor(w, i, err);
    return rc;
}

int weights_open(struct weights *w, const char *path, struct backend *backend, struct error *err)
{
    *w = (struct weights){.backend = backend, .set = source_set_new(1, &w->stats)};
    int rc = w->set ? source_open(w->set, &anywhere, path, &w->file, err)
                    : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : load(w, err);
    if (rc)
        weights_close(w);
    return rc;
}

void weights_close(struct weights *w)
{
    for (size_t i = 0; w->memory && i < w->tensors.count; i++)
        w->backend->free(w->backend, w->memory[i]);
    free(w->memory);
    free(w->runs);
    arena_free(&w->arena);
    tensor_list_free(&w->tensors);
    gguf_vocab_free(&w->vocab);
    container_free_gguf(&w->gguf);
    source_unref(w->file);
    source_set_free(w->set);
    *w = (struct weights){0};
}

/* -1: none */
static long find(const struct weights *w, const char *name)
{
    for (size_t i = 0; i < w->tensors.count; i++)
        if (strcmp(w->tensors.items[i].name, name) == 0)
            return (long)i;
    return -1;
}

int weights_matrix(struct weights *w, const char *name, uint32_t part, struct matrix *out,
                   struct error *err)
{
    long i = find(w, name);
    *out = (struct matrix){0};
    if (i < 0)
        return error_set(err, -ENOENT, "tensor \"%s\" is missing", name);
    const struct tensor *t = &w->tensors.items[i];
    if (t->ndim < 2 || t->ndim > 3 || (t->ndim == 3 ? part >= t->shape[0] : part > 0))
        return error_set(err, -EINVAL, "tensor \"%s\" has %" PRIu32 " dimensions", name, t->ndim);
    uint64_t rows = t->shape[t->ndim - 2], cols = t->shape[t->ndim - 1], row_size;
    struct row_run *run = &w->runs[i];
    if (t->ndim == 3) {
        run = arena_alloc(&w->arena, sizeof *run);
        if (!run || !format_bytes(t->dtype->format, cols, &row_size))
            return error_set(err, -ENOMEM, "out of memory");
        *run = (struct row_run){(uint8_t *)w->memory[i] + part * rows * row_size, 0, rows};
    }
    *out = (struct matrix){t->dtype->format, rows, cols, run, 1};
    return 0;
}

int weights_vector(struct weights *w, const char *name, uint64_t n, const float **out,
                   struct error *err)
{
    long i = find(w, name);
    *out = NULL;
    if (i < 0)
        return 0;
    const struct tensor *t = &w->tensors.items[i];
    if (t->elements != n)
        return error_set(err, -EINVAL, "tensor \"%s\" has %" PRIu64 " elements, not %" PRIu64, name,
                         t->elements, n);
    float *values = arena_array(&w->arena, (size_t)n, sizeof *values);
    if (!values)
        return error_set(err, -ENOMEM, "out of memory");
    t->dtype->widen(w->memory[i], (size_t)n, values);
    *out = values;
    return 0;
}

/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

enum { WEIGHTS = 256 }; /* of a tensor that are widened: a block of any type */

void use_bytes(const void *data, size_t n)
{
    const uint8_t *p = data;
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum ^= p[i];
    __asm__ volatile("" : : "r"(sum)); /* or nothing would be read */
}

void use_text(const char *s) { use_bytes(s, strlen(s)); }

static void encode_and_decode(const float *x, size_t n)
{
    uint8_t blocks[WEIGHTS * sizeof(float)];
    float back[WEIGHTS];
    for (size_t i = 0; i < FORMAT_COUNT; i++) {
        const struct format *f = &formats[i];
        size_t whole = n / f->block * f->block;
        if (!whole)
            continue;
        f->encode(x, 1, whole, NULL, blocks);
        if (format_first_invalid(f, blocks, whole / f->block) == whole / f->block)
            f->decode(blocks, whole, back);
    }
}

/* Whether there were weights that could be encoded. */
static bool use_weights(const struct tensor *t, const uint8_t *data)
{
    float x[WEIGHTS];
    size_t n = t->elements < WEIGHTS ? (size_t)t->elements : WEIGHTS;
    n = n / t->dtype->block * t->dtype->block;
    if (!n || !t->dtype->widen)
        return false;
    t->dtype->widen(data, n, x);
    if (!dtype_finite(t->dtype, data, n) || !dtype_finite(&dtypes[0], x, n))
        return false;
    encode_and_decode(x, n);
    return true;
}

void use_tensors(const struct tensor_list *list, const uint8_t *file, size_t file_size)
{
    bool encoded = false;
    for (size_t i = 0; i < list->count; i++) {
        const struct tensor *t = &list->items[i];
        uint64_t elements = 1, size;
        for (uint32_t d = 0; d < t->ndim; d++)
            elements *= t->shape[d];
        use_text(t->name);
        assert(elements == t->elements);
        assert(dtype_bytes(t->dtype, t->elements, &size) && size == t->size);
        assert(t->offset <= file_size && t->size <= file_size - t->offset);
        use_bytes(file + t->offset, t->size);
        encoded = encoded || use_weights(t, file + t->offset);
        struct view v = view_make(t);
        assert(v.rows * v.cols == t->elements || !t->elements);
    }
}

static void use_view(const struct model_tensor *t)
{
    const struct view *v = &t->view;
    uint64_t rows[] = {0, v->rows / 2, v->rows - 1};
    assert(v->rows && v->cols);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t which;
        uint64_t row = view_source_row(v, rows[i], &which);
        assert(which < v->stack_count);
        assert(row < v->tensor->elements / v->cols);
    }
}

void use_model(const struct model *m)
{
    struct recipe_tensor *tensors = reallocarray(NULL, m->count, sizeof *tensors);
    const struct format **out = reallocarray(NULL, m->count, sizeof *out);
    assert(tensors && out);
    for (size_t i = 0; i < m->count; i++) {
        const struct model_tensor *t = &m->tensors[i];
        use_text(t->name);
        assert(t->ndim <= GGUF_DIMS_MAX && t->ne[0] && t->ne[1] && t->ne[2] && t->ne[3]);
        if (t->view.tensor)
            use_view(t);
        else
            use_bytes(t->generated, t->ne[0] * sizeof(float));
        use_text(t->stored->name);
        tensors[i] = (struct recipe_tensor){t->name, t->ndim, t->ne[0]};
    }
    for (size_t r = 0; r < RECIPE_COUNT; r++) {
        recipe_assign(&recipes[r], &m->facts, tensors, m->count, out);
        for (size_t i = 0; i < m->count; i++)
            assert(!out[i] || out[i]->stripe_bits || tensors[i].cols % out[i]->block == 0);
    }
    free(tensors);
    free(out);
}

void use_keys(const struct gguf_keys *keys)
{
    struct buffer file = {0};
    struct gguf_header h;
    struct error err;
    gguf_add_head(&file, 0, keys->count);
    buffer_add(&file, keys->bytes.data, keys->bytes.size);
    assert(!file.failed);
    int rc = gguf_parse(file.data, file.size, &h, &err);
    assert(rc == 0 && h.key_count == keys->count);
    gguf_header_free(&h);
    buffer_free(&file);
}

/* ---- several files ---- */

static const char marker[] = "--- ";
enum { MARKER = sizeof marker - 1 };

/* Where the next line begins that names a file; end if there is none. */
static const char *next_file(const char *s, const char *end)
{
    while (s < end && !((size_t)(end - s) >= MARKER && memcmp(s, marker, MARKER) == 0)) {
        const char *newline = memchr(s, '\n', (size_t)(end - s));
        s = newline ? newline + 1 : end;
    }
    return s;
}

void files_split(const uint8_t *data, size_t size, struct files *f)
{
    const char *end = (const char *)data + size, *s = next_file((const char *)data, end);
    *f = (struct files){0};
    while (s < end && f->count < sizeof f->items / sizeof *f->items) {
        const char *name = s + MARKER, *newline = memchr(name, '\n', (size_t)(end - name));
        const char *start = newline ? newline + 1 : end;
        s = next_file(start, end);
        size_t n = (size_t)(s - start) - (s > start && s < end); /* the newline is the marker's */
        f->items[f->count].name = strndup(name, (size_t)((newline ? newline : end) - name));
        f->items[f->count].size = n;
        f->items[f->count].data = malloc(n);
        assert(f->items[f->count].name && f->items[f->count].data);
        memcpy(f->items[f->count++].data, start, n);
    }
}

void files_free(struct files *f)
{
    for (size_t i = 0; i < f->count; i++) {
        free(f->items[i].name);
        free(f->items[i].data);
    }
}

int files_get(void *context, const char *name, struct blob *out, struct error *err)
{
    const struct files *f = context;
    (void)err;
    *out = (struct blob){0};
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->items[i].name, name) == 0) {
            *out = (struct blob){f->items[i].data, f->items[i].size};
            break;
        }
    return 0;
}

json_t *files_json(struct files *f, const char *name)
{
    struct blob file;
    json_t *out = NULL;
    files_get(f, name, &file, NULL);
    if (file.data)
        json_parse(file, &out, NULL);
    return out;
}

/* SPDX-License-Identifier: MIT */
#include "codec/imatrix.h"

#include <errno.h>
#include <math.h>

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct imatrix_entry *)a)->name, ((const struct imatrix_entry *)b)->name);
}

const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name)
{
    struct imatrix_entry key = {.name = name};
    return m->count ? bsearch(&key, m->entries, m->count, sizeof key, by_name) : NULL;
}

/* A string of a given length; cut at a NUL, as upstream's C strings are. */
static bool read_text(struct reader *r, int32_t size, struct arena *arena, const char **out)
{
    const uint8_t *p;
    if (size < 0 || !read_bytes(r, (uint64_t)size, &p))
        return false;
    *out = arena_strndup(arena, (const char *)p, (size_t)size);
    return *out != NULL;
}

static int read_entry(struct reader *r, struct imatrix *m, struct imatrix_entry *e,
                      struct error *err)
{
    int32_t name_size, calls, count;
    const uint8_t *data;
    if (!read_i32(r, &name_size) || !read_text(r, name_size, &m->arena, &e->name) ||
        !read_i32(r, &calls) || !read_i32(r, &count) || count < 1 ||
        !read_bytes(r, (uint64_t)count * sizeof(float), &data))
        return error_set(err, -EINVAL, "entry %zu is cut short or invalid", m->count);
    float *weights = arena_array(&m->arena, (size_t)count, sizeof *weights);
    if (!weights)
        return error_set(err, -ENOMEM, "out of memory");
    memcpy(weights, data, (size_t)count * sizeof *weights);
    for (int32_t i = 0; i < count; i++) {
        if (calls > 0)
            weights[i] /= (float)calls;
        if (!isfinite(weights[i]))
            return error_set(err, -EINVAL, "entry %.100s: weight %d is not finite", e->name, i);
    }
    e->weights = weights;
    e->count = (size_t)count;
    e->position = m->count;
    return 0;
}

static int by_name_and_position(const void *a, const void *b)
{
    const struct imatrix_entry *x = a, *y = b;
    int order = by_name(a, b);
    return order ? order : (x->position > y->position) - (x->position < y->position);
}

/* Sorts by name; of several entries for one tensor the last in the file counts. */
static void sort_entries(struct imatrix *m)
{
    qsort(m->entries, m->count, sizeof *m->entries, by_name_and_position);
    size_t kept = 0;
    for (size_t i = 0; i < m->count; i++)
        if (i + 1 == m->count || by_name(&m->entries[i], &m->entries[i + 1]) != 0)
            m->entries[kept++] = m->entries[i];
    m->count = kept;
}

static int parse(struct reader *r, struct imatrix *m, struct error *err)
{
    int32_t count, size;
    if (reader_left(r) >= 4 && memcmp(r->pos, "GGUF", 4) == 0)
        return error_set(err, -ENOTSUP,
                         "this importance matrix is a GGUF file; only the .dat layout is read "
                         "(llama-imatrix --output-format dat)");
    if (!read_i32(r, &count) || count < 1)
        return error_set(err, -EINVAL, "no entries: not an importance matrix");
    size_t capacity = 0;
    for (int32_t i = 0; i < count; i++) {
        if (m->count == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            struct imatrix_entry *grown = reallocarray(m->entries, capacity, sizeof *grown);
            if (!grown)
                return error_set(err, -ENOMEM, "out of memory");
            m->entries = grown;
        }
        int rc = read_entry(r, m, &m->entries[m->count], err);
        if (rc)
            return rc;
        m->count++;
    }
    if (read_i32(r, &m->chunks) && read_i32(r, &size) && size > 0)
        read_text(r, size, &m->arena, &m->dataset);
    sort_entries(m);
    return 0;
}

int imatrix_parse(struct blob file, struct imatrix *m, struct error *err)
{
    struct reader r = reader_make(file.data, file.size);
    *m = (struct imatrix){0};
    int rc = parse(&r, m, err);
    if (rc)
        imatrix_free(m);
    return rc;
}

void imatrix_free(struct imatrix *m)
{
    free(m->entries);
    arena_free(&m->arena);
    *m = (struct imatrix){0};
}

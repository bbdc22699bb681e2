/* SPDX-License-Identifier: MIT */
#include "codec/imatrix.h"

#include "codec/gguf.h"

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

/* The next entry, zeroed, at m->entries[m->count]; NULL when memory is out. */
static struct imatrix_entry *next_entry(struct imatrix *m, size_t *capacity)
{
    if (m->count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 64;
        struct imatrix_entry *grown = reallocarray(m->entries, *capacity, sizeof *grown);
        if (!grown)
            return NULL;
        m->entries = grown;
    }
    m->entries[m->count] = (struct imatrix_entry){.position = m->count};
    return &m->entries[m->count];
}

static int parse_legacy(struct reader *r, struct imatrix *m, struct error *err)
{
    int32_t count, size;
    if (!read_i32(r, &count) || count < 1)
        return error_set(err, -EINVAL, "no entries: not an importance matrix");
    size_t capacity = 0;
    for (int32_t i = 0; i < count; i++) {
        struct imatrix_entry *e = next_entry(m, &capacity);
        int rc = e ? read_entry(r, m, e, err) : error_set(err, -ENOMEM, "out of memory");
        if (rc)
            return rc;
        m->count++;
    }
    if (read_i32(r, &m->chunks) && read_i32(r, &size) && size > 0)
        read_text(r, size, &m->arena, &m->dataset);
    return 0;
}

/* ---- GGUF ---- */

static const char sums_suffix[] = ".in_sum2", counts_suffix[] = ".counts";

/* A tensor of floats: where they lie and how many there are. */
static int get_floats(const struct gguf_tensor_info *t, struct blob file, const uint8_t **out,
                      uint64_t *count, struct error *err)
{
    uint64_t bytes = sizeof(float);
    *count = 1;
    for (uint32_t d = 0; d < t->ndim; d++)
        if (__builtin_mul_overflow(*count, t->ne[d], count))
            *count = UINT64_MAX;
    if (t->ggml_type != formats[FORMAT_F32].ggml_type || !*count ||
        __builtin_mul_overflow(*count, bytes, &bytes) || t->offset > file.size ||
        bytes > file.size - t->offset)
        return error_set(err, -EINVAL, "tensor %.*s is not F32, is empty or is cut short",
                         (int)(t->name.size < 100 ? t->name.size : 100), t->name.data);
    *out = (const uint8_t *)file.data + t->offset;
    return 0;
}

static bool has_suffix(struct gguf_string s, const char *suffix, size_t *stem)
{
    size_t n = strlen(suffix);
    *stem = s.size - n;
    return s.size > n && memcmp(s.data + *stem, suffix, n) == 0;
}

static const struct gguf_tensor_info *find_counts(const struct gguf_header *h,
                                                  struct gguf_string sums, size_t stem)
{
    size_t other;
    for (size_t i = 0; i < h->tensor_count; i++)
        if (has_suffix(h->tensors[i].name, counts_suffix, &other) && other == stem &&
            memcmp(h->tensors[i].name.data, sums.data, stem) == 0)
            return &h->tensors[i];
    return NULL;
}

static int read_sums(const struct gguf_header *h, const struct gguf_tensor_info *sums, size_t stem,
                     struct blob file, struct imatrix *m, struct imatrix_entry *e,
                     struct error *err)
{
    const uint8_t *values = NULL, *calls = NULL;
    uint64_t count, slices;
    const struct gguf_tensor_info *counts = find_counts(h, sums->name, stem);
    e->name = arena_strndup(&m->arena, sums->name.data, stem);
    if (!e->name)
        return error_set(err, -ENOMEM, "out of memory");
    if (!counts)
        return error_set(err, -EINVAL, "entry %.100s has no counts", e->name);
    int rc = get_floats(sums, file, &values, &count, err);
    rc = rc ? rc : get_floats(counts, file, &calls, &slices, err);
    if (rc)
        return rc;
    float *weights = arena_array(&m->arena, (size_t)count, sizeof *weights);
    if (!weights)
        return error_set(err, -ENOMEM, "out of memory");
    if (count % slices)
        return error_set(err, -EINVAL, "entry %.100s: its sums cannot be divided among its counts",
                         e->name);
    memcpy(weights, values, (size_t)count * sizeof *weights);
    for (uint64_t i = 0; i < count; i++) {
        float n;
        memcpy(&n, calls + i / (count / slices) * sizeof n, sizeof n);
        n = fabsf(n) < 0x1p62f ? (float)lroundf(n) : NAN;
        weights[i] = n == 0 ? 1 : weights[i] / n;
        if (!isfinite(weights[i]))
            return error_set(err, -EINVAL, "entry %.100s: weight %llu is not finite", e->name,
                             (unsigned long long)i);
    }
    e->weights = weights;
    e->count = (size_t)count;
    return 0;
}

/* The first dataset that is named, if any. */
static int read_dataset(const struct gguf_value *v, struct imatrix *m, struct error *err)
{
    struct gguf_string first;
    double number;
    struct reader r = reader_make(v->data, v->size);
    if (!v->is_array || v->type != GGUF_STRING)
        return error_set(err, -EINVAL, "imatrix.datasets is no list of texts");
    if (v->count && gguf_next_element(&r, GGUF_STRING, &number, &first)) {
        m->dataset = arena_strndup(&m->arena, first.data, first.size);
        if (!m->dataset)
            return error_set(err, -ENOMEM, "out of memory");
    }
    return 0;
}

static int read_header(const struct gguf_header *h, struct blob file, struct imatrix *m,
                       struct error *err)
{
    const struct gguf_value *datasets = gguf_find(h, "imatrix.datasets"),
                            *chunks = gguf_find(h, "imatrix.chunk_count");
    if (!datasets || !chunks || chunks->is_array || chunks->type != GGUF_U32 ||
        !gguf_find(h, "imatrix.chunk_size"))
        return error_set(err, -EINVAL, "a GGUF file, but not of an importance matrix");
    memcpy(&m->chunks, chunks->data, sizeof m->chunks);
    int rc = read_dataset(datasets, m, err);
    size_t capacity = 0, stem;
    for (size_t i = 0; !rc && i < h->tensor_count; i++) {
        if (!has_suffix(h->tensors[i].name, sums_suffix, &stem))
            continue;
        struct imatrix_entry *e = next_entry(m, &capacity);
        rc = e ? read_sums(h, &h->tensors[i], stem, file, m, e, err)
               : error_set(err, -ENOMEM, "out of memory");
        m->count += !rc;
    }
    if (!rc && !m->count)
        rc = error_set(err, -EINVAL, "no entries: not an importance matrix");
    return rc;
}

static int parse_gguf(struct blob file, struct imatrix *m, struct error *err)
{
    struct gguf_header h;
    int rc = gguf_parse(file.data, file.size, &h, err);
    if (rc)
        return rc == -ENODATA ? -EINVAL : rc;
    rc = read_header(&h, file, m, err);
    gguf_header_free(&h);
    return rc;
}

int imatrix_parse(struct blob file, struct imatrix *m, struct error *err)
{
    struct reader r = reader_make(file.data, file.size);
    *m = (struct imatrix){0};
    int rc = file.size >= 4 && memcmp(file.data, "GGUF", 4) == 0 ? parse_gguf(file, m, err)
                                                                 : parse_legacy(&r, m, err);
    if (rc)
        imatrix_free(m);
    else
        sort_entries(m);
    return rc;
}

void imatrix_free(struct imatrix *m)
{
    free(m->entries);
    arena_free(&m->arena);
    *m = (struct imatrix){0};
}

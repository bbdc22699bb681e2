/* SPDX-License-Identifier: MIT */
#include "codec/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int safetensors_header_size(const uint8_t *start, size_t available, uint64_t file_size,
                            uint64_t *header_size, struct error *err)
{
    struct reader r = reader_make(start, available);
    if (file_size < SAFETENSORS_PREFIX || !read_u64(&r, header_size))
        return error_set(err, -EINVAL, "%" PRIu64 " bytes are too few for a safetensors file",
                         file_size);
    if (*header_size > SAFETENSORS_HEADER_MAX)
        return error_set(err, -EINVAL,
                         "header length %" PRIu64 " is above the format's limit of %d: "
                         "not a safetensors file",
                         *header_size, SAFETENSORS_HEADER_MAX);
    if (*header_size > file_size - SAFETENSORS_PREFIX)
        return error_set(err, -EINVAL,
                         "header of %" PRIu64 " bytes does not fit in a file of %" PRIu64
                         " bytes: truncated",
                         *header_size, file_size);
    return 0;
}

/* A JSON integer that is not negative. */
static bool get_u64(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static int parse_shape(const json_t *shape, struct tensor_list *list, struct tensor *t,
                       struct error *err)
{
    if (!json_is_array(shape))
        return error_set(err, -EINVAL, "tensor \"%s\": shape is not an array", t->name);
    size_t ndim = json_array_size(shape);
    uint64_t *extents = arena_array(&list->arena, ndim + 1, sizeof *extents);
    if (!extents)
        return error_set(err, -ENOMEM, "out of memory");
    t->elements = 1;
    for (size_t i = 0; i < ndim; i++)
        if (!get_u64(json_array_get(shape, i), &extents[i]) ||
            __builtin_mul_overflow(t->elements, extents[i], &t->elements))
            return error_set(err, -EINVAL, "tensor \"%s\": dimension %zu of its shape is invalid",
                             t->name, i);
    t->shape = extents;
    t->ndim = (uint32_t)ndim;
    return 0;
}

static int parse_tensor(const char *name, const json_t *info, uint64_t data_size,
                        struct tensor_list *list, struct tensor *t, struct error *err)
{
    t->name = arena_strdup(&list->arena, name);
    if (!t->name)
        return error_set(err, -ENOMEM, "out of memory");
    const char *dtype = json_string_value(json_object_get(info, "dtype"));
    if (!dtype)
        return error_set(err, -EINVAL, "tensor \"%s\": dtype is missing", name);
    t->dtype = dtype_by_name(dtype);
    if (!t->dtype)
        return error_set(err, -EINVAL, "tensor \"%s\": unknown dtype \"%s\"", name, dtype);
    int rc = parse_shape(json_object_get(info, "shape"), list, t, err);
    if (rc)
        return rc;
    const json_t *offsets = json_object_get(info, "data_offsets");
    uint64_t begin, end, expected;
    if (json_array_size(offsets) != 2 || !get_u64(json_array_get(offsets, 0), &begin) ||
        !get_u64(json_array_get(offsets, 1), &end) || end < begin)
        return error_set(err, -EINVAL, "tensor \"%s\": data_offsets are invalid", name);
    if (end > data_size)
        return error_set(err, -EINVAL,
                         "tensor \"%s\" ends at byte %" PRIu64 " of %" PRIu64
                         " bytes of data: the file is truncated",
                         name, end, data_size);
    if (!dtype_bytes(t->dtype, t->elements, &expected) || expected != end - begin)
        return error_set(err, -EINVAL,
                         "tensor \"%s\": %" PRIu64 " bytes do not match its dtype and shape", name,
                         end - begin);
    t->offset = begin;
    t->size = end - begin;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    /* empty tensors stand before the one that starts at the same byte */
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int parse_header(json_t *header, uint64_t data_size, uint64_t data_start, uint32_t file,
                        struct tensor_list *list, struct error *err)
{
    size_t first = list->count;
    const char *name;
    json_t *info;
    json_object_foreach(header, name, info)
    {
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(info))
                return error_set(err, -EINVAL, "__metadata__ is not an object");
            continue;
        }
        struct tensor *t = tensor_list_add(list);
        if (!t)
            return error_set(err, -ENOMEM, "out of memory");
        int rc = parse_tensor(name, info, data_size, list, t, err);
        if (rc)
            return rc;
        t->file = file;
    }
    size_t count = list->count - first;
    struct tensor *items = count ? list->items + first : NULL;
    if (count)
        qsort(items, count, sizeof *items, by_offset);
    uint64_t expected = 0;
    for (size_t i = 0; i < count; i++) {
        if (items[i].offset != expected)
            return error_set(err, -EINVAL,
                             "tensor \"%s\" starts at byte %" PRIu64 " of the data, not at %" PRIu64
                             ": tensors overlap or leave a hole",
                             items[i].name, items[i].offset, expected);
        expected += items[i].size;
        items[i].offset += data_start;
    }
    if (expected != data_size)
        return error_set(err, -EINVAL,
                         "the tensors cover %" PRIu64 " of %" PRIu64 " bytes of data", expected,
                         data_size);
    return 0;
}

int safetensors_parse(const char *json, size_t size, uint64_t file_size, uint32_t file,
                      struct tensor_list *list, struct error *err)
{
    uint64_t data_start = SAFETENSORS_PREFIX + (uint64_t)size;
    if (data_start > file_size)
        return error_set(err, -EINVAL, "the header is longer than the file");
    json_error_t json_error;
    json_t *header = json_loadb(json, size, JSON_REJECT_DUPLICATES, &json_error);
    if (!header)
        return error_set(err, -EINVAL, "header, byte %d: %s", json_error.position,
                         json_error.text);
    int rc = json_is_object(header)
                 ? parse_header(header, file_size - data_start, data_start, file, list, err)
                 : error_set(err, -EINVAL, "the header is not a JSON object");
    json_decref(header);
    return rc;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A path that stays in its folder. */
static bool is_inside(const char *path)
{
    if (*path == '/' || *path == '\0')
        return false;
    for (const char *s = path; *s;) {
        size_t n = strcspn(s, "/");
        if (n == 2 && s[0] == '.' && s[1] == '.')
            return false;
        s += n + (s[n] == '/');
    }
    return true;
}

static int parse_weight_map(json_t *map, struct safetensors_index *index, struct error *err)
{
    size_t n = json_object_size(map), kept = 0;
    const char *name;
    json_t *shard;
    index->tensors = arena_array(&index->arena, n + 1, sizeof *index->tensors);
    index->shards = arena_array(&index->arena, n + 1, sizeof *index->shards);
    if (!index->tensors || !index->shards)
        return error_set(err, -ENOMEM, "out of memory");
    json_object_foreach(map, name, shard)
    {
        const char *path = json_string_value(shard);
        if (!path || !is_inside(path))
            return error_set(err, -EINVAL, "the shard of tensor \"%.100s\" is no file beside the "
                                           "index",
                             name);
        index->tensors[index->tensor_count] = arena_strdup(&index->arena, name);
        index->shards[index->shard_count] = arena_strdup(&index->arena, path);
        if (!index->tensors[index->tensor_count++] || !index->shards[index->shard_count++])
            return error_set(err, -ENOMEM, "out of memory");
    }
    qsort(index->tensors, n, sizeof *index->tensors, by_text);
    qsort(index->shards, n, sizeof *index->shards, by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(index->shards[i], index->shards[kept - 1]) != 0)
            index->shards[kept++] = index->shards[i];
    index->shard_count = kept;
    return 0;
}

int safetensors_index_parse(const char *json, size_t size, struct safetensors_index *index,
                            struct error *err)
{
    json_error_t e;
    *index = (struct safetensors_index){0};
    json_t *root = json_loadb(json, size, 0, &e);
    if (!root)
        return error_set(err, -EINVAL, "line %d, column %d: %s", e.line, e.column, e.text);
    json_t *map = json_object_get(root, "weight_map");
    int rc = json_object_size(map) ? parse_weight_map(map, index, err)
                                   : error_set(err, -EINVAL, "weight_map is missing");
    json_decref(root);
    if (rc)
        safetensors_index_free(index);
    return rc;
}

void safetensors_index_free(struct safetensors_index *index)
{
    arena_free(&index->arena);
    *index = (struct safetensors_index){0};
}

/* ---- writing ---- */

int safetensors_begin(struct safetensors_writer *w, struct error *err)
{
    *w = (struct safetensors_writer){.header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt")};
    return w->header ? 0 : error_set(err, -ENOMEM, "out of memory");
}

int safetensors_note(struct safetensors_writer *w, const char *key, const char *text,
                     struct error *err)
{
    return json_object_set_new(json_object_get(w->header, "__metadata__"), key, json_string(text))
               ? error_set(err, -ENOMEM, "out of memory")
               : 0;
}

int safetensors_add(struct safetensors_writer *w, const char *name, const char *dtype,
                    const uint64_t *shape, uint32_t ndim, uint64_t size, struct error *err)
{
    json_t *extents = json_array();
    for (uint32_t d = 0; d < ndim; d++)
        json_array_append_new(extents, json_integer((json_int_t)shape[d]));
    json_t *info = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", extents, "data_offsets",
                             (json_int_t)w->end, (json_int_t)(w->end + size));
    w->end += size;
    if (json_array_size(extents) != ndim || json_object_set_new(w->header, name, info))
        return error_set(err, -ENOMEM, "out of memory");
    return 0;
}

int safetensors_end(struct safetensors_writer *w, struct buffer *out, struct error *err)
{
    char *text = out ? json_dumps(w->header, JSON_COMPACT) : NULL;
    json_decref(w->header);
    w->header = NULL;
    if (!out)
        return 0;
    size_t n = text ? strlen(text) : 0, padding = -n & 7;
    buffer_add_u64(out, n + padding);
    buffer_add(out, text, n);
    buffer_add(out, "        ", padding);
    free(text);
    return n && !out->failed ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* SPDX-License-Identifier: MIT */
#include "codec/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* ---- writing ---- */

void gguf_add_string(struct buffer *b, const char *s, size_t n)
{
    buffer_add_u64(b, n);
    buffer_add(b, s, n);
}

static void put_key(struct gguf_keys *k, const char *key, enum gguf_type type)
{
    gguf_add_string(&k->bytes, key, strlen(key));
    buffer_add_u32(&k->bytes, type);
    k->count++;
}

void gguf_put_u32(struct gguf_keys *k, const char *key, uint32_t v)
{
    put_key(k, key, GGUF_U32);
    buffer_add_u32(&k->bytes, v);
}

void gguf_put_i32(struct gguf_keys *k, const char *key, int32_t v)
{
    put_key(k, key, GGUF_I32);
    buffer_add(&k->bytes, &v, sizeof v);
}

void gguf_put_f32(struct gguf_keys *k, const char *key, float v)
{
    put_key(k, key, GGUF_F32);
    buffer_add(&k->bytes, &v, sizeof v);
}

void gguf_put_bool(struct gguf_keys *k, const char *key, bool v)
{
    put_key(k, key, GGUF_BOOL);
    buffer_add(&k->bytes, &(uint8_t){v}, 1);
}

void gguf_put_string_n(struct gguf_keys *k, const char *key, const char *v, size_t n)
{
    if (n == 0)
        return;
    put_key(k, key, GGUF_STRING);
    gguf_add_string(&k->bytes, v, n);
}

void gguf_put_string(struct gguf_keys *k, const char *key, const char *v)
{
    gguf_put_string_n(k, key, v, strlen(v));
}

void gguf_put_array(struct gguf_keys *k, const char *key, enum gguf_type type, uint64_t count)
{
    put_key(k, key, GGUF_ARRAY);
    buffer_add_u32(&k->bytes, type);
    buffer_add_u64(&k->bytes, count);
}

void gguf_add_head(struct buffer *b, uint64_t tensor_count, uint64_t key_count)
{
    buffer_add(b, "GGUF", 4);
    buffer_add_u32(b, GGUF_VERSION);
    buffer_add_u64(b, tensor_count);
    buffer_add_u64(b, key_count);
}

void gguf_add_tensor_info(struct buffer *b, const char *name, uint32_t ndim, const uint64_t *ne,
                          uint32_t ggml_type, uint64_t offset)
{
    gguf_add_string(b, name, strlen(name));
    buffer_add_u32(b, ndim);
    for (uint32_t i = 0; i < ndim; i++)
        buffer_add_u64(b, ne[i]);
    buffer_add_u32(b, ggml_type);
    buffer_add_u64(b, offset);
}

/* ---- reading ---- */

/* Bytes of one element; 0 for strings and arrays, which have no fixed size. */
static const struct {
    const char *name;
    uint8_t size;
} types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},         [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},       [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1},     [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},       [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

const char *gguf_type_name(enum gguf_type type)
{
    return type < GGUF_TYPE_COUNT ? types[type].name : "?";
}

static bool read_string(struct reader *r, struct gguf_string *s)
{
    uint64_t n;
    const uint8_t *p;
    if (!read_u64(r, &n) || !read_bytes(r, n, &p))
        return false;
    *s = (struct gguf_string){(const char *)p, (size_t)n};
    return true;
}

bool gguf_next_element(struct reader *r, enum gguf_type type, double *number,
                       struct gguf_string *string)
{
    *number = 0;
    *string = (struct gguf_string){0};
    if (type == GGUF_STRING)
        return read_string(r, string);
    const uint8_t *p;
    if (type >= GGUF_TYPE_COUNT || !types[type].size || !read_bytes(r, types[type].size, &p))
        return false;
    int64_t i = 0;
    float f;
    memcpy(&i, p, types[type].size);
    switch (type) {
    case GGUF_I8: *number = (int8_t)i; break;
    case GGUF_I16: *number = (int16_t)i; break;
    case GGUF_I32: *number = (int32_t)i; break;
    case GGUF_I64: *number = (double)i; break;
    case GGUF_F32: memcpy(&f, p, sizeof f), *number = f; break;
    case GGUF_F64: memcpy(number, p, sizeof *number); break;
    default: *number = (double)(uint64_t)i; break;
    }
    return true;
}

static bool read_value(struct reader *r, struct gguf_value *v, bool *invalid)
{
    uint32_t type;
    if (!read_u32(r, &type))
        return false;
    v->is_array = type == GGUF_ARRAY;
    v->count = 1;
    if (v->is_array && (!read_u32(r, &type) || !read_u64(r, &v->count)))
        return false;
    if (type >= GGUF_TYPE_COUNT || type == GGUF_ARRAY) {
        *invalid = true; /* unknown, or an array of arrays, which no reader accepts */
        return false;
    }
    v->type = (enum gguf_type)type;
    v->data = r->pos;
    if (types[type].size) {
        uint64_t bytes;
        const uint8_t *p;
        if (__builtin_mul_overflow(v->count, (uint64_t)types[type].size, &bytes) ||
            !read_bytes(r, bytes, &p))
            return false;
    } else {
        struct gguf_string s;
        for (uint64_t i = 0; i < v->count; i++)
            if (!read_string(r, &s))
                return false;
    }
    v->size = (size_t)(r->pos - v->data);
    return true;
}

/* Room for one more; grows by doubling, so memory follows what was really read. */
static void *grow(void *items, size_t count, size_t size)
{
    if (count & (count - 1))
        return items;
    return reallocarray(items, count ? 2 * count : 1, size);
}

bool gguf_string_is(struct gguf_string s, const char *text)
{
    return s.size == strlen(text) && memcmp(s.data, text, s.size) == 0;
}

const struct gguf_value *gguf_find(const struct gguf_header *h, const char *key)
{
    for (size_t i = 0; i < h->key_count; i++)
        if (gguf_string_is(h->keys[i].name, key))
            return &h->keys[i].value;
    return NULL;
}

bool gguf_find_number(const struct gguf_header *h, const char *key, double *out)
{
    struct gguf_string text;
    const struct gguf_value *v = gguf_find(h, key);
    if (!v || v->is_array || v->type == GGUF_STRING)
        return false;
    struct reader r = reader_make(v->data, v->size);
    return gguf_next_element(&r, v->type, out, &text);
}

bool gguf_find_text(const struct gguf_header *h, const char *key, struct gguf_string *out)
{
    double number;
    const struct gguf_value *v = gguf_find(h, key);
    if (!v || v->is_array || v->type != GGUF_STRING)
        return false;
    struct reader r = reader_make(v->data, v->size);
    return gguf_next_element(&r, GGUF_STRING, &number, out);
}

static int read_alignment(struct gguf_header *h, struct error *err)
{
    const struct gguf_value *v = gguf_find(h, "general.alignment");
    h->alignment = GGUF_ALIGNMENT;
    if (!v)
        return 0;
    if (v->is_array || v->type != GGUF_U32)
        return error_set(err, -EINVAL, "general.alignment is not a u32");
    memcpy(&h->alignment, v->data, sizeof h->alignment);
    if (!h->alignment || h->alignment & (h->alignment - 1))
        return error_set(err, -EINVAL, "general.alignment %" PRIu32 " is not a power of two",
                         h->alignment);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct gguf_string *x = *(const struct gguf_string *const *)a,
                             *y = *(const struct gguf_string *const *)b;
    size_t n = x->size < y->size ? x->size : y->size;
    int order = n ? memcmp(x->data, y->data, n) : 0;
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

/* Names must be unique: `first` is that of the first of count items of `size` bytes each. */
static int check_unique(const struct gguf_string *first, size_t count, size_t size,
                        const char *what, struct error *err)
{
    const struct gguf_string **names = reallocarray(NULL, count + 1, sizeof *names);
    int rc = names ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; names && i < count; i++)
        names[i] = (const struct gguf_string *)((const char *)first + i * size);
    if (names)
        qsort(names, count, sizeof *names, by_name);
    for (size_t i = 1; !rc && i < count; i++)
        if (by_name(&names[i - 1], &names[i]) == 0)
            rc = error_set(err, -EINVAL, "%s %.*s is there twice", what,
                           (int)(names[i]->size < 100 ? names[i]->size : 100), names[i]->data);
    free(names);
    return rc;
}

static int read_tensor_info(struct reader *r, size_t index, struct gguf_tensor_info *t,
                            struct error *err)
{
    if (!read_string(r, &t->name) || !read_u32(r, &t->ndim))
        return -ENODATA;
    if (t->ndim > GGUF_DIMS_MAX)
        return error_set(err, -EINVAL, "tensor %zu has %" PRIu32 " dimensions", index, t->ndim);
    for (uint32_t d = 0; d < GGUF_DIMS_MAX; d++)
        t->ne[d] = 1;
    for (uint32_t d = 0; d < t->ndim; d++)
        if (!read_u64(r, &t->ne[d]))
            return -ENODATA;
    if (!read_u32(r, &t->ggml_type) || !read_u64(r, &t->offset))
        return -ENODATA;
    return 0;
}

static int parse(struct reader *r, const uint8_t *start, struct gguf_header *h, struct error *err)
{
    const uint8_t *magic;
    uint64_t tensor_count, key_count;
    if (!read_bytes(r, 4, &magic) || !read_u32(r, &h->version) || !read_u64(r, &tensor_count) ||
        !read_u64(r, &key_count))
        return -ENODATA;
    if (memcmp(magic, "GGUF", 4) != 0)
        return error_set(err, -EINVAL, "no GGUF magic");
    if (h->version < 2 || h->version > 3)
        return error_set(err, -EINVAL, "GGUF version %" PRIu32 " is not supported", h->version);
    for (uint64_t i = 0; i < key_count; i++) {
        struct gguf_key *keys = grow(h->keys, h->key_count, sizeof *keys);
        if (!keys)
            return error_set(err, -ENOMEM, "out of memory");
        h->keys = keys;
        struct gguf_key *k = &keys[i];
        bool invalid = false;
        k->raw = r->pos;
        if (!read_string(r, &k->name))
            return -ENODATA;
        if (!read_value(r, &k->value, &invalid))
            return invalid ? error_set(err, -EINVAL, "key %.*s has an invalid type",
                                       (int)(k->name.size < 100 ? k->name.size : 100),
                                       k->name.data)
                           : -ENODATA;
        k->raw_size = (size_t)(r->pos - k->raw);
        h->key_count++;
    }
    for (uint64_t i = 0; i < tensor_count; i++) {
        struct gguf_tensor_info *tensors = grow(h->tensors, h->tensor_count, sizeof *tensors);
        if (!tensors)
            return error_set(err, -ENOMEM, "out of memory");
        h->tensors = tensors;
        int rc = read_tensor_info(r, (size_t)i, &tensors[i], err);
        if (rc)
            return rc;
        h->tensor_count++;
    }
    int rc = check_unique(h->keys ? &h->keys->name : NULL, h->key_count, sizeof *h->keys, "key", err);
    rc = rc ? rc : check_unique(h->tensors ? &h->tensors->name : NULL, h->tensor_count,
                                sizeof *h->tensors, "tensor", err);
    rc = rc ? rc : read_alignment(h, err);
    if (rc)
        return rc;
    uint64_t end = (uint64_t)(r->pos - start);
    h->data_offset = (end + h->alignment - 1) & ~(uint64_t)(h->alignment - 1);
    for (size_t i = 0; i < h->tensor_count; i++)
        if (__builtin_add_overflow(h->tensors[i].offset, h->data_offset, &h->tensors[i].offset))
            return error_set(err, -EINVAL, "tensor %zu has an impossible offset", i);
    return 0;
}

int gguf_parse(const uint8_t *data, size_t size, struct gguf_header *h, struct error *err)
{
    struct reader r = reader_make(data, size);
    *h = (struct gguf_header){0};
    int rc = parse(&r, data, h, err);
    if (rc == -ENODATA)
        error_set(err, rc, "the header runs past the end of the file");
    if (rc)
        gguf_header_free(h);
    return rc;
}

void gguf_header_free(struct gguf_header *h)
{
    free(h->keys);
    free(h->tensors);
    *h = (struct gguf_header){0};
}

/* Five decimal digits. */
static bool read_split_number(const char *s, unsigned *out)
{
    if (strspn(s, "0123456789") < 5)
        return false;
    *out = 0;
    for (int i = 0; i < 5; i++)
        *out = *out * 10 + (unsigned)(s[i] - '0');
    return true;
}

bool gguf_split_parse(const char *file, size_t *stem, unsigned *number, unsigned *count)
{
    static const char pattern[] = "-00001-of-00003.gguf";
    size_t n = strlen(file), tail = sizeof pattern - 1;
    const char *end = n > tail ? file + n - tail : NULL;
    if (!end || *end != '-' || memcmp(end + 6, "-of-", 4) != 0 ||
        memcmp(end + 15, ".gguf", 5) != 0 || !read_split_number(end + 1, number) ||
        !read_split_number(end + 10, count) || *number < 1 || *number > *count)
        return false;
    *stem = n - tail;
    return true;
}

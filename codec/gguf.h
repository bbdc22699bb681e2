/* SPDX-License-Identifier: MIT
 *
 * GGUF, versions 2 and 3: the bytes of metadata as the writers upstream lay them out, and a reader
 * of headers that trusts nothing.
 *
 * A file is: magic, u32 version, u64 tensor count, u64 key count; the keys (string, u32 type,
 * value); the tensor infos (string, u32 ndim, u64 extents fastest first, u32 type, u64 offset);
 * zeros to the alignment; the data, each tensor padded to the alignment.
 */
#ifndef CODEC_GGUF_H
#define CODEC_GGUF_H

#include "codec/arena.h"
#include "codec/bytes.h"
#include "codec/error.h"
#include "codec/format.h"

enum {
    GGUF_VERSION = 3,
    GGUF_HEAD_SIZE = 24, /* magic, version and the two counts */
    GGUF_ALIGNMENT = 32,
    GGUF_DIMS_MAX = 4,
    GGUF_NAME_MAX = 63, /* bytes of a tensor name */
};

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};

/* ---- writing ---- */

/* Keys in the order they are put. `bytes.failed` tells, once, whether memory ran out. */
struct gguf_keys {
    struct buffer bytes;
    uint64_t count;
};

void gguf_put_u32(struct gguf_keys *k, const char *key, uint32_t v);
void gguf_put_i32(struct gguf_keys *k, const char *key, int32_t v);
void gguf_put_f32(struct gguf_keys *k, const char *key, float v);
void gguf_put_bool(struct gguf_keys *k, const char *key, bool v);
/* An empty string is not written: the Python writer leaves it out. */
void gguf_put_string(struct gguf_keys *k, const char *key, const char *v);
void gguf_put_string_n(struct gguf_keys *k, const char *key, const char *v, size_t n);
/* Opens an array of count elements; the caller appends them (gguf_add_string, buffer_add). */
void gguf_put_array(struct gguf_keys *k, const char *key, enum gguf_type type, uint64_t count);

/* Appends a string: u64 length and bytes. */
void gguf_add_string(struct buffer *b, const char *s, size_t n);

/* The first 24 bytes of a file. */
void gguf_add_head(struct buffer *b, uint64_t tensor_count, uint64_t key_count);

/* One tensor info. offset counts from the start of the data. */
void gguf_add_tensor_info(struct buffer *b, const char *name, uint32_t ndim, const uint64_t *ne,
                          uint32_t ggml_type, uint64_t offset);

/* n rounded up to the alignment. */
static inline uint64_t gguf_pad(uint64_t n)
{
    return (n + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
}

/* ---- reading ---- */

struct gguf_string {
    const char *data; /* in the header's bytes, not terminated */
    size_t size;
};

struct gguf_value {
    enum gguf_type type;         /* of the value, or of an array's elements */
    bool is_array;
    uint64_t count;              /* elements of an array, else 1 */
    const uint8_t *data;         /* the elements' bytes */
    size_t size;                 /* of all of them */
};

struct gguf_key {
    struct gguf_string name;
    struct gguf_value value;
    const uint8_t *raw; /* name, type and value as they lie in the file */
    size_t raw_size;
};

struct gguf_tensor_info {
    struct gguf_string name;
    uint32_t ndim;
    uint64_t ne[GGUF_DIMS_MAX]; /* 1 beyond ndim */
    uint32_t ggml_type;
    uint64_t offset; /* from the start of the file */
};

struct gguf_header {
    uint32_t version, alignment;
    uint64_t data_offset;
    struct gguf_key *keys;
    struct gguf_tensor_info *tensors;
    size_t key_count, tensor_count;
};

/* Parses the header at the start of `size` bytes. Strings and values point into data. Keys and
 * tensor names are unique. Free with gguf_header_free. -ENODATA: the header runs past `size`, give
 * more bytes (or the file is truncated); -EINVAL: no valid GGUF; -ENOMEM. */
int gguf_parse(const uint8_t *data, size_t size, struct gguf_header *h, struct error *err);
void gguf_header_free(struct gguf_header *h);

const struct gguf_value *gguf_find(const struct gguf_header *h, const char *key);

/* The number that a key has; false where it is missing, a text or an array. */
bool gguf_find_number(const struct gguf_header *h, const char *key, double *out);

/* The text that a key has; false where it is missing or something else. */
bool gguf_find_text(const struct gguf_header *h, const char *key, struct gguf_string *out);

/* Whether a string is this text. */
bool gguf_string_is(struct gguf_string s, const char *text);

/* Steps over one element and describes it: numbers as a double, strings as bytes. */
bool gguf_next_element(struct reader *r, enum gguf_type type, double *number,
                       struct gguf_string *string);

/* The parts of a split file's name, "STEM-00001-of-00003.gguf": the length of the stem, which part
 * it is (from 1) and of how many. False for other names. */
bool gguf_split_parse(const char *file, size_t *stem, unsigned *number, unsigned *count);

/* The name of a value type, or "?" */
const char *gguf_type_name(enum gguf_type type);

#endif

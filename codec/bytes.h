/* SPDX-License-Identifier: MIT
 *
 * Little-endian bytes: loads and stores, the bounded reader that every parser uses, and a growing
 * buffer for what is written. The reader never steps past its end: a failed read leaves it where
 * it was and returns false, so a parser cannot read what is not there.
 */
#ifndef CODEC_BYTES_H
#define CODEC_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the file formats are little-endian and are read in place");

/* A piece of somebody else's memory. data == NULL: absent (a file that is not there). */
struct blob {
    const void *data;
    size_t size;
};

struct reader {
    const uint8_t *pos, *end;
};

static inline struct reader reader_make(const void *data, size_t size)
{
    const uint8_t *p = data;
    return (struct reader){p, p ? p + size : p};
}

static inline size_t reader_left(const struct reader *r) { return (size_t)(r->end - r->pos); }

/* Points *out at the next n bytes and steps over them. */
static inline bool read_bytes(struct reader *r, uint64_t n, const uint8_t **out)
{
    if (n > reader_left(r))
        return false;
    *out = r->pos;
    r->pos += n;
    return true;
}

static inline bool read_copy(struct reader *r, void *out, size_t n)
{
    const uint8_t *p;
    if (!read_bytes(r, n, &p))
        return false;
    memcpy(out, p, n);
    return true;
}

static inline bool read_u32(struct reader *r, uint32_t *v) { return read_copy(r, v, sizeof *v); }
static inline bool read_i32(struct reader *r, int32_t *v) { return read_copy(r, v, sizeof *v); }
static inline bool read_u64(struct reader *r, uint64_t *v) { return read_copy(r, v, sizeof *v); }

static inline uint16_t load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store_u16(void *p, uint16_t v) { memcpy(p, &v, sizeof v); }

static inline uint32_t load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* FNV-1a: for tables in memory, where a hash is no proof of anything. */
#define HASH_START 0xcbf29ce484222325u

static inline uint64_t hash_bytes(uint64_t hash, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (uint8_t)s[i]) * 0x100000001b3u;
    return hash;
}

/* A growing byte buffer. Appending to one that once failed to grow does nothing; so the writer
 * checks `failed` once, at the end. Zero-initialise; free with buffer_free. */
struct buffer {
    uint8_t *data;
    size_t size, capacity;
    bool failed;
};

static inline void *buffer_extend(struct buffer *b, size_t n)
{
    if (b->failed)
        return NULL;
    if (n > b->capacity - b->size) {
        size_t want, grown = b->capacity + b->capacity / 2 + 256;
        if (__builtin_add_overflow(b->size, n, &want)) {
            b->failed = true;
            return NULL;
        }
        if (grown < want)
            grown = want;
        uint8_t *p = realloc(b->data, grown);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->data = p;
        b->capacity = grown;
    }
    uint8_t *p = b->data + b->size;
    b->size += n;
    return p;
}

static inline void buffer_add(struct buffer *b, const void *data, size_t n)
{
    void *p = n ? buffer_extend(b, n) : NULL;
    if (p)
        memcpy(p, data, n);
}

static inline void buffer_add_u32(struct buffer *b, uint32_t v) { buffer_add(b, &v, sizeof v); }
static inline void buffer_add_u64(struct buffer *b, uint64_t v) { buffer_add(b, &v, sizeof v); }

static inline void buffer_free(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

#endif

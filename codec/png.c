/* SPDX-License-Identifier: MIT */
#include "codec/png.h"

#include <string.h>
#include <zlib.h>

enum {
    BLOCK_MAX = 65535,   /* bytes of a stored block */
    BLOCK_HEAD = 5,      /* whether it is the last, and its length in two ways */
    STREAM_ENDS = 2 + 4, /* zlib's header and Adler-32 */
    CHUNK = 12,          /* length, type, CRC-32 */
    IHDR = 13,
    DEPTH = 8,   /* bits of a pixel */
    INDEXED = 3, /* colour type */
};

static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
static const char keyword[] = "Comment"; /* with its NUL, as in the file */

/* Filter types and pixels. */
static size_t raw_size(const struct png *p) { return (size_t)p->height * (p->width + 1); }

static size_t stream_size(const struct png *p)
{
    size_t raw = raw_size(p);
    return STREAM_ENDS + raw + (raw + BLOCK_MAX - 1) / BLOCK_MAX * BLOCK_HEAD;
}

size_t png_size(const struct png *p)
{
    return sizeof signature + CHUNK + IHDR + CHUNK + 3 * p->colours + CHUNK + sizeof keyword +
           strlen(p->comment) + CHUNK + stream_size(p) + CHUNK;
}

static uint8_t *put_u32(uint8_t *out, uint32_t v)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        *out++ = (uint8_t)(v >> shift);
    return out;
}

/* A chunk's data is written between these two. */
static uint8_t *begin_chunk(uint8_t *out, const char *type, size_t size)
{
    out = put_u32(out, (uint32_t)size);
    memcpy(out, type, 4);
    return out + 4;
}

static uint8_t *end_chunk(uint8_t *end, size_t size)
{
    return put_u32(end, (uint32_t)crc32(0, end - size - 4, (uInt)size + 4));
}

static uint8_t *put_chunk(uint8_t *out, const char *type, const void *data, size_t size)
{
    out = begin_chunk(out, type, size);
    memcpy(out, data, size);
    return end_chunk(out + size, size);
}

static uint8_t *put_head(const struct png *p, uint8_t *out)
{
    uint8_t head[IHDR] = {[8] = DEPTH, [9] = INDEXED};
    put_u32(put_u32(head, p->width), p->height);
    return put_chunk(out, "IHDR", head, sizeof head);
}

static uint8_t *put_comment(const struct png *p, uint8_t *out)
{
    size_t size = sizeof keyword + strlen(p->comment);
    out = begin_chunk(out, "tEXt", size);
    memcpy(out, keyword, sizeof keyword);
    memcpy(out + sizeof keyword, p->comment, size - sizeof keyword);
    return end_chunk(out + size, size);
}

/* A stream of which `left` bytes are to come, cut into blocks. */
struct stored {
    uint8_t *out;
    size_t left, block; /* block: of these, the bytes of the one that is open */
    uLong adler;
};

static void put_stored(struct stored *s, const uint8_t *data, size_t n)
{
    s->adler = adler32(s->adler, data, (uInt)n);
    while (n) {
        if (!s->block) {
            s->block = s->left < BLOCK_MAX ? s->left : BLOCK_MAX;
            unsigned length = (unsigned)s->block, not_length = ~length;
            const uint8_t head[BLOCK_HEAD] = {s->block == s->left, (uint8_t)length,
                                              (uint8_t)(length >> 8), (uint8_t)not_length,
                                              (uint8_t)(not_length >> 8)};
            memcpy(s->out, head, sizeof head);
            s->out += sizeof head;
        }
        size_t run = n < s->block ? n : s->block;
        memcpy(s->out, data, run);
        s->out += run;
        s->block -= run;
        s->left -= run;
        data += run;
        n -= run;
    }
}

static uint8_t *put_pixels(const struct png *p, const uint8_t *pixels, uint8_t *out)
{
    static const uint8_t zlib_head[2] = {0x78, 0x01}, no_filter = 0;
    out = begin_chunk(out, "IDAT", stream_size(p));
    memcpy(out, zlib_head, sizeof zlib_head);
    struct stored s = {out + sizeof zlib_head, raw_size(p), 0, adler32(0, NULL, 0)};
    for (size_t row = 0; row < p->height; row++) {
        put_stored(&s, &no_filter, 1);
        put_stored(&s, pixels + row * p->width, p->width);
    }
    return end_chunk(put_u32(s.out, (uint32_t)s.adler), stream_size(p));
}

void png_write(const struct png *p, const uint8_t *pixels, uint8_t *out)
{
    memcpy(out, signature, sizeof signature);
    out = put_head(p, out + sizeof signature);
    out = put_chunk(out, "PLTE", p->palette, 3 * p->colours);
    out = put_comment(p, out);
    out = put_pixels(p, pixels, out);
    put_chunk(out, "IEND", "", 0);
}

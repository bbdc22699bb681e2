/* SPDX-License-Identifier: MIT */
#include "fs/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct bytes *bytes_new(const void *data, size_t n)
{
    struct bytes *b = malloc(sizeof *b + n);
    if (b) {
        b->refs = 1;
        b->size = n;
        memcpy(b->data, data, n);
    }
    return b;
}

struct bytes *bytes_ref(struct bytes *b)
{
    b->refs++;
    return b;
}

void bytes_unref(struct bytes *b)
{
    if (b && --b->refs == 0)
        free(b);
}

struct image *image_new(void)
{
    struct image *image = calloc(1, sizeof *image);
    if (image)
        image->refs = 1;
    return image;
}

struct image *image_ref(struct image *image)
{
    image->refs++;
    return image;
}

void image_unref(struct image *image)
{
    if (!image || --image->refs)
        return;
    for (size_t i = 0; i < image->count; i++) {
        struct segment *s = &image->segments[i];
        switch (s->kind) {
        case SEGMENT_BYTES: bytes_unref(s->bytes); break;
        case SEGMENT_FILE: source_unref(s->source); break;
        case SEGMENT_TENSOR: encoding_unref(s->encoding); break;
        case SEGMENT_ZEROS: break;
        }
    }
    free(image->segments);
    free(image);
}

static struct segment *add(struct image *image, enum segment_kind kind, uint64_t from,
                           uint64_t length)
{
    if (image->failed || length == 0)
        return NULL;
    if (image->count == image->capacity) {
        size_t capacity = image->capacity ? 2 * image->capacity : 8;
        struct segment *segments = reallocarray(image->segments, capacity, sizeof *segments);
        if (!segments) {
            image->failed = true;
            return NULL;
        }
        image->segments = segments;
        image->capacity = capacity;
    }
    struct segment *s = &image->segments[image->count++];
    *s = (struct segment){
        .offset = image->size, .length = length, .from = from, .kind = kind};
    image->size += length;
    return s;
}

void image_add_bytes(struct image *image, struct bytes *bytes, uint64_t from, uint64_t length)
{
    struct segment *s = add(image, SEGMENT_BYTES, from, length);
    if (s)
        s->bytes = bytes_ref(bytes);
}

void image_add_zeros(struct image *image, uint64_t length)
{
    add(image, SEGMENT_ZEROS, 0, length);
}

void image_add_file(struct image *image, struct source *source, uint64_t from, uint64_t length)
{
    struct segment *s = add(image, SEGMENT_FILE, from, length);
    if (s)
        s->source = source_ref(source);
}

void image_add_tensor(struct image *image, struct encoding *encoding)
{
    struct segment *s = add(image, SEGMENT_TENSOR, 0, encoding->size);
    if (s)
        s->encoding = encoding_ref(encoding);
}

size_t image_footprint(const struct image *image)
{
    return sizeof *image + image->capacity * (sizeof *image->segments + sizeof(struct encoding));
}

/* The segment that holds a byte of the image. */
static const struct segment *find(const struct image *image, uint64_t offset)
{
    size_t lo = 0, hi = image->count;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (image->segments[mid].offset <= offset)
            lo = mid;
        else
            hi = mid;
    }
    return &image->segments[lo];
}

/* Copies bytes [at, at + n) of an encoding, tile by tile. */
static int read_tensor(struct encoding *e, struct tiles *tiles, uint64_t at, size_t n,
                       enum job_class class, uint8_t *buf, struct error *err)
{
    while (n) {
        uint64_t index = at / e->tile_size, skip = at % e->tile_size;
        size_t run = encoding_tile_size(e, index) - (size_t)skip;
        if (run > n)
            run = n;
        struct tile *tile;
        int rc = tile_get(tiles, e, index, class, &tile, err);
        if (rc)
            return rc;
        memcpy(buf, tile_data(tile) + skip, run);
        tile_put(tiles, tile, (uint32_t)run);
        at += run;
        buf += run;
        n -= run;
    }
    return 0;
}

int image_read(const struct image *image, struct tiles *tiles, uint64_t offset, size_t size,
               bool urgent, uint8_t *buf, size_t *done, struct error *err)
{
    *done = 0;
    if (offset >= image->size)
        return 0;
    if (size > image->size - offset)
        size = (size_t)(image->size - offset);
    for (const struct segment *s = find(image, offset); *done < size; s++) {
        uint64_t at = offset + *done - s->offset;
        size_t n = size - *done;
        if (n > s->length - at)
            n = (size_t)(s->length - at);
        int rc = 0;
        switch (s->kind) {
        case SEGMENT_BYTES: memcpy(buf + *done, s->bytes->data + s->from + at, n); break;
        case SEGMENT_ZEROS: memset(buf + *done, 0, n); break;
        case SEGMENT_FILE: rc = source_read(s->source, buf + *done, s->from + at, n, err); break;
        case SEGMENT_TENSOR:
            rc = read_tensor(s->encoding, tiles, at, n, urgent ? JOB_URGENT : JOB_DEMAND,
                             buf + *done, err);
            break;
        }
        if (rc)
            return rc;
        *done += n;
    }
    return 0;
}

/* Starts on the tiles of bytes [at, end) of an encoding; false when there is no room for more. */
static bool prefetch_tensor(struct encoding *e, struct tiles *tiles, uint64_t at, uint64_t end,
                            const void *owner)
{
    for (uint64_t index = at / e->tile_size; index * e->tile_size < end; index++)
        if (!tile_prefetch(tiles, e, index, owner))
            return false;
    return true;
}

void image_prefetch(const struct image *image, struct tiles *tiles, struct stream *stream,
                    uint64_t offset, size_t size)
{
    uint64_t from, to;
    if (!stream_advance(stream, offset, size, &from, &to))
        return;
    if (to > image->size)
        to = image->size;
    for (const struct segment *s = from < to ? find(image, from) : NULL;
         s && s < image->segments + image->count && s->offset < to; s++) {
        if (s->kind != SEGMENT_TENSOR)
            continue;
        uint64_t at = from > s->offset ? from - s->offset : 0;
        uint64_t end = to - s->offset < s->length ? to - s->offset : s->length;
        if (!prefetch_tensor(s->encoding, tiles, at, end, stream)) {
            stream_cut(stream, s->offset + at);
            return;
        }
    }
}

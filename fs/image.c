/* SPDX-License-Identifier: MIT */
#include "fs/image.h"

#include "daemon/mean.h"

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
        case SEGMENT_TENSOR:
        case SEGMENT_REPACKED: encoding_unref(s->encoding); break;
        case SEGMENT_MADE: made_unref(s->made); break;
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

static struct repack_matrix matrix_of(const struct encoding *e, enum format_id type)
{
    return (struct repack_matrix){
        .format = e->format,
        .rows = e->view.rows,
        .cols = e->view.cols,
        .order = e->factors && *e->factors ? (*e->factors)->order : NULL,
        .type = type,
    };
}

void image_add_repacked(struct image *image, struct encoding *encoding, const struct repack *repack,
                        enum format_id type)
{
    const struct repack_matrix matrix = matrix_of(encoding, type);
    struct segment *s = add(image, SEGMENT_REPACKED, 0, repack_size(repack, &matrix));
    if (s) {
        s->encoding = encoding_ref(encoding);
        s->repack = repack;
        s->type = type;
    }
}

void image_add_made(struct image *image, struct made *made)
{
    struct segment *s = add(image, SEGMENT_MADE, 0, made->size);
    if (s)
        s->made = made_ref(made);
}

int image_finish(struct image *image, int rc, struct image **out, struct error *err)
{
    if (!rc && image->failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc)
        image_unref(image);
    else
        *out = image;
    return rc;
}

static bool lacks_factor(const struct encoding *e)
{
    for (uint64_t i = 0; e->factors && i < e->view.matrices; i++)
        if (!e->factors[i])
            return true;
    return false;
}

bool image_lacks_factor(const struct image *image)
{
    for (size_t i = 0; i < image->count; i++) {
        const struct segment *s = &image->segments[i];
        if ((s->kind == SEGMENT_TENSOR || s->kind == SEGMENT_REPACKED) && lacks_factor(s->encoding))
            return true;
    }
    return false;
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

/* ---- reading ---- */

static void let_go(struct tiles *tiles, const struct piece *p)
{
    if (p->tile)
        tile_put(tiles, p->tile, (uint32_t)p->size);
}

void reading_end(struct tiles *tiles, struct reading *r)
{
    for (size_t i = 0; i < r->count; i++)
        let_go(tiles, &r->pieces[i]);
    r->count = r->size = 0;
}

/* Copies all pieces to their places in the buffer, where they are one, and holds no tile any more. */
static void settle(struct tiles *tiles, struct reading *r)
{
    size_t at = 0;
    for (size_t i = 0; i < r->count; i++) {
        if (r->pieces[i].data != r->buf + at)
            memcpy(r->buf + at, r->pieces[i].data, r->pieces[i].size);
        at += r->pieces[i].size;
        let_go(tiles, &r->pieces[i]);
    }
    r->pieces[0] = (struct piece){r->buf, at, NULL};
    r->count = at > 0;
}

static void add_piece(struct tiles *tiles, struct reading *r, const uint8_t *data, size_t n,
                      struct tile *tile)
{
    if (r->count == READING_PIECES)
        settle(tiles, r);
    r->pieces[r->count++] = (struct piece){data, n, tile};
    r->size += n;
}

/* Bytes [at, at + n) of an encoding, tile by tile. */
static int map_tensor(struct encoding *e, struct tiles *tiles, uint64_t at, size_t n,
                      enum job_class class, struct reading *r, struct error *err)
{
    while (n) {
        uint64_t index = at / e->tile_size, skip = at % e->tile_size;
        size_t run = encoding_tile_size(e, index) - (size_t)skip;
        if (run > n)
            run = n;
        struct tile *tile = tile_take(tiles, e, index);
        if (!tile) {
            settle(tiles, r); /* nobody waits with a tile in hand */
            int rc = tile_get(tiles, e, index, class, &tile, err);
            if (rc)
                return rc;
        }
        add_piece(tiles, r, tile_data(tile) + skip, run, tile);
        at += run;
        n -= run;
    }
    return 0;
}

/* What a tile, the part [start, start + size) of the canonical bytes, has of the units that are
 * needed goes into the window. Tiles hold whole units, but for the last one of all. */
static int put_tile(const struct segment *s, const struct repack_matrix *matrix,
                    struct repack_units need, uint64_t start, size_t size, const uint8_t *data,
                    const struct repack_window *w, struct error *err)
{
    size_t unit = repack_unit_size(matrix);
    uint64_t first = start / unit, end = first + (size - 1) / unit + 1;
    struct repack_units run = {first > need.first ? first : need.first, 0};
    run.count = (end < need.first + need.count ? end : need.first + need.count) - run.first;
    int rc = s->repack->put(matrix, data + (run.first - first) * unit, run, w, err);
    return rc ? error_prefix(err, rc, "tensor \"%s\"", s->encoding->name) : 0;
}

/* Bytes [at, at + n) of a repacked tensor, into their place in the buffer. One tile is held at a time.
 * None of its bytes count as taken: the kernel did not get them, and other windows need them again. */
static int map_repacked(const struct segment *s, struct tiles *tiles, uint64_t at, size_t n,
                        enum job_class class, struct reading *r, struct error *err)
{
    struct encoding *e = s->encoding;
    struct repack_matrix matrix = matrix_of(e, s->type);
    const struct repack_window w = {r->buf + r->size, at, n};
    if (s->repack->mean) {
        settle(tiles, r); /* nobody waits with a tile in hand */
        int rc = mean_get(tiles, e, class, &matrix.mean, err);
        if (rc)
            return rc;
    }
    if (!s->repack->need)
        return s->repack->put(&matrix, NULL, (struct repack_units){0, 0}, &w, err);
    struct repack_units need = s->repack->need(&matrix, at, n);
    size_t unit = repack_unit_size(&matrix);
    uint64_t end = (need.first + need.count) * unit;
    int rc = 0;
    settle(tiles, r); /* as above */
    for (uint64_t i = need.first * unit / e->tile_size; !rc && i * e->tile_size < end; i++) {
        struct tile *tile;
        rc = tile_get(tiles, e, i, class, &tile, err);
        if (rc)
            return rc;
        rc = put_tile(s, &matrix, need, i * e->tile_size, encoding_tile_size(e, i), tile_data(tile),
                      &w, err);
        tile_put(tiles, tile, 0);
    }
    return rc;
}

static int map_made(struct made *m, struct tiles *tiles, uint64_t at, size_t n, struct reading *r,
                    struct error *err)
{
    const uint8_t *data;
    settle(tiles, r); /* as above */
    int rc = made_get(m, tiles, &data, err);
    if (!rc)
        add_piece(tiles, r, data + at, n, NULL);
    return rc;
}

static int map_segment(const struct segment *s, struct tiles *tiles, uint64_t at, size_t n,
                       enum job_class class, struct reading *r, struct error *err)
{
    uint8_t *own = r->buf + r->size; /* its place in the buffer */
    int rc = 0;
    switch (s->kind) {
    case SEGMENT_TENSOR: return map_tensor(s->encoding, tiles, at, n, class, r, err);
    case SEGMENT_MADE: return map_made(s->made, tiles, at, n, r, err);
    case SEGMENT_BYTES:
        add_piece(tiles, r, s->bytes->data + s->from + at, n, NULL);
        return 0;
    case SEGMENT_ZEROS: memset(own, 0, n); break;
    case SEGMENT_FILE: rc = source_read(s->source, own, s->from + at, n, err); break;
    case SEGMENT_REPACKED: rc = map_repacked(s, tiles, at, n, class, r, err); break;
    }
    if (!rc)
        add_piece(tiles, r, own, n, NULL);
    return rc;
}

int image_map(const struct image *image, struct tiles *tiles, uint64_t offset, size_t size,
              bool urgent, uint8_t *buf, struct reading *r, struct error *err)
{
    r->buf = buf;
    r->count = r->size = 0;
    if (offset >= image->size)
        return 0;
    if (size > image->size - offset)
        size = (size_t)(image->size - offset);
    for (const struct segment *s = find(image, offset); r->size < size; s++) {
        uint64_t at = offset + r->size - s->offset;
        size_t n = size - r->size;
        if (n > s->length - at)
            n = (size_t)(s->length - at);
        int rc = map_segment(s, tiles, at, n, urgent ? JOB_URGENT : JOB_DEMAND, r, err);
        if (rc) {
            reading_end(tiles, r);
            return rc;
        }
    }
    return 0;
}

int image_read(const struct image *image, struct tiles *tiles, uint64_t offset, size_t size,
               bool urgent, uint8_t *buf, size_t *done, struct error *err)
{
    struct reading r;
    int rc = image_map(image, tiles, offset, size, urgent, buf, &r, err);
    *done = r.size;
    if (!rc)
        settle(tiles, &r);
    return rc;
}

/* ---- ahead of the reader ---- */

/* Starts on the tiles of bytes [at, end) of an encoding; false when there is no room for more. */
static bool prefetch_tensor(struct encoding *e, struct tiles *tiles, uint64_t at, uint64_t end,
                            const void *owner)
{
    for (uint64_t index = at / e->tile_size; index * e->tile_size < end; index++)
        if (!tile_prefetch(tiles, e, index, owner))
            return false;
    return true;
}

/* Likewise, of bytes [at, end) of what a segment shows. */
static bool prefetch_segment(const struct segment *s, struct tiles *tiles, uint64_t at,
                             uint64_t end, const void *owner)
{
    if (s->kind == SEGMENT_TENSOR)
        return prefetch_tensor(s->encoding, tiles, at, end, owner);
    if (s->kind != SEGMENT_REPACKED || !s->repack->need || at == end)
        return true;
    const struct repack_matrix matrix = matrix_of(s->encoding, s->type);
    struct repack_units need = s->repack->need(&matrix, at, (size_t)(end - at));
    size_t unit = repack_unit_size(&matrix);
    return prefetch_tensor(s->encoding, tiles, need.first * unit, (need.first + need.count) * unit,
                           owner);
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
        uint64_t at = from > s->offset ? from - s->offset : 0;
        uint64_t end = to - s->offset < s->length ? to - s->offset : s->length;
        if (!prefetch_segment(s, tiles, at, end, stream)) {
            stream_cut(stream, s->offset + at);
            return;
        }
    }
}

/* SPDX-License-Identifier: MIT
 *
 * A virtual file: a size and a sorted list of segments without holes, each of which says where its
 * bytes come from. Once made it never changes; it is counted and holds what its segments refer to.
 */
#ifndef FS_IMAGE_H
#define FS_IMAGE_H

#include "codec/repack.h"
#include "daemon/stream.h"
#include "daemon/tile.h"
#include "fs/made.h"

/* Bytes that several images share. */
struct bytes {
    _Atomic unsigned refs;
    size_t size;
    uint8_t data[];
};

/* A copy of n bytes with one reference, or NULL. */
struct bytes *bytes_new(const void *data, size_t n);
struct bytes *bytes_ref(struct bytes *b);
void bytes_unref(struct bytes *b);

enum segment_kind {
    SEGMENT_BYTES,    /* out of memory */
    SEGMENT_ZEROS,    /* padding */
    SEGMENT_FILE,     /* a source file as it is */
    SEGMENT_TENSOR,   /* tiles of an encoding, from its first byte on */
    SEGMENT_REPACKED, /* made of tiles of an encoding when it is read, and kept nowhere */
    SEGMENT_MADE,     /* what is made when it is first read, from its first byte on */
};

struct segment {
    uint64_t offset, length; /* in the image */
    uint64_t from;           /* BYTES, FILE: where in the object the segment begins */
    enum segment_kind kind;
    const struct repack *repack; /* REPACKED */
    enum format_id type;         /* likewise, of the floats that a loader makes of it */
    union {
        struct bytes *bytes;
        struct source *source;
        struct encoding *encoding; /* TENSOR, REPACKED */
        struct made *made;
    };
};

struct image {
    _Atomic unsigned refs;
    uint64_t size;
    struct segment *segments;
    size_t count, capacity;
    bool failed; /* memory ran out while it was made */
};

/* An empty image with one reference, or NULL. */
struct image *image_new(void);
struct image *image_ref(struct image *image);
void image_unref(struct image *image);

/* Append a segment; each takes a reference of its own. Errors are kept in image->failed. Segments
 * of no length are left out. */
void image_add_bytes(struct image *image, struct bytes *bytes, uint64_t from, uint64_t length);
void image_add_zeros(struct image *image, uint64_t length);
void image_add_file(struct image *image, struct source *source, uint64_t from, uint64_t length);
void image_add_tensor(struct image *image, struct encoding *encoding);
void image_add_repacked(struct image *image, struct encoding *encoding, const struct repack *repack,
                        enum format_id type);
void image_add_made(struct image *image, struct made *made);

/* Hands a finished image over, or lets go of one (or NULL) whose making failed with rc or ran out of
 * memory; returns rc, or -ENOMEM with a sentence. */
int image_finish(struct image *image, int rc, struct image **out, struct error *err);

/* Whether something in it looks at the inputs of a matrix, and nothing is known of these. */
bool image_lacks_factor(const struct image *image);

/* What the image itself takes in memory, without the bytes it shares. */
size_t image_footprint(const struct image *image);

/* The bytes of a range, in pieces that lie in the buffer, in the image, or in tiles that are held. */
enum { READING_PIECES = 8 };

struct piece {
    const uint8_t *data;
    size_t size;
    struct tile *tile; /* held; NULL: none */
};

struct reading {
    uint8_t *buf; /* the caller's: room for the whole range */
    struct piece pieces[READING_PIECES];
    size_t count, size; /* size: bytes of all pieces */
};

/* Maps [offset, offset + size), cut at the end of the image, to pieces. All of them are right, or
 * the result is an error with its sentence and there is nothing to be ended. urgent: before what
 * else is being read. */
int image_map(const struct image *image, struct tiles *tiles, uint64_t offset, size_t size,
              bool urgent, uint8_t *buf, struct reading *r, struct error *err);

/* Lets go of the tiles. */
void reading_end(struct tiles *tiles, struct reading *r);

/* As image_map, all of it copied into buf; *done becomes the bytes read. */
int image_read(const struct image *image, struct tiles *tiles, uint64_t offset, size_t size,
               bool urgent, uint8_t *buf, size_t *done, struct error *err);

/* Notes a read in the stream and starts on the tiles that it will want next. */
void image_prefetch(const struct image *image, struct tiles *tiles, struct stream *stream,
                    uint64_t offset, size_t size);

#endif

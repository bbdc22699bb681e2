/* SPDX-License-Identifier: MIT
 *
 * An encoding is all that decides a run of packed bytes: a view of source tensors, a format, and
 * what is known of its inputs. Its bytes are cut into tiles, runs of whole rows, which are made,
 * cached and forgotten one by one.
 *
 * Geometry. A tile has about 1 MiB, at least 256 KiB where the tensor has that much, at most
 * 2 MiB; a multiple of 4 KiB where the row size allows it, so that raw tiles lie end to end on
 * disk. A row longer than a tile is cut between blocks, unless its format needs whole rows. Where a
 * format has stripes, a tile is a run of these; every matrix of a view begins with one of its own.
 */
#ifndef DAEMON_ENCODING_H
#define DAEMON_ENCODING_H

#include "codec/derived.h"
#include "codec/isa.h"
#include "codec/spqr/format.h"
#include "codec/view.h"
#include "daemon/calibration.h"
#include "daemon/factor.h"
#include "daemon/pool.h"
#include "daemon/source.h"

enum {
    TILE_TARGET = 1 << 20,
    TILE_MAX = 2 << 20,
    TILE_ALIGNMENT = 4096,
    PART_WEIGHTS = 1 << 16, /* how finely a tile is split over the workers */
    PART_WEIGHTS_ACROSS = 1 << 19, /* of rows that are cheaper together */
    KEY_SIZE = 32,          /* SHA-256 */
};

/* Where a source tensor's bytes begin. */
struct encoding_input {
    struct source *source;
    uint64_t offset;
};

struct encoding {
    _Atomic unsigned refs;
    const struct format *format;
    struct spqr_layout stripes; /* of a format that has them */
    const struct dtype *dtype;
    struct view view;                /* its tensors are not kept: see inputs */
    const struct dtype *scale_dtype; /* of the view's scales, which are the last inputs; or NULL */
    /* Of a format that takes them, one for each of view.matrices: NULL where nothing is known of
     * the inputs. Else NULL. */
    struct factor **factors;
    struct calibration *calibration;
    const float *importance; /* view.matrices * view.cols weights in the calibration, or NULL */
    char *name;              /* the tensor's, for messages */
    bool cached;             /* worth a place in the tile cache */
    uint8_t key[KEY_SIZE];   /* SHA-256 over all that decides the bytes, without paths */
    uint64_t size;           /* packed bytes in all */
    uint64_t weights;        /* elements in all; in stripes with the rows that pad them */
    uint64_t tile_weights;   /* of every tile but the last */
    uint32_t tile_size;      /* bytes, likewise */
    uint64_t tile_count;
    uint64_t part_weights;
    uint32_t input_count;
    /* Of a view whose tensors are derived, one for each of them, whose parts are inputs from here on;
     * else NULL. */
    struct derived *derived;
    uint32_t *derived_parts;
    void *derived_kept; /* what these refer to */
    /* One for each of the view's tensors, or for each part of each of them; then for each scale. */
    struct encoding_input inputs[];
};

/* sources: by a tensor's file number. factors: one for each of view->matrices, each NULL where nothing
 * is known of the inputs of that matrix; NULL: of none. They must be those that the format takes
 * (format.h); one that takes none does not look at them. Takes references on the sources it needs, on
 * the calibration, into which importance points, or the scales of what is derived, and on the factors.
 * -ENOTSUP where the tensor cannot be packed so (width, element type, a row too long), with a
 * sentence. One reference is the caller's. */
int encoding_new(const struct format *format, const struct view *view,
                 struct source *const *sources, struct calibration *calibration,
                 const float *importance, struct factor *const *factors, struct encoding **out,
                 struct error *err);
/* 0 while all sources are what they were, else as source_check. */
int encoding_check(const struct encoding *e, struct error *err);

struct encoding *encoding_ref(struct encoding *e);
void encoding_unref(struct encoding *e);

/* Bytes of tile `index`, and the weights in it. */
uint32_t encoding_tile_size(const struct encoding *e, uint64_t index);
uint64_t encoding_tile_weights(const struct encoding *e, uint64_t index);

/* The number of parts that tile `index` is made in. */
uint32_t encoding_parts(const struct encoding *e, uint64_t index);

/* Makes one part of a tile in its place in out, the start of the tile's bytes, with the given
 * instructions. -EINVAL where a weight is not finite or too large for the format: the sentence
 * names tensor and row. */
int encoding_make_part(const struct encoding *e, const struct isa *isa, uint64_t index,
                       uint32_t part, uint8_t *out, struct scratch *scratch, struct error *err);

#endif

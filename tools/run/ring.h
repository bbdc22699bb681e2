/* SPDX-License-Identifier: MIT
 *
 * Weights that do not fit into memory, on their way through it. A pass over a model needs its
 * pieces in the same order every time, so the ring always knows what to ask for next, and the last
 * piece of a pass is followed by the first of the next. A slot holds one piece: it is asked for,
 * lands, is taken, and given back, in order, and then the slot is asked to hold another.
 *
 *     given back | taken | landed, or under way | not asked for yet
 *                ^ given ^ taken                ^ asked
 *
 * One thread calls.
 */
#ifndef TOOLS_RUN_RING_H
#define TOOLS_RUN_RING_H

#include "daemon/source.h"
#include "tools/run/reader.h"

enum { PIECE_ALWAYS = UINT32_MAX }; /* in place of an expert */

enum place {
    PLACE_FILE,   /* the file itself */
    PLACE_OBJECT, /* an object of a mount's cache, where the mount's file is put together */
    PLACE_MOUNT,  /* through the mount, which makes what is not there */
    PLACE_COUNT
};

/* Whole rows that are read at once. */
struct piece {
    uint64_t offset; /* in the model's file */
    uint32_t size;   /* bytes */
    uint32_t layer, expert;
    /* Where it is read from. */
    enum place place;
    int file;
    uint64_t at;
    uint64_t checksum, seed; /* XXH3, of a piece in an object */
    bool proven;             /* its checksum was right before */
    const uint8_t *held; /* in memory, so that the ring passes it by; NULL: it is not */
};

struct ring_stats {
    uint64_t bytes[PLACE_COUNT]; /* that were taken */
    uint64_t damaged;            /* pieces whose checksum was wrong */
    double waited;               /* seconds, for pieces that had not landed */
};

struct ring;

/* Slots must have this size for a piece wherever it lies. */
uint64_t ring_slot_size(uint64_t piece_size);

/* pieces: in the order of a pass, not all of them held; the ring keeps pointing to them. whole: the model's file, out of
 * which all pieces come right. -errno with a sentence. */
int ring_open(struct piece *pieces, size_t count, uint64_t slot_size, uint64_t slots,
              enum reader_kind kind, struct source *whole, struct ring **out, struct error *err);
void ring_close(struct ring *r);

struct reader *ring_reader(struct ring *r);
const void *ring_memory(const struct ring *r);
const struct ring_stats *ring_stats(const struct ring *r);

/* A pass begins. All pieces of the last have been taken. */
void ring_begin(struct ring *r);

/* Which experts of a layer this pass takes; none of their pieces is asked for before. chosen is by
 * expert, for all of the layer's. */
void ring_choose(struct ring *r, uint32_t layer, const bool *chosen);

/* Fills the ring before the first pass, which tells how fast it can be filled. */
void ring_fill(struct ring *r, uint64_t *bytes, double *seconds);

/* The next piece of the pass. With wait, *data is there at return; without, it is NULL where it has
 * not landed yet. -EIO with a sentence where it cannot be read. */
int ring_take(struct ring *r, size_t piece, bool wait, const uint8_t **data, struct error *err);

/* Gives back the oldest `count` pieces that were taken. */
void ring_give(struct ring *r, size_t count);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Tiles on demand. A tile is asked for by encoding and index; it comes from memory, from the tile
 * cache, or is made by the workers, all of them at once. Whoever asks for a tile that is being made
 * already waits for that one (single-flight); an error reaches every waiter and is not kept.
 *
 * Finished tiles stay in memory, least recently used out first, under a hard budget that also
 * covers those being made. Nobody may hold a tile while tile_get waits for another, so waiting for
 * memory cannot lock up; tile_take does not wait.
 */
#ifndef DAEMON_TILE_H
#define DAEMON_TILE_H

#include "daemon/cache.h"
#include "daemon/encoding.h"
#include "daemon/pool.h"
#include "daemon/stats.h"

enum { TILES_MEMORY_MIN = 16 << 20 };

struct tiles;
struct tile;
struct means;

struct tiles_options {
    size_t memory;       /* the budget in bytes, at least TILES_MEMORY_MIN */
    unsigned workers;
    const struct isa *isa; /* what encodes */
    struct cache *cache; /* NULL: none. Must outlive the tiles. */
    struct stats *stats; /* likewise */
};

struct tiles *tiles_new(const struct tiles_options *options);

/* Waits for what is being made and stored. No tile may be held. */
void tiles_free(struct tiles *t);

/* Waits for the tile; class says how urgently (JOB_DEMAND or JOB_URGENT). On success the caller
 * holds it and must tile_put it. -errno with a sentence that says what is wrong with the source. */
int tile_get(struct tiles *t, struct encoding *e, uint64_t index, enum job_class class,
             struct tile **out, struct error *err);
const uint8_t *tile_data(const struct tile *tile);

/* As tile_get for a tile that is ready in memory; NULL for any other, and where its source has
 * changed. */
struct tile *tile_take(struct tiles *t, struct encoding *e, uint64_t index);

/* Lets go of it. taken: how many of its bytes the holder has used. A tile whose bytes have all been
 * used once is the first to make room: the kernel keeps what it was given. */
void tile_put(struct tiles *t, struct tile *tile, uint32_t taken);

/* Starts on a tile that will probably be asked for. Returns false when memory for such guesses is
 * used up, so that the caller stops guessing. owner: for tiles_forget. */
bool tile_prefetch(struct tiles *t, struct encoding *e, uint64_t index, const void *owner);

/* Ends a hold on an object of the cache (cache_hold) and puts it back; it is sealed when there is
 * time, if that has been put off. */
void tiles_release(struct tiles *t, struct cache_object *o);

/* For mean.h: the cache, or NULL, and the means that are known. */
struct cache *tiles_cache(struct tiles *t);
struct means *tiles_means(struct tiles *t);

/* Drops the owner's guesses that nobody has begun with. */
void tiles_forget(struct tiles *t, const void *owner);

#endif

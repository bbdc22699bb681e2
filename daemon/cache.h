/* SPDX-License-Identifier: MIT
 *
 * The tile cache on disk, so that what was made once outlives the mount. One file per encoding,
 * named by its key; the byte layout is specified in daemon/CACHE-FORMAT.md.
 *
 * The cache promises only this: what cache_load returns is right. A checksum seeded with key,
 * index, length and flags is the one proof that a tile is there; a torn write, a flipped bit or a
 * slot in another's place fails it, and the tile is made again. So the files need no lock, no
 * journal and no fsync, and several daemons may share a folder. Nothing here is ever a reader's
 * error: a cache that cannot be written or read is as good as none.
 */
#ifndef DAEMON_CACHE_H
#define DAEMON_CACHE_H

#include "codec/error.h"
#include "daemon/encoding.h"
#include "daemon/stats.h"

struct cache;
struct cache_object;

struct cache_options {
    const char *dir;    /* absolute; made if missing, mode 0700 */
    uint64_t size;      /* budget in bytes; 0: a fifth of its disk */
    uint64_t keep_free; /* bytes of the disk to leave free; UINT64_MAX: a twentieth of it */
    bool seal;          /* rewrite complete objects compact */
    bool as_found;      /* nothing is made: the folder is there, and what is not in it is not */
    struct stats *stats;
};

/* Opens or makes the folder. -EPERM where it belongs to somebody else or others may write it, which
 * nobody should go on with; other -errno where there can be no cache. */
int cache_open(const struct cache_options *options, struct cache **out, struct error *err);
void cache_close(struct cache *c);

/* The object of an encoding, for as many loads and stores as come; never NULL but when memory is
 * out. The handle is shared; put it back. */
struct cache_object *cache_get(struct cache *c, const struct encoding *e);
void cache_put(struct cache *c, struct cache_object *o);

enum cache_result {
    CACHE_HIT,
    CACHE_MISS,
    CACHE_DAMAGED, /* something is there, but it is not the tile */
};

/* Loads a tile of `size` bytes into data. Safe from any thread. */
enum cache_result cache_load(struct cache *c, struct cache_object *o, uint64_t index,
                             uint8_t *data, uint32_t size);

/* Stores a tile, as well as it can. */
void cache_store(struct cache *c, struct cache_object *o, uint64_t index, const uint8_t *data,
                 uint32_t size);

/* ---- for who reads past us ---- */

/* From here to cache_release the object is neither evicted nor sealed by this daemon, so that its
 * tiles stay where they lie; the caller keeps its handle. False where too many are held already,
 * each of which takes a descriptor. */
bool cache_hold(struct cache *c, struct cache_object *o);
void cache_release(struct cache *c, struct cache_object *o);

/* Where a tile lies raw in the object's file, and what proves its bytes: XXH3 (64 bits) with that
 * seed. offset 0: it is not there, or compressed. */
struct cache_place {
    uint64_t offset, checksum, seed;
};

/* The places of all tiles of the encoding, read from the index alone; free() them. NULL when memory
 * is out. */
struct cache_place *cache_places(struct cache_object *o);

/* The object's file, in out (PATH_MAX bytes). */
void cache_path(const struct cache *c, const struct cache_object *o, char *out);

/* ---- things that are no encodings ---- */

/* Things of one piece, under a key of their own: whoever loads one learns its size. data is to be
 * freed. False where there is none, or none of at most `max` bytes that can be proven. */
bool cache_load_whole(struct cache *c, const uint8_t key[KEY_SIZE], size_t max, uint8_t **data,
                      size_t *size);
/* Stores one, as well as it can. */
void cache_store_whole(struct cache *c, const uint8_t key[KEY_SIZE], const uint8_t *data,
                       size_t size);

/* Whether the object is complete and should be rewritten compact; true once, then the caller
 * calls cache_seal when there is time. An object that is held is not sealed, but wants it again. */
bool cache_wants_seal(struct cache *c, struct cache_object *o);
void cache_seal(struct cache *c, struct cache_object *o);

/* Whether there is more in the cache than there may be; true once, then the caller calls
 * cache_evict, which removes objects that are not in use here, least recently used first. */
bool cache_wants_evict(struct cache *c);
void cache_evict(struct cache *c);

/* ---- for `quantfs cache` ---- */

struct cache_report {
    uint64_t objects, bytes, tiles; /* tiles: present, or valid where they were checked */
    uint64_t sealed, damaged, foreign; /* damaged: tiles; foreign: files that are no objects */
};

/* Walks the folder. verify: read every tile and check it. remove: delete damaged objects. */
int cache_walk(struct cache *c, bool verify, bool remove, struct cache_report *report);

/* Removes objects, least recently used first, until at most `bytes` are left; 0 removes all. */
void cache_shrink(struct cache *c, uint64_t bytes, struct cache_report *removed);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Between the two halves of the tile cache: cache.c knows objects and their bytes, cache_folder.c
 * knows the folder they lie in, how full it is, and what has to go. Nobody else includes this.
 */
#ifndef DAEMON_CACHE_FOLDER_H
#define DAEMON_CACHE_FOLDER_H

#include "daemon/cache.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

/* ---- the format (cache.c), see CACHE-FORMAT.md ---- */

enum {
    CACHE_VERSION = 2,
    HEADER_SIZE = 4096,
    ENTRY_SIZE = 16,
    SLOT_ALIGNMENT = 4096,
    WORKSPACES_MAX = 4,
};

/* An object is a file and nothing else: no link is followed, no pipe waited for. */
enum { OBJECT_FLAGS = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK };

enum object_kind { OBJECT_GROWING = 1, OBJECT_SEALED = 2 };
enum { ENTRY_PRESENT = 1, ENTRY_COMPRESSED = 2 };

struct object_shape {
    uint64_t size, tile_count;
    uint32_t tile_size, block_size;
};

struct object_entry {
    uint32_t length, flags;
    uint64_t checksum;
};

struct workspace;

struct cache {
    char dir[PATH_MAX];  /* of this version's objects */
    bool seal;
    _Atomic bool read_only;
    uint64_t size, keep_free;
    struct stats *stats;
    _Atomic int64_t used;        /* bytes on disk, as far as this daemon knows */
    _Atomic bool evict_claimed, failed;
    _Atomic int64_t quiet_until; /* seconds, monotonic: nothing could be evicted */
    pthread_mutex_t lock;        /* of the table of handles */
    struct cache_object *buckets[1 << 10], *newest, *oldest;
    unsigned idle_count, hold_count, holds_max;
    pthread_mutex_t workspace_lock;
    pthread_cond_t workspace_given;
    struct workspace *workspaces;
    unsigned workspace_count;
};

/* Checks a header and takes it apart. */
bool header_read(const uint8_t in[HEADER_SIZE], uint8_t key[KEY_SIZE], struct object_shape *s,
                 enum object_kind *kind, uint64_t *index_checksum);
struct object_entry entry_read(const uint8_t in[ENTRY_SIZE]);

/* The index, zeros where a growing file does not reach; free() it. NULL when memory is out. */
uint8_t *object_read_index(int fd, const struct object_shape *s);

/* Where a growing object keeps a tile. */
uint64_t object_slot(const struct object_shape *s, uint64_t tile);

/* Reads and proves one tile. data has room for shape.tile_size bytes. */
bool object_read_tile(struct cache *c, int fd, const uint8_t *key, const struct object_shape *s,
                      uint64_t tile, struct object_entry e, uint64_t offset, uint8_t *data);

/* Whether a handle is in use; one that is not is dropped. By the cache's lock. */
bool cache_in_use(struct cache *c, const uint8_t key[KEY_SIZE]);

/* Drops all handles, none of which is in use. */
void cache_forget_handles(struct cache *c);
void workspaces_free(struct cache *c);

/* ---- the folder (cache_folder.c) ---- */

/* out: PATH_MAX bytes */
void object_path(const struct cache *c, const uint8_t key[KEY_SIZE], char *out);

/* Opens a file for writing, mode 0600; makes the folders above if they are gone. -1 where that
 * cannot be; it has been told then. */
int object_create(struct cache *c, const char *path, int flags);

/* Whether n more bytes may be written. */
bool cache_may_write(struct cache *c, uint64_t n);

/* Tells once that the cache cannot be written. */
void cache_write_failed(struct cache *c, int error);

/* The objects' usage has changed. */
void cache_count(struct cache *c, int64_t change);

#endif

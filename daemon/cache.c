/* SPDX-License-Identifier: MIT
 *
 * Objects of the tile cache: opening, loading, storing, sealing. What belongs to the folder as a
 * whole (usage, eviction, reports) is in cache_folder.c.
 */
#include "daemon/cache_folder.h"

#include "codec/bytes.h"
#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

enum {
    BUCKETS = 1 << 10,
    IDLE_MAX = 128,       /* objects that stay open while nobody uses them */
    TOUCH_SECONDS = 60,   /* how often use is noted, and whether the file is still there */
    ZSTD_LEVEL = 1,
};

/* All fields by the cache's lock, except as noted. */
struct cache_object {
    uint8_t key[KEY_SIZE];        /* constant */
    struct object_shape shape;    /* constant */
    unsigned refs;
    struct cache_object *hash_next, *newer, *older; /* newer, older: among the idle */
    /* Held shared to use what follows, exclusively to open, replace or drop it. */
    pthread_rwlock_t lock;
    int fd;                       /* -1: there is no file */
    _Atomic bool sealed;
    uint8_t *index;               /* sealed: the entries, verified */
    uint64_t *offsets;            /* sealed: where each tile begins */
    _Atomic uint8_t *have;        /* growing: a bit per tile known to be there */
    _Atomic uint64_t present;     /* growing: bits set in have */
    _Atomic bool seal_claimed;
    _Atomic unsigned holds;       /* readers who rely on where the tiles lie */
    _Atomic int64_t touched;      /* seconds, monotonic */
};

/* Working memory of a seal or of an inflating load. */
struct workspace {
    struct workspace *next;
    uint8_t stored[ZSTD_COMPRESSBOUND(TILE_MAX)];
    uint8_t planes[TILE_MAX];
};

/* ---- the format, see CACHE-FORMAT.md ---- */

static const char magic[8] = "QFSTILES";

static uint64_t align_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static uint64_t index_size(const struct object_shape *s) { return s->tile_count * ENTRY_SIZE; }

static uint64_t slot_offset(const struct object_shape *s, uint64_t tile)
{
    return align_up(HEADER_SIZE + index_size(s), SLOT_ALIGNMENT) +
           tile * align_up(s->tile_size, SLOT_ALIGNMENT);
}

static uint32_t tile_size(const struct object_shape *s, uint64_t tile)
{
    uint64_t left = s->size - tile * s->tile_size;
    return left < s->tile_size ? (uint32_t)left : s->tile_size;
}

static void header_write(const uint8_t key[KEY_SIZE], const struct object_shape *s,
                         enum object_kind kind, uint64_t index_checksum, uint8_t out[HEADER_SIZE])
{
    memset(out, 0, HEADER_SIZE);
    uint32_t version = CACHE_VERSION, kind32 = kind;
    memcpy(out, magic, 8);
    memcpy(out + 8, &version, 4);
    memcpy(out + 12, &kind32, 4);
    memcpy(out + 16, key, KEY_SIZE);
    memcpy(out + 48, &s->size, 8);
    memcpy(out + 56, &s->tile_size, 4);
    memcpy(out + 60, &s->block_size, 4);
    memcpy(out + 64, &s->tile_count, 8);
    memcpy(out + 72, &index_checksum, 8);
    uint64_t checksum = XXH64(out, 80, 0);
    memcpy(out + 80, &checksum, 8);
}

bool header_read(const uint8_t in[HEADER_SIZE], uint8_t key[KEY_SIZE], struct object_shape *s,
                 enum object_kind *kind, uint64_t *index_checksum)
{
    struct reader r = reader_make(in, HEADER_SIZE);
    uint8_t found[8];
    uint32_t version, kind32;
    uint64_t checksum;
    if (!read_copy(&r, found, 8) || memcmp(found, magic, 8) != 0 || !read_u32(&r, &version) ||
        version != CACHE_VERSION || !read_u32(&r, &kind32) || !read_copy(&r, key, KEY_SIZE) ||
        !read_u64(&r, &s->size) || !read_u32(&r, &s->tile_size) || !read_u32(&r, &s->block_size) ||
        !read_u64(&r, &s->tile_count) || !read_u64(&r, index_checksum) ||
        !read_u64(&r, &checksum) || checksum != XXH64(in, 80, 0))
        return false;
    *kind = (enum object_kind)kind32;
    return (kind32 == OBJECT_GROWING || kind32 == OBJECT_SEALED) && s->tile_size > 0 &&
           s->tile_size <= TILE_MAX && s->block_size > 0 && s->size > 0 &&
           s->tile_count == (s->size - 1) / s->tile_size + 1 &&
           s->tile_count <= UINT64_MAX / 2 / TILE_MAX;
}

static uint64_t tile_seed(const uint8_t key[KEY_SIZE], uint64_t tile, struct object_entry e)
{
    uint8_t seed[48];
    memcpy(seed, key, KEY_SIZE);
    memcpy(seed + 32, &tile, 8);
    memcpy(seed + 40, &e.length, 4);
    memcpy(seed + 44, &e.flags, 4);
    return XXH64(seed, sizeof seed, 0);
}

static uint64_t tile_checksum(const uint8_t key[KEY_SIZE], uint64_t tile, struct object_entry e,
                              const uint8_t *data)
{
    return XXH3_64bits_withSeed(data, e.length, tile_seed(key, tile, e));
}

struct object_entry entry_read(const uint8_t in[ENTRY_SIZE])
{
    struct object_entry e;
    memcpy(&e.length, in, 4);
    memcpy(&e.flags, in + 4, 4);
    memcpy(&e.checksum, in + 8, 8);
    return e;
}

static void entry_write(struct object_entry e, uint8_t out[ENTRY_SIZE])
{
    memcpy(out, &e.length, 4);
    memcpy(out + 4, &e.flags, 4);
    memcpy(out + 8, &e.checksum, 8);
}

/* ---- files ---- */

static bool read_at(int fd, void *buf, size_t n, uint64_t offset)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (char *)buf + done, n - done, (off_t)(offset + done));
        if (got > 0)
            done += (size_t)got;
        else if (got == 0 || errno != EINTR)
            return false;
    }
    return true;
}

static bool write_at(int fd, const void *buf, size_t n, uint64_t offset)
{
    for (size_t done = 0; done < n;) {
        ssize_t put = pwrite(fd, (const char *)buf + done, n - done, (off_t)(offset + done));
        if (put > 0)
            done += (size_t)put;
        else if (put == 0 || errno != EINTR)
            return false;
    }
    return true;
}

static int64_t disk_usage(int fd)
{
    struct stat st;
    return fstat(fd, &st) ? 0 : st.st_blocks * 512;
}

/* ---- byte planes ---- */

/* Transposes 8 x 8 bytes: word r holds row r, byte 0 lowest. */
static void transpose_8x8(uint64_t w[8])
{
    static const uint64_t mask[3] = {0x00ff00ff00ff00ff, 0x0000ffff0000ffff, 0x00000000ffffffff};
    for (unsigned level = 0; level < 3; level++) {
        unsigned step = 1u << level, shift = 8u << level;
        for (unsigned i = 0; i < 8; i++) {
            if (i & step)
                continue;
            uint64_t swap = (w[i] >> shift ^ w[i + step]) & mask[level];
            w[i] ^= swap << shift;
            w[i + step] ^= swap;
        }
    }
}

/* out[col][row] = in[row][col]. From blocks to planes the rows are blocks, and back again they are
 * planes. */
static void transpose(const uint8_t *in, uint8_t *out, size_t rows, size_t cols)
{
    size_t full_rows = rows - rows % 8, full_cols = cols - cols % 8;
    for (size_t row = 0; row < full_rows; row += 8)
        for (size_t col = 0; col < full_cols; col += 8) {
            uint64_t w[8];
            for (size_t i = 0; i < 8; i++)
                memcpy(&w[i], in + (row + i) * cols + col, 8);
            transpose_8x8(w);
            for (size_t i = 0; i < 8; i++)
                memcpy(out + (col + i) * rows + row, &w[i], 8);
        }
    for (size_t row = 0; row < rows; row++)
        for (size_t col = row < full_rows ? full_cols : 0; col < cols; col++)
            out[col * rows + row] = in[row * cols + col];
}

static struct workspace *workspace_take(struct cache *c)
{
    pthread_mutex_lock(&c->workspace_lock);
    while (!c->workspaces && c->workspace_count == WORKSPACES_MAX)
        pthread_cond_wait(&c->workspace_given, &c->workspace_lock);
    struct workspace *w = c->workspaces;
    if (w)
        c->workspaces = w->next;
    else if ((w = malloc(sizeof *w)))
        c->workspace_count++;
    pthread_mutex_unlock(&c->workspace_lock);
    return w;
}

static void workspace_give(struct cache *c, struct workspace *w)
{
    pthread_mutex_lock(&c->workspace_lock);
    w->next = c->workspaces;
    c->workspaces = w;
    pthread_cond_signal(&c->workspace_given);
    pthread_mutex_unlock(&c->workspace_lock);
}

void workspaces_free(struct cache *c)
{
    for (struct workspace *w; (w = c->workspaces);) {
        c->workspaces = w->next;
        free(w);
    }
}

/* The stored form of a tile: its frame in w->stored if that saves 3 %, else the tile itself. */
static struct object_entry pack(const struct object_shape *s, const uint8_t *key, uint64_t tile,
                                const uint8_t *data, struct workspace *w, const uint8_t **stored)
{
    uint32_t size = tile_size(s, tile);
    struct object_entry e = {.length = size, .flags = ENTRY_PRESENT};
    *stored = data;
    if (size % s->block_size == 0) {
        transpose(data, w->planes, size / s->block_size, s->block_size);
        size_t n = ZSTD_compress(w->stored, sizeof w->stored, w->planes, size, ZSTD_LEVEL);
        if (!ZSTD_isError(n) && n <= size - size / 32) {
            e = (struct object_entry){.length = (uint32_t)n,
                                      .flags = ENTRY_PRESENT | ENTRY_COMPRESSED};
            *stored = w->stored;
        }
    }
    e.checksum = tile_checksum(key, tile, e, *stored);
    return e;
}

/* ---- loading ---- */

static bool entry_plausible(struct object_entry e, uint32_t size)
{
    if (e.flags == ENTRY_PRESENT)
        return e.length == size;
    return e.flags == (ENTRY_PRESENT | ENTRY_COMPRESSED) && e.length < size;
}

bool object_read_tile(struct cache *c, int fd, const uint8_t *key, const struct object_shape *s,
                      uint64_t tile, struct object_entry e, uint64_t offset, uint8_t *data)
{
    uint32_t size = tile_size(s, tile);
    if (!entry_plausible(e, size))
        return false;
    if (!(e.flags & ENTRY_COMPRESSED))
        return read_at(fd, data, size, offset) && tile_checksum(key, tile, e, data) == e.checksum;
    struct workspace *w = workspace_take(c);
    if (!w)
        return false;
    bool ok = size % s->block_size == 0 && read_at(fd, w->stored, e.length, offset) &&
              tile_checksum(key, tile, e, w->stored) == e.checksum &&
              ZSTD_decompress(w->planes, sizeof w->planes, w->stored, e.length) == size;
    if (ok)
        transpose(w->planes, data, s->block_size, size / s->block_size);
    workspace_give(c, w);
    return ok;
}

uint64_t object_slot(const struct object_shape *s, uint64_t tile) { return slot_offset(s, tile); }

/* ---- opening ---- */

static void forget_file(struct cache_object *o)
{
    if (o->fd >= 0)
        close(o->fd);
    o->fd = -1;
    o->sealed = false;
    free(o->index);
    free(o->offsets);
    o->index = NULL;
    o->offsets = NULL;
    if (o->have)
        memset((void *)o->have, 0, o->shape.tile_count / 8 + 1);
    o->present = 0;
}

uint8_t *object_read_index(int fd, const struct object_shape *s)
{
    /* The shape is the one of an encoding, or the file is as long as it says. */
    uint8_t *index = malloc(index_size(s));
    if (index && !read_at(fd, index, index_size(s), HEADER_SIZE)) {
        /* a growing object whose last entries were never written ends early */
        struct stat st;
        memset(index, 0, index_size(s));
        uint64_t there = fstat(fd, &st) ? 0 : (uint64_t)st.st_size;
        there = there > HEADER_SIZE ? there - HEADER_SIZE : 0;
        if (there && !read_at(fd, index, there < index_size(s) ? there : index_size(s),
                              HEADER_SIZE))
            memset(index, 0, index_size(s));
    }
    return index;
}

/* Takes in what the file has; false if it is not the object it should be. */
static bool adopt(struct cache_object *o, int fd)
{
    uint8_t header[HEADER_SIZE], key[KEY_SIZE];
    struct object_shape shape;
    enum object_kind kind;
    uint64_t checksum;
    if (!read_at(fd, header, sizeof header, 0) ||
        !header_read(header, key, &shape, &kind, &checksum) ||
        memcmp(key, o->key, KEY_SIZE) != 0 || shape.size != o->shape.size ||
        shape.tile_size != o->shape.tile_size || shape.block_size != o->shape.block_size)
        return false;
    uint8_t *index = object_read_index(fd, &shape);
    if (!index)
        return false;
    o->sealed = kind == OBJECT_SEALED;
    if (o->sealed) {
        o->offsets = calloc(shape.tile_count, sizeof *o->offsets);
        if (!o->offsets || XXH64(index, index_size(&shape), 0) != checksum) {
            free(index);
            return false;
        }
        uint64_t offset = HEADER_SIZE + index_size(&shape);
        for (uint64_t i = 0; i < shape.tile_count; i++) {
            o->offsets[i] = offset;
            offset += entry_read(index + ENTRY_SIZE * i).length;
        }
        o->index = index;
        return true;
    }
    for (uint64_t i = 0; i < shape.tile_count; i++)
        if (entry_read(index + ENTRY_SIZE * i).flags & ENTRY_PRESENT) {
            o->have[i / 8] |= (uint8_t)(1 << i % 8);
            o->present++;
        }
    free(index);
    return true;
}

/* Opens the object's file if there is one; what is there and damaged, or no file at all, goes. By
 * o->lock, held exclusively. */
static void open_file(struct cache *c, struct cache_object *o)
{
    char path[PATH_MAX];
    struct stat st;
    object_path(c, o->key, path);
    forget_file(o);
    int fd = open(path, (c->read_only ? O_RDONLY : O_RDWR) | OBJECT_FLAGS);
    if (fd < 0 && errno == EROFS && !c->read_only) { /* the folder's disk has become so */
        cache_write_failed(c, errno);
        c->read_only = true;
        fd = open(path, O_RDONLY | OBJECT_FLAGS);
    }
    if (fd < 0 && errno != ELOOP)
        return;
    bool regular = fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode);
    bool empty = regular && st.st_size == 0; /* somebody is just making it */
    if (regular && adopt(o, fd)) {
        o->fd = fd;
        return;
    }
    forget_file(o);
    if (fd >= 0)
        close(fd);
    if (!c->read_only && !empty) {
        log_warning("tile cache: %s is damaged and is begun anew", path);
        stats_add(&c->stats->tiles_healed, 1);
        unlink(path);
    }
}

/* Opens or makes the object's file. Whoever finds it empty writes the header; two daemons at once
 * write the same. By o->lock, held exclusively. */
static void make_file(struct cache *c, struct cache_object *o)
{
    char path[PATH_MAX];
    uint8_t header[HEADER_SIZE];
    struct stat st;
    object_path(c, o->key, path);
    int fd = object_create(c, path, O_RDWR | O_CREAT);
    if (fd < 0)
        return;
    header_write(o->key, &o->shape, OBJECT_GROWING, 0, header);
    if (!fstat(fd, &st) && st.st_size == 0 && !write_at(fd, header, sizeof header, 0))
        cache_write_failed(c, errno);
    else if (adopt(o, fd)) {
        o->fd = fd;
        return;
    }
    forget_file(o);
    close(fd);
}

/* ---- handles ---- */

static struct cache_object **bucket(struct cache *c, const uint8_t key[KEY_SIZE])
{
    return &c->buckets[load_u64(key) % BUCKETS];
}

static void idle_remove(struct cache *c, struct cache_object *o)
{
    *(o->newer ? &o->newer->older : &c->newest) = o->older;
    *(o->older ? &o->older->newer : &c->oldest) = o->newer;
    c->idle_count--;
}

static void destroy(struct cache *c, struct cache_object *o)
{
    struct cache_object **p = bucket(c, o->key);
    while (*p != o)
        p = &(*p)->hash_next;
    *p = o->hash_next;
    forget_file(o);
    free((void *)o->have);
    pthread_rwlock_destroy(&o->lock);
    free(o);
}

static struct cache_object *create(struct cache *c, const struct encoding *e)
{
    struct cache_object *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->have = calloc(1, e->tile_count / 8 + 1);
    if (!o->have) {
        free(o);
        return NULL;
    }
    memcpy(o->key, e->key, KEY_SIZE);
    o->shape = (struct object_shape){
        .size = e->size,
        .tile_size = e->tile_size,
        .block_size = e->format->stripe_bits ? 1 : e->format->block_size,
        .tile_count = e->tile_count,
    };
    o->fd = -1;
    pthread_rwlock_init(&o->lock, NULL);
    struct cache_object **head = bucket(c, o->key);
    o->hash_next = *head;
    *head = o;
    return o;
}

static int64_t now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static bool touched_lately(const struct cache_object *o, int64_t now)
{
    return o->touched && now - o->touched < TOUCH_SECONDS;
}

struct cache_object *cache_get(struct cache *c, const struct encoding *e)
{
    pthread_mutex_lock(&c->lock);
    struct cache_object *o = *bucket(c, e->key);
    while (o && memcmp(o->key, e->key, KEY_SIZE) != 0)
        o = o->hash_next;
    if (o && !o->refs)
        idle_remove(c, o);
    if (!o)
        o = create(c, e);
    if (o)
        o->refs++;
    pthread_mutex_unlock(&c->lock);
    if (!o)
        return NULL;
    /* Once a minute: note that it is used, and look whether it is still there. */
    int64_t now = now_seconds();
    if (!touched_lately(o, now)) {
        struct stat st;
        pthread_rwlock_wrlock(&o->lock);
        if (!touched_lately(o, now)) {
            if (o->fd < 0 || fstat(o->fd, &st) || st.st_nlink == 0)
                open_file(c, o);
            if (o->fd >= 0)
                futimens(o->fd, NULL);
            o->touched = now;
        }
        pthread_rwlock_unlock(&o->lock);
    }
    return o;
}

void cache_put(struct cache *c, struct cache_object *o)
{
    pthread_mutex_lock(&c->lock);
    if (--o->refs == 0) {
        o->newer = NULL;
        o->older = c->newest;
        *(c->newest ? &c->newest->newer : &c->oldest) = o;
        c->newest = o;
        c->idle_count++;
        if (c->idle_count > IDLE_MAX) {
            struct cache_object *old = c->oldest;
            idle_remove(c, old);
            destroy(c, old);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

bool cache_in_use(struct cache *c, const uint8_t key[KEY_SIZE])
{
    struct cache_object *o = *bucket(c, key);
    while (o && memcmp(o->key, key, KEY_SIZE) != 0)
        o = o->hash_next;
    if (o && !o->refs) {
        idle_remove(c, o);
        destroy(c, o);
        o = NULL;
    }
    return o != NULL;
}

void cache_forget_handles(struct cache *c)
{
    while (c->oldest) {
        struct cache_object *o = c->oldest;
        idle_remove(c, o);
        destroy(c, o);
    }
}

/* ---- loading and storing ---- */

enum cache_result cache_load(struct cache *c, struct cache_object *o, uint64_t tile,
                             uint8_t *data, uint32_t size)
{
    enum cache_result result = CACHE_MISS;
    uint8_t raw[ENTRY_SIZE];
    (void)size;
    pthread_rwlock_rdlock(&o->lock);
    if (o->fd >= 0) {
        struct object_entry e = {0};
        uint64_t offset;
        if (o->sealed) {
            e = entry_read(o->index + ENTRY_SIZE * tile);
            offset = o->offsets[tile];
        } else {
            if (read_at(o->fd, raw, sizeof raw, HEADER_SIZE + ENTRY_SIZE * tile))
                e = entry_read(raw);
            offset = slot_offset(&o->shape, tile);
        }
        if (e.length || e.flags || e.checksum)
            result = object_read_tile(c, o->fd, o->key, &o->shape, tile, e, offset, data)
                         ? CACHE_HIT
                         : CACHE_DAMAGED;
    }
    pthread_rwlock_unlock(&o->lock);
    return result;
}

static void store_growing(struct cache *c, struct cache_object *o, uint64_t tile,
                          const uint8_t *data, uint32_t size)
{
    uint8_t raw[ENTRY_SIZE];
    struct object_entry e = {.length = size, .flags = ENTRY_PRESENT};
    e.checksum = tile_checksum(o->key, tile, e, data);
    entry_write(e, raw);
    if (!write_at(o->fd, data, size, slot_offset(&o->shape, tile)) ||
        !write_at(o->fd, raw, sizeof raw, HEADER_SIZE + ENTRY_SIZE * tile)) {
        cache_write_failed(c, errno);
        return;
    }
    uint8_t bit = (uint8_t)(1 << tile % 8);
    if (!(atomic_fetch_or(&o->have[tile / 8], bit) & bit)) {
        o->present++;
        cache_count(c, (int64_t)align_up(size, SLOT_ALIGNMENT));
    }
    stats_add(&c->stats->tiles_stored, 1);
}

/* A tile of a sealed object was damaged: puts it back if its stored form is what the index vouches
 * for. Returns false where it is not. */
static bool mend_sealed(struct cache *c, struct cache_object *o, uint64_t tile,
                        const uint8_t *data)
{
    struct workspace *w = workspace_take(c);
    if (!w)
        return true;
    const uint8_t *stored;
    struct object_entry old = entry_read(o->index + ENTRY_SIZE * tile);
    struct object_entry e = pack(&o->shape, o->key, tile, data, w, &stored);
    bool same = e.length == old.length && e.flags == old.flags && e.checksum == old.checksum;
    if (same && !write_at(o->fd, stored, e.length, o->offsets[tile]))
        cache_write_failed(c, errno);
    workspace_give(c, w);
    return same;
}

void cache_store(struct cache *c, struct cache_object *o, uint64_t tile, const uint8_t *data,
                 uint32_t size)
{
    if (!cache_may_write(c, size))
        return;
    pthread_rwlock_rdlock(&o->lock);
    if (o->fd < 0) {
        pthread_rwlock_unlock(&o->lock);
        pthread_rwlock_wrlock(&o->lock);
        if (o->fd < 0)
            make_file(c, o);
        pthread_rwlock_unlock(&o->lock);
        pthread_rwlock_rdlock(&o->lock);
    }
    bool drop = false;
    if (o->fd >= 0 && !o->sealed)
        store_growing(c, o, tile, data, size);
    else if (o->fd >= 0)
        drop = !mend_sealed(c, o, tile, data);
    pthread_rwlock_unlock(&o->lock);
    if (drop) {
        char path[PATH_MAX];
        object_path(c, o->key, path);
        pthread_rwlock_wrlock(&o->lock);
        cache_count(c, o->fd >= 0 ? -disk_usage(o->fd) : 0);
        unlink(path);
        forget_file(o);
        pthread_rwlock_unlock(&o->lock);
    }
}

/* ---- for who reads past us ---- */

bool cache_hold(struct cache *c, struct cache_object *o)
{
    pthread_mutex_lock(&c->lock);
    bool room = c->hold_count < c->holds_max;
    if (room) {
        c->hold_count++;
        o->holds++;
    }
    pthread_mutex_unlock(&c->lock);
    return room;
}

void cache_release(struct cache *c, struct cache_object *o)
{
    pthread_mutex_lock(&c->lock);
    c->hold_count--;
    o->holds--;
    pthread_mutex_unlock(&c->lock);
}

struct cache_place *cache_places(struct cache_object *o)
{
    struct cache_place *places = calloc(o->shape.tile_count, sizeof *places);
    pthread_rwlock_rdlock(&o->lock);
    uint8_t *own = o->fd >= 0 && !o->sealed ? object_read_index(o->fd, &o->shape) : NULL;
    const uint8_t *index = o->sealed ? o->index : own;
    for (uint64_t i = 0; places && index && i < o->shape.tile_count; i++) {
        struct object_entry e = entry_read(index + ENTRY_SIZE * i);
        if (e.flags == ENTRY_PRESENT && entry_plausible(e, tile_size(&o->shape, i)))
            places[i] = (struct cache_place){
                .offset = o->sealed ? o->offsets[i] : slot_offset(&o->shape, i),
                .checksum = e.checksum,
                .seed = tile_seed(o->key, i, e),
            };
    }
    pthread_rwlock_unlock(&o->lock);
    free(own);
    return places;
}

void cache_path(const struct cache *c, const struct cache_object *o, char *out)
{
    object_path(c, o->key, out);
}

/* ---- sealing ---- */

bool cache_wants_seal(struct cache *c, struct cache_object *o)
{
    /* For a while the object lies there in both forms. */
    return c->seal && !o->sealed && !o->holds && o->present == o->shape.tile_count &&
           cache_may_write(c, o->shape.size) && !atomic_exchange(&o->seal_claimed, true);
}

/* Writes the compact form into fd. False where a tile is missing or damaged, or on any error. */
static bool write_sealed(struct cache *c, struct cache_object *o, int fd, uint8_t *index,
                         uint8_t *tile, struct workspace *w)
{
    uint8_t header[HEADER_SIZE];
    uint64_t offset = HEADER_SIZE + index_size(&o->shape);
    for (uint64_t i = 0; i < o->shape.tile_count; i++) {
        const uint8_t *stored;
        uint32_t size = tile_size(&o->shape, i);
        if (cache_load(c, o, i, tile, size) != CACHE_HIT)
            return false;
        struct object_entry e = pack(&o->shape, o->key, i, tile, w, &stored);
        entry_write(e, index + ENTRY_SIZE * i);
        if (!write_at(fd, stored, e.length, offset))
            return false;
        offset += e.length;
    }
    header_write(o->key, &o->shape, OBJECT_SEALED, XXH64(index, index_size(&o->shape), 0), header);
    return write_at(fd, index, index_size(&o->shape), HEADER_SIZE) &&
           write_at(fd, header, sizeof header, 0);
}

/* Returns false, and leaves all as it is, where somebody has come to hold the object. */
static bool seal(struct cache *c, struct cache_object *o)
{
    bool held = false;
    char path[PATH_MAX], temporary[PATH_MAX + 32];
    object_path(c, o->key, path);
    snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
    uint8_t *index = malloc(index_size(&o->shape)), *tile = malloc(TILE_MAX);
    struct workspace *w = index && tile ? workspace_take(c) : NULL;
    int fd = w ? object_create(c, temporary, O_RDWR | O_CREAT | O_EXCL) : -1;
    if (fd >= 0) {
        pthread_rwlock_rdlock(&o->lock);
        int64_t before = o->fd >= 0 ? disk_usage(o->fd) : 0;
        pthread_rwlock_unlock(&o->lock);
        bool ok = write_sealed(c, o, fd, index, tile, w);
        pthread_rwlock_wrlock(&o->lock);
        held = o->holds;
        ok = ok && !held && rename(temporary, path) == 0;
        if (ok)
            open_file(c, o);
        pthread_rwlock_unlock(&o->lock);
        if (ok) {
            cache_count(c, disk_usage(fd) - before);
            stats_add(&c->stats->objects_sealed, 1);
        } else {
            unlink(temporary);
        }
        close(fd);
    }
    if (w)
        workspace_give(c, w);
    free(tile);
    free(index);
    return !held;
}

void cache_seal(struct cache *c, struct cache_object *o)
{
    if (o->holds || !seal(c, o))
        o->seal_claimed = false;
}

/* ---- things of one piece: sealed objects that are never growing ---- */

enum { WHOLE_TILE = 1 << 20 };

static struct object_shape whole_shape(size_t size)
{
    return (struct object_shape){.size = size,
                                 .tile_count = (size - 1) / WHOLE_TILE + 1,
                                 .tile_size = WHOLE_TILE,
                                 .block_size = 1};
}

static bool read_whole(struct cache *c, int fd, const uint8_t key[KEY_SIZE], size_t max,
                       uint8_t **data, size_t *size)
{
    uint8_t header[HEADER_SIZE], found[KEY_SIZE];
    struct object_shape s;
    enum object_kind kind;
    uint64_t checksum;
    if (!read_at(fd, header, sizeof header, 0) ||
        !header_read(header, found, &s, &kind, &checksum) || kind != OBJECT_SEALED ||
        memcmp(found, key, KEY_SIZE) != 0 || s.size > max || s.tile_size != WHOLE_TILE)
        return false;
    uint8_t *index = object_read_index(fd, &s);
    *data = malloc(s.size);
    *size = s.size;
    bool ok = index && *data && XXH64(index, index_size(&s), 0) == checksum;
    uint64_t offset = HEADER_SIZE + index_size(&s);
    for (uint64_t i = 0; ok && i < s.tile_count; i++) {
        struct object_entry e = entry_read(index + ENTRY_SIZE * i);
        ok = object_read_tile(c, fd, key, &s, i, e, offset, *data + i * WHOLE_TILE);
        offset += e.length;
    }
    free(index);
    if (!ok)
        free(*data);
    return ok;
}

bool cache_load_whole(struct cache *c, const uint8_t key[KEY_SIZE], size_t max, uint8_t **data,
                      size_t *size)
{
    char path[PATH_MAX];
    object_path(c, key, path);
    int fd = open(path, O_RDONLY | OBJECT_FLAGS);
    if (fd < 0)
        return false;
    bool ok = read_whole(c, fd, key, max, data, size);
    if (ok)
        futimens(fd, NULL);
    else
        unlink(path); /* it will be stored anew */
    close(fd);
    return ok;
}

static bool write_whole(int fd, const uint8_t key[KEY_SIZE], const struct object_shape *s,
                        const uint8_t *data, uint8_t *index)
{
    uint8_t header[HEADER_SIZE];
    for (uint64_t i = 0; i < s->tile_count; i++) {
        struct object_entry e = {.length = tile_size(s, i), .flags = ENTRY_PRESENT};
        e.checksum = tile_checksum(key, i, e, data + i * WHOLE_TILE);
        entry_write(e, index + ENTRY_SIZE * i);
    }
    header_write(key, s, OBJECT_SEALED, XXH64(index, index_size(s), 0), header);
    return write_at(fd, data, s->size, HEADER_SIZE + index_size(s)) &&
           write_at(fd, index, index_size(s), HEADER_SIZE) &&
           write_at(fd, header, sizeof header, 0);
}

void cache_store_whole(struct cache *c, const uint8_t key[KEY_SIZE], const uint8_t *data, size_t size)
{
    char path[PATH_MAX], temporary[PATH_MAX + 32];
    struct object_shape s = whole_shape(size);
    if (size == 0 || !cache_may_write(c, size))
        return;
    object_path(c, key, path);
    snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
    uint8_t *index = malloc(index_size(&s));
    int fd = index ? object_create(c, temporary, O_RDWR | O_CREAT | O_EXCL) : -1;
    if (fd >= 0) {
        if (write_whole(fd, key, &s, data, index) && rename(temporary, path) == 0)
            cache_count(c, disk_usage(fd));
        else
            unlink(temporary);
        close(fd);
    }
    free(index);
}

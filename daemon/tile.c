/* SPDX-License-Identifier: MIT */
#include "daemon/tile.h"

#include "daemon/log.h"
#include "daemon/mean.h"
#include "daemon/memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUCKETS = 1 << 12 };

enum tile_state { TILE_BUSY, TILE_READY, TILE_FAILED };

/* All fields by the lock of the tiles, except as noted. */
struct tile {
    uint8_t key[KEY_SIZE];      /* constant */
    uint64_t index;             /* constant */
    uint32_t size;              /* constant */
    uint8_t *data;              /* written only while busy, by whoever makes it */
    enum tile_state state;
    unsigned refs;              /* holders: waiting readers, readers, the store job */
    bool guess;                 /* prefetched and not asked for yet */
    uint32_t taken;             /* bytes that readers have used, over all of them */
    int rc;                     /* of a failed tile, and its sentence */
    struct error *error;
    uint32_t error_part;
    pthread_cond_t done;        /* state is no longer busy */
    struct tile *hash_next;
    struct tile *newer, *older; /* among the idle: ready and not held */
    /* While busy or being stored. */
    struct encoding *encoding;
    struct cache_object *object;
    bool hit, healing; /* what the cache had of it */
    struct tiles *tiles; /* constant */
    struct job job;
};

struct tiles {
    pthread_mutex_t lock; /* before the pool's and the cache's locks */
    pthread_cond_t memory_given;
    pthread_cond_t quiet; /* jobs has fallen to 0 */
    struct memory memory;
    size_t guessed;        /* bytes of tiles that are guesses */
    unsigned jobs;         /* of tiles, under way */
    struct tile *buckets[BUCKETS];
    struct tile *newest, *oldest; /* idle */
    struct pool *pool;
    const struct isa *isa;
    struct cache *cache;
    struct stats *stats;
    struct means *means; /* with a lock of its own */
};

/* ---- table and idle list ---- */

static struct tile **bucket(struct tiles *t, const uint8_t *key, uint64_t index)
{
    uint64_t h;
    memcpy(&h, key, sizeof h);
    return &t->buckets[(h ^ index * 0x9e3779b97f4a7c15u) % BUCKETS];
}

static struct tile *find(struct tiles *t, const uint8_t *key, uint64_t index)
{
    struct tile *tile = *bucket(t, key, index);
    while (tile && (tile->index != index || memcmp(tile->key, key, KEY_SIZE) != 0))
        tile = tile->hash_next;
    return tile;
}

static void unhash(struct tiles *t, struct tile *tile)
{
    struct tile **p = bucket(t, tile->key, tile->index);
    while (*p != tile)
        p = &(*p)->hash_next;
    *p = tile->hash_next;
}

/* A used-up tile goes to the end that makes room first. */
static void idle_add(struct tiles *t, struct tile *tile)
{
    if (tile->taken >= tile->size) {
        tile->older = NULL;
        tile->newer = t->oldest;
        *(t->oldest ? &t->oldest->older : &t->newest) = tile;
        t->oldest = tile;
        return;
    }
    tile->newer = NULL;
    tile->older = t->newest;
    *(t->newest ? &t->newest->newer : &t->oldest) = tile;
    t->newest = tile;
}

static void idle_remove(struct tiles *t, struct tile *tile)
{
    *(tile->newer ? &tile->newer->older : &t->newest) = tile->older;
    *(tile->older ? &tile->older->newer : &t->oldest) = tile->newer;
}

/* ---- memory ---- */

static void give(struct tiles *t, struct tile *tile)
{
    if (tile->data) {
        memory_give(&t->memory, tile->data, tile->size);
        tile->data = NULL;
        pthread_cond_broadcast(&t->memory_given);
    }
}

static void set_guess(struct tiles *t, struct tile *tile, bool guess)
{
    if (guess != tile->guess) {
        tile->guess = guess;
        t->guessed += guess ? memory_size(tile->size) : -memory_size(tile->size);
    }
}

static void destroy(struct tiles *t, struct tile *tile)
{
    give(t, tile);
    set_guess(t, tile, false);
    pthread_cond_destroy(&tile->done);
    free(tile->error);
    free(tile);
}

static bool evict_oldest(struct tiles *t)
{
    struct tile *tile = t->oldest;
    if (!tile)
        return false;
    idle_remove(t, tile);
    unhash(t, tile);
    destroy(t, tile);
    return true;
}

/* Memory for the tile; evicts, and waits if it may. What is held and not idle comes back: it is
 * being made, stored, or copied from. */
static int take(struct tiles *t, struct tile *tile, bool wait)
{
    /* Memory that is warm already beats memory that was never touched. */
    if (t->oldest && t->oldest->taken >= t->oldest->size)
        evict_oldest(t);
    while (!(tile->data = memory_take(&t->memory, tile->size))) {
        if (evict_oldest(t))
            continue;
        if (!wait || !t->memory.held)
            return -ENOMEM;
        pthread_cond_wait(&t->memory_given, &t->lock);
    }
    stats_set(&t->stats->memory_bytes, t->memory.held);
    return 0;
}

/* ---- states ---- */

/* A holder lets go. */
static void release(struct tiles *t, struct tile *tile)
{
    if (--tile->refs)
        return;
    if (tile->state == TILE_READY)
        idle_add(t, tile);
    else
        destroy(t, tile);
    pthread_cond_broadcast(&t->memory_given); /* it can be evicted now */
}

static void drop_means(struct tiles *t, struct tile *tile)
{
    if (tile->object)
        cache_put(t->cache, tile->object);
    encoding_unref(tile->encoding);
    tile->object = NULL;
    tile->encoding = NULL;
}

/* The tile is ready, or failed if it has an rc. */
static void finish(struct tiles *t, struct tile *tile)
{
    tile->state = tile->rc ? TILE_FAILED : TILE_READY;
    if (tile->rc) {
        unhash(t, tile); /* the next one who asks tries again */
        give(t, tile);
    }
    pthread_cond_broadcast(&tile->done);
    tile->refs++;
    release(t, tile); /* goes idle, or away, if nobody waits for it */
}

static int fail(struct tile *tile, uint32_t part, int rc, const struct error *err)
{
    if (!tile->error)
        tile->error = malloc(sizeof *tile->error);
    else if (part >= tile->error_part)
        return rc; /* of several errors, the first in the tensor is told */
    if (tile->error)
        *tile->error = *err;
    tile->error_part = part;
    tile->rc = rc;
    return rc;
}

/* ---- jobs ---- */

static struct tile *tile_of(struct job *job)
{
    return (struct tile *)((char *)job - offsetof(struct tile, job));
}

static void submit(struct tiles *t, struct tile *tile, enum job_class class, uint32_t parts,
                   void (*run)(struct job *, uint32_t, struct scratch *),
                   void (*done)(struct job *, bool), const void *owner)
{
    t->jobs++;
    tile->job = (struct job){.run = run, .done = done, .parts = parts, .class = class,
                             .owner = owner};
    pool_submit(t->pool, &tile->job);
}

static void job_ended(struct tiles *t)
{
    if (--t->jobs == 0)
        pthread_cond_broadcast(&t->quiet);
}

static void run_store(struct job *job, uint32_t part, struct scratch *scratch)
{
    (void)part;
    (void)scratch;
    struct tile *tile = tile_of(job);
    cache_store(tile->tiles->cache, tile->object, tile->index, tile->data, tile->size);
}

/* What is left to do for an object or the cache as a whole, when nothing else is to be done. */
struct chore {
    struct job job;
    struct tiles *tiles;
    struct cache_object *object; /* to seal; NULL: evict */
};

static void run_chore(struct job *job, uint32_t part, struct scratch *scratch)
{
    (void)part;
    (void)scratch;
    struct chore *chore = (struct chore *)job;
    if (chore->object)
        cache_seal(chore->tiles->cache, chore->object);
    else
        cache_evict(chore->tiles->cache);
}

static void put_object(struct tiles *t, struct cache_object *object);

static void chore_done(struct job *job, bool cancelled)
{
    (void)cancelled;
    struct chore *chore = (struct chore *)job;
    struct tiles *t = chore->tiles;
    pthread_mutex_lock(&t->lock);
    if (chore->object)
        put_object(t, chore->object);
    pthread_mutex_unlock(&t->lock);
    free(chore);
}

/* Takes over the reference on object, if any. */
static void submit_chore(struct tiles *t, enum job_class class, struct cache_object *object)
{
    struct chore *chore = malloc(sizeof *chore);
    if (!chore) {
        if (object)
            cache_put(t->cache, object);
        return;
    }
    *chore = (struct chore){.tiles = t, .object = object};
    chore->job = (struct job){.run = run_chore, .done = chore_done, .parts = 1, .class = class};
    pool_submit(t->pool, &chore->job);
}

/* Puts an object back, when it is sealed if it is to be. One that was held as its turn came may be
 * held no longer: whoever comes last, the holder or the chore, sees to it. */
static void put_object(struct tiles *t, struct cache_object *object)
{
    if (cache_wants_seal(t->cache, object))
        submit_chore(t, JOB_IDLE, object);
    else
        cache_put(t->cache, object);
}

static void seal_if_complete(struct tiles *t, struct tile *tile)
{
    if (tile->object && cache_wants_seal(t->cache, tile->object)) {
        submit_chore(t, JOB_IDLE, tile->object);
        tile->object = NULL;
    }
}

static void store_done(struct job *job, bool cancelled)
{
    struct tile *tile = tile_of(job);
    struct tiles *t = tile->tiles;
    pthread_mutex_lock(&t->lock);
    if (!cancelled) {
        seal_if_complete(t, tile);
        if (cache_wants_evict(t->cache))
            submit_chore(t, JOB_STORE, NULL);
    }
    drop_means(t, tile);
    release(t, tile);
    job_ended(t);
    pthread_mutex_unlock(&t->lock);
}

static void run_make(struct job *job, uint32_t part, struct scratch *scratch)
{
    struct tile *tile = tile_of(job);
    struct stats *stats = tile->tiles->stats;
    struct timespec start, end;
    struct error err;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int rc = encoding_make_part(tile->encoding, tile->tiles->isa, tile->index, part, tile->data,
                                scratch, &err);
    clock_gettime(CLOCK_MONOTONIC, &end);
    stats_add(&stats->encode_ns, (uint64_t)((end.tv_sec - start.tv_sec) * 1000000000LL +
                                            end.tv_nsec - start.tv_nsec));
    if (rc) {
        pthread_mutex_lock(&tile->tiles->lock);
        fail(tile, part, rc, &err);
        pthread_mutex_unlock(&tile->tiles->lock);
    }
}

static void make_done(struct job *job, bool cancelled)
{
    struct tile *tile = tile_of(job);
    struct tiles *t = tile->tiles;
    pthread_mutex_lock(&t->lock);
    if (cancelled) {
        tile->rc = -ECANCELED;
    } else if (!tile->rc) {
        stats_add(&t->stats->tiles_encoded, 1);
        stats_add(&t->stats->weights_encoded, encoding_tile_weights(tile->encoding, tile->index));
        if (tile->healing)
            stats_add(&t->stats->tiles_healed, 1);
    }
    if (tile->guess && !tile->rc)
        stats_add(&t->stats->tiles_prefetched, 1);
    bool store = !tile->rc && tile->object;
    if (store)
        tile->refs++; /* the store job's */
    else
        drop_means(t, tile);
    finish(t, tile); /* from here on the tile may be gone, unless it is to be stored */
    if (store)
        submit(t, tile, JOB_STORE, 1, run_store, store_done, NULL);
    job_ended(t);
    pthread_mutex_unlock(&t->lock);
}

static void submit_make(struct tiles *t, struct tile *tile, enum job_class class)
{
    submit(t, tile, class, encoding_parts(tile->encoding, tile->index), run_make, make_done,
           tile->job.owner);
}

/* Looks into the tile cache; without the lock, for the tile is busy and nobody else's. */
static void load(struct tiles *t, struct tile *tile)
{
    if (!t->cache || !tile->encoding->cached)
        return;
    tile->object = cache_get(t->cache, tile->encoding);
    if (!tile->object)
        return;
    enum cache_result result =
        cache_load(t->cache, tile->object, tile->index, tile->data, tile->size);
    tile->hit = result == CACHE_HIT;
    tile->healing = result == CACHE_DAMAGED;
}

/* The tile came from the cache. */
static void loaded(struct tiles *t, struct tile *tile)
{
    stats_add(&t->stats->tiles_loaded, 1);
    seal_if_complete(t, tile);
    drop_means(t, tile);
    finish(t, tile);
}

static void run_guess(struct job *job, uint32_t part, struct scratch *scratch)
{
    (void)part;
    (void)scratch;
    load(tile_of(job)->tiles, tile_of(job));
}

static void guess_done(struct job *job, bool cancelled)
{
    struct tile *tile = tile_of(job);
    struct tiles *t = tile->tiles;
    pthread_mutex_lock(&t->lock);
    if (cancelled) {
        tile->rc = -ECANCELED;
        drop_means(t, tile);
        finish(t, tile);
    } else if (tile->hit) {
        if (tile->guess)
            stats_add(&t->stats->tiles_prefetched, 1);
        loaded(t, tile);
    } else {
        submit_make(t, tile, tile->refs ? JOB_DEMAND : JOB_PREFETCH);
    }
    job_ended(t);
    pthread_mutex_unlock(&t->lock);
}

/* ---- asking ---- */

/* A busy tile in the table. */
static struct tile *create(struct tiles *t, struct encoding *e, uint64_t index, unsigned refs)
{
    struct tile *tile = calloc(1, sizeof *tile);
    if (!tile)
        return NULL;
    memcpy(tile->key, e->key, KEY_SIZE);
    tile->index = index;
    tile->size = encoding_tile_size(e, index);
    tile->refs = refs;
    tile->tiles = t;
    tile->encoding = encoding_ref(e);
    pthread_cond_init(&tile->done, NULL);
    struct tile **head = bucket(t, e->key, index);
    tile->hash_next = *head;
    *head = tile;
    return tile;
}

/* Makes a new tile, which the caller holds, and waits for it. */
static void produce(struct tiles *t, struct tile *tile, enum job_class class)
{
    tile->rc = take(t, tile, true);
    if (tile->rc) {
        drop_means(t, tile);
        finish(t, tile);
        return;
    }
    pthread_mutex_unlock(&t->lock);
    load(t, tile);
    pthread_mutex_lock(&t->lock);
    if (tile->hit) {
        loaded(t, tile);
        return;
    }
    submit_make(t, tile, class);
    while (tile->state == TILE_BUSY)
        pthread_cond_wait(&tile->done, &t->lock);
}

/* Holds a tile that is in the table and waits until it is no longer busy. */
static void join(struct tiles *t, struct tile *tile, enum job_class class)
{
    if (tile->state == TILE_READY && !tile->refs)
        idle_remove(t, tile);
    tile->refs++;
    set_guess(t, tile, false);
    stats_add(&t->stats->tiles_shared, 1);
    if (tile->state == TILE_BUSY)
        pool_promote(t->pool, &tile->job, class);
    while (tile->state == TILE_BUSY)
        pthread_cond_wait(&tile->done, &t->lock);
}

int tile_get(struct tiles *t, struct encoding *e, uint64_t index, enum job_class class,
             struct tile **out, struct error *err)
{
    /* What is in memory or in the cache is old once the source has changed. */
    int rc = encoding_check(e, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&t->lock);
    do {
        struct tile *tile = find(t, e->key, index);
        if (tile) {
            join(t, tile, class);
        } else if ((tile = create(t, e, index, 1))) {
            produce(t, tile, class);
        } else {
            rc = error_set(err, -ENOMEM, "out of memory");
            break;
        }
        rc = tile->rc;
        if (!rc) {
            *out = tile;
        } else {
            if (tile->error)
                *err = *tile->error;
            else
                error_set(err, rc, "%s", strerror(-rc));
            release(t, tile);
        }
    } while (rc == -ECANCELED); /* a guess was dropped just as we joined it */
    pthread_mutex_unlock(&t->lock);
    return rc;
}

struct tile *tile_take(struct tiles *t, struct encoding *e, uint64_t index)
{
    struct error err;
    if (encoding_check(e, &err))
        return NULL;
    pthread_mutex_lock(&t->lock);
    struct tile *tile = find(t, e->key, index);
    if (tile && tile->state == TILE_READY)
        join(t, tile, JOB_DEMAND);
    else
        tile = NULL;
    pthread_mutex_unlock(&t->lock);
    return tile;
}

const uint8_t *tile_data(const struct tile *tile) { return tile->data; }

void tile_put(struct tiles *t, struct tile *tile, uint32_t taken)
{
    pthread_mutex_lock(&t->lock);
    tile->taken += taken < tile->size - tile->taken ? taken : tile->size - tile->taken;
    release(t, tile);
    pthread_mutex_unlock(&t->lock);
}

bool tile_prefetch(struct tiles *t, struct encoding *e, uint64_t index, const void *owner)
{
    bool room = true;
    pthread_mutex_lock(&t->lock);
    if (!find(t, e->key, index)) {
        size_t size = memory_size(encoding_tile_size(e, index));
        struct tile *tile = NULL;
        room = t->guessed + size <= t->memory.budget / 2 && (tile = create(t, e, index, 0));
        if (room && take(t, tile, false)) {
            room = false;
            tile->rc = -ECANCELED;
            drop_means(t, tile);
            finish(t, tile);
        } else if (room) {
            set_guess(t, tile, true);
            submit(t, tile, JOB_PREFETCH, 1, run_guess, guess_done, owner);
        }
    }
    pthread_mutex_unlock(&t->lock);
    return room;
}

void tiles_release(struct tiles *t, struct cache_object *o)
{
    pthread_mutex_lock(&t->lock);
    cache_release(t->cache, o);
    put_object(t, o);
    pthread_mutex_unlock(&t->lock);
}

struct cache *tiles_cache(struct tiles *t)
{
    return t->cache;
}

struct means *tiles_means(struct tiles *t)
{
    return t->means;
}

void tiles_forget(struct tiles *t, const void *owner)
{
    pool_cancel(t->pool, JOB_PREFETCH, owner);
}

/* Sealing and evicting are not waited for: they may take long, and can be done another time. */
static void drain(struct tiles *t)
{
    pthread_mutex_lock(&t->lock);
    while (t->jobs)
        pthread_cond_wait(&t->quiet, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

struct tiles *tiles_new(const struct tiles_options *options)
{
    struct tiles *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->memory_given, NULL);
    pthread_cond_init(&t->quiet, NULL);
    memory_init(&t->memory, options->memory);
    t->isa = options->isa;
    t->cache = options->cache;
    t->stats = options->stats;
    t->means = means_new();
    t->pool = t->means ? pool_new(options->workers) : NULL;
    if (t->pool)
        return t;
    tiles_free(t);
    return NULL;
}

void tiles_free(struct tiles *t)
{
    if (!t)
        return;
    if (t->pool)
        drain(t);
    pool_free(t->pool);
    means_free(t->means);
    while (evict_oldest(t))
        ;
    memory_destroy(&t->memory);
    pthread_cond_destroy(&t->quiet);
    pthread_cond_destroy(&t->memory_given);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

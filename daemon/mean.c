/* SPDX-License-Identifier: MIT */
#include "daemon/mean.h"

#include "codec/bnb/format.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { AHEAD = 4 /* tiles that are begun while one is added up */ };

/* One for each matrix that was asked for. */
struct mean {
    struct mean *next;
    uint8_t key[KEY_SIZE]; /* of the encoding */
    float value;
    bool known, busy; /* busy: somebody makes the pass */
};

struct means {
    pthread_mutex_t lock; /* of all below, and of what they hold */
    pthread_cond_t done;
    struct mean *first;
};

struct means *means_new(void)
{
    struct means *m = calloc(1, sizeof *m);
    if (m) {
        pthread_mutex_init(&m->lock, NULL);
        pthread_cond_init(&m->done, NULL);
    }
    return m;
}

void means_free(struct means *m)
{
    if (!m)
        return;
    for (struct mean *mean; (mean = m->first);) {
        m->first = mean->next;
        free(mean);
    }
    pthread_cond_destroy(&m->done);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* Its entry, a new one where there is none; NULL when memory is out. By the lock. */
static struct mean *entry(struct means *m, const struct encoding *e)
{
    struct mean *mean = m->first;
    while (mean && memcmp(mean->key, e->key, KEY_SIZE) != 0)
        mean = mean->next;
    if (mean || !(mean = calloc(1, sizeof *mean)))
        return mean;
    memcpy(mean->key, e->key, KEY_SIZE);
    mean->next = m->first;
    return m->first = mean;
}

/* Blocks are added up one by one from the first to the last, so that the sum is always the same. */
static int pass(struct tiles *tiles, struct encoding *e, enum job_class class, float *out,
                struct error *err)
{
    double sum = 0;
    uint64_t blocks = e->size / NF4_SIZE, begun = 1;
    int rc = 0;
    for (uint64_t i = 0; !rc && i < e->tile_count; i++) {
        struct tile *tile;
        while (begun < e->tile_count && begun <= i + AHEAD && tile_prefetch(tiles, e, begun, out))
            begun++;
        begun = begun > i + 1 ? begun : i + 2;
        rc = tile_get(tiles, e, i, class, &tile, err);
        if (!rc) {
            sum = nf4_add_absmax(sum, tile_data(tile), encoding_tile_size(e, i) / NF4_SIZE);
            tile_put(tiles, tile, 0);
        }
    }
    if (rc)
        tiles_forget(tiles, out);
    else
        *out = (float)(sum / (double)blocks);
    return rc;
}

static void mean_key(const struct encoding *e, uint8_t key[KEY_SIZE])
{
    static const char kind[] = "quantfs mean 1";
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    crypto_hash_sha256_update(&state, (const uint8_t *)kind, sizeof kind);
    crypto_hash_sha256_update(&state, e->key, KEY_SIZE);
    crypto_hash_sha256_final(&state, key);
}

static bool load(struct cache *cache, const uint8_t key[KEY_SIZE], float *out)
{
    uint8_t *data;
    size_t size;
    if (!cache_load_whole(cache, key, sizeof *out, &data, &size))
        return false;
    bool good = size == sizeof *out;
    if (good)
        memcpy(out, data, sizeof *out);
    free(data);
    return good;
}

static int find(struct tiles *tiles, struct encoding *e, enum job_class class, float *out,
                struct error *err)
{
    uint8_t key[KEY_SIZE];
    struct cache *cache = e->tile_count > 1 ? tiles_cache(tiles) : NULL;
    mean_key(e, key);
    if (cache && load(cache, key, out))
        return 0;
    int rc = pass(tiles, e, class, out, err);
    if (!rc && cache)
        cache_store_whole(cache, key, (const uint8_t *)out, sizeof *out);
    return rc;
}

int mean_get(struct tiles *tiles, struct encoding *e, enum job_class class, float *out,
             struct error *err)
{
    struct means *m = tiles_means(tiles);
    /* What is known is old once the source has changed. */
    int rc = encoding_check(e, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->lock);
    struct mean *mean = entry(m, e);
    while (mean && mean->busy)
        pthread_cond_wait(&m->done, &m->lock);
    if (mean && !mean->known) {
        float value;
        mean->busy = true;
        pthread_mutex_unlock(&m->lock);
        rc = find(tiles, e, class, &value, err);
        pthread_mutex_lock(&m->lock);
        mean->busy = false;
        mean->known = !rc;
        mean->value = rc ? 0 : value;
        pthread_cond_broadcast(&m->done);
    }
    if (!rc && mean)
        *out = mean->value;
    pthread_mutex_unlock(&m->lock);
    return mean ? rc : error_set(err, -ENOMEM, "out of memory");
}

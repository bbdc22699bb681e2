/* SPDX-License-Identifier: MIT
 *
 * What the daemon counts while it runs. Counters only grow; gauges are set. Everything is atomic,
 * nothing is ordered: a snapshot may be torn between counters.
 */
#ifndef DAEMON_STATS_H
#define DAEMON_STATS_H

#include <stdatomic.h>
#include <stdint.h>

/* X(name, "counter" or "gauge", help) */
#define STATS(X)                                                                                   \
    X(reads, "counter", "read requests answered")                                                  \
    X(read_bytes, "counter", "bytes given to readers")                                             \
    X(tiles_encoded, "counter", "tiles made from the source")                                      \
    X(tiles_loaded, "counter", "tiles loaded from the tile cache")                                 \
    X(tiles_shared, "counter", "tiles found in memory or being made already")                      \
    X(tiles_prefetched, "counter", "tiles made or loaded ahead of the reader")                     \
    X(tiles_healed, "counter", "damaged tiles in the cache that were made again")                  \
    X(tiles_stored, "counter", "tiles written to the tile cache")                                  \
    X(objects_sealed, "counter", "cache objects rewritten compact")                                \
    X(objects_evicted, "counter", "cache objects removed to keep the budget")                      \
    X(weights_encoded, "counter", "weights encoded")                                               \
    X(encode_ns, "counter", "nanoseconds of all workers spent encoding, reading included")         \
    X(source_bytes, "counter", "bytes read from checkpoints")                                      \
    X(cache_bytes, "gauge", "bytes that the tile cache takes on disk")                             \
    X(memory_bytes, "gauge", "bytes of buffers held")                                              \
    X(open_files, "gauge", "virtual files open")                                                   \
    X(errors, "counter", "reads that failed")

struct stats {
#define X(name, kind, help) _Atomic uint64_t name;
    STATS(X)
#undef X
};

static inline void stats_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline void stats_set(_Atomic uint64_t *gauge, uint64_t n)
{
    atomic_store_explicit(gauge, n, memory_order_relaxed);
}

static inline uint64_t stats_get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

#endif

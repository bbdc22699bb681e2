/* SPDX-License-Identifier: MIT
 *
 * Attention of one token, in four kernels, with the order of sums of kernels/cpu/attend.h.
 *
 * attend_scores: two lanes take a position, a warp 16, and share the sums as sixteen_sums.h has it;
 * each loads 16 bytes of a sector of the key. Up to four heads that share the key load it and make
 * it floats once. Queries are the same for all positions.
 *
 * attend_weights: a block takes a head. After the largest score is known, a thread makes weights of
 * every ATTEND_THREADS-th; then 16 lanes add them up, each every sixteenth, one after the other.
 *
 * attend_values: a thread takes an element of a head and goes through the positions of a chunk, for
 * their order is that of the sum; lanes have neighbouring elements, of 2 bytes. Heads are spread over
 * blocks, so values are read again for each head, from the cache.
 *
 * attend_sum: a thread adds up the chunks of an element and divides them by the head's total.
 */
#include "kernels/cuda/float_exp.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/sixteen_sums.h"

/* Scores of n heads from q on, one position; all lanes of a warp. */
template <int n>
DEVICE void scores_make(const struct attend_args *a, const float *q, const uint16_t *key,
                        float *scores, bool store)
{
    float sum[n][HALF_SUMS] = {}, k[HALF_SUMS], queries[HALF_SUMS];
    for (uint32_t i = lane_eight(); i < a->dim; i += SUMS) {
        halves_widen(load16(key + i), k);
        for (int h = 0; h < n; h++) {
            floats_load(q + h * a->dim + i, queries);
            eight_add(sum[h], queries, k);
        }
    }
    for (int h = 0; h < n; h++) {
        float score = a->scale * sixteen_add(sum[h]);
        if (store)
            store4(scores + (size_t)h * a->count, float_bits(score));
    }
}

KERNEL(attend_scores, struct attend_args, ATTEND_THREADS)
{
    uint32_t parts = (a->count + ATTEND_POSITIONS - 1) / ATTEND_POSITIONS;
    uint32_t kv = block_index() / parts;
    uint32_t position = block_index() % parts * ATTEND_POSITIONS + thread_index() / 2;
    bool store = position < a->count && thread_index() % 2 == 0;
    const uint16_t *key = a->keys + kv * a->head_stride +
                          (size_t)(a->first + min_of(position, a->count - 1)) * a->dim;
    for (uint32_t h = 0, n; h < a->shared_by; h += n) {
        uint32_t head = kv * a->shared_by + h, left = a->shared_by - h;
        const float *q = a->q + (size_t)head * a->dim;
        float *scores = a->scores + (size_t)head * a->count + position;
        n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (n == 4)
            scores_make<4>(a, q, key, scores, store);
        else if (n == 2)
            scores_make<2>(a, q, key, scores, store);
        else
            scores_make<1>(a, q, key, scores, store);
    }
}

/* The largest of all threads' in a block, none of which is NaN. */
DEVICE float block_largest(float v)
{
    SHARED(uint32_t, of_warps, ATTEND_THREADS / WARP_LANES);
    for (uint32_t mask = WARP_LANES / 2; mask; mask /= 2) {
        float other = float_from(shuffle_xor(float_bits(v), mask));
        v = other > v ? other : v;
    }
    if (lane_index() == 0)
        shared_put4(of_warps + warp_index(), float_bits(v));
    block_barrier();
    for (uint32_t w = 0; w < ATTEND_THREADS / WARP_LANES; w++) {
        float other = float_from(shared_get4(of_warps + w));
        v = other > v ? other : v;
    }
    return v;
}

KERNEL(attend_weights, struct attend_args, ATTEND_THREADS)
{
    float *scores = a->scores + (size_t)block_index() * a->count;
    float most = float_from(0xff800000), total = 0; /* -infinity */
    for (uint32_t p = thread_index(); p < a->count; p += ATTEND_THREADS) {
        float score = float_from(load4_again(scores + p));
        most = score > most ? score : most;
    }
    most = block_largest(most);
    for (uint32_t p = thread_index(); p < a->count; p += ATTEND_THREADS)
        store4(scores + p, float_bits(float_exp(float_from(load4_again(scores + p)) - most)));
    block_barrier();
    if (warp_index() > 0)
        return;
    for (uint32_t p = lane_index() % SUMS; p < a->count; p += SUMS)
        total += float_from(load4_again(scores + p));
    for (uint32_t mask = SUMS / 2; mask; mask /= 2)
        total += float_from(shuffle_xor(float_bits(total), mask));
    if (lane_index() == 0)
        store4(a->totals + block_index(), float_bits(total));
}

KERNEL(attend_values, struct attend_args, ATTEND_VALUE_THREADS)
{
    uint32_t parts = (a->dim + ATTEND_VALUE_THREADS - 1) / ATTEND_VALUE_THREADS;
    uint32_t chunks = (a->count + ATTEND_CHUNK - 1) / ATTEND_CHUNK;
    uint32_t chunk = block_index() / parts % chunks, head = block_index() / parts / chunks;
    uint32_t i = block_index() % parts * ATTEND_VALUE_THREADS + thread_index();
    if (i >= a->dim)
        return;
    uint32_t first = chunk * ATTEND_CHUNK, count = min_of(a->count - first, ATTEND_CHUNK);
    const uint16_t *value =
        a->values + head / a->shared_by * a->head_stride + (size_t)(a->first + first) * a->dim + i;
    const float *weights = a->scores + (size_t)head * a->count + first;
    float sum = 0;
    for (uint32_t p = 0; p < count; p++)
        sum += float_from(load4(weights + p)) * half_to_float(load2(value + (size_t)p * a->dim));
    store4(a->chunks + ((size_t)head * chunks + chunk) * a->dim + i, float_bits(sum));
}

KERNEL(attend_sum, struct attend_args, ATTEND_THREADS)
{
    uint32_t at = block_index() * ATTEND_THREADS + thread_index(), head = at / a->dim;
    uint32_t chunks = (a->count + ATTEND_CHUNK - 1) / ATTEND_CHUNK;
    if (head >= a->heads)
        return;
    const float *chunk = a->chunks + (size_t)head * chunks * a->dim + at % a->dim;
    float sum = 0;
    for (uint32_t c = 0; c < chunks; c++)
        sum += float_from(load4(chunk + (size_t)c * a->dim));
    store4(a->out + at, float_bits(sum / float_from(load4(a->totals + head))));
}

/* SPDX-License-Identifier: MIT
 *
 * Attention with vectors. This file is compiled once for each instruction set.
 *
 * Keys and values are halves, and are made floats where they are used: a few positions at a time
 * serve a few heads. A chunk of values stays in the first cache while the parts of it that registers
 * have room for take turns.
 */
#include "kernels/cpu/attend.h"

#include "kernels/cpu/vectors.h"

#include <math.h>

enum {
    SUMS = 16,
    VECTORS = SUMS / LANES,
    POSITIONS = 4, /* scored at once */
    /* As there are registers for: heads, and the vectors of values that are summed up for them. */
    HEADS = LANES / 4,
    PARTS = LANES / 4,
};

/* ---- scores ---- */

/* The sums of four times 16 lanes, in halves. */
INLINE __m128 sums_of_four_floats(float_lanes v[POSITIONS][VECTORS])
{
    __m256 eight[POSITIONS];
    for (int p = 0; p < POSITIONS; p++)
        eight[p] = floats_halve(v[p]);
    __m256 ab = _mm256_permute2f128_ps(eight[0], eight[1], 0x20) +
                _mm256_permute2f128_ps(eight[0], eight[1], 0x31);
    __m256 cd = _mm256_permute2f128_ps(eight[2], eight[3], 0x20) +
                _mm256_permute2f128_ps(eight[2], eight[3], 0x31);
    __m256 two = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
    __m256 one = _mm256_shuffle_ps(two, two, 0x88) + _mm256_shuffle_ps(two, two, 0xdd);
    return _mm_unpacklo_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1));
}

INLINE void scores_add(int heads, const float *q, size_t q_stride, const uint16_t *const *key,
                       float_lanes sum[HEADS][POSITIONS][VECTORS])
{
    for (int v = 0; v < VECTORS; v++) {
        float_lanes of_head[HEADS];
        for (int h = 0; h < heads; h++)
            of_head[h] = floats_load(q + h * q_stride + v * LANES);
        for (int p = 0; p < POSITIONS; p++) {
            float_lanes k = floats_of_halves(key[p] + v * LANES);
            for (int h = 0; h < heads; h++)
                sum[h][p][v] += of_head[h] * k;
        }
    }
}

/* Four keys, of which count are to be stored; head h's scores are at scores + h * score_stride. */
INLINE void scores_put(int heads, const float *q, const uint16_t *const *keys, uint32_t count,
                       uint32_t dim, float scale, float *scores, size_t score_stride)
{
    float_lanes sum[HEADS][POSITIONS][VECTORS] = {0};
    const uint16_t *key[POSITIONS];
    uint32_t whole = dim / SUMS * SUMS, rest = dim - whole;
    for (uint32_t i = 0; i < whole; i += SUMS) {
        for (int p = 0; p < POSITIONS; p++)
            key[p] = keys[p] + i;
        scores_add(heads, q + i, dim, key, sum);
    }
    if (rest) {
        float q_rest[HEADS][SUMS] = {0};
        uint16_t key_rest[POSITIONS][SUMS] = {0};
        for (int h = 0; h < heads; h++)
            memcpy(q_rest[h], q + h * dim + whole, rest * sizeof *q);
        for (int p = 0; p < POSITIONS; p++) {
            memcpy(key_rest[p], keys[p] + whole, rest * sizeof **keys);
            key[p] = key_rest[p];
        }
        scores_add(heads, q_rest[0], SUMS, key, sum);
    }
    for (int h = 0; h < heads; h++) {
        float four[POSITIONS];
        __m128 score = _mm_set1_ps(scale) * sums_of_four_floats(sum[h]);
        if (count == POSITIONS) {
            _mm_storeu_ps(scores + h * score_stride, score);
            continue;
        }
        _mm_storeu_ps(four, score);
        memcpy(scores + h * score_stride, four, count * sizeof *four);
    }
}

/* ---- weights ---- */

/* As exp_c. */
INLINE float_lanes exp_lanes(float_lanes x)
{
    float_lanes rounded = x * floats_all(LOG2_E) + floats_all(EXP_ROUND),
                n = rounded - floats_all(EXP_ROUND),
                r = (x - n * floats_all(LN2_HIGH)) - n * floats_all(LN2_LOW),
                rest = floats_all(EXP_6) * r + floats_all(EXP_5);
    rest = rest * r + floats_all(EXP_4);
    rest = rest * r + floats_all(EXP_3);
    rest = rest * r + floats_all(EXP_2);
    return floats_unless_less(x, EXP_LEAST,
                              (floats_all(1) + (r + r * r * rest)) * floats_exponent(rounded));
}

/* 16 weights, of which count are there to be stored. */
INLINE void weights_put(float *scores, uint32_t count, float most, float_lanes total[VECTORS])
{
    float last[SUMS], *at = scores;
    if (count < SUMS) {
        for (int i = 0; i < SUMS; i++)
            last[i] = -INFINITY;
        at = memcpy(last, scores, count * sizeof *scores);
    }
    for (int v = 0; v < VECTORS; v++) {
        float_lanes weight = exp_lanes(floats_load(at + v * LANES) - floats_all(most));
        floats_store(at + v * LANES, weight);
        total[v] += weight;
    }
    if (count < SUMS)
        memcpy(scores, last, count * sizeof *scores);
}

static float weigh(float *scores, uint32_t count)
{
    float lane[LANES], most = -INFINITY;
    float_lanes largest = floats_all(most), total[VECTORS] = {0};
    uint32_t p = 0;
    for (; p + LANES <= count; p += LANES)
        largest = floats_max(floats_load(scores + p), largest);
    for (; p < count; p++)
        most = scores[p] > most ? scores[p] : most;
    floats_store(lane, largest);
    for (int l = 0; l < LANES; l++)
        most = lane[l] > most ? lane[l] : most;
    for (p = 0; p < count; p += SUMS)
        weights_put(scores + p, count - p < SUMS ? count - p : SUMS, most, total);
    return halves_add(floats_halve(total));
}

/* ---- values ---- */

/* Adds a chunk to out[h], for `parts` vectors of each and count positions. */
INLINE void values_add(int heads, int parts, const uint16_t *values, size_t stride, uint32_t count,
                       const float *weights, size_t weight_stride, float *out, size_t out_stride)
{
    float_lanes sum[HEADS][PARTS] = {0};
    for (uint32_t p = 0; p < count; p++, values += stride)
        for (int i = 0; i < parts; i++) {
            float_lanes value = floats_of_halves(values + i * LANES);
            for (int h = 0; h < heads; h++)
                sum[h][i] += floats_all(weights[h * weight_stride + p]) * value;
        }
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < parts; i++)
            floats_store(out + h * out_stride + i * LANES,
                         floats_load(out + h * out_stride + i * LANES) + sum[h][i]);
}

/* All elements of some heads, and count positions. */
INLINE void values_put(int heads, const uint16_t *values, uint32_t count, const float *weights,
                       size_t weight_stride, uint32_t dim, float *out)
{
    uint32_t i = 0;
    for (; i + PARTS * LANES <= dim; i += PARTS * LANES)
        values_add(heads, PARTS, values + i, dim, count, weights, weight_stride, out + i, dim);
    for (; i + LANES <= dim; i += LANES)
        values_add(heads, 1, values + i, dim, count, weights, weight_stride, out + i, dim);
    if (i == dim)
        return;
    uint16_t rest[ATTEND_CHUNK][LANES] = {0};
    float sum[HEADS][LANES] = {0};
    for (uint32_t p = 0; p < count; p++)
        memcpy(rest[p], values + (size_t)p * dim + i, (dim - i) * sizeof *values);
    for (int h = 0; h < heads; h++)
        memcpy(sum[h], out + h * dim + i, (dim - i) * sizeof *out);
    values_add(heads, 1, rest[0], LANES, count, weights, weight_stride, sum[0], LANES);
    for (int h = 0; h < heads; h++)
        memcpy(out + h * dim + i, sum[h], (dim - i) * sizeof *out);
}

/* ---- the whole ---- */

INLINE void heads_attend(int heads, const float *q, const uint16_t *keys, const uint16_t *values,
                         uint32_t count, uint32_t dim, float scale, float *scores, float *out)
{
    float total[HEADS];
    for (uint32_t p = 0; p < count; p += POSITIONS) {
        uint32_t there = count - p < POSITIONS ? count - p : POSITIONS;
        const uint16_t *key[POSITIONS];
        for (uint32_t i = 0; i < POSITIONS; i++)
            key[i] = keys + (size_t)(p + (i < there ? i : 0)) * dim;
        scores_put(heads, q, key, there, dim, scale, scores + p, count);
    }
    for (int h = 0; h < heads; h++)
        total[h] = weigh(scores + (size_t)h * count, count);
    for (uint32_t i = 0; i < heads * dim; i++)
        out[i] = 0;
    for (uint32_t p = 0; p < count; p += ATTEND_CHUNK) {
        uint32_t there = count - p < ATTEND_CHUNK ? count - p : ATTEND_CHUNK;
        values_put(heads, values + (size_t)p * dim, there, scores + p, count, dim, out);
    }
    for (int h = 0; h < heads; h++)
        for (uint32_t i = 0; i < dim; i++)
            out[h * dim + i] /= total[h];
}

#ifdef __AVX512F__
#define ATTEND attend_avx512
#else
#define ATTEND attend_avx2
#endif

void ATTEND(const float *q, uint32_t heads, const uint16_t *keys, const uint16_t *values,
            uint32_t count, uint32_t dim, float scale, float *scores, float *out)
{
    uint32_t h = 0;
    for (; h + HEADS <= heads; h += HEADS)
        heads_attend(HEADS, q + h * dim, keys, values, count, dim, scale, scores, out + h * dim);
    for (; h < heads; h++)
        heads_attend(1, q + h * dim, keys, values, count, dim, scale, scores, out + h * dim);
}

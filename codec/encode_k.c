/* SPDX-License-Identifier: MIT
 *
 * Encoders of the K formats: superblocks of 256 weights that stand alone, so a row may be cut
 * between any two of them. Each format has two algorithms, not one with and without weights:
 * plain (ggml's quantize_row_*_ref) and weighted by an importance matrix (quantize_row_*_impl).
 *
 * All of them end alike: the super-scales are rounded to binary16, the sub-scales are read back
 * from their packed form, and the levels are computed anew by true division with what will be
 * decoded. Where that scale came out as zero the levels of the search are kept.
 */
#include "codec/encode.h"

#include "codec/block.h"
#include "codec/float16.h"
#include "codec/search.h"

#include <math.h>

/* Sum of squares over a superblock, in order. */
static float sum_squares(const float *x, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

/* w = importance * sqrt(power + x^2); returns the sum of w, in order. */
static float importance_weights(int n, const float *x, const float *importance, float power,
                                float *w)
{
    float sum = 0;
    for (int i = 0; i < n; i++) {
        w[i] = importance[i] * sqrtf(power + x[i] * x[i]);
        sum += w[i];
    }
    return sum;
}

static float max_above_zero(int n, const float *v)
{
    float max = 0;
    for (int i = 0; i < n; i++)
        if (v[i] > max)
            max = v[i];
    return max;
}

/* ---- Q2_K: 16 groups of 16, 4-bit scales and mins ---- */

static const struct search_grid q2_plain = {3, -0.5f, 0.1f, 15, true};
static const struct search_grid q2_weighted = {3, -0.9f, 0.05f, 36, false};

static void q2_finish(const float *x, uint8_t L[SUPERBLOCK], struct block_q2_k *y)
{
    float d = f32_from_f16(y->d), dmin = f32_from_f16(y->dmin);
    for (int j = 0; j < 16; j++) {
        float scale = d * (float)(y->scales[j] & 15);
        if (scale == 0)
            continue;
        float min = dmin * (float)(y->scales[j] >> 4);
        for (int i = 16 * j; i < 16 * j + 16; i++)
            L[i] = (uint8_t)clamp_int(round_even((x[i] + min) / scale), 0, 3);
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *l = L + 128 * h + i;
            y->qs[32 * h + i] = (uint8_t)(l[0] | l[32] << 2 | l[64] << 4 | l[96] << 6);
        }
}

static void q2_k_plain(const float *x, void *out)
{
    struct block_q2_k *y = out;
    uint8_t L[SUPERBLOCK];
    float scales[16], mins[16], w[16];
    for (int j = 0; j < 16; j++) {
        for (int i = 0; i < 16; i++)
            w[i] = fabsf(x[16 * j + i]);
        scales[j] = search_scale_min(&q2_plain, 16, x + 16 * j, w, L + 16 * j, &mins[j]);
    }
    float max_scale = max_above_zero(16, scales), max_min = max_above_zero(16, mins);
    for (int j = 0; j < 16; j++)
        y->scales[j] = max_scale > 0 ? (uint8_t)round_even(15.f / max_scale * scales[j]) : 0;
    for (int j = 0; j < 16; j++)
        if (max_min > 0)
            y->scales[j] |= (uint8_t)((unsigned)round_even(15.f / max_min * mins[j]) << 4);
    y->d = max_scale > 0 ? f16_from_f32(max_scale / 15.f) : 0;
    y->dmin = max_min > 0 ? f16_from_f32(max_min / 15.f) : 0;
    q2_finish(x, L, y);
}

static void q2_k_weighted(const float *x, const float *importance, void *out)
{
    struct block_q2_k *y = out;
    uint8_t L[SUPERBLOCK], scale_levels[16], min_levels[16];
    float scales[16], mins[16], sums[16], w[16];
    float power = sum_squares(x, SUPERBLOCK) / SUPERBLOCK;
    for (int j = 0; j < 16; j++) {
        sums[j] = importance_weights(16, x + 16 * j, importance + 16 * j, power, w);
        scales[j] = search_scale_min(&q2_weighted, 16, x + 16 * j, w, L + 16 * j, &mins[j]);
    }
    y->d = f16_from_f32(search_positive(16, 15, scales, sums, scale_levels));
    y->dmin = f16_from_f32(search_positive(16, 15, mins, sums, min_levels));
    for (int j = 0; j < 16; j++)
        y->scales[j] = (uint8_t)(scale_levels[j] | min_levels[j] << 4);
    q2_finish(x, L, y);
}

/* ---- Q3_K: 16 groups of 16, 6-bit signed scales ---- */

/* levels: 0..63, the scales plus 32. d is in place. */
static void q3_finish(const float *x, const uint8_t levels[16], uint8_t L[SUPERBLOCK],
                      struct block_q3_k *y)
{
    float d = f32_from_f16(y->d);
    memset(y->scales, 0, sizeof y->scales);
    for (int j = 0; j < 16; j++) {
        y->scales[j % 8] |= (uint8_t)((levels[j] & 15) << 4 * (j / 8));
        y->scales[8 + j % 4] |= (uint8_t)(levels[j] >> 4 << 2 * (j / 4));
        float scale = d * (float)((levels[j] & 63) - 32);
        if (scale == 0)
            continue;
        for (int i = 16 * j; i < 16 * j + 16; i++)
            L[i] = (uint8_t)(clamp_int(round_even(x[i] / scale), -4, 3) + 4);
    }
    memset(y->hmask, 0, sizeof y->hmask);
    for (int i = 0; i < SUPERBLOCK; i++)
        if (L[i] > 3) {
            y->hmask[i % 32] |= (uint8_t)(1 << i / 32);
            L[i] -= 4;
        }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *l = L + 128 * h + i;
            y->qs[32 * h + i] = (uint8_t)(l[0] | l[32] << 2 | l[64] << 4 | l[96] << 6);
        }
}

/* The signed scale of the largest magnitude; the first one wins. */
static float extreme_scale(const float scales[16], float *magnitude)
{
    float amax = 0, max = 0;
    for (int j = 0; j < 16; j++)
        if (fabsf(scales[j]) > amax) {
            amax = fabsf(scales[j]);
            max = scales[j];
        }
    *magnitude = amax;
    return max;
}

static void q3_k_plain(const float *x, void *out)
{
    struct block_q3_k *y = out;
    uint8_t L[SUPERBLOCK], levels[16];
    float scales[16], amax;
    for (int j = 0; j < 16; j++)
        scales[j] = search_q3(16, x + 16 * j, L + 16 * j);
    float max = extreme_scale(scales, &amax);
    if (max != 0) {
        float inverse = -32.f / max;
        for (int j = 0; j < 16; j++)
            levels[j] = (uint8_t)(clamp_int((int8_t)round_even(inverse * scales[j]), -32, 31) + 32);
        y->d = f16_from_f32(1 / inverse);
    } else {
        /* The reference leaves the packed bytes zero, which reads as scale -32. */
        memset(levels, 0, sizeof levels);
        y->d = 0;
    }
    q3_finish(x, levels, L, y);
}

static void q3_k_weighted(const float *x, const float *importance, void *out)
{
    struct block_q3_k *y = out;
    uint8_t L[SUPERBLOCK], levels[16];
    float scales[16], sums[16], w[16];
    float power = 2 * sum_squares(x, SUPERBLOCK) / SUPERBLOCK;
    for (int j = 0; j < 16; j++) {
        sums[j] = importance_weights(16, x + 16 * j, importance + 16 * j, power, w);
        scales[j] = search_symmetric(16, 4, x + 16 * j, w, L + 16 * j);
    }
    y->d = f16_from_f32(search_symmetric(16, 32, scales, sums, levels));
    q3_finish(x, levels, L, y);
}

/* ---- Q4_K and Q5_K: 8 groups of 32, 6-bit scales and mins ---- */

static const struct search_grid q4_plain = {15, -1.f, 0.1f, 20, false};
static const struct search_grid q4_weighted = {15, -0.9f, 0.05f, 36, false};
static const struct search_grid q5_plain = {31, -0.5f, 0.1f, 15, false};
static const struct search_grid q5_weighted = {31, -0.9f, 0.05f, 36, false};

/* scale and min are bytes as the searches left them: where one exceeds 6 bits its upper bits run
 * into the neighbour's, as in the reference. */
static void scale_min_put(int j, uint8_t b[12], uint8_t scale, uint8_t min)
{
    if (j < 4) {
        b[j] = scale;
        b[j + 4] = min;
    } else {
        b[j + 4] = (uint8_t)((scale & 15) | (min & 15) << 4);
        b[j - 4] |= (uint8_t)(scale >> 4 << 6);
        b[j] |= (uint8_t)(min >> 4 << 6);
    }
}

/* The part that Q4_K and Q5_K share, plain: searches, super-scales, packed scales. */
static void scale_mins_plain(const struct search_grid *grid, const float *x, uint8_t L[SUPERBLOCK],
                             uint16_t *d, uint16_t *dmin, uint8_t packed[12])
{
    float scales[8], mins[8], w[BLOCK];
    for (int j = 0; j < 8; j++) {
        const float *group = x + BLOCK * j;
        float mean = sqrtf(sum_squares(group, BLOCK) / BLOCK);
        for (int i = 0; i < BLOCK; i++)
            w[i] = mean + fabsf(group[i]);
        scales[j] = search_scale_min(grid, BLOCK, group, w, L + BLOCK * j, &mins[j]);
    }
    float max_scale = max_above_zero(8, scales), max_min = max_above_zero(8, mins);
    float inverse_scale = max_scale > 0 ? 63.f / max_scale : 0;
    float inverse_min = max_min > 0 ? 63.f / max_min : 0;
    for (int j = 0; j < 8; j++) {
        uint8_t scale = (uint8_t)round_even(inverse_scale * scales[j]);
        uint8_t min = (uint8_t)round_even(inverse_min * mins[j]);
        scale_min_put(j, packed, scale > 63 ? 63 : scale, min > 63 ? 63 : min);
    }
    *d = f16_from_f32(max_scale / 63.f);
    *dmin = f16_from_f32(max_min / 63.f);
}

/* The same, weighted. Q5_K clamps the levels before packing, Q4_K does not. */
static void scale_mins_weighted(const struct search_grid *grid, uint8_t level_max, const float *x,
                                const float *importance, uint8_t L[SUPERBLOCK], uint16_t *d,
                                uint16_t *dmin, uint8_t packed[12])
{
    uint8_t scale_levels[8], min_levels[8];
    float scales[8], mins[8], sums[8], w[BLOCK];
    float power = 2 * sum_squares(x, SUPERBLOCK) / SUPERBLOCK;
    for (int j = 0; j < 8; j++) {
        const float *group = x + BLOCK * j;
        sums[j] = importance_weights(BLOCK, group, importance + BLOCK * j, power, w);
        scales[j] = search_scale_min(grid, BLOCK, group, w, L + BLOCK * j, &mins[j]);
    }
    *d = f16_from_f32(search_positive(8, 63, scales, sums, scale_levels));
    *dmin = f16_from_f32(search_positive(8, 63, mins, sums, min_levels));
    for (int j = 0; j < 8; j++) {
        uint8_t scale = scale_levels[j] > level_max ? level_max : scale_levels[j];
        uint8_t min = min_levels[j] > level_max ? level_max : min_levels[j];
        scale_min_put(j, packed, scale, min);
    }
}

static void scale_mins_requantize(int nmax, const float *x, uint16_t d16, uint16_t dmin16,
                                  const uint8_t packed[12], uint8_t L[SUPERBLOCK])
{
    float d = f32_from_f16(d16), dmin = f32_from_f16(dmin16);
    for (int j = 0; j < 8; j++) {
        uint8_t scale_level, min_level;
        scale_min_get(j, packed, &scale_level, &min_level);
        float scale = d * (float)scale_level;
        if (scale == 0)
            continue;
        float min = dmin * (float)min_level;
        for (int i = BLOCK * j; i < BLOCK * j + BLOCK; i++)
            L[i] = (uint8_t)clamp_int(round_even((x[i] + min) / scale), 0, nmax);
    }
}

static void nibbles_pack(const uint8_t L[SUPERBLOCK], uint8_t qs[128])
{
    for (int g = 0; g < 4; g++)
        for (int i = 0; i < 32; i++)
            qs[32 * g + i] = (uint8_t)((L[64 * g + i] & 15) | (L[64 * g + 32 + i] & 15) << 4);
}

static void q4_finish(const float *x, uint8_t L[SUPERBLOCK], struct block_q4_k *y)
{
    scale_mins_requantize(15, x, y->d, y->dmin, y->scales, L);
    nibbles_pack(L, y->qs);
}

static void q4_k_plain(const float *x, void *out)
{
    struct block_q4_k *y = out;
    uint8_t L[SUPERBLOCK];
    scale_mins_plain(&q4_plain, x, L, &y->d, &y->dmin, y->scales);
    q4_finish(x, L, y);
}

static void q4_k_weighted(const float *x, const float *importance, void *out)
{
    struct block_q4_k *y = out;
    uint8_t L[SUPERBLOCK];
    scale_mins_weighted(&q4_weighted, 255, x, importance, L, &y->d, &y->dmin, y->scales);
    q4_finish(x, L, y);
}

static void q5_finish(const float *x, uint8_t L[SUPERBLOCK], struct block_q5_k *y)
{
    scale_mins_requantize(31, x, y->d, y->dmin, y->scales, L);
    memset(y->qh, 0, sizeof y->qh);
    for (int i = 0; i < SUPERBLOCK; i++)
        y->qh[i % 32] |= (uint8_t)(L[i] >> 4 << i / 32);
    nibbles_pack(L, y->qs);
}

static void q5_k_plain(const float *x, void *out)
{
    struct block_q5_k *y = out;
    uint8_t L[SUPERBLOCK];
    scale_mins_plain(&q5_plain, x, L, &y->d, &y->dmin, y->scales);
    q5_finish(x, L, y);
}

static void q5_k_weighted(const float *x, const float *importance, void *out)
{
    struct block_q5_k *y = out;
    uint8_t L[SUPERBLOCK];
    scale_mins_weighted(&q5_weighted, 63, x, importance, L, &y->d, &y->dmin, y->scales);
    q5_finish(x, L, y);
}

/* ---- Q6_K: 16 groups of 16, 8-bit signed scales ---- */

/* The importance, where there is one, weighs the search as it is. */
static void q6_k_weighted(const float *x, const float *importance, void *out)
{
    struct block_q6_k *y = out;
    uint8_t L[SUPERBLOCK];
    float scales[16], amax;
    for (int j = 0; j < 16; j++)
        scales[j] = search_symmetric(16, 32, x + 16 * j, importance ? importance + 16 * j : NULL,
                                     L + 16 * j);
    float max = extreme_scale(scales, &amax);
    if (amax < GROUP_MAX_EPS) {
        memset(y, 0, sizeof *y);
        return;
    }
    float inverse = -128.f / max;
    y->d = f16_from_f32(1 / inverse);
    for (int j = 0; j < 16; j++) {
        int level = round_even(inverse * scales[j]);
        y->scales[j] = (int8_t)(level > 127 ? 127 : level);
        float scale = f32_from_f16(y->d) * (float)y->scales[j];
        if (scale == 0)
            continue;
        for (int i = 16 * j; i < 16 * j + 16; i++)
            L[i] = (uint8_t)(clamp_int(round_even(x[i] / scale), -32, 31) + 32);
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *l = L + 128 * h + i;
            y->ql[64 * h + i] = (uint8_t)((l[0] & 15) | (l[64] & 15) << 4);
            y->ql[64 * h + 32 + i] = (uint8_t)((l[32] & 15) | (l[96] & 15) << 4);
            y->qh[32 * h + i] =
                (uint8_t)(l[0] >> 4 | l[32] >> 4 << 2 | l[64] >> 4 << 4 | l[96] >> 4 << 6);
        }
}

static void q6_k_plain(const float *x, void *out) { q6_k_weighted(x, NULL, out); }

/* ---- rows ---- */

static void encode_superblocks(void (*plain)(const float *, void *),
                               void (*weighted)(const float *, const float *, void *),
                               size_t block_size, const float *x, size_t nrows, size_t ncols,
                               const float *importance, uint8_t *out)
{
    for (size_t row = 0; row < nrows; row++)
        for (size_t col = 0; col < ncols; col += SUPERBLOCK, x += SUPERBLOCK, out += block_size) {
            if (importance)
                weighted(x, importance + col, out);
            else
                plain(x, out);
        }
}

void encode_q2_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q2_k_plain, q2_k_weighted, sizeof(struct block_q2_k), x, nrows, ncols,
                       importance, out);
}

void encode_q3_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q3_k_plain, q3_k_weighted, sizeof(struct block_q3_k), x, nrows, ncols,
                       importance, out);
}

void encode_q4_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q4_k_plain, q4_k_weighted, sizeof(struct block_q4_k), x, nrows, ncols,
                       importance, out);
}

void encode_q5_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q5_k_plain, q5_k_weighted, sizeof(struct block_q5_k), x, nrows, ncols,
                       importance, out);
}

void encode_q6_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q6_k_plain, q6_k_weighted, sizeof(struct block_q6_k), x, nrows, ncols,
                       importance, out);
}

/* SPDX-License-Identifier: MIT */
#include "codec/encode_lanes.h"

#include <math.h>

/* ---- what superblocks share ---- */

static vfloat importance_weights(int n, const vfloat *x, const vfloat *importance, vfloat power,
                                 vfloat *w)
{
    vfloat sum = {0};
    for (int i = 0; i < n; i++) {
        w[i] = importance[i] * square_root(power + x[i] * x[i]);
        sum += w[i];
    }
    return sum;
}

static vfloat max_above_zero(int n, const vfloat *v)
{
    vfloat max = {0};
    for (int i = 0; i < n; i++)
        max = larger(v[i], max);
    return max;
}

/* The level of each weight in a group under what will be decoded, (x + min) / scale. Lanes where
 * that scale is zero keep the level that the search has left: in fit, or else in levels. */
LANES_INLINE void requantize(int n, int lo, int hi, const vfloat *x, vfloat scale, vfloat min,
                             const struct fit *fit, vint *levels)
{
    vmask zero = equal(scale, splat(0));
    bool keep = any(zero);
    for (int i = 0; i < n; i++) {
        vint level = clamp_ints(round_even_ints((x[i] + min) / scale), lo, hi) - lo;
        if (keep)
            level = choose_int(zero, fit ? fit_level(fit, x[i], lo, hi) : levels[i], level);
        levels[i] = level;
    }
}

static void fit_scales(int n, const struct fit *fit, vfloat *scales, vfloat *mins)
{
    for (int j = 0; j < n; j++) {
        scales[j] = fit[j].scale;
        mins[j] = fit[j].min;
    }
}

/* ---- Q2_K ---- */

static const struct search_grid q2_plain = {3, -0.5f, 0.1f, 15, true};
static const struct search_grid q2_weighted = {3, -0.9f, 0.05f, 36, false};

/* Two bits of each level, as Q2_K and Q3_K have them. */
static void two_bits_put(const vint levels[SUPERBLOCK], vint *words)
{
    for (int h = 0; h < 2; h++) {
        vint bytes[32];
        for (int i = 0; i < 32; i++) {
            const vint *l = levels + 128 * h + i;
            bytes[i] = l[0] | l[32] << 2 | l[64] << 4 | l[96] << 6;
        }
        words_put(32, bytes, words + 8 * h);
    }
}

/* scales: the packed bytes. */
static void q2_finish(const vfloat *x, const struct fit fit[16], vint d, vint dmin,
                      const vint scales[16], vint *words)
{
    vint levels[SUPERBLOCK];
    for (int j = 0; j < 16; j++)
        requantize(16, 0, 3, x + 16 * j, from_half(d) * to_float(scales[j] & 15),
                   from_half(dmin) * to_float(scales[j] >> 4), fit + j, levels + 16 * j);
    words_put(16, scales, words);
    two_bits_put(levels, words + 4);
    words[20] = d | dmin << 16;
}

static void q2_k_plain(const vfloat *x, vint *words)
{
    struct fit fit[16];
    vfloat scales[16], mins[16], w[FLIGHT * 16];
    for (int j = 0; j < 16; j += FLIGHT) {
        for (int i = 0; i < FLIGHT * 16; i++)
            w[i] = magnitude(x[16 * j + i]);
        search_scale_min_lanes(&q2_plain, 16, x + 16 * j, w, fit + j);
    }
    fit_scales(16, fit, scales, mins);
    vfloat max_scale = max_above_zero(16, scales), max_min = max_above_zero(16, mins);
    vmask scaled = less(splat(0), max_scale), shifted = less(splat(0), max_min);
    vint packed[16], zero = {0};
    for (int j = 0; j < 16; j++) {
        vint scale = round_even_ints(15.f / max_scale * scales[j]);
        vint min = round_even_ints(15.f / max_min * mins[j]) << 4;
        packed[j] = (choose_int(scaled, scale, zero) | choose_int(shifted, min, zero)) & 255;
    }
    q2_finish(x, fit, choose_int(scaled, f16_from_floats(max_scale / 15.f), zero),
              choose_int(shifted, f16_from_floats(max_min / 15.f), zero), packed, words);
}

static void q2_k_weighted(const vfloat *x, const vfloat *importance, vint *words)
{
    struct fit fit[16];
    vfloat scales[16], mins[16], sums[16], w[FLIGHT * 16];
    vfloat power = sum_squares(x, SUPERBLOCK) / SUPERBLOCK;
    for (int j = 0; j < 16; j += FLIGHT) {
        for (int f = 0; f < FLIGHT; f++)
            sums[j + f] = importance_weights(16, x + 16 * (j + f), importance + 16 * (j + f), power,
                                             w + 16 * f);
        search_scale_min_lanes(&q2_weighted, 16, x + 16 * j, w, fit + j);
    }
    fit_scales(16, fit, scales, mins);
    vint scale_levels[16], min_levels[16], packed[16];
    vint d = f16_from_floats(search_positive_lanes(16, 15, scales, sums, scale_levels));
    vint dmin = f16_from_floats(search_positive_lanes(16, 15, mins, sums, min_levels));
    for (int j = 0; j < 16; j++)
        packed[j] = (scale_levels[j] | min_levels[j] << 4) & 255;
    q2_finish(x, fit, d, dmin, packed, words);
}

/* ---- Q3_K ---- */

/* scale_levels: 0..63. levels: 0..7. */
static void q3_finish(const vint scale_levels[16], vint levels[SUPERBLOCK], vint d, vint *words)
{
    vint scales[12] = {{0}}, third[32] = {{0}};
    for (int j = 0; j < 16; j++) {
        scales[j % 8] |= (scale_levels[j] & 15) << 4 * (j / 8);
        scales[8 + j % 4] |= (scale_levels[j] >> 4 << 2 * (j / 4)) & 255;
    }
    for (int i = 0; i < SUPERBLOCK; i++) {
        third[i % 32] |= levels[i] >> 2 << i / 32;
        levels[i] &= 3;
    }
    words_put(32, third, words);
    two_bits_put(levels, words + 8);
    words_put(12, scales, words + 24);
    words[27] = d;
}

static vfloat q3_scale(vint d, vint scale_level)
{
    return from_half(d) * to_float((scale_level & 63) - 32);
}

static void q3_k_plain(const vfloat *x, vint *words)
{
    vfloat scales[16], amax;
    vint levels[SUPERBLOCK], scale_levels[16];
    for (int j = 0; j < 16; j++)
        scales[j] = search_q3_lanes(x + 16 * j, levels + 16 * j);
    vfloat max = extreme(16, scales, &amax), inverse = -32.f / max;
    vmask zero = equal(max, splat(0));
    vint d = choose_int(zero, splat_int(0), f16_from_floats(1 / inverse));
    for (int j = 0; j < 16; j++) {
        vint level = round_even_ints(inverse * scales[j]) << 24 >> 24;
        scale_levels[j] = choose_int(zero, splat_int(0), clamp_ints(level, -32, 31) + 32);
        requantize(16, -4, 3, x + 16 * j, q3_scale(d, scale_levels[j]), splat(0), NULL,
                   levels + 16 * j);
    }
    q3_finish(scale_levels, levels, d, words);
}

static void q3_k_weighted(const vfloat *x, const vfloat *importance, vint *words)
{
    struct fit fit[16], of_scales;
    vfloat scales[16], sums[16], w[16];
    vint levels[SUPERBLOCK], scale_levels[16];
    vfloat power = 2 * sum_squares(x, SUPERBLOCK) / SUPERBLOCK;
    for (int j = 0; j < 16; j++) {
        sums[j] = importance_weights(16, x + 16 * j, importance + 16 * j, power, w);
        search_symmetric_lanes(16, 4, true, x + 16 * j, w, fit + j);
        scales[j] = fit[j].scale;
    }
    search_symmetric_lanes(16, 32, false, scales, sums, &of_scales);
    vint d = f16_from_floats(of_scales.scale);
    for (int j = 0; j < 16; j++) {
        scale_levels[j] = fit_level(&of_scales, scales[j], -32, 31);
        requantize(16, -4, 3, x + 16 * j, q3_scale(d, scale_levels[j]), splat(0), fit + j,
                   levels + 16 * j);
    }
    q3_finish(scale_levels, levels, d, words);
}

/* ---- Q4_K and Q5_K ---- */

static const struct search_grid q4_plain = {15, -1.f, 0.1f, 20, false};
static const struct search_grid q4_weighted = {15, -0.9f, 0.05f, 36, false};
static const struct search_grid q5_plain = {31, -0.5f, 0.1f, 15, false};
static const struct search_grid q5_weighted = {31, -0.9f, 0.05f, 36, false};

/* The first words of a block: super-scales, and the bytes that scales and mins are packed in. */
struct scale_mins {
    vint d, dmin, bytes[12];
};

static void scale_min_put(int j, vint b[12], vint scale, vint min)
{
    if (j < 4) {
        b[j] = scale;
        b[j + 4] = min;
    } else {
        b[j + 4] = (scale & 15) | (min & 15) << 4;
        b[j - 4] |= (scale >> 4 << 6) & 255;
        b[j] |= (min >> 4 << 6) & 255;
    }
}

static void scale_min_levels_get(int j, const vint b[12], vint *scale, vint *min)
{
    if (j < 4) {
        *scale = b[j] & 63;
        *min = b[j + 4] & 63;
    } else {
        *scale = (b[j + 4] & 15) | b[j - 4] >> 6 << 4;
        *min = b[j + 4] >> 4 | b[j] >> 6 << 4;
    }
}

static void scale_mins_plain(const struct search_grid *grid, const vfloat *x, struct fit fit[8],
                             struct scale_mins *y)
{
    vfloat scales[8], mins[8], w[FLIGHT * BLOCK];
    for (int j = 0; j < 8; j += FLIGHT) {
        for (int f = 0; f < FLIGHT; f++) {
            const vfloat *group = x + BLOCK * (j + f);
            vfloat mean = square_root(sum_squares(group, BLOCK) / BLOCK);
            for (int i = 0; i < BLOCK; i++)
                w[BLOCK * f + i] = mean + magnitude(group[i]);
        }
        search_scale_min_lanes(grid, BLOCK, x + BLOCK * j, w, fit + j);
    }
    fit_scales(8, fit, scales, mins);
    vfloat max_scale = max_above_zero(8, scales), max_min = max_above_zero(8, mins);
    vfloat zero = {0};
    vfloat inverse_scale = choose(less(zero, max_scale), 63.f / max_scale, zero);
    vfloat inverse_min = choose(less(zero, max_min), 63.f / max_min, zero);
    for (int j = 0; j < 8; j++) {
        vint scale = round_even_ints(inverse_scale * scales[j]) & 255;
        vint min = round_even_ints(inverse_min * mins[j]) & 255;
        scale_min_put(j, y->bytes, smaller_int(scale, splat_int(63)),
                      smaller_int(min, splat_int(63)));
    }
    y->d = f16_from_floats(max_scale / 63.f);
    y->dmin = f16_from_floats(max_min / 63.f);
}

static void scale_mins_weighted(const struct search_grid *grid, int level_max, const vfloat *x,
                                const vfloat *importance, struct fit fit[8], struct scale_mins *y)
{
    vint scale_levels[8], min_levels[8];
    vfloat scales[8], mins[8], sums[8], w[FLIGHT * BLOCK];
    vfloat power = 2 * sum_squares(x, SUPERBLOCK) / SUPERBLOCK;
    for (int j = 0; j < 8; j += FLIGHT) {
        for (int f = 0; f < FLIGHT; f++)
            sums[j + f] = importance_weights(BLOCK, x + BLOCK * (j + f),
                                             importance + BLOCK * (j + f), power, w + BLOCK * f);
        search_scale_min_lanes(grid, BLOCK, x + BLOCK * j, w, fit + j);
    }
    fit_scales(8, fit, scales, mins);
    y->d = f16_from_floats(search_positive_lanes(8, 63, scales, sums, scale_levels));
    y->dmin = f16_from_floats(search_positive_lanes(8, 63, mins, sums, min_levels));
    for (int j = 0; j < 8; j++)
        scale_min_put(j, y->bytes, smaller_int(scale_levels[j], splat_int(level_max)),
                      smaller_int(min_levels[j], splat_int(level_max)));
}

static void scale_mins_requantize(int nmax, const vfloat *x, const struct fit fit[8],
                                  const struct scale_mins *y, vint levels[SUPERBLOCK])
{
    for (int j = 0; j < 8; j++) {
        vint scale, min;
        scale_min_levels_get(j, y->bytes, &scale, &min);
        requantize(BLOCK, 0, nmax, x + BLOCK * j, from_half(y->d) * to_float(scale),
                   from_half(y->dmin) * to_float(min), fit + j, levels + BLOCK * j);
    }
}

static void nibbles_put(const vint levels[SUPERBLOCK], vint *words)
{
    for (int g = 0; g < 4; g++) {
        vint bytes[32];
        for (int i = 0; i < 32; i++)
            bytes[i] = (levels[64 * g + i] & 15) | (levels[64 * g + 32 + i] & 15) << 4;
        words_put(32, bytes, words + 8 * g);
    }
}

static void q4_finish(const vfloat *x, const struct fit fit[8], const struct scale_mins *y,
                      vint *words)
{
    vint levels[SUPERBLOCK];
    scale_mins_requantize(15, x, fit, y, levels);
    words[0] = y->d | y->dmin << 16;
    words_put(12, y->bytes, words + 1);
    nibbles_put(levels, words + 4);
}

static void q4_k_plain(const vfloat *x, vint *words)
{
    struct fit fit[8];
    struct scale_mins y;
    scale_mins_plain(&q4_plain, x, fit, &y);
    q4_finish(x, fit, &y, words);
}

static void q4_k_weighted(const vfloat *x, const vfloat *importance, vint *words)
{
    struct fit fit[8];
    struct scale_mins y;
    scale_mins_weighted(&q4_weighted, 255, x, importance, fit, &y);
    q4_finish(x, fit, &y, words);
}

static void q5_finish(const vfloat *x, const struct fit fit[8], const struct scale_mins *y,
                      vint *words)
{
    vint levels[SUPERBLOCK], fifth[32] = {{0}};
    scale_mins_requantize(31, x, fit, y, levels);
    for (int i = 0; i < SUPERBLOCK; i++)
        fifth[i % 32] |= levels[i] >> 4 << i / 32;
    words[0] = y->d | y->dmin << 16;
    words_put(12, y->bytes, words + 1);
    words_put(32, fifth, words + 4);
    nibbles_put(levels, words + 12);
}

static void q5_k_plain(const vfloat *x, vint *words)
{
    struct fit fit[8];
    struct scale_mins y;
    scale_mins_plain(&q5_plain, x, fit, &y);
    q5_finish(x, fit, &y, words);
}

static void q5_k_weighted(const vfloat *x, const vfloat *importance, vint *words)
{
    struct fit fit[8];
    struct scale_mins y;
    scale_mins_weighted(&q5_weighted, 63, x, importance, fit, &y);
    q5_finish(x, fit, &y, words);
}

/* ---- Q6_K ---- */

static void q6_k_weighted(const vfloat *x, const vfloat *importance, vint *words)
{
    struct fit fit[16];
    vfloat scales[16], squares[16], amax;
    vint levels[SUPERBLOCK], scale_levels[16];
    for (int j = 0; j < 16; j++) {
        const vfloat *w = importance ? importance + 16 * j : squares;
        for (int i = 0; !importance && i < 16; i++)
            squares[i] = x[16 * j + i] * x[16 * j + i];
        search_symmetric_lanes(16, 32, true, x + 16 * j, w, fit + j);
        scales[j] = fit[j].scale;
    }
    vfloat max = extreme(16, scales, &amax), inverse = -128.f / max;
    vint d = f16_from_floats(1 / inverse);
    for (int j = 0; j < 16; j++) {
        vint level = smaller_int(round_even_ints(inverse * scales[j]), splat_int(127));
        scale_levels[j] = level & 255;
        requantize(16, -32, 31, x + 16 * j, from_half(d) * to_float(level << 24 >> 24), splat(0),
                   fit + j, levels + 16 * j);
    }
    for (int h = 0; h < 2; h++) {
        vint low[64], high[32];
        for (int i = 0; i < 32; i++) {
            const vint *l = levels + 128 * h + i;
            low[i] = (l[0] & 15) | (l[64] & 15) << 4;
            low[32 + i] = (l[32] & 15) | (l[96] & 15) << 4;
            high[i] = l[0] >> 4 | l[32] >> 4 << 2 | l[64] >> 4 << 4 | l[96] >> 4 << 6;
        }
        words_put(64, low, words + 16 * h);
        words_put(32, high, words + 32 + 8 * h);
    }
    words_put(16, scale_levels, words + 48);
    words[52] = d;
    vmask nothing = less(amax, splat(GROUP_MAX_EPS));
    if (any(nothing))
        for (int i = 0; i < 53; i++)
            words[i] = choose_int(nothing, splat_int(0), words[i]);
}

static void q6_k_plain(const vfloat *x, vint *words)
{
    q6_k_weighted(x, NULL, words);
}

/* ---- rows ---- */

static void encode_superblocks(void (*plain)(const vfloat *, vint *),
                               void (*weighted)(const vfloat *, const vfloat *, vint *),
                               size_t block_size, const float *x, size_t nrows, size_t ncols,
                               const float *importance, uint8_t *out)
{
    vfloat columns[SUPERBLOCK], importances[SUPERBLOCK];
    vint words[WORDS_MAX];
    size_t left = nrows * ncols / SUPERBLOCK, col = 0;
    while (left) {
        size_t count = left < LANES ? left : LANES;
        const float *from[LANES];
        for (size_t lane = 0; lane < LANES; lane++)
            from[lane] = x + (lane < count ? lane : 0) * SUPERBLOCK;
        load_columns(from, SUPERBLOCK, LANES * SUPERBLOCK, columns);
        if (importance) {
            for (size_t lane = 0; lane < LANES; lane++)
                from[lane] = importance + (col + (lane < count ? lane : 0) * SUPERBLOCK) % ncols;
            load_columns(from, SUPERBLOCK, 0, importances);
            weighted(columns, importances, words);
        } else {
            plain(columns, words);
        }
        store_blocks(words, 0, block_size, count, out);
        x += count * SUPERBLOCK;
        col = (col + count * SUPERBLOCK) % ncols;
        out += count * block_size;
        left -= count;
    }
}

void ENCODER(q3_k)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    encode_superblocks(q3_k_plain, q3_k_weighted, sizeof(struct block_q3_k), x, nrows, ncols,
                       importance, out);
}

void ENCODER(q6_k)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    encode_superblocks(q6_k_plain, q6_k_weighted, sizeof(struct block_q6_k), x, nrows, ncols,
                       importance, out);
}

void ENCODER(q2_k)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    encode_superblocks(q2_k_plain, q2_k_weighted, sizeof(struct block_q2_k), x, nrows, ncols,
                       importance, out);
}

void ENCODER(q4_k)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    encode_superblocks(q4_k_plain, q4_k_weighted, sizeof(struct block_q4_k), x, nrows, ncols,
                       importance, out);
}

void ENCODER(q5_k)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    encode_superblocks(q5_k_plain, q5_k_weighted, sizeof(struct block_q5_k), x, nrows, ncols,
                       importance, out);
}

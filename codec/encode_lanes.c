/* SPDX-License-Identifier: MIT
 *
 * The encoders, LANES blocks at a time. This file is compiled once for each instruction set.
 *
 * A sum must run in the reference's order, so no single group can be spread over a vector. But
 * blocks know nothing of each other: one lane of a vector runs one superblock of 256 weights (or
 * one block of 32) from the first weight to the last, exactly as the scalar encoders would, while
 * the other lanes run others. Scales of scales, rounding, packing are then vertical as well; only
 * on the way in and out are vectors transposed. Lanes that have no block left repeat another's
 * and are not stored.
 *
 * The functions have the names and the order of those in encode_k.c and encode_32.c, where the
 * formats are explained. Packed blocks are made as words of four bytes, one vector for each word.
 */
#include "codec/isa.h"

#include "codec/block.h"
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/search_lanes.h"

#include <math.h>

enum { WORDS_MAX = 64 };

/* ---- in and out ---- */

/* n weights (a multiple of LANES) from each of LANES places: out[i] gets weight i of all. So many
 * places at once are more than the processor foresees: it is told what will be wanted next, as many
 * floats ahead. */
LANES_INLINE void load_columns(const float *const from[LANES], size_t n, size_t ahead, vfloat *out)
{
    for (size_t i = 0; i < n; i += LANES) {
        vfloat rows[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            rows[lane] = vfloat_load(from[lane] + i);
            if (ahead)
                prefetch(from[lane] + i, ahead);
        }
        transpose(rows);
        for (int lane = 0; lane < LANES; lane++)
            out[i + (size_t)lane] = rows[lane];
    }
}

/* The blocks that words hold: `size` bytes from byte `skip` on, of the first `count` lanes. Whole
 * vectors are transposed, whatever lies in them behind the last byte. */
static void store_blocks(const vint *words, size_t skip, size_t size, size_t count, uint8_t *out)
{
    float blocks[LANES][WORDS_MAX];
    for (size_t i = 0; i < (skip + size + 3) / 4; i += LANES) {
        vfloat rows[LANES];
        for (int lane = 0; lane < LANES; lane++)
            rows[lane] = (vfloat)words[i + (size_t)lane];
        transpose(rows);
        for (int lane = 0; lane < LANES; lane++)
            vfloat_store(blocks[lane] + i, rows[lane]);
    }
    for (size_t lane = 0; lane < count; lane++)
        memcpy(out + lane * size, (uint8_t *)blocks[lane] + skip, size);
}

/* Four bytes as a word. */
LANES_INLINE vint word(vint a, vint b, vint c, vint d)
{
    return a | b << 8 | c << 16 | d << 24;
}

/* n bytes, a multiple of four, as words. */
LANES_INLINE void words_put(int n, const vint *bytes, vint *words)
{
    for (int i = 0; i < n; i += 4)
        words[i / 4] = word(bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]);
}

/* ---- what superblocks share ---- */

static vfloat sum_squares(const vfloat *x, int n)
{
    vfloat sum = {0};
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

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

/* ---- blocks of 32: what they share ---- */

/* FLIGHT blocks in each lane: weight i of block f is x[BLOCK * f + i], and w, if not NULL, is what it
 * weighs in the search. The words of a block begin with its super-scales, where there is only one in
 * the upper half of the first word, and end with its levels. */
typedef void encode_blocks_fn(const vfloat *x, const vfloat *w, vint words[FLIGHT][WORDS_MAX]);

/* Truncates as CVTTPS2DQ does, and so does truncate() of encode_32.c. */
LANES_INLINE vint truncate_bytes(vfloat v)
{
    return to_int(v) << 24 >> 24;
}

LANES_INLINE void block_range(const vfloat *x, vfloat *lo, vfloat *hi)
{
    *lo = *hi = x[0];
    for (int i = 1; i < BLOCK; i++) {
        *lo = smaller(x[i], *lo);
        *hi = larger(x[i], *hi);
    }
}

LANES_INLINE vfloat inverse_or_zero(vfloat d)
{
    return choose(equal(d, splat(0)), splat(0), 1 / d);
}

LANES_INLINE void block_nibbles_put(const vint L[BLOCK], vint *words)
{
    vint bytes[16];
    for (int i = 0; i < 16; i++)
        bytes[i] = (L[i] & 15) | (L[i + 16] & 15) << 4;
    words_put(16, bytes, words);
}

LANES_INLINE vint fifth_bits(const vint L[BLOCK])
{
    vint bits = {0};
    for (int i = 0; i < BLOCK; i++)
        bits |= (L[i] >> 4 & 1) << i;
    return bits;
}

/* Words of Q4_0, Q4_1 and, with fifth bits, Q5_0 and Q5_1. */
LANES_INLINE void block_put(bool fifth, vint scales, const vint L[BLOCK], vint *words)
{
    words[0] = scales;
    if (fifth)
        words[1] = fifth_bits(L);
    block_nibbles_put(L, words + 1 + fifth);
}

/* ---- Q4_0 to Q5_1 and Q8_0, plain ---- */

/* Q4_0 and Q5_0, whose levels are 0 to 2 * half - 1. */
LANES_INLINE void symmetric_plain(int half, const vfloat *x, vint words[FLIGHT][WORDS_MAX])
{
    for (int f = 0; f < FLIGHT; f++, x += BLOCK) {
        vint L[BLOCK];
        vfloat amax, d = extreme(BLOCK, x, &amax) / (float)-half, inverse = inverse_or_zero(d);
        for (int i = 0; i < BLOCK; i++)
            L[i] = smaller_int(truncate_bytes(x[i] * inverse + ((float)half + 0.5f)),
                               splat_int(2 * half - 1));
        block_put(half == 16, f16_from_floats(d) << 16, L, words[f]);
    }
}

/* Q4_1 and Q5_1. Only the former clamps its levels. */
LANES_INLINE void affine_plain(int nmax, const vfloat *x, vint words[FLIGHT][WORDS_MAX])
{
    for (int f = 0; f < FLIGHT; f++, x += BLOCK) {
        vint L[BLOCK];
        vfloat lo, hi;
        block_range(x, &lo, &hi);
        vfloat d = (hi - lo) / (float)nmax, inverse = inverse_or_zero(d);
        for (int i = 0; i < BLOCK; i++) {
            L[i] = truncate_bytes((x[i] - lo) * inverse + 0.5f);
            if (nmax == 15)
                L[i] = smaller_int(L[i], splat_int(15));
        }
        block_put(nmax == 31, f16_from_floats(d) | f16_from_floats(lo) << 16, L, words[f]);
    }
}

static void q8_0_blocks(const vfloat *x, const vfloat *w, vint words[FLIGHT][WORDS_MAX])
{
    (void)w;
    for (int f = 0; f < FLIGHT; f++, x += BLOCK) {
        vint L[BLOCK];
        vfloat amax;
        extreme(BLOCK, x, &amax);
        vfloat d = amax / 127, inverse = inverse_or_zero(d);
        /* Halves go away from zero: truncation, after the largest float below a half was added. */
        for (int i = 0; i < BLOCK; i++) {
            vfloat v = x[i] * inverse;
            L[i] = to_int(v + with_sign(0x1.fffffep-2f, v)) & 255;
        }
        words[f][0] = f16_from_floats(d) << 16;
        words_put(BLOCK, L, words[f] + 1);
    }
}

/* ---- Q4_0 to Q5_1, weighted ---- */

LANES_INLINE void symmetric_weighted(int half, const vfloat *x, const vfloat *w,
                                     vint words[FLIGHT][WORDS_MAX])
{
    for (int f = 0; f < FLIGHT; f++, x += BLOCK, w += BLOCK) {
        struct fit fit;
        vint L[BLOCK];
        search_symmetric_lanes(BLOCK, half, true, x, w, &fit);
        for (int i = 0; i < BLOCK; i++)
            L[i] = fit_level(&fit, x[i], -half, half - 1);
        block_put(half == 16, f16_from_floats(fit.scale) << 16, L, words[f]);
    }
}

LANES_INLINE void affine_weighted(int nmax, const vfloat *x, const vfloat *w,
                                  vint words[FLIGHT][WORDS_MAX])
{
    const struct search_grid grid = {nmax, -0.9f, 0.05f, 36, false};
    struct fit fit[FLIGHT];
    search_scale_min_lanes(&grid, BLOCK, x, w, fit);
    for (int f = 0; f < FLIGHT; f++, x += BLOCK) {
        vint L[BLOCK], scales = f16_from_floats(fit[f].scale) | f16_from_floats(-fit[f].min) << 16;
        for (int i = 0; i < BLOCK; i++)
            L[i] = fit_level(&fit[f], x[i], 0, nmax);
        block_put(nmax == 31, scales, L, words[f]);
    }
}

static void q4_0_blocks(const vfloat *x, const vfloat *w, vint words[FLIGHT][WORDS_MAX])
{
    if (w)
        symmetric_weighted(8, x, w, words);
    else
        symmetric_plain(8, x, words);
}

static void q5_0_blocks(const vfloat *x, const vfloat *w, vint words[FLIGHT][WORDS_MAX])
{
    if (w)
        symmetric_weighted(16, x, w, words);
    else
        symmetric_plain(16, x, words);
}

static void q4_1_blocks(const vfloat *x, const vfloat *w, vint words[FLIGHT][WORDS_MAX])
{
    if (w)
        affine_weighted(15, x, w, words);
    else
        affine_plain(15, x, words);
}

static void q5_1_blocks(const vfloat *x, const vfloat *w, vint words[FLIGHT][WORDS_MAX])
{
    if (w)
        affine_weighted(31, x, w, words);
    else
        affine_plain(31, x, words);
}

/* ---- IQ4_NL ---- */

/* Halfway between neighbouring levels, as a binary search tree: below node i are 2 * i, for what
 * is less, and 2 * i + 1. Differences to two levels that are nearly equal are exact in a float, so
 * comparing with what lies between the levels tells the same. */
static const float nearest_tree[16] = {0,       -4.5f, -57, 45.5f, -93.5f, -28.5f, 19, 79,
                                       -115.5f, -74,   -42, -16,   7,      31.5f,  61, 101};

/* The nearest of the 16 levels plus 16; halfway goes up. */
LANES_INLINE vint nearest_level(vfloat v)
{
    vint node = splat_int(1);
    for (int depth = 0; depth < 4; depth++)
        node =
            2 * node + choose_int(less(v, lookup(nearest_tree, node)), splat_int(0), splat_int(1));
    return node;
}

/* Sums of w q x and w q q, for the levels nearest to inverse * x, in some tries. */
LANES_INLINE void iq4_sums(int tries, const vfloat *x, const vfloat *w, const vfloat *inverse,
                           vfloat *sum_qx, vfloat *sum_q2)
{
    float values[16];
    vfloat qx[TRIES] = {{0}}, q2[TRIES] = {{0}};
    for (int i = 0; i < 16; i++)
        values[i] = iq4_nl_values[i];
    for (int i = 0; i < BLOCK; i++)
        for (int k = 0; k < tries; k++) {
            vfloat q = lookup(values, nearest_level(inverse[k] * x[i]));
            qx[k] += w[i] * q * x[i];
            q2[k] += w[i] * q * q;
        }
    for (int k = 0; k < tries; k++) {
        sum_qx[k] = qx[k];
        sum_q2[k] = q2[k];
    }
}

static vfloat iq4_scale(const vfloat *x, const vfloat *w)
{
    vfloat amax, max = extreme(BLOCK, x, &amax);
    vmask flat = less(amax, splat(GROUP_MAX_EPS));
    vfloat inverse[TRIES], sum_qx[TRIES], sum_q2[TRIES];
    vfloat d = -max / (float)iq4_nl_values[0];
    inverse[0] = 1 / d;
    iq4_sums(1, x, w, inverse, sum_qx, sum_q2);
    d = choose(less(splat(0), sum_q2[0]), sum_qx[0] / sum_q2[0], splat(0));
    vfloat best = d * sum_qx[0];
    for (int t = -7; t <= 7; t += TRIES) {
        for (int k = 0; k < TRIES; k++)
            inverse[k] = (float)(t + k + iq4_nl_values[0]) / max;
        iq4_sums(TRIES, x, w, inverse, sum_qx, sum_q2);
        for (int k = 0; k < TRIES; k++) {
            vmask better =
                less(splat(0), sum_q2[k]) & less(best * sum_q2[k], sum_qx[k] * sum_qx[k]);
            d = choose(better, sum_qx[k] / sum_q2[k], d);
            best = choose(better, d * sum_qx[k], best);
        }
    }
    return choose(flat, splat(0), d);
}

static void iq4_nl_block(const vfloat *x, const vfloat *w, vint *words)
{
    vint L[BLOCK];
    vfloat d = iq4_scale(x, w), inverse = inverse_or_zero(d);
    for (int i = 0; i < BLOCK; i++)
        L[i] = nearest_level(inverse * x[i]);
    block_put(false, f16_from_floats(d) << 16, L, words);
}

static void iq4_nl_blocks(const vfloat *x, const vfloat *w, vint words[FLIGHT][WORDS_MAX])
{
    for (int f = 0; f < FLIGHT; f++, x += BLOCK) {
        vfloat squares[BLOCK];
        for (int i = 0; i < BLOCK; i++)
            squares[i] = x[i] * x[i];
        iq4_nl_block(x, w ? w + BLOCK * f : squares, words[f]);
    }
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

/* The mean square of each of up to LANES rows. */
static void row_powers(const float *x, size_t nrows, size_t ncols, float power[LANES])
{
    const float *from[LANES];
    vfloat sum = {0};
    for (size_t col = 0; col < ncols; col += BLOCK) {
        vfloat columns[BLOCK];
        for (size_t lane = 0; lane < LANES; lane++)
            from[lane] = x + (lane < nrows ? lane : 0) * ncols + col;
        load_columns(from, BLOCK, 0, columns);
        for (int i = 0; i < BLOCK; i++)
            sum += columns[i] * columns[i];
    }
    vfloat_store(power, sum / (float)ncols);
}

/* What the weights of one block in each lane weigh in the search. */
static void block_weights(const vfloat *x, const vfloat *importance, vfloat power, vfloat *w)
{
    for (int i = 0; i < BLOCK; i++)
        w[i] = importance[i] * square_root(power + x[i] * x[i]);
}

/* How the blocks of 32 of a format are made: size bytes from byte skip of the words on. */
struct block_format {
    encode_blocks_fn *encode;
    size_t skip, size;
    bool own_power; /* of the block, not of its row (IQ4_NL) */
};

/* Up to FLIGHT * LANES blocks, the first of which begins at column col of its row. power: of this
 * row and those that follow it. */
static void encode_some_blocks(const struct block_format *format, const float *x, size_t count,
                               size_t col, size_t ncols, const float *importance,
                               const float *power, uint8_t *out)
{
    vfloat columns[FLIGHT * BLOCK], w[FLIGHT * BLOCK];
    vint words[FLIGHT][WORDS_MAX];
    for (size_t f = 0; f < FLIGHT; f++) {
        const float *from[LANES];
        vfloat *here = columns + f * BLOCK, importances[BLOCK];
        float powers[LANES];
        size_t block[LANES];
        for (size_t lane = 0; lane < LANES; lane++) {
            block[lane] = f * LANES + lane < count ? f * LANES + lane : 0;
            from[lane] = x + block[lane] * BLOCK;
        }
        load_columns(from, BLOCK, 2 * FLIGHT * LANES * BLOCK, here);
        if (!importance)
            continue;
        for (size_t lane = 0; lane < LANES; lane++) {
            size_t at = col + block[lane] * BLOCK;
            from[lane] = importance + at % ncols;
            powers[lane] = power[at / ncols];
        }
        load_columns(from, BLOCK, 0, importances);
        block_weights(here, importances,
                      format->own_power ? sum_squares(here, BLOCK) * (2.f / BLOCK)
                                        : vfloat_load(powers),
                      w + f * BLOCK);
    }
    format->encode(columns, importance ? w : NULL, words);
    for (size_t f = 0; f < FLIGHT && f * LANES < count; f++) {
        size_t here = count - f * LANES < LANES ? count - f * LANES : LANES;
        store_blocks(words[f], format->skip, format->size, here, out + f * LANES * format->size);
    }
}

/* Rows of blocks of 32, LANES rows at a time, whose powers are taken first. */
static void encode_blocks(const struct block_format *format, const float *x, size_t nrows,
                          size_t ncols, const float *importance, uint8_t *out)
{
    enum { EACH = FLIGHT * LANES };
    while (nrows) {
        size_t rows = nrows < LANES ? nrows : LANES, left = rows * ncols / BLOCK;
        float power[LANES] = {0};
        if (importance && !format->own_power)
            row_powers(x, rows, ncols, power);
        for (size_t at = 0; left; at += EACH * BLOCK) {
            size_t count = left < EACH ? left : EACH;
            encode_some_blocks(format, x, count, at % ncols, ncols, importance, power + at / ncols,
                               out);
            x += count * BLOCK;
            out += count * format->size;
            left -= count;
        }
        nrows -= rows;
    }
}

static void q3_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q3_k_plain, q3_k_weighted, sizeof(struct block_q3_k), x, nrows, ncols,
                       importance, out);
}

static void q6_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q6_k_plain, q6_k_weighted, sizeof(struct block_q6_k), x, nrows, ncols,
                       importance, out);
}

static void q2_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q2_k_plain, q2_k_weighted, sizeof(struct block_q2_k), x, nrows, ncols,
                       importance, out);
}

static void q4_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q4_k_plain, q4_k_weighted, sizeof(struct block_q4_k), x, nrows, ncols,
                       importance, out);
}

static void q5_k(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_superblocks(q5_k_plain, q5_k_weighted, sizeof(struct block_q5_k), x, nrows, ncols,
                       importance, out);
}

static void q4_0(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    static const struct block_format format = {q4_0_blocks, 2, sizeof(struct block_q4_0), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

static void q4_1(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    static const struct block_format format = {q4_1_blocks, 0, sizeof(struct block_q4_1), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

static void q5_0(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    static const struct block_format format = {q5_0_blocks, 2, sizeof(struct block_q5_0), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

static void q5_1(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    static const struct block_format format = {q5_1_blocks, 0, sizeof(struct block_q5_1), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

static void q8_0(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    static const struct block_format format = {q8_0_blocks, 2, sizeof(struct block_q8_0), false};
    encode_blocks(&format, x, nrows, ncols, NULL, out);
}

static void iq4_nl(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    static const struct block_format format = {iq4_nl_blocks, 2, sizeof(struct block_iq4_nl), true};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

static void f16(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    uint8_t *y = out;
    for (size_t i = 0; i < nrows * ncols; i++)
        store_u16(y + 2 * i, f16_from_f32(x[i]));
}

/* ---- tables ---- */

#ifdef ISA_AVX512
extern const struct isa isa_avx512;
spqr_encode_fn spqr_encode_avx512;
feedback_fn feedback_avx512;
const struct isa isa_avx512 = {
    "avx512",
    .decode = decoders_avx512,
    .spqr_encode = spqr_encode_avx512,
    .feedback = feedback_avx512,
#else
extern const struct isa isa_avx2;
spqr_encode_fn spqr_encode_avx2;
feedback_fn feedback_avx2;
const struct isa isa_avx2 = {
    "avx2",
    .decode = decoders_avx2,
    .spqr_encode = spqr_encode_avx2,
    .feedback = feedback_avx2,
#endif
    .encode =
        {
                 [FORMAT_F32] = encode_f32,
                 [FORMAT_F16] = f16,
                 [FORMAT_BF16] = encode_bf16,
                 [FORMAT_Q8_0] = q8_0,
                 [FORMAT_Q6_K] = q6_k,
                 [FORMAT_Q5_K] = q5_k,
                 [FORMAT_Q5_1] = q5_1,
                 [FORMAT_Q5_0] = q5_0,
                 [FORMAT_Q4_K] = q4_k,
                 [FORMAT_Q4_1] = q4_1,
                 [FORMAT_Q4_0] = q4_0,
                 [FORMAT_IQ4_NL] = iq4_nl,
                 [FORMAT_Q3_K] = q3_k,
                 [FORMAT_Q2_K] = q2_k,
                 },
};

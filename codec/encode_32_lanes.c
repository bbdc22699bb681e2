/* SPDX-License-Identifier: MIT */
#include "codec/encode_lanes.h"

#include <math.h>

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

void ENCODER(q4_0)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    static const struct block_format format = {q4_0_blocks, 2, sizeof(struct block_q4_0), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

void ENCODER(q4_1)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    static const struct block_format format = {q4_1_blocks, 0, sizeof(struct block_q4_1), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

void ENCODER(q5_0)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    static const struct block_format format = {q5_0_blocks, 2, sizeof(struct block_q5_0), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

void ENCODER(q5_1)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    static const struct block_format format = {q5_1_blocks, 0, sizeof(struct block_q5_1), false};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

void ENCODER(q8_0)(const float *x, size_t nrows, size_t ncols, const float *importance,
                   void *out)
{
    (void)importance;
    static const struct block_format format = {q8_0_blocks, 2, sizeof(struct block_q8_0), false};
    encode_blocks(&format, x, nrows, ncols, NULL, out);
}

void ENCODER(iq4_nl)(const float *x, size_t nrows, size_t ncols, const float *importance,
                     void *out)
{
    static const struct block_format format = {iq4_nl_blocks, 2, sizeof(struct block_iq4_nl), true};
    encode_blocks(&format, x, nrows, ncols, importance, out);
}

/* SPDX-License-Identifier: MIT
 *
 * Encoders of the formats with blocks of 32 weights, and of the plain floats. Without an
 * importance matrix a legacy block is a closed formula. With one, Q4_0 to Q5_1 search under
 * weights importance * sqrt(power + x^2), where power is the mean square of the *whole row*.
 * Q8_0 ignores importance; IQ4_NL takes its power from the block itself.
 */
#include "codec/encode.h"

#include "codec/block.h"
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/search.h"

#include <math.h>

const int8_t iq4_nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

void encode_f32(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    memcpy(out, x, nrows * ncols * sizeof *x);
}

void encode_f16(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    uint8_t *y = out;
    for (size_t i = 0; i < nrows * ncols; i++)
        store_u16(y + 2 * i, f16_from_f32(x[i]));
}

void encode_bf16(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    uint8_t *y = out;
    for (size_t i = 0; i < nrows * ncols; i++)
        store_u16(y + 2 * i, bf16_from_f32(x[i]));
}

/* Truncates as CVTTSS2SI does: out of range (only blocks of subnormals get there) gives INT_MIN,
 * whose low byte is 0. Plain C leaves that case undefined. */
static int truncate(float v) { return v > -2147483648.f && v < 2147483648.f ? (int)v : INT32_MIN; }

static uint8_t min_u8(int v, int max) { return (uint8_t)(v < max ? v : max); }

/* The first of the values with the largest magnitude, with its sign. */
static float block_extreme(const float *x)
{
    float amax = 0, max = 0;
    for (int i = 0; i < BLOCK; i++)
        if (fabsf(x[i]) > amax) {
            amax = fabsf(x[i]);
            max = x[i];
        }
    return max;
}

static void block_range(const float *x, float *lo, float *hi)
{
    *lo = *hi = x[0];
    for (int i = 1; i < BLOCK; i++) {
        if (x[i] < *lo)
            *lo = x[i];
        if (x[i] > *hi)
            *hi = x[i];
    }
}

static void nibbles_pack(const uint8_t L[BLOCK], uint8_t qs[16])
{
    for (int i = 0; i < 16; i++)
        qs[i] = (uint8_t)((L[i] & 15) | (L[i + 16] & 15) << 4);
}

static void fifth_bits_pack(const uint8_t L[BLOCK], uint8_t qh[4])
{
    uint32_t bits = 0;
    for (int i = 0; i < BLOCK; i++)
        bits |= (uint32_t)(L[i] >> 4 & 1) << i;
    memcpy(qh, &bits, sizeof bits);
}

/* ---- plain ---- */

static void q4_0_plain(const float *x, void *out)
{
    struct block_q4_0 *y = out;
    uint8_t L[BLOCK];
    float d = block_extreme(x) / -8, inverse = d != 0 ? 1.0f / d : 0;
    y->d = f16_from_f32(d);
    for (int i = 0; i < BLOCK; i++)
        L[i] = min_u8((int8_t)truncate(x[i] * inverse + 8.5f), 15);
    nibbles_pack(L, y->qs);
}

static void q4_1_plain(const float *x, void *out)
{
    struct block_q4_1 *y = out;
    uint8_t L[BLOCK];
    float lo, hi;
    block_range(x, &lo, &hi);
    float d = (hi - lo) / 15, inverse = d != 0 ? 1.0f / d : 0;
    y->d = f16_from_f32(d);
    y->m = f16_from_f32(lo);
    for (int i = 0; i < BLOCK; i++)
        L[i] = min_u8((int8_t)truncate((x[i] - lo) * inverse + 0.5f), 15);
    nibbles_pack(L, y->qs);
}

static void q5_0_plain(const float *x, void *out)
{
    struct block_q5_0 *y = out;
    uint8_t L[BLOCK];
    float d = block_extreme(x) / -16, inverse = d != 0 ? 1.0f / d : 0;
    y->d = f16_from_f32(d);
    for (int i = 0; i < BLOCK; i++)
        L[i] = min_u8((int8_t)truncate(x[i] * inverse + 16.5f), 31);
    nibbles_pack(L, y->qs);
    fifth_bits_pack(L, y->qh);
}

static void q5_1_plain(const float *x, void *out)
{
    struct block_q5_1 *y = out;
    uint8_t L[BLOCK];
    float lo, hi;
    block_range(x, &lo, &hi);
    float d = (hi - lo) / 31, inverse = d != 0 ? 1.0f / d : 0;
    y->d = f16_from_f32(d);
    y->m = f16_from_f32(lo);
    for (int i = 0; i < BLOCK; i++)
        L[i] = (uint8_t)truncate((x[i] - lo) * inverse + 0.5f);
    nibbles_pack(L, y->qs);
    fifth_bits_pack(L, y->qh);
}

static void q8_0_plain(const float *x, void *out)
{
    struct block_q8_0 *y = out;
    float amax = fabsf(block_extreme(x));
    float d = amax / 127, inverse = d != 0 ? 1.0f / d : 0;
    y->d = f16_from_f32(d);
    for (int i = 0; i < BLOCK; i++)
        y->qs[i] = (int8_t)truncate(roundf(x[i] * inverse));
}

/* ---- weighted ---- */

static void q4_0_weighted(const float *x, const float *w, void *out)
{
    struct block_q4_0 *y = out;
    uint8_t L[BLOCK];
    y->d = f16_from_f32(search_symmetric(BLOCK, 8, x, w, L));
    nibbles_pack(L, y->qs);
}

static void q5_0_weighted(const float *x, const float *w, void *out)
{
    struct block_q5_0 *y = out;
    uint8_t L[BLOCK];
    y->d = f16_from_f32(search_symmetric(BLOCK, 16, x, w, L));
    nibbles_pack(L, y->qs);
    fifth_bits_pack(L, y->qh);
}

static void q4_1_weighted(const float *x, const float *w, void *out)
{
    static const struct search_grid grid = {15, -0.9f, 0.05f, 36, false};
    struct block_q4_1 *y = out;
    uint8_t L[BLOCK];
    float min;
    y->d = f16_from_f32(search_scale_min(&grid, BLOCK, x, w, L, &min));
    y->m = f16_from_f32(-min);
    nibbles_pack(L, y->qs);
}

static void q5_1_weighted(const float *x, const float *w, void *out)
{
    static const struct search_grid grid = {31, -0.9f, 0.05f, 36, false};
    struct block_q5_1 *y = out;
    uint8_t L[BLOCK];
    float min;
    y->d = f16_from_f32(search_scale_min(&grid, BLOCK, x, w, L, &min));
    y->m = f16_from_f32(-min);
    nibbles_pack(L, y->qs);
    fifth_bits_pack(L, y->qh);
}

/* ---- IQ4_NL ---- */

/* The nearest of the 16 levels; halfway goes up. */
static int nearest_level(float x)
{
    if (x <= iq4_nl_values[0])
        return 0;
    if (x >= iq4_nl_values[15])
        return 15;
    int lo = 0, hi = 15;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (x < iq4_nl_values[mid])
            hi = mid;
        else
            lo = mid;
    }
    return x - (float)iq4_nl_values[hi - 1] < (float)iq4_nl_values[hi] - x ? hi - 1 : hi;
}

/* sum w q x and sum w q q for the levels nearest to inverse * x. */
static void iq4_sums(const float *x, const float *w, float inverse, float *sum_qx, float *sum_q2)
{
    *sum_qx = *sum_q2 = 0;
    for (int i = 0; i < BLOCK; i++) {
        float q = iq4_nl_values[nearest_level(inverse * x[i])];
        *sum_qx += w[i] * q * x[i];
        *sum_q2 += w[i] * q * q;
    }
}

static float iq4_scale(const float *x, const float *w)
{
    enum { TRIES = 7 };
    float max = block_extreme(x);
    if (fabsf(max) < GROUP_MAX_EPS)
        return 0;
    float sum_qx, sum_q2;
    float d = -max / (float)iq4_nl_values[0];
    iq4_sums(x, w, 1 / d, &sum_qx, &sum_q2);
    d = sum_q2 > 0 ? sum_qx / sum_q2 : 0; /* no importance at all: the block becomes zero */
    float best = d * sum_qx;
    for (int t = -TRIES; t <= TRIES; t++) {
        iq4_sums(x, w, (float)(t + iq4_nl_values[0]) / max, &sum_qx, &sum_q2);
        if (sum_q2 > 0 && sum_qx * sum_qx > best * sum_q2) {
            d = sum_qx / sum_q2;
            best = d * sum_qx;
        }
    }
    return d;
}

static void iq4_nl_block(const float *x, const float *w, struct block_iq4_nl *y)
{
    uint8_t L[BLOCK];
    float d = iq4_scale(x, w), inverse = d != 0 ? 1 / d : 0;
    y->d = f16_from_f32(d);
    for (int i = 0; i < BLOCK; i++)
        L[i] = (uint8_t)nearest_level(inverse * x[i]);
    nibbles_pack(L, y->qs);
}

static void iq4_nl_plain(const float *x, void *out)
{
    float w[BLOCK];
    for (int i = 0; i < BLOCK; i++)
        w[i] = x[i] * x[i];
    iq4_nl_block(x, w, out);
}

/* ---- rows ---- */

static float sum_squares(const float *x, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

static void encode_plain(void (*plain)(const float *, void *), size_t block_size, const float *x,
                         size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i += BLOCK, out += block_size)
        plain(x + i, out);
}

static void block_weights(const float *x, const float *importance, float power, float w[BLOCK])
{
    for (int i = 0; i < BLOCK; i++)
        w[i] = importance[i] * sqrtf(power + x[i] * x[i]);
}

/* Blocks of Q4_0 to Q5_1, weighted if importance is given. */
static void encode_legacy(void (*plain)(const float *, void *),
                          void (*weighted)(const float *, const float *, void *),
                          size_t block_size, const float *x, size_t nrows, size_t ncols,
                          const float *importance, uint8_t *out)
{
    if (!importance) {
        encode_plain(plain, block_size, x, nrows * ncols, out);
        return;
    }
    float w[BLOCK];
    for (size_t row = 0; row < nrows; row++, x += ncols) {
        float power = sum_squares(x, ncols) / (float)ncols;
        for (size_t col = 0; col < ncols; col += BLOCK, out += block_size) {
            block_weights(x + col, importance + col, power, w);
            weighted(x + col, w, out);
        }
    }
}

void encode_q4_0(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_legacy(q4_0_plain, q4_0_weighted, sizeof(struct block_q4_0), x, nrows, ncols,
                  importance, out);
}

void encode_q4_1(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_legacy(q4_1_plain, q4_1_weighted, sizeof(struct block_q4_1), x, nrows, ncols,
                  importance, out);
}

void encode_q5_0(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_legacy(q5_0_plain, q5_0_weighted, sizeof(struct block_q5_0), x, nrows, ncols,
                  importance, out);
}

void encode_q5_1(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    encode_legacy(q5_1_plain, q5_1_weighted, sizeof(struct block_q5_1), x, nrows, ncols,
                  importance, out);
}

void encode_q8_0(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    encode_plain(q8_0_plain, sizeof(struct block_q8_0), x, nrows * ncols, out);
}

void encode_iq4_nl(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    struct block_iq4_nl *y = out;
    if (!importance) {
        encode_plain(iq4_nl_plain, sizeof *y, x, nrows * ncols, out);
        return;
    }
    float w[BLOCK];
    for (size_t row = 0; row < nrows; row++)
        for (size_t col = 0; col < ncols; col += BLOCK, x += BLOCK, y++) {
            block_weights(x, importance + col, sum_squares(x, BLOCK) * (2.f / BLOCK), w);
            iq4_nl_block(x, w, y);
        }
}

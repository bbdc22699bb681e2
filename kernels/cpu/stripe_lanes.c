/* SPDX-License-Identifier: MIT
 *
 * Stripes with vectors. This file is compiled once for each instruction set.
 *
 * A vector of codes has 16 neighbouring columns of a group in each of its 128 bits, for as many rows:
 * two or four. Fours of products are summed up by the multiplication itself; the sums across of four
 * such vectors then have a lane for each row, in which scales and zeros are applied.
 */
#include "kernels/cpu/stripe.h"

#include "kernels/cpu/vectors.h"

#if defined __AVX512VNNI__
#define STRIPE stripe_avx512_vnni
#elif defined __AVX512F__
#define STRIPE stripe_avx512
#else
#define STRIPE stripe_avx2
#endif

enum {
    GROUPS = SPQR_COLUMNS / SPQR_GROUP,
    VECTORS = 4,                /* of codes that are summed up across together */
    EACH = LANES / VECTORS,     /* rows of one of them */
    PARTS = SPQR_ROWS / LANES,  /* of a stripe's rows, in lanes */
};

/* The row of a lane: what sums_across leaves. */
static inline int row_of(int part, int lane)
{
    return part * LANES + lane % VECTORS * EACH + lane / VECTORS;
}

/* ---- what differs with the width ---- */

#ifdef __AVX512F__

INLINE lanes in_all(const void *p) { return _mm512_broadcast_i32x4(load_half(p)); }
INLINE lanes shift_down(lanes v, int n) { return _mm512_srli_epi64(v, (unsigned)n); }
INLINE lanes shift_up(lanes v, int n) { return _mm512_slli_epi64(v, (unsigned)n); }
INLINE lanes byte_lanes(__m128i v) { return _mm512_cvtepu8_epi32(v); }
INLINE lanes unpack(lanes a, lanes b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

INLINE lanes sums_across(const lanes v[VECTORS])
{
    lanes ab = unpack(v[0], v[1]), cd = unpack(v[2], v[3]);
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* Eight bytes a row, in both halves of its 128 bits, in the upper one shifted by one. */
INLINE lanes third_bits(const uint8_t *p)
{
    lanes v = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3),
                                       _mm512_castsi256_si512(load(p)));
    return _mm512_srlv_epi64(v, _mm512_setr_epi64(0, 1, 0, 1, 0, 1, 0, 1));
}

/* The first 16 bytes of rows of 32, or the last. */
INLINE lanes every_other(const uint8_t *p, bool last)
{
    lanes a = lanes_load(p), b = lanes_load(p + 64);
    return last ? _mm512_shuffle_i64x2(a, b, 0xdd) : _mm512_shuffle_i64x2(a, b, 0x88);
}

#else

INLINE lanes in_all(const void *p) { return _mm256_broadcastsi128_si256(load_half(p)); }
INLINE lanes shift_down(lanes v, int n) { return _mm256_srli_epi64(v, n); }
INLINE lanes shift_up(lanes v, int n) { return _mm256_slli_epi64(v, n); }
INLINE lanes byte_lanes(__m128i v) { return _mm256_cvtepu8_epi32(v); }
INLINE lanes sums_across(const lanes v[VECTORS])
{
    return sums_of_four(v[0], v[1], v[2], v[3]);
}

INLINE lanes third_bits(const uint8_t *p)
{
    lanes v = _mm256_permute4x64_epi64(_mm256_castsi128_si256(load_half(p)), 0x50);
    return _mm256_srlv_epi64(v, _mm256_setr_epi64x(0, 1, 0, 1));
}

INLINE lanes every_other(const uint8_t *p, bool last)
{
    lanes a = load(p), b = load(p + 32);
    return last ? _mm256_permute2x128_si256(a, b, 0x31) : _mm256_permute2x128_si256(a, b, 0x20);
}

#endif

INLINE lanes all_bytes(int v) { return lanes_all(v * 0x01010101); }

/* ---- codes ---- */

/* Of vector v of a supertile: out[g] has those of group g. */
INLINE void codes_of(int bits, const uint8_t *supertile, int v, lanes out[GROUPS])
{
    if (bits == 4) {
        const uint8_t *rows = supertile + v * EACH * 32;
        for (int g = 0; g < 2; g++) {
            lanes both = every_other(rows, g);
            out[g] = both & all_bytes(15);
            out[g + 2] = shift_down(both, 4) & all_bytes(15);
        }
        return;
    }
    lanes low = lanes_load(supertile + v * EACH * 16);
    if (bits == 2) {
        for (int g = 0; g < GROUPS; g++)
            out[g] = shift_down(low, 2 * g) & all_bytes(3);
        return;
    }
    /* Groups 0 and 2, then 1 and 3, in nibbles. */
    lanes third = third_bits(supertile + 256 + v * EACH * 8);
    lanes even = (low & all_bytes(0x33)) | (shift_up(third, 2) & all_bytes(0x44));
    lanes odd = (shift_down(low, 2) & all_bytes(0x33)) | (third & all_bytes(0x44));
    out[0] = even & all_bytes(7);
    out[1] = odd & all_bytes(7);
    out[2] = shift_down(even, 4) & all_bytes(7);
    out[3] = shift_down(odd, 4) & all_bytes(7);
}

/* ---- scales and zeros ---- */

struct statistics {
    float_lanes scales[GROUPS], zeros[GROUPS];
};

/* The bytes of a plane, in the order of a part's lanes. */
INLINE lanes plane(const uint8_t *p, int part)
{
#ifdef __AVX512F__
    (void)part;
    const __m128i rows = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#else
    const __m128i rows = part ? _mm_setr_epi8(8, 10, 12, 14, 9, 11, 13, 15, 0, 0, 0, 0, 0, 0, 0, 0)
                              : _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 0, 0, 0, 0, 0, 0, 0, 0);
#endif
    return byte_lanes(_mm_shuffle_epi8(load_half(p), rows));
}

/* halfs: ss, sz, zs, zz of the groups, as floats. */
INLINE void statistics_of(const uint8_t *p, const float halfs[4 * GROUPS], int part,
                          struct statistics *s)
{
    lanes scales = plane(p, part), zeros = plane(p + SPQR_ROWS, part);
    lanes third = plane(p + 2 * SPQR_ROWS, part);
    for (int g = 0; g < GROUPS; g++) {
        lanes scale = (lanes_down(scales, 2 * g) & lanes_all(3)) |
                      (shift_up(lanes_down(third, g) & lanes_all(1), 2));
        lanes zero = (lanes_down(zeros, 2 * g) & lanes_all(3)) |
                     (shift_up(lanes_down(third, 4 + g) & lanes_all(1), 2));
        s->scales[g] = floats_all(halfs[g]) * (lanes_float(scale) - floats_all(halfs[4 + g]));
        s->zeros[g] = floats_all(halfs[8 + g]) * (lanes_float(zero) - floats_all(halfs[12 + g]));
    }
}

/* ---- products ---- */

/* What one column adds to the sums of a part, but for the activations' scale. */
INLINE float_lanes multiply(const lanes codes[VECTORS][GROUPS], const struct statistics *s,
                            const int8_t *levels, const int16_t *lsum)
{
    float_lanes v = floats_all(0);
    for (int g = 0; g < GROUPS; g++) {
        lanes sums[VECTORS], level = in_all(levels + g * SPQR_GROUP);
        for (int i = 0; i < VECTORS; i++)
            sums[i] = lanes_dot_codes(lanes_all(0), codes[i][g], level, false);
        float_lanes isum = lanes_float(sums_across(sums));
        v += s->scales[g] * (isum - s->zeros[g] * floats_all((float)lsum[g]));
    }
    return v;
}

INLINE void stripe_dot(int bits, uint32_t count, const struct spqr_layout *l, const uint8_t *stripe,
                       const struct activations *a, uint32_t column, float (*out)[SPQR_ROWS])
{
    float_lanes sums[STRIPE_COLUMNS_MAX][PARTS];
    for (uint32_t i = 0; i < count; i++)
        for (int part = 0; part < PARTS; part++)
            sums[i][part] = floats_all(0);
    size_t size = 128 * (size_t)bits + 80;
    for (size_t k = 0; k < l->padded / SPQR_COLUMNS; k++, stripe += size) {
        const uint8_t *behind = stripe + 128 * bits;
        float halfs[4 * GROUPS] __attribute__((aligned(64)));
        for (int i = 0; i < 4 * GROUPS; i += LANES)
            floats_store(halfs + i, floats_of_halves((const uint16_t *)(const void *)(behind + 48) + i));
        for (int part = 0; part < PARTS; part++) {
            lanes codes[VECTORS][GROUPS];
            struct statistics s;
            for (int v = 0; v < VECTORS; v++)
                codes_of(bits, stripe, part * VECTORS + v, codes[v]);
            statistics_of(behind, halfs, part, &s);
            for (uint32_t i = 0; i < count; i++) {
                const int8_t *levels = a->q + (column + i) * a->q_stride + k * SPQR_COLUMNS;
                const int16_t *lsum = a->sums + (column + i) * a->sum_stride + k * GROUPS;
                float scale = a->scale[(column + i) * a->scale_stride + k];
                sums[i][part] += floats_all(scale) * multiply(codes, &s, levels, lsum);
            }
        }
    }
    for (uint32_t i = 0; i < count; i++)
        for (int part = 0; part < PARTS; part++) {
            float in_lanes[LANES];
            floats_store(in_lanes, sums[i][part]);
            for (int lane = 0; lane < LANES; lane++)
                out[i][row_of(part, lane)] = in_lanes[lane];
        }
}

/* ---- outliers ---- */

/* Up to eight of them: residuals times activations. Columns that are too large make *wrong true, and
 * then nothing is read. */
INLINE __m256 outliers(const uint8_t *columns, const uint8_t *values, size_t limit, const float *x,
                       bool *wrong)
{
    __m256i at = _mm256_cvtepu16_epi32(load_half(columns));
    __m256i large = _mm256_cmpgt_epi32(at, _mm256_set1_epi32((int)limit - 1));
    if (!_mm256_testz_si256(large, large)) {
        *wrong = true;
        return _mm256_setzero_ps();
    }
    return _mm256_cvtph_ps(load_half(values)) * _mm256_i32gather_ps(x, at, sizeof *x);
}

/* Slots [slot, end) of a row with one column, whose activations are x. */
INLINE int add_outliers(const struct spqr_layout *l, const uint8_t *stripe, size_t slot, size_t end,
                        const float *x, float *sum)
{
    enum { WIDTH = sizeof(uint16_t) };
    const uint8_t *columns = stripe + l->columns_at + WIDTH * slot;
    const uint8_t *values = stripe + l->values_at + WIDTH * slot;
    __m256 own = _mm256_setzero_ps();
    size_t n = end - slot;
    bool wrong = false;
    for (; n >= OUTLIER_LANES; n -= OUTLIER_LANES) {
        own += outliers(columns, values, l->columns, x, &wrong);
        columns += WIDTH * OUTLIER_LANES;
        values += WIDTH * OUTLIER_LANES;
    }
    if (n) {
        uint8_t rest[2][WIDTH * OUTLIER_LANES] = {{0}};
        __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
        memcpy(rest[0], columns, WIDTH * n);
        memcpy(rest[1], values, WIDTH * n);
        __m256 more = own + outliers(rest[0], rest[1], l->columns, x, &wrong);
        own = _mm256_blendv_ps(own, more, _mm256_castsi256_ps(there));
    }
    *sum += halves_add(own);
    return wrong ? -EINVAL : 0;
}

/* ---- stripes ---- */

/* With the loops that there are for one column, and for four. */
#define BITS(n)                                                                                    \
    case n:                                                                                        \
        if (count == 1)                                                                            \
            stripe_dot(n, 1, l, stripe, a, column, sums);                                          \
        else if (count == STRIPE_COLUMNS_MAX)                                                      \
            stripe_dot(n, STRIPE_COLUMNS_MAX, l, stripe, a, column, sums);                         \
        else                                                                                       \
            stripe_dot(n, count, l, stripe, a, column, sums);                                      \
        break;

int STRIPE(const struct spqr_layout *l, const uint8_t *stripe, const struct activations *a,
           uint32_t column, uint32_t count, float (*sums)[SPQR_ROWS])
{
    if (l->index_size != sizeof(uint16_t)) /* which no model of today has */
        return stripe_c(l, stripe, a, column, count, sums);
    switch (l->bits) {
        BITS(2)
        BITS(3)
        BITS(4)
    }
    uint32_t slot = 0, end = 0;
    int rc = 0;
    for (int row = 0; l->slots && !rc && row < SPQR_ROWS; row++, slot = end) {
        rc = stripe_slots(l, stripe, row, slot, &end);
        for (uint32_t i = 0; !rc && i < count; i++)
            rc = add_outliers(l, stripe, slot, end, a->x + (column + i) * a->q_stride, &sums[i][row]);
    }
    return rc;
}

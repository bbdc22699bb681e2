/* SPDX-License-Identifier: MIT
 *
 * Stripes with vectors. This file is compiled once for each instruction set.
 *
 * A lane is a row, so nothing is summed up across: four columns' codes are turned to lie in a row's
 * lane while they are packed, two bits a group, which moves all four groups at once; then they are
 * multiplied with the same four levels in all lanes. What decodes scales and zeros is in lanes anyway.
 *
 * Shifts are dear, and multiplying by a power of two is exact: where a code lies in its byte, or a
 * scale's code in its lane, it is left there, and what it is multiplied with makes up for it.
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
    LINE = 64,   /* of the cache */
    NEAR = 4096, /* bytes that are fetched ahead: into the first cache */
    FAR = 16384, /* and into the second */
    GROUPS = SPQR_COLUMNS / SPQR_GROUP,
    FOUR = SPQR_GROUP / 4,     /* times four columns are a group */
    EACH = LANES / FOUR,       /* rows of 16 bytes in a vector */
    PARTS = SPQR_ROWS / LANES, /* of a stripe's rows, in lanes */
};

/* The row of a lane: what turn leaves. */
static inline int row_of(int part, int lane)
{
    return part * LANES + lane % 4 * EACH + lane / 4;
}

/* ---- what differs with the width ---- */

#ifdef __AVX512F__

INLINE lanes in_all(const void *p) { return _mm512_broadcast_i32x4(load_half(p)); }
INLINE lanes shift_down(lanes v, int n) { return _mm512_srli_epi32(v, (unsigned)n); }
INLINE lanes shift_up(lanes v, int n) { return _mm512_slli_epi32(v, (unsigned)n); }
INLINE lanes low_fours(lanes a, lanes b) { return _mm512_unpacklo_epi32(a, b); }
INLINE lanes high_fours(lanes a, lanes b) { return _mm512_unpackhi_epi32(a, b); }
INLINE lanes low_eights(lanes a, lanes b) { return _mm512_unpacklo_epi64(a, b); }
INLINE lanes high_eights(lanes a, lanes b) { return _mm512_unpackhi_epi64(a, b); }
INLINE lanes bytes_at(lanes v, lanes at) { return _mm512_shuffle_epi8(v, at); }
INLINE lanes pairs(lanes codes, lanes q) { return _mm512_maddubs_epi16(codes, q); }
INLINE lanes words_add(lanes a, lanes b) { return _mm512_add_epi16(a, b); }
INLINE lanes words_halve(lanes v) { return _mm512_madd_epi16(v, _mm512_set1_epi16(1)); }

/* a where the mask has ones, else b. */
INLINE lanes bits_from(lanes mask, lanes a, lanes b)
{
    return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
}

INLINE lanes rows_in_lanes(void)
{
    return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

/* Rows of eight bytes: the first four, and the last. */
INLINE void eights_turn(lanes a, lanes b, lanes out[2])
{
    lanes at = shift_up(rows_in_lanes(), 1);
    out[0] = _mm512_permutex2var_epi32(a, at, b);
    out[1] = _mm512_permutex2var_epi32(a, at | lanes_all(1), b);
}

/* Rows of 32 bytes: the first 16, and the last. */
INLINE void every_other(lanes a, lanes b, lanes *first, lanes *last)
{
    *first = _mm512_shuffle_i64x2(a, b, 0x88);
    *last = _mm512_shuffle_i64x2(a, b, 0xdd);
}

#else

INLINE lanes in_all(const void *p) { return _mm256_broadcastsi128_si256(load_half(p)); }
INLINE lanes shift_down(lanes v, int n) { return _mm256_srli_epi32(v, n); }
INLINE lanes shift_up(lanes v, int n) { return _mm256_slli_epi32(v, n); }
INLINE lanes low_fours(lanes a, lanes b) { return _mm256_unpacklo_epi32(a, b); }
INLINE lanes high_fours(lanes a, lanes b) { return _mm256_unpackhi_epi32(a, b); }
INLINE lanes low_eights(lanes a, lanes b) { return _mm256_unpacklo_epi64(a, b); }
INLINE lanes high_eights(lanes a, lanes b) { return _mm256_unpackhi_epi64(a, b); }
INLINE lanes bytes_at(lanes v, lanes at) { return _mm256_shuffle_epi8(v, at); }
INLINE lanes pairs(lanes codes, lanes q) { return _mm256_maddubs_epi16(codes, q); }
INLINE lanes words_add(lanes a, lanes b) { return _mm256_add_epi16(a, b); }
INLINE lanes words_halve(lanes v) { return _mm256_madd_epi16(v, words(1)); }
INLINE lanes bits_from(lanes mask, lanes a, lanes b)
{
    return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
}

INLINE lanes rows_in_lanes(void)
{
    return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
}

INLINE void eights_turn(lanes a, lanes b, lanes out[2])
{
    const lanes rows = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
    __m256 v = _mm256_castsi256_ps(a), w = _mm256_castsi256_ps(b);
    out[0] = _mm256_permutevar8x32_epi32(_mm256_castps_si256(_mm256_shuffle_ps(v, w, 0x88)), rows);
    out[1] = _mm256_permutevar8x32_epi32(_mm256_castps_si256(_mm256_shuffle_ps(v, w, 0xdd)), rows);
}

INLINE void every_other(lanes a, lanes b, lanes *first, lanes *last)
{
    *first = _mm256_permute2x128_si256(a, b, 0x20);
    *last = _mm256_permute2x128_si256(a, b, 0x31);
}

#endif

/* What is loaded is kept in a register: a compiler would rather load it again for each of its uses, and
 * most vectors here lie across two lines of the cache. */
INLINE lanes load_once(const void *p)
{
    lanes v = lanes_load(p);
    __asm__("" : "+v"(v));
    return v;
}

/* Floats stay in memory, from which an instruction takes one for all lanes; a compiler that saw them
 * stored would permute instead, which are two instructions more for each. */
INLINE void floats_put(float *p, float_lanes v)
{
    floats_store(p, v);
    __asm__("" : "+m"(*(float(*)[LANES])p));
}

INLINE lanes all_bytes(int v)
{
    return lanes_all((int)((unsigned)v * 0x01010101u));
}

/* Bytes of each lane, the lowest first. */
INLINE lanes all_of(int a, int b, int c, int d)
{
    return lanes_all(a | b << 8 | c << 16 | (int)((unsigned)d << 24));
}

INLINE float_lanes halves(const uint8_t *p)
{
    return floats_of_halves((const uint16_t *)(const void *)p);
}

/* ---- codes ---- */

/* 16 bytes of each row, four of them to a vector. */
INLINE void turn(const lanes v[FOUR], lanes out[FOUR])
{
    lanes a = low_fours(v[0], v[1]), b = low_fours(v[2], v[3]);
    lanes c = high_fours(v[0], v[1]), d = high_fours(v[2], v[3]);
    out[0] = low_eights(a, b);
    out[1] = high_eights(a, b);
    out[2] = low_eights(c, d);
    out[3] = high_eights(c, d);
}

#ifdef __AVX512VNNI__

/* Codes of groups 2 and 3 are left in the high nibble. */
enum { HIGH = 16 };
INLINE lanes high_codes(lanes v, int mask) { return v & all_bytes(mask << 4); }

/* Adds four codes of each lane times the same four levels; done four times, fours_sum makes lanes of it. */
INLINE lanes fours_add(lanes sum, lanes codes, const int8_t *levels)
{
    return lanes_dot_codes(sum, codes, lanes_all((int)load_u32(levels)), false);
}

INLINE lanes fours_sum(lanes sum) { return sum; }

#else

/* Sums are words, for which codes in the high nibble would be too large. */
enum { HIGH = 1 };
INLINE lanes high_codes(lanes v, int mask) { return shift_down(v, 4) & all_bytes(mask); }

INLINE lanes fours_add(lanes sum, lanes codes, const int8_t *levels)
{
    return words_add(sum, pairs(codes, lanes_all((int)load_u32(levels))));
}

INLINE lanes fours_sum(lanes sum) { return words_halve(sum); }

#endif

/* A supertile's weights, four columns of each group in a vector: of spqr4 groups 0 and 2 in the nibbles
 * of `even`, 1 and 3 in those of `odd`; else all groups in `even`, two bits each, and in `third` bit
 * 2 * group, and the next for columns from 8 on. */
struct weights {
    lanes even[FOUR], odd[FOUR], third[2];
};

INLINE void weights_of(int bits, const uint8_t *supertile, int part, struct weights *w)
{
    lanes v[FOUR], other[FOUR];
    if (bits == 4) {
        for (int i = 0; i < FOUR; i++) {
            const uint8_t *rows = supertile + (part * LANES + i * EACH) * 32;
            every_other(load_once(rows), load_once(rows + sizeof *v), &v[i], &other[i]);
        }
        turn(v, w->even);
        turn(other, w->odd);
        return;
    }
    for (int i = 0; i < FOUR; i++)
        v[i] = load_once(supertile + (part * LANES + i * EACH) * 16);
    turn(v, w->even);
    if (bits == 3) {
        const uint8_t *rows = supertile + 256 + part * LANES * 8;
        eights_turn(load_once(rows), load_once(rows + sizeof *v), w->third);
    }
}

/* The codes of columns 4 * i on of each group. */
INLINE void codes_of(int bits, const struct weights *w, int i, lanes out[GROUPS])
{
    int mask = (1 << bits) - 1;
    lanes even = w->even[i], odd = bits == 4 ? w->odd[i] : shift_down(even, 2);
    if (bits == 3) {
        even = bits_from(all_bytes(0x33), even, shift_up(w->third[i % 2], 2 - i / 2));
        odd = bits_from(all_bytes(0x33), odd, shift_down(w->third[i % 2], i / 2));
    }
    out[0] = even & all_bytes(mask);
    out[1] = odd & all_bytes(mask);
    out[2] = high_codes(even, mask);
    out[3] = high_codes(odd, mask);
}

/* ---- scales and zeros ---- */

struct statistics {
    float_lanes scales[GROUPS], zeros[GROUPS];
};

/* What the four halfs of a group are multiplied with, since a scale's code is 2^(2g) times itself and
 * a zero's 2^18, 2^19, 2^20, 2^22; and products with groups 2 and 3 are HIGH times themselves. */
static const float places[4 * GROUPS] __attribute__((aligned(64))) = {
    1,        0x1p-2f,  0x1p-4f / HIGH,  0x1p-6f / HIGH,  /* ss */
    1,        0x1p2f,   0x1p4f,          0x1p6f,          /* sz */
    0x1p-18f, 0x1p-19f, 0x1p-20f * HIGH, 0x1p-22f * HIGH, /* zs */
    0x1p18f,  0x1p19f,  0x1p20f,         0x1p22f,         /* zz */
};

/* A lane's bytes of the planes: scales, third bits, zeros, third bits. */
INLINE lanes planes_of(const uint8_t *p, int part)
{
    lanes row = lanes_add(rows_in_lanes(), lanes_all(part * LANES));
    lanes scales = bytes_at(in_all(p), row | all_of(0, 128, 128, 128));
    lanes zeros = bytes_at(in_all(p + SPQR_ROWS), shift_up(row, 16) | all_of(128, 128, 0, 128));
    lanes third = bytes_at(in_all(p + 2 * SPQR_ROWS),
                           shift_up(row, 8) | shift_up(row, 24) | all_of(128, 0, 128, 0));
    return scales | zeros | third;
}

/* halfs: ss, sz, zs, zz of the groups, times places. */
INLINE void statistics_of(const uint8_t *p, const float halfs[4 * GROUPS], int part,
                          struct statistics *s)
{
    /* Puts the third bit above the two others: a product of a byte, and a sum of two. */
    const lanes times[GROUPS] = {all_of(1, 4, 4, 1), all_of(1, 8, 2, 1), all_of(1, 16, 1, 1),
                                 all_of(1, 32, 1, 2)};
    lanes planes = planes_of(p, part);
    for (int g = 0; g < GROUPS; g++) {
        lanes bits = planes & all_of(3 << 2 * g, 1 << g, 3 << 2 * g, 16 << g);
        lanes codes = pairs(bits, times[g]);
        float_lanes scale = lanes_float(codes & lanes_all(0xffff));
        float_lanes zero = lanes_float(codes & lanes_all((int)0xffff0000));
        s->scales[g] = floats_all(halfs[g]) * (scale - floats_all(halfs[4 + g]));
        s->zeros[g] = floats_all(halfs[8 + g]) * (zero - floats_all(halfs[12 + g]));
    }
}

/* ---- products ---- */

/* The processor does not see ahead in planes that are read out of order. What lies behind the weights
 * may be no memory of ours, which does not matter to it. */
INLINE void prefetch(const uint8_t *p, size_t offset)
{
    __builtin_prefetch((const void *)((uintptr_t)p + offset + NEAR));
    __builtin_prefetch((const void *)((uintptr_t)p + offset + FAR), 0, 2);
}

/* What was read of memory before is read again: for the next part, a compiler would rather write what
 * it has broadcast into memory to read it there. */
INLINE void forget(void)
{
    __asm__ volatile("" ::: "memory");
}

/* What one column adds to the sums of a part, but for the activations' scale. */
INLINE float_lanes multiply(int bits, const struct weights *w, const struct statistics *s,
                            const int8_t *levels, const float *lsum)
{
    lanes codes[GROUPS], isum[GROUPS];
    float_lanes v[GROUPS];
    for (int g = 0; g < GROUPS; g++)
        isum[g] = lanes_all(0);
    for (int i = 0; i < FOUR; i++) {
        codes_of(bits, w, i, codes);
        for (int g = 0; g < GROUPS; g++)
            isum[g] = fours_add(isum[g], codes[g], levels + g * SPQR_GROUP + 4 * i);
    }
    for (int g = 0; g < GROUPS; g++)
        v[g] = s->scales[g] * (lanes_float(fours_sum(isum[g])) - s->zeros[g] * floats_all(lsum[g]));
    return v[0] + v[1] + v[2] + v[3];
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
        for (size_t i = 0; i < size; i += LINE)
            prefetch(stripe, i);
        float halfs[4 * GROUPS] __attribute__((aligned(64)));
        for (int i = 0; i < 4 * GROUPS; i += LANES)
            floats_put(halfs + i, floats_load(places + i) * halves(behind + 48 + 2 * i));
        for (int part = 0; part < PARTS; part++) {
            struct weights w;
            struct statistics s;
            forget();
            weights_of(bits, stripe, part, &w);
            statistics_of(behind, halfs, part, &s);
            for (uint32_t i = 0; i < count; i++) {
                const int8_t *levels = a->q + (column + i) * a->q_stride + k * SPQR_COLUMNS;
                const float *lsum = a->lsum + (column + i) * a->sum_stride + k * GROUPS;
                float scale = a->scale[(column + i) * a->scale_stride + k];
                sums[i][part] += floats_all(scale) * multiply(bits, &w, &s, levels, lsum);
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

enum { WIDTH = sizeof(uint16_t) }; /* of a slot's column, and of its residual */

/* Whether the columns of n slots are all less than limit. */
INLINE bool columns_below(const uint8_t *columns, size_t n, size_t limit)
{
    uint16_t largest = 0, column;
    for (size_t i = 0; i < n; i++) {
        memcpy(&column, columns + WIDTH * i, WIDTH);
        largest = column > largest ? column : largest;
    }
    return n == 0 || largest < limit;
}

/* Eight slots from one of a row on, the next row's among them, or zeros where there are no more. */
struct slots {
    uint16_t columns[OUTLIER_LANES];
    __m256 residuals;
};

/* There are slots to before last. */
INLINE struct slots slots_read(const struct spqr_layout *l, const uint8_t *stripe, size_t slot,
                               size_t last)
{
    const uint8_t *columns = stripe + l->columns_at + WIDTH * slot;
    const uint8_t *values = stripe + l->values_at + WIDTH * slot;
    uint8_t rest[2][WIDTH * OUTLIER_LANES] = {{0}};
    if (slot + OUTLIER_LANES > last) {
        columns = memcpy(rest[0], columns, WIDTH * (last - slot));
        values = memcpy(rest[1], values, WIDTH * (last - slot));
    }
    struct slots s = {.residuals = _mm256_cvtph_ps(load_half(values))};
    memcpy(s.columns, columns, sizeof s.columns);
    return s;
}

/* A row's outliers with the only column there is. Activations are loaded one by one, since gathering
 * takes longer. */
INLINE float outliers_dot(const struct spqr_layout *l, const uint8_t *stripe, size_t slot,
                          size_t end, size_t last, const float *x)
{
    __m256 own = _mm256_setzero_ps();
    for (; slot < end; slot += OUTLIER_LANES) {
        struct slots s = slots_read(l, stripe, slot, last);
        const uint16_t *c = s.columns;
        __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(end - slot)),
                                           _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        __m256 products = s.residuals * _mm256_setr_ps(x[c[0]], x[c[1]], x[c[2]], x[c[3]], x[c[4]],
                                                       x[c[5]], x[c[6]], x[c[7]]);
        own += _mm256_and_ps(products, _mm256_castsi256_ps(there));
    }
    return halves_add(own);
}

_Static_assert(STRIPE_COLUMNS_MAX == 8, "a vector of floats with every set");

/* The same with eight columns of many, which lie side by side; those behind the last are anything. */
INLINE __m256 outliers_of_columns(const struct spqr_layout *l, const uint8_t *stripe, size_t slot,
                                  size_t end, size_t last, const float *x, size_t stride)
{
    __m256 own[OUTLIER_LANES];
    for (int i = 0; i < OUTLIER_LANES; i++)
        own[i] = _mm256_setzero_ps();
    for (; slot < end; slot += OUTLIER_LANES) {
        struct slots s = slots_read(l, stripe, slot, last);
        float residuals[OUTLIER_LANES];
        _mm256_storeu_ps(residuals, s.residuals);
        for (size_t i = 0; i < OUTLIER_LANES && slot + i < end; i++)
            own[i] += _mm256_set1_ps(residuals[i]) * _mm256_loadu_ps(x + s.columns[i] * stride);
    }
    for (int half = OUTLIER_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            own[i] += own[i + half];
    return own[0];
}

static int add_outliers(const struct spqr_layout *l, const uint8_t *stripe,
                        const struct activations *a, uint32_t column, uint32_t count,
                        float (*sums)[SPQR_ROWS])
{
    uint32_t ends[SPQR_ROWS + 1];
    int rc = stripe_ends(l, stripe, ends);
    size_t last = ends[SPQR_ROWS];
    if (rc || !columns_below(stripe + l->columns_at, last, l->columns))
        return -EINVAL;
    for (int row = 0; row < SPQR_ROWS; row++) {
        float of_columns[STRIPE_COLUMNS_MAX];
        if (a->batch == 1) {
            sums[0][row] += outliers_dot(l, stripe, ends[row], ends[row + 1], last, a->x);
            continue;
        }
        _mm256_storeu_ps(of_columns, outliers_of_columns(l, stripe, ends[row], ends[row + 1], last,
                                                         a->x + column, a->batch));
        for (uint32_t i = 0; i < count; i++)
            sums[i][row] += of_columns[i];
    }
    return 0;
}

/* ---- stripes ---- */

/* With the loops that there are for one column, and for as many as can be. */
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
    if (l->index_size != WIDTH) /* which no model of today has */
        return stripe_c(l, stripe, a, column, count, sums);
    switch (l->bits) {
        BITS(2)
        BITS(3)
        BITS(4)
    }
    return l->slots ? add_outliers(l, stripe, a, column, count, sums) : 0;
}

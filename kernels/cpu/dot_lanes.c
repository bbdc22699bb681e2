/* SPDX-License-Identifier: MIT
 *
 * The dot products with vectors. This file is compiled once for each instruction set.
 *
 * A format is how its codes become bytes, in the order of the weights, and how its scales and mins
 * become words. Two loops over blocks do the rest, of which the compiler makes a function for each
 * format:
 *
 * - One row with one, two or four columns. A superblock's products are summed up in a vector; that
 *   of eight superblocks (or the blocks of 256 weights, where they have 32) is summed up across
 *   at once, which makes their floats the lanes of one vector: the order of dot.h.
 * - A few rows with tiles of columns. Each lane is a column, and the codes of four weights serve
 *   all lanes, so nothing is summed up across, and unpacking counts little.
 *
 * Integers are exact, so it does not matter in which order these are added up.
 */
#include "kernels/cpu/dot.h"

#include "codec/block.h"
#include "codec/float16.h"
#include "kernels/cpu/vectors.h"

enum {
    GROUPS = SUPERBLOCK / BLOCK, /* of 32 weights, as a vector has codes */
    TILE_ROWS = LANES / 4,       /* as there are registers for */
};

/* ---- superblocks: codes and sides ---- */

/* The codes of group j of 32 weights. */
typedef bytes32 codes_fn(const uint8_t *block, int j);

/* The scales of every 16 weights, and what the sums of levels are to be multiplied with: the mins, or
 * what takes the codes' zero out again. Words in the order of activations.sums: those of even ones
 * in one half, of odd ones in the other. */
typedef void sides_fn(const uint8_t *block, __m256i *scales, __m256i *side);

/* In each of eight bytes. */
static const uint64_t TWO_BITS = 0x0303030303030303, FOUR_BITS = 0x0f0f0f0f0f0f0f0f,
                      SIX_BITS = 0x3f3f3f3f3f3f3f3f;

/* Two-bit fields are left one place up in every other group, which saves half of the shifts;
 * two_bits_unit makes up for that in the scales, and sums are four times what they should be
 * (traits.unit). */
static int two_bits_place(int j)
{
    return j % 2 * 2;
}

INLINE bytes32 two_bits(const uint8_t *qs, int j)
{
    return shift_right(load(qs + 32 * (j / 4)), j % 4 / 2 * 4) & bytes(3 << two_bits_place(j));
}

INLINE __m256i two_bits_unit(__m256i scale)
{
    return _mm256_mullo_epi16(scale, _mm256_set1_epi32(1 << 16 | 4));
}

/* 16 bytes, even ones in one half and odd ones in the other. */
INLINE __m128i evens_odds(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}

INLINE bytes32 four_bits(const uint8_t *qs, int j)
{
    return shift_right(load(qs + 32 * (j / 2)), j % 2 * 4) & bytes(15);
}

/* Bit j of each byte, as bit `to`. */
INLINE bytes32 top_bit(const uint8_t *qh, int j, int to)
{
    return shift_right(load(qh), j - to) & bytes(1 << to);
}

INLINE bytes32 q2_k_codes(const uint8_t *block, int j)
{
    const struct block_q2_k *b = (const void *)block;
    return two_bits(b->qs, j);
}

INLINE void q2_k_sides(const uint8_t *block, __m256i *scales, __m256i *side)
{
    const struct block_q2_k *b = (const void *)block;
    __m256i v = _mm256_cvtepu8_epi16(evens_odds(load_half(b->scales)));
    *scales = two_bits_unit(v & words(15));
    *side = _mm256_srli_epi16(v, 4);
}

INLINE bytes32 q3_k_codes(const uint8_t *block, int j)
{
    const struct block_q3_k *b = (const void *)block;
    return two_bits(b->qs, j) | top_bit(b->hmask, j, two_bits_place(j) + 2);
}

/* Six-bit levels are put together by integer units: vector units have enough to do. */
INLINE void q3_k_sides(const uint8_t *block, __m256i *scales, __m256i *side)
{
    const struct block_q3_k *b = (const void *)block;
    uint64_t bits = load_u64(b->scales), top = load_u32(b->scales + 8);
    top |= top << 30; /* bytes 4 to 7: the next two bits; what else gets there is masked */
    uint64_t low = (bits & FOUR_BITS) | (top & TWO_BITS) << 4;
    uint64_t high = (bits >> 4 & FOUR_BITS) | (top >> 4 & TWO_BITS) << 4;
    __m128i levels = evens_odds(_mm_set_epi64x((long long)high, (long long)low));
    __m256i v = _mm256_sub_epi16(_mm256_cvtepu8_epi16(levels), words(32));
    *scales = two_bits_unit(v);
    *side = _mm256_mullo_epi16(v, words(-4 * 4));
}

INLINE bytes32 q4_k_codes(const uint8_t *block, int j)
{
    const struct block_q4_k *b = (const void *)block;
    return four_bits(b->qs, j);
}

/* As scale_min_get, all at once; for Q5_K as well, whose blocks begin alike. */
INLINE void q4_k_sides(const uint8_t *block, __m256i *scales, __m256i *side)
{
    const struct block_q4_k *b = (const void *)block;
    uint64_t bits = load_u64(b->scales), low = load_u32(b->scales + 8);
    low |= low << 28; /* bytes 4 to 7: the high nibbles */
    uint64_t next = (low & FOUR_BITS) | (bits >> 6 & TWO_BITS) << 4;
    /* Scales 0 to 3, mins 0 to 3, scales 4 to 7, mins 4 to 7, as bytes in each half. */
    __m256i all =
        _mm256_broadcastsi128_si256(_mm_set_epi64x((long long)next, (long long)(bits & SIX_BITS)));
    *scales =
        _mm256_shuffle_epi8(all, twice(0, -1, 1, -1, 2, -1, 3, -1, 8, -1, 9, -1, 10, -1, 11, -1));
    *side =
        _mm256_shuffle_epi8(all, twice(4, -1, 5, -1, 6, -1, 7, -1, 12, -1, 13, -1, 14, -1, 15, -1));
}

INLINE bytes32 q5_k_codes(const uint8_t *block, int j)
{
    const struct block_q5_k *b = (const void *)block;
    return four_bits(b->qs, j) | top_bit(b->qh, j, 4);
}

INLINE bytes32 q6_k_codes(const uint8_t *block, int j)
{
    const struct block_q6_k *b = (const void *)block;
    int half = j / 4, k = j % 4;
    bytes32 low = shift_right(load(b->ql + 64 * half + 32 * (k % 2)), k / 2 * 4) & bytes(15);
    return low | (shift_right(load(b->qh + 32 * half), 2 * k - 4) & bytes(0x30));
}

INLINE void q6_k_sides(const uint8_t *block, __m256i *scales, __m256i *side)
{
    const struct block_q6_k *b = (const void *)block;
    *scales = _mm256_cvtepi8_epi16(evens_odds(load_half(b->scales)));
    *side = _mm256_mullo_epi16(*scales, words(-32));
}

/* ---- blocks of 32: codes ---- */

typedef bytes32 codes_32_fn(const uint8_t *block);

INLINE bytes32 q8_0_codes(const uint8_t *block)
{
    return signed_codes(load(block + 2));
}

INLINE bytes32 q4_0_codes(const uint8_t *block)
{
    return nibbles(block + 2);
}

INLINE bytes32 q4_1_codes(const uint8_t *block)
{
    return nibbles(block + 4);
}

INLINE bytes32 q5_0_codes(const uint8_t *block)
{
    return nibbles(block + 6) | bits_spread(load_u32(block + 2), 16);
}

INLINE bytes32 q5_1_codes(const uint8_t *block)
{
    return nibbles(block + 8) | bits_spread(load_u32(block + 4), 16);
}

INLINE bytes32 iq4_nl_codes(const uint8_t *block)
{
    __m256i table = _mm256_broadcastsi128_si256(load_half(iq4_nl_values));
    return signed_codes(_mm256_shuffle_epi8(table, nibbles(block + 2)));
}

/* Four halves, at p, p + size and so on, and what lies behind them. */
INLINE __m128i pairs_load(const uint8_t *p, size_t size)
{
    __m128i v[4];
    for (int i = 0; i < 4; i++)
        v[i] = _mm_cvtsi32_si128((int32_t)load_u32(p + (size_t)i * size));
    return _mm_unpacklo_epi64(_mm_unpacklo_epi32(v[0], v[1]), _mm_unpacklo_epi32(v[2], v[3]));
}

/* The halves of eight blocks, at p, p + size and so on; with a pair, those behind them as well.
 * Single ones are put together by integer units: vector units have enough to shuffle. */
INLINE void halves_load(const uint8_t *p, size_t size, bool pair, __m256 *first, __m256 *second)
{
    if (pair) {
        __m128i low = pairs_load(p, size), high = pairs_load(p + 4 * size, size),
                mask = _mm_set1_epi32(0xffff);
        *first = _mm256_cvtph_ps(_mm_packus_epi32(low & mask, high & mask));
        *second =
            _mm256_cvtph_ps(_mm_packus_epi32(_mm_srli_epi32(low, 16), _mm_srli_epi32(high, 16)));
        return;
    }
    uint64_t four[2];
    for (int i = 0; i < 2; i++, p += 4 * size)
        four[i] = (uint64_t)load_u16(p) | (uint64_t)load_u16(p + size) << 16 |
                  (uint64_t)load_u16(p + 2 * size) << 32 | (uint64_t)load_u16(p + 3 * size) << 48;
    *first = _mm256_cvtph_ps(_mm_set_epi64x((long long)four[1], (long long)four[0]));
}

/* ---- one row, n columns ---- */

enum {
    COLUMNS = 4, /* most of them at once */
    CHAINS = 2,  /* of sums of one column, for a multiplication that adds takes several cycles */
};

/* What there is to know of a format, but for its functions. */
struct traits {
    size_t size;    /* of a block */
    size_t head;    /* where d lies; dmin or m behind it */
    bool pair;      /* whether there is a dmin or m */
    int zero;       /* blocks of 32: the code of zero */
    bool is_signed; /* likewise: codes are signed */
    int width;      /* superblocks: weights that share a scale */
    int unit;       /* likewise: sums are shifted to the left by that */
    bool nibbles;   /* likewise: nibbles_dot will do */
};

/* The scales of groups i and j of 32 weights, as words for four sums of the one and four of the other
 * in each half; i == j: for all words. */
INLINE __m256i scales_of(__m256i scales, int i, int j)
{
    long long one = 0x0100010001000100;
    return _mm256_shuffle_epi8(
        scales, _mm256_set_epi64x(one + j * 0x0202020202020202, one + i * 0x0202020202020202,
                                  one + j * 0x0202020202020202, one + i * 0x0202020202020202));
}

/* Adds a block's products with their scales to dot, in any of its lanes. Sums of four fit into words,
 * for codes are less than 64, so where they are made at once two vectors of them become one. */
INLINE void block_dot(int n, codes_fn *codes, const uint8_t *block, const int8_t *q,
                      size_t q_stride, __m256i scales, __m256i (*dot)[CHAINS])
{
    const int chains = n == 1 ? CHAINS : 1;
#pragma GCC unroll 8
    for (int j = 0; j < GROUPS; j += 1 + FOURS) {
        bytes32 w = codes(block, j), next = codes(block, j + FOURS);
        __m256i scale = scales_of(scales, j, j + FOURS);
        for (int c = 0; c < n; c++) {
            const int8_t *x = q + c * q_stride + j * BLOCK;
            __m256i *sum = &dot[c][j / (1 + FOURS) % chains];
            __m256i words = FOURS ? _mm256_packs_epi32(dot_codes(w, load(x), false),
                                                       dot_codes(next, load(x + BLOCK), false))
                                  : dot_pairs(w, load(x));
            *sum = dot_words(*sum, words, scale);
        }
    }
}

#ifdef __AVX512VNNI__
/* What block_dot does, for Q4_K: codes stay where they are. Sixteen times a sum of fours of high
 * nibbles, shifted, is a word of which the sum of low ones is made the neighbour by adding it up on
 * top. That is kept positive by 2 << 12, more than it can be less than nothing, lest it borrow; and
 * what this comes to, 65536 times the scales of low nibbles, is where the sums begin. */
INLINE void nibbles_dot(int n, const uint8_t *block, const int8_t *q, size_t q_stride,
                        __m256i scales, __m256i (*dot)[CHAINS])
{
    const struct block_q4_k *b = (const void *)block;
    __m256i above = _mm256_madd_epi16(scales, _mm256_set1_epi32(0x8000));
#pragma GCC unroll 4
    for (int j = 0; j < GROUPS; j += 2) {
        bytes32 v = load(b->qs + j * BLOCK / 2);
        __m256i scale =
            _mm256_shuffle_epi8(scales, _mm256_set1_epi32(0x03020100 + j / 2 * 0x04040404));
        for (int c = 0; c < n; c++) {
            const int8_t *x = q + c * q_stride + j * BLOCK;
            __m256i high =
                _mm256_dpbusd_epi32(_mm256_set1_epi32(2), v & bytes(0xf0), load(x + BLOCK));
            __m256i both = _mm256_dpbusd_epi32(_mm256_slli_epi32(high, 12), v & bytes(15), load(x));
            dot[c][0] = dot_words(j ? dot[c][0] : above, both, scale);
        }
    }
}
#endif

/* Superblocks k to k + count - 1, at most 8 and in their lanes. */
INLINE void superblocks_add(int n, int count, codes_fn *codes, sides_fn *sides, struct traits f,
                            const uint8_t *row, const struct activations *a, uint32_t column,
                            size_t k, __m256 *sum)
{
    const int chains = n == 1 ? CHAINS : 1;
    __m256i acc[COLUMNS][SUM_LANES], min[COLUMNS][SUM_LANES];
    const uint8_t *block = row + k * f.size;
    const int8_t *q = a->q + column * a->q_stride + k * SUPERBLOCK;
    const int16_t *levels = a->sums + column * a->sum_stride + k * (SUPERBLOCK / FINE);
    for (int s = 0; s < count; s++, block += f.size, q += SUPERBLOCK, levels += SUPERBLOCK / FINE) {
        __m256i scales, side, dot[COLUMNS][CHAINS];
        sides(block, &scales, &side);
        for (int c = 0; c < n; c++) {
            min[c][s] = _mm256_madd_epi16(side, load(levels + c * a->sum_stride));
            for (int i = 0; i < chains; i++)
                dot[c][i] = f.pair || i ? _mm256_setzero_si256() : min[c][s];
        }
#ifdef __AVX512VNNI__
        if (f.nibbles)
            nibbles_dot(n, block, q, a->q_stride, scales, dot);
        else
#endif
            block_dot(n, codes, block, q, a->q_stride, scales, dot);
        for (int c = 0; c < n; c++) {
            acc[c][s] = dot[c][0];
            for (int i = 1; i < chains; i++)
                acc[c][s] = _mm256_add_epi32(acc[c][s], dot[c][i]);
        }
    }
    const uint8_t *head = row + k * f.size + f.head;
    uint8_t some[SUM_LANES * 4];
    size_t step = f.size;
    if (count < SUM_LANES) {
        memset(some, 0, sizeof some);
        for (int s = 0; s < count; s++)
            memcpy(some + 4 * s, head + s * f.size, f.pair ? 4 : 2);
        head = some;
        step = 4;
        for (int c = 0; c < n; c++)
            for (int s = count; s < SUM_LANES; s++)
                acc[c][s] = min[c][s] = _mm256_setzero_si256();
    }
    __m256 d, dmin;
    halves_load(head, step, f.pair, &d, &dmin);
    for (int c = 0; c < n; c++) {
        __m256 scale = _mm256_loadu_ps(a->scale + (column + c) * a->scale_stride + k);
        __m256i sums = _mm256_srai_epi32(sums_of_eight(acc[c]), f.unit);
        __m256 term = (d * scale) * _mm256_cvtepi32_ps(sums);
        if (f.pair)
            term -= (dmin * scale) * _mm256_cvtepi32_ps(sums_of_eight(min[c]));
        sum[c] += term;
    }
}

INLINE void superblocks_dot(int n, codes_fn *codes, sides_fn *sides, struct traits f,
                            const uint8_t *row, const struct activations *a, uint32_t column,
                            float *out, size_t stride)
{
    __m256 sum[COLUMNS] = {0};
    size_t k = 0;
    for (; k + SUM_LANES <= a->blocks; k += SUM_LANES)
        superblocks_add(n, SUM_LANES, codes, sides, f, row, a, column, k, sum);
    if (k < a->blocks)
        superblocks_add(n, (int)(a->blocks - k), codes, sides, f, row, a, column, k, sum);
    for (int c = 0; c < n; c++)
        out[(column + c) * stride] = halves_add(sum[c]);
}

/* Blocks k to k + 7, which are at p. */
INLINE void blocks_add(int n, codes_32_fn *codes, struct traits f, const uint8_t *p,
                       const struct activations *a, uint32_t column, size_t k, __m256 *sum)
{
    __m256i acc[COLUMNS][SUM_LANES];
    const int8_t *q = a->q + column * a->q_stride + k * BLOCK;
    for (int s = 0; s < SUM_LANES; s++) {
        bytes32 w = codes(p + s * f.size);
        for (int c = 0; c < n; c++)
            acc[c][s] = dot_codes(w, load(q + c * a->q_stride + s * BLOCK), f.is_signed);
    }
    __m256 d, m;
    halves_load(p, f.size, f.pair, &d, &m);
    for (int c = 0; c < n; c++) {
        __m256 scale = _mm256_loadu_ps(a->scale + (column + c) * a->scale_stride + k);
        __m256i dots = sums_of_eight(acc[c]);
        __m256i sums = _mm256_cvtepi16_epi32(load_half(a->sums + (column + c) * a->sum_stride + k));
        if (f.zero)
            dots = _mm256_sub_epi32(dots, _mm256_mullo_epi32(sums, _mm256_set1_epi32(f.zero)));
        __m256 term = (d * scale) * _mm256_cvtepi32_ps(dots);
        if (f.pair)
            term += (m * scale) * _mm256_cvtepi32_ps(sums);
        sum[c] += term;
    }
}

enum { BLOCK_SIZE_MAX = 34 };

/* The last blocks of a row, with zeros behind them up to eight. */
INLINE const uint8_t *blocks_pad(const uint8_t *p, size_t count, size_t size, uint8_t *padded)
{
    memset(padded, 0, SUM_LANES * size);
    memcpy(padded, p, count * size);
    return padded;
}

INLINE void blocks_dot(int n, codes_32_fn *codes, struct traits f, const uint8_t *row,
                       const struct activations *a, uint32_t column, float *out, size_t stride)
{
    __m256 sum[COLUMNS] = {0};
    uint8_t padded[SUM_LANES * BLOCK_SIZE_MAX];
    size_t k = 0;
    for (; k + SUM_LANES <= a->blocks; k += SUM_LANES)
        blocks_add(n, codes, f, row + k * f.size, a, column, k, sum);
    if (k < a->blocks)
        blocks_add(n, codes, f, blocks_pad(row + k * f.size, a->blocks - k, f.size, padded), a,
                   column, k, sum);
    for (int c = 0; c < n; c++)
        out[(column + c) * stride] = halves_add(sum[c]);
}

/* ---- TILE_ROWS rows, tiles of columns ---- */

/* One group of 256 weights of a row. */
struct unpacked {
    uint8_t q[GROUP];
    int16_t scale[GROUP / FINE], side[GROUP / FINE]; /* sides in the order of sides_fn */
    float d[SUM_LANES], dmin[SUM_LANES];             /* superblocks have one */
};

/* Words in the order of sides_fn, in that of the weights. */
INLINE void store_in_turns(int16_t *to, __m256i v)
{
    __m128i even = _mm256_castsi256_si128(v), odd = _mm256_extracti128_si256(v, 1);
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(even, odd));
    _mm_storeu_si128((__m128i *)(to + 8), _mm_unpackhi_epi16(even, odd));
}

typedef float tile_sums[TILES_MAX][TILE_ROWS][SUM_LANES][TILE];

/* Two words, in every lane. */
INLINE lanes pair_of(const int16_t *p)
{
    return lanes_all((int32_t)load_u32(p));
}

INLINE void tile_out(tile_sums sum, const struct activations *a, uint32_t tile, uint32_t tiles,
                     float *out, size_t stride)
{
    for (uint32_t t = 0; t < tiles; t++)
        for (int r = 0; r < TILE_ROWS; r++) {
            float product[TILE];
            float(*lane)[TILE] = sum[t][r];
            for (int i = 0; i < TILE; i++)
                product[i] = ((lane[0][i] + lane[4][i]) + (lane[2][i] + lane[6][i])) +
                             ((lane[1][i] + lane[5][i]) + (lane[3][i] + lane[7][i]));
            uint32_t column = (tile + t) * TILE;
            for (uint32_t i = 0; i < TILE && column + i < a->batch; i++)
                out[(column + i) * stride + (size_t)r] = product[i];
        }
}

INLINE void superblocks_tile(codes_fn *codes, sides_fn *sides, struct traits f,
                             const uint8_t *const *rows, const struct activations *a, uint32_t tile,
                             uint32_t tiles, float *out, size_t stride)
{
    tile_sums sum;
    struct unpacked u[TILE_ROWS];
    memset(sum, 0, tiles * sizeof *sum);
    for (size_t k = 0; k < a->blocks; k++) {
        for (int r = 0; r < TILE_ROWS; r++) {
            const uint8_t *block = rows[r] + k * f.size;
            __m256i scales, side;
            sides(block, &scales, &side);
            store_in_turns(u[r].scale, scales);
            store(u[r].side, side);
            for (int j = 0; j < GROUPS; j++)
                store(u[r].q + j * BLOCK, codes(block, j));
            u[r].d[0] = f32_from_f16(load_u16(block + f.head));
            u[r].dmin[0] = f.pair ? f32_from_f16(load_u16(block + f.head + 2)) : 0;
        }
        for (uint32_t t = 0; t < tiles; t++)
            for (int lane = 0; lane < TILE; lane += LANES) {
                const int8_t *q =
                    a->tile_q + (tile + t) * TILE * a->q_stride + k * SUPERBLOCK * TILE + 4 * lane;
                const int16_t *sums = a->tile_sums + (tile + t) * TILE * a->sum_stride +
                                      k * (SUPERBLOCK / FINE) * TILE + 2 * lane;
                lanes dot[TILE_ROWS], side[TILE_ROWS];
                for (int r = 0; r < TILE_ROWS; r++)
                    dot[r] = side[r] = lanes_all(0);
                for (int j = 0; j < SUPERBLOCK / FINE; j += 2) {
                    lanes s = lanes_load(sums + j * TILE);
                    for (int r = 0; r < TILE_ROWS; r++)
                        side[r] = lanes_dot_words(side[r], pair_of(u[r].side + j), s);
                }
                for (int i = 0; i < SUPERBLOCK; i += f.width) {
                    lanes part[TILE_ROWS];
                    for (int r = 0; r < TILE_ROWS; r++)
                        part[r] = lanes_all(0);
#pragma GCC unroll 8
                    for (int j = i; j < i + f.width; j += 4) {
                        lanes x = lanes_load(q + j * TILE);
                        for (int r = 0; r < TILE_ROWS; r++)
                            part[r] = lanes_dot_codes(
                                part[r], lanes_all((int32_t)load_u32(u[r].q + j)), x, false);
                    }
                    for (int r = 0; r < TILE_ROWS; r++)
                        dot[r] = lanes_add(
                            dot[r], lanes_multiply(part[r], lanes_all(u[r].scale[i / FINE])));
                }
                float_lanes scale =
                    floats_load(a->tile_scale + ((tile + t) * a->scale_stride + k) * TILE + lane);
                for (int r = 0; r < TILE_ROWS; r++) {
                    float *s = &sum[t][r][k % SUM_LANES][lane];
                    if (!f.pair)
                        dot[r] = lanes_add(dot[r], side[r]);
                    dot[r] = lanes_down(dot[r], f.unit);
                    float_lanes term = (floats_all(u[r].d[0]) * scale) * lanes_float(dot[r]);
                    if (f.pair)
                        term -= (floats_all(u[r].dmin[0]) * scale) * lanes_float(side[r]);
                    floats_store(s, floats_load(s) + term);
                }
            }
    }
    tile_out(sum, a, tile, tiles, out, stride);
}

INLINE void blocks_tile(codes_32_fn *codes, struct traits f, const uint8_t *const *rows,
                        const struct activations *a, uint32_t tile, uint32_t tiles, float *out,
                        size_t stride)
{
    tile_sums sum;
    struct unpacked u[TILE_ROWS];
    uint8_t padded[SUM_LANES * BLOCK_SIZE_MAX];
    memset(sum, 0, tiles * sizeof *sum);
    for (size_t k = 0; k < a->blocks; k += SUM_LANES) {
        for (int r = 0; r < TILE_ROWS; r++) {
            const uint8_t *p = rows[r] + k * f.size;
            if (a->blocks - k < SUM_LANES)
                p = blocks_pad(p, a->blocks - k, f.size, padded);
            for (int b = 0; b < SUM_LANES; b++)
                store(u[r].q + b * BLOCK, codes(p + b * f.size));
            __m256 d, m;
            halves_load(p, f.size, f.pair, &d, &m);
            _mm256_storeu_ps(u[r].d, d);
            if (f.pair)
                _mm256_storeu_ps(u[r].dmin, m);
        }
        for (uint32_t t = 0; t < tiles; t++)
            for (int lane = 0; lane < TILE; lane += LANES)
                for (size_t b = 0; b < SUM_LANES; b++) {
                    const int8_t *q = a->tile_q + (tile + t) * TILE * a->q_stride +
                                      (k + b) * BLOCK * TILE + 4 * (size_t)lane;
                    lanes sums = lanes_words(a->tile_sums +
                                             ((tile + t) * a->sum_stride + k + b) * TILE + lane);
                    lanes dot[TILE_ROWS];
                    for (int r = 0; r < TILE_ROWS; r++)
                        dot[r] = f.zero ? lanes_multiply(sums, lanes_all(-f.zero)) : lanes_all(0);
                    for (size_t j = 0; j < BLOCK; j += 4) {
                        lanes x = lanes_load(q + j * TILE);
                        for (int r = 0; r < TILE_ROWS; r++)
                            dot[r] = lanes_dot_codes(
                                dot[r], lanes_all((int32_t)load_u32(u[r].q + b * BLOCK + j)), x,
                                f.is_signed);
                    }
                    float_lanes scale = floats_load(
                        a->tile_scale + ((tile + t) * a->scale_stride + k + b) * TILE + lane);
                    for (int r = 0; r < TILE_ROWS; r++) {
                        float *s = &sum[t][r][b][lane];
                        float_lanes term = (floats_all(u[r].d[b]) * scale) * lanes_float(dot[r]);
                        if (f.pair)
                            term += (floats_all(u[r].dmin[b]) * scale) * lanes_float(sums);
                        floats_store(s, floats_load(s) + term);
                    }
                }
    }
    tile_out(sum, a, tile, tiles, out, stride);
}

/* ---- float activations ---- */

enum { COLUMNS_MAX = 64, VECTORS = FLOAT_LANES / LANES };

/* decode_f16 with the processor's conversion, whose results are the same. */
static void decode_half(const void *blocks, size_t n, float *out)
{
    const uint8_t *p = blocks;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(load_half(p + 2 * i)));
    for (; i < n; i++)
        out[i] = f32_from_f16(load_u16(p + 2 * i));
}

/* n weights, a multiple of FLOAT_LANES, with the same activations of so many columns. */
INLINE void floats_add(int columns, const float *w, const float *x, size_t x_stride, size_t n,
                       float (*sum)[FLOAT_LANES])
{
    float_lanes acc[COLUMNS][VECTORS];
    for (int c = 0; c < columns; c++)
        for (int v = 0; v < VECTORS; v++)
            acc[c][v] = floats_load(sum[c] + v * LANES);
    for (size_t i = 0; i < n; i += FLOAT_LANES)
        for (int v = 0; v < VECTORS; v++) {
            float_lanes weights = floats_load(w + i + v * LANES);
            for (int c = 0; c < columns; c++)
                acc[c][v] += weights * floats_load(x + c * x_stride + i + v * LANES);
        }
    for (int c = 0; c < columns; c++)
        for (int v = 0; v < VECTORS; v++)
            floats_store(sum[c] + v * LANES, acc[c][v]);
}

/* decode: NULL where rows are floats already. */
static void floats_dot(decode_fn *decode, const struct format *f, const uint8_t *row,
                       const struct activations *a, uint32_t column, uint32_t count, float *out,
                       size_t stride)
{
    float sum[COLUMNS_MAX][FLOAT_LANES], decoded[GROUP];
    memset(sum, 0, count * sizeof *sum);
    for (size_t i = 0; i < a->cols; i += GROUP) {
        const float *x = a->x + column * a->cols + i;
        size_t n = a->cols - i < GROUP ? a->cols - i : GROUP, whole = n / FLOAT_LANES * FLOAT_LANES;
        const float *w = (const void *)(row + i / f->block * f->block_size);
        uint32_t c = 0;
        if (decode) {
            decode((const uint8_t *)w, n, decoded);
            w = decoded;
        }
        for (; c + 4 <= count; c += 4)
            floats_add(4, w, x + c * a->cols, a->cols, whole, sum + c);
        for (; c < count; c++)
            floats_add(1, w, x + c * a->cols, a->cols, whole, sum + c);
        if (whole == n)
            continue;
        float rest[FLOAT_LANES] = {0};
        memcpy(rest, w + whole, (n - whole) * sizeof *w);
        for (c = 0; c < count; c++) {
            float last[FLOAT_LANES] = {0};
            memcpy(last, x + c * a->cols + whole, (n - whole) * sizeof *x);
            floats_add(1, rest, last, 0, FLOAT_LANES, sum + c);
        }
    }
    for (uint32_t c = 0; c < count; c++) {
        __m256 low = _mm256_loadu_ps(sum[c]), high = _mm256_loadu_ps(sum[c] + 8);
        out[(column + c) * stride] = halves_add(low + high);
    }
}

#ifdef __AVX512F__
#define DECODERS decoders_avx512
#define ATTEND   attend_avx512
#else
#define DECODERS decoders_avx2
#define ATTEND   attend_avx2
#endif

static void dot_float(const struct format *f, const uint8_t *row, const struct activations *a,
                      uint32_t column, uint32_t count, float *out, size_t stride)
{
    decode_fn *decode = DECODERS[f - formats];
    if (f == &formats[FORMAT_F16])
        decode = decode_half;
    else if (f == &formats[FORMAT_F32])
        decode = NULL;
    for (uint32_t end = column + count; column < end; column += COLUMNS_MAX)
        floats_dot(decode, f, row, a, column,
                   end - column < COLUMNS_MAX ? end - column : COLUMNS_MAX, out, stride);
}

/* ---- tables ---- */

/* A function of one row for any number of columns, with the loops that there are for n; and one for
 * tiles. */
#define FORMAT(name, dot, tile, functions, ...)                                                    \
    static void dot_##name(const uint8_t *row, const struct activations *a, uint32_t column,       \
                           uint32_t count, float *out, size_t stride)                              \
    {                                                                                              \
        const struct traits f = {.size = sizeof(struct block_##name), __VA_ARGS__};                \
        for (; count >= 4; count -= 4, column += 4)                                                \
            dot(4, functions, f, row, a, column, out, stride);                                     \
        for (; count >= 2; count -= 2, column += 2)                                                \
            dot(2, functions, f, row, a, column, out, stride);                                     \
        if (count)                                                                                 \
            dot(1, functions, f, row, a, column, out, stride);                                     \
    }                                                                                              \
    static void tile_##name(const uint8_t *const *rows, const struct activations *a,               \
                            uint32_t tile_, uint32_t tiles, float *out, size_t stride)             \
    {                                                                                              \
        const struct traits f = {.size = sizeof(struct block_##name), __VA_ARGS__};                \
        tile(functions, f, rows, a, tile_, tiles, out, stride);                                    \
    }
#define BOTH(a, b) a, b
#define SUPERBLOCKS(name, sides, ...)                                                              \
    FORMAT(name, superblocks_dot, superblocks_tile, BOTH(name##_codes, sides), __VA_ARGS__)
#define BLOCKS(name, ...) FORMAT(name, blocks_dot, blocks_tile, name##_codes, __VA_ARGS__)

#define AT(name) .head = offsetof(struct block_##name, d)

SUPERBLOCKS(q2_k, q2_k_sides, AT(q2_k), .pair = true, .width = 16, .unit = 2)
SUPERBLOCKS(q3_k, q3_k_sides, AT(q3_k), .width = 16, .unit = 2)
SUPERBLOCKS(q4_k, q4_k_sides, AT(q4_k), .pair = true, .width = 32, .nibbles = true)
SUPERBLOCKS(q5_k, q4_k_sides, AT(q5_k), .pair = true, .width = 32)
SUPERBLOCKS(q6_k, q6_k_sides, AT(q6_k), .width = 16)
BLOCKS(q8_0, .zero = SIGNED_ZERO, .is_signed = true)
BLOCKS(q4_0, .zero = 8)
BLOCKS(q4_1, .pair = true)
BLOCKS(q5_0, .zero = 16)
BLOCKS(q5_1, .pair = true)
BLOCKS(iq4_nl, .zero = SIGNED_ZERO, .is_signed = true)

/* clang-format off */
#if defined __AVX512VNNI__
#define STRIPE stripe_avx512_vnni
const struct dot_set dot_set_avx512_vnni = {
    .name = "avx512_vnni",
#elif defined __AVX512F__
#define STRIPE stripe_avx512
const struct dot_set dot_set_avx512 = {
    .name = "avx512",
#else
#define STRIPE stripe_avx2
const struct dot_set dot_set_avx2 = {
    .name = "avx2",
#endif
    .dot = {
        [FORMAT_Q8_0] = dot_q8_0, [FORMAT_Q6_K] = dot_q6_k, [FORMAT_Q5_K] = dot_q5_k,
        [FORMAT_Q5_1] = dot_q5_1, [FORMAT_Q5_0] = dot_q5_0, [FORMAT_Q4_K] = dot_q4_k,
        [FORMAT_Q4_1] = dot_q4_1, [FORMAT_Q4_0] = dot_q4_0, [FORMAT_IQ4_NL] = dot_iq4_nl,
        [FORMAT_Q3_K] = dot_q3_k, [FORMAT_Q2_K] = dot_q2_k,
    },
    .tile_rows = TILE_ROWS,
    .tile = {
        [FORMAT_Q8_0] = tile_q8_0, [FORMAT_Q6_K] = tile_q6_k, [FORMAT_Q5_K] = tile_q5_k,
        [FORMAT_Q5_1] = tile_q5_1, [FORMAT_Q5_0] = tile_q5_0, [FORMAT_Q4_K] = tile_q4_k,
        [FORMAT_Q4_1] = tile_q4_1, [FORMAT_Q4_0] = tile_q4_0, [FORMAT_IQ4_NL] = tile_iq4_nl,
        [FORMAT_Q3_K] = tile_q3_k, [FORMAT_Q2_K] = tile_q2_k,
    },
    .dot_float = dot_float,
    .stripe = STRIPE,
    .attend = ATTEND,
};

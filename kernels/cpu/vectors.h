/* SPDX-License-Identifier: MIT
 *
 * Vectors for the dot products. Codes are unpacked and multiplied with single columns 32 bytes at a
 * time with every instruction set: wider vectors gain nothing where scales change after 32 weights
 * or 16. Tiles have a lane for each column: LANES of them, 16 with AVX-512 and 8 with AVX2. Which
 * it is, and whether there is VNNI, follows from the flags that a file is compiled with.
 */
#ifndef KERNELS_CPU_VECTORS_H
#define KERNELS_CPU_VECTORS_H

#include "codec/bytes.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* ---- 32 bytes ---- */

typedef __m256i bytes32;

INLINE bytes32 load(const void *p) { return _mm256_loadu_si256(p); }
INLINE void store(void *p, bytes32 v) { _mm256_storeu_si256(p, v); }
INLINE __m128i load_half(const void *p) { return _mm_loadu_si128(p); }
INLINE bytes32 bytes(int v) { return _mm256_set1_epi8((char)v); }
INLINE bytes32 words(int v) { return _mm256_set1_epi16((short)v); }

/* 16 bytes in each half. */
#define twice(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))

/* Bits go from byte to byte; less than nothing is to the left. */
INLINE bytes32 shift_right(bytes32 v, int n)
{
    return n < 0 ? _mm256_slli_epi64(v, -n) : _mm256_srli_epi64(v, n);
}

/* The low nibbles of 16 bytes, then the high ones. */
INLINE bytes32 nibbles(const uint8_t *p)
{
    __m256i twice = _mm256_broadcastsi128_si256(load_half(p));
    return _mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4)) & bytes(15);
}

/* value in byte i where bit i is set. */
INLINE bytes32 bits_spread(uint32_t bits, int value)
{
#ifdef __AVX512F__
    return _mm256_maskz_set1_epi8(bits, (char)value);
#else
    __m256i spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32((int32_t)bits),
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    return _mm256_cmpeq_epi8(spread & bit, bit) & bytes(value);
#endif
}

/* Pairs of an unsigned byte, less than 128, and a signed one, more than -128, as words. */
INLINE __m256i dot_pairs(bytes32 codes, bytes32 q) { return _mm256_maddubs_epi16(codes, q); }

/* acc + pairs of words. */
INLINE __m256i dot_words(__m256i acc, __m256i a, __m256i b)
{
#ifdef __AVX512VNNI__
    return _mm256_dpwssd_epi32(acc, a, b);
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
#endif
}

/* Codes that are signed, as dot_codes wants them, and what then is their zero. */
#ifdef __AVX512VNNI__
enum { FOURS = 1 }; /* whether four products are best summed up at once */
enum { SIGNED_ZERO = 128 };
INLINE bytes32 signed_codes(bytes32 v) { return v ^ bytes(128); }
#else
enum { FOURS = 0 };
enum { SIGNED_ZERO = 0 };
INLINE bytes32 signed_codes(bytes32 v) { return v; }
#endif

/* Fours of codes and levels. */
INLINE __m256i dot_codes(bytes32 codes, bytes32 q, bool is_signed)
{
#ifdef __AVX512VNNI__
    (void)is_signed;
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes, q);
#else
    if (is_signed) {
        q = _mm256_sign_epi8(q, codes);
        codes = _mm256_abs_epi8(codes);
    }
    return _mm256_madd_epi16(dot_pairs(codes, q), words(1));
#endif
}

/* The sums of four vectors of eight integers, in each half: a b c d | a b c d. */
INLINE __m256i sums_of_four(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/* The sum of each of eight vectors. */
INLINE __m256i sums_of_eight(const __m256i v[8])
{
    __m256i low = sums_of_four(v[0], v[1], v[2], v[3]);
    __m256i high = sums_of_four(v[4], v[5], v[6], v[7]);
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                            _mm256_permute2x128_si256(low, high, 0x31));
}

/* Adds the upper half to the lower until one is left. */
INLINE float halves_add(__m256 sum)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* ---- a lane for each column of a tile ---- */

#ifdef __AVX512F__

enum { LANES = 16 };
typedef __m512i lanes;
typedef __m512 float_lanes;

INLINE lanes lanes_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE lanes lanes_words(const int16_t *p) { return _mm512_cvtepi16_epi32(load(p)); }
INLINE lanes lanes_all(int32_t v) { return _mm512_set1_epi32(v); }
INLINE lanes lanes_add(lanes a, lanes b) { return _mm512_add_epi32(a, b); }
INLINE lanes lanes_multiply(lanes a, lanes b) { return _mm512_mullo_epi32(a, b); }
INLINE lanes lanes_down(lanes v, int n) { return _mm512_srai_epi32(v, (unsigned)n); }
INLINE float_lanes lanes_float(lanes v) { return _mm512_cvtepi32_ps(v); }
INLINE float_lanes floats_all(float v) { return _mm512_set1_ps(v); }
INLINE float_lanes floats_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void floats_store(float *p, float_lanes v) { _mm512_storeu_ps(p, v); }
INLINE float_lanes floats_of_halves(const uint16_t *p) { return _mm512_cvtph_ps(load(p)); }
INLINE float_lanes floats_max(float_lanes a, float_lanes b) { return _mm512_max_ps(a, b); }

/* 2^n where n + 127 is in the low bits. */
INLINE float_lanes floats_exponent(float_lanes v)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 23));
}

/* v, but 0 where x is less. */
INLINE float_lanes floats_unless_less(float_lanes x, float least, float_lanes v)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, floats_all(least), _CMP_NLT_UQ), v);
}

/* 16 lanes: the upper half added to the lower. */
INLINE __m256 floats_halve(const float_lanes *v)
{
    return _mm512_castps512_ps256(*v) + _mm512_extractf32x8_ps(*v, 1);
}

INLINE lanes lanes_dot_words(lanes acc, lanes a, lanes b)
{
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
#endif
}

INLINE lanes lanes_dot_codes(lanes acc, lanes codes, lanes q, bool is_signed)
{
#ifdef __AVX512VNNI__
    (void)is_signed;
    return _mm512_dpbusd_epi32(acc, codes, q);
#else
    if (is_signed) {
        q = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(codes), _mm512_setzero_si512(), q);
        codes = _mm512_abs_epi8(codes);
    }
    return lanes_dot_words(acc, _mm512_maddubs_epi16(codes, q), _mm512_set1_epi16(1));
#endif
}

#else

enum { LANES = 8 };
typedef __m256i lanes;
typedef __m256 float_lanes;

INLINE lanes lanes_load(const void *p) { return load(p); }
INLINE lanes lanes_words(const int16_t *p) { return _mm256_cvtepi16_epi32(load_half(p)); }
INLINE lanes lanes_all(int32_t v) { return _mm256_set1_epi32(v); }
INLINE lanes lanes_add(lanes a, lanes b) { return _mm256_add_epi32(a, b); }
INLINE lanes lanes_multiply(lanes a, lanes b) { return _mm256_mullo_epi32(a, b); }
INLINE lanes lanes_down(lanes v, int n) { return _mm256_srai_epi32(v, n); }
INLINE float_lanes lanes_float(lanes v) { return _mm256_cvtepi32_ps(v); }
INLINE float_lanes floats_all(float v) { return _mm256_set1_ps(v); }
INLINE float_lanes floats_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void floats_store(float *p, float_lanes v) { _mm256_storeu_ps(p, v); }
INLINE float_lanes floats_of_halves(const uint16_t *p) { return _mm256_cvtph_ps(load_half(p)); }
INLINE float_lanes floats_max(float_lanes a, float_lanes b) { return _mm256_max_ps(a, b); }
INLINE float_lanes floats_exponent(float_lanes v)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 23));
}
INLINE float_lanes floats_unless_less(float_lanes x, float least, float_lanes v)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, floats_all(least), _CMP_LT_OQ), v);
}
INLINE __m256 floats_halve(const float_lanes *v) { return v[0] + v[1]; }
INLINE lanes lanes_dot_words(lanes acc, lanes a, lanes b) { return dot_words(acc, a, b); }
INLINE lanes lanes_dot_codes(lanes acc, lanes codes, lanes q, bool is_signed)
{
    return lanes_add(acc, dot_codes(codes, q, is_signed));
}

#endif
#endif

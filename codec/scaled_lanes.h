/* SPDX-License-Identifier: MIT
 *
 * Vectors for the encoders with one scale for a block or a row (encode_scaled.h). A vector has
 * neighbouring weights, for nothing here is a sum: a greatest magnitude is the same in any order,
 * and codes know nothing of each other.
 */
#ifndef CODEC_SCALED_LANES_H
#define CODEC_SCALED_LANES_H

#include "codec/encode_scaled.h"
#include "codec/format.h"
#include "codec/lanes.h"

enum { NIBBLES = 64, NIBBLE_VECTORS = NIBBLES / LANES };

#ifdef ISA_AVX512

LANES_INLINE int32_t greatest_lane(vint v)
{
    return _mm512_reduce_max_epi32((__m512i)v);
}

/* Codes of 0 to 15 in pairs, of which the first counts `first` times in a byte, and the second
 * `second` times. */
LANES_INLINE void store_nibbles(const vint v[NIBBLE_VECTORS], int first, int second, uint8_t *out)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i low = _mm512_packs_epi32((__m512i)v[0], (__m512i)v[1]);
    __m512i high = _mm512_packs_epi32((__m512i)v[2], (__m512i)v[3]);
    __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
    __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16((int16_t)(first | second << 8)));
    _mm256_storeu_si256((__m256i *)(void *)out, _mm512_cvtepi16_epi8(pairs));
}

LANES_INLINE vfloat widen_bf16(const uint8_t *p)
{
    __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}

/* The low byte of each lane. */
LANES_INLINE void store_bytes(vint v, uint8_t *out)
{
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8((__m512i)v));
}

#else

LANES_INLINE int32_t greatest_lane(vint v)
{
    __m128i m =
        _mm_max_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

LANES_INLINE void store_nibbles(const vint v[NIBBLE_VECTORS], int first, int second, uint8_t *out)
{
    const __m256i weights = _mm256_set1_epi16((int16_t)(first | second << 8));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i pairs[NIBBLE_VECTORS / 4];
    for (int i = 0; i < NIBBLE_VECTORS; i += 4) {
        __m256i low = _mm256_packs_epi32((__m256i)v[i], (__m256i)v[i + 1]);
        __m256i high = _mm256_packs_epi32((__m256i)v[i + 2], (__m256i)v[i + 3]);
        __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
        pairs[i / 4] = _mm256_maddubs_epi16(bytes, weights);
    }
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(pairs[0], pairs[1]), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)out, packed);
}

LANES_INLINE vfloat widen_bf16(const uint8_t *p)
{
    __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)p);
    return (vfloat)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
}

LANES_INLINE void store_bytes(vint v, uint8_t *out)
{
    __m256i low = (__m256i)(v & 255);
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(words, words));
}

#endif

/* n vectors of floats, or of BF16. */
LANES_INLINE void lanes_load(const float *x, int n, vfloat *out)
{
    for (int i = 0; i < n; i++)
        out[i] = vfloat_load(x + i * LANES);
}

LANES_INLINE void lanes_load_bf16(const uint8_t *x, int n, vfloat *out)
{
    for (int i = 0; i < n; i++)
        out[i] = widen_bf16(x + i * LANES * 2);
}

/* The greatest magnitude in n vectors. */
LANES_INLINE float lanes_absmax(const vfloat *v, int n)
{
    vint greatest = {0};
    for (int i = 0; i < n; i++)
        greatest = larger_int(greatest, (vint)magnitude(v[i]));
    return f32_from_bits((uint32_t)greatest_lane(greatest));
}

/* Finite floats as a plain float has them. */
LANES_INLINE vfloat lanes_rounded(enum format_id type, vfloat v)
{
    if (type == FORMAT_F16)
        return from_half(to_half(v));
    if (type == FORMAT_BF16) {
        vint bits = (vint)v;
        return (vfloat)((bits + 0x7fff + (bits >> 16 & 1)) & (int32_t)0xffff0000);
    }
    return v;
}

/* scaled_round(v) + bias in the low byte of each lane; bias is even. */
LANES_INLINE vint lanes_round(vfloat v, int bias)
{
    return (vint)(v + (ROUNDER + (float)bias)) - 0x4b400000;
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * Vectors for the encoders that run one block in each lane: 16 lanes with AVX-512, 8 with AVX2.
 * ISA_AVX512 tells which, and not what the compiler may use: who builds for one machine only may
 * let it use more.
 *
 * + - * / & | << >> are the compiler's own on vectors; a scalar operand serves every lane. Here is
 * the rest. A function does in each lane what its namesake does with a scalar, to the bit: smaller
 * and larger return their second operand unless the first is less or greater, no comparison with
 * NaN is true.
 */
#ifndef CODEC_LANES_H
#define CODEC_LANES_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES_INLINE static inline __attribute__((always_inline))

#ifdef ISA_AVX512

enum { LANES = 16 };
typedef float vfloat __attribute__((vector_size(64)));
typedef int32_t vint __attribute__((vector_size(64)));
typedef __mmask16 vmask; /* combined with & | ~ */

LANES_INLINE vfloat splat(float v)
{
    return _mm512_set1_ps(v);
}
LANES_INLINE vfloat vfloat_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
LANES_INLINE void vfloat_store(float *p, vfloat v)
{
    _mm512_storeu_ps(p, v);
}
LANES_INLINE vfloat smaller(vfloat a, vfloat b)
{
    return _mm512_min_ps(a, b);
}
LANES_INLINE vfloat larger(vfloat a, vfloat b)
{
    return _mm512_max_ps(a, b);
}
LANES_INLINE vfloat square_root(vfloat v)
{
    return _mm512_sqrt_ps(v);
}
LANES_INLINE vint smaller_int(vint a, vint b)
{
    return (vint)_mm512_min_epi32((__m512i)a, (__m512i)b);
}
LANES_INLINE vint larger_int(vint a, vint b)
{
    return (vint)_mm512_max_epi32((__m512i)a, (__m512i)b);
}
LANES_INLINE vmask less(vfloat a, vfloat b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
LANES_INLINE vmask equal_int(vint a, vint b)
{
    return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
}
LANES_INLINE vmask equal(vfloat a, vfloat b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
LANES_INLINE bool any(vmask m)
{
    return m;
}
LANES_INLINE vfloat choose(vmask m, vfloat yes, vfloat no)
{
    return _mm512_mask_blend_ps(m, no, yes);
}
LANES_INLINE vint to_int(vfloat v)
{
    return (vint)_mm512_cvttps_epi32(v);
}
LANES_INLINE vfloat to_float(vint v)
{
    return _mm512_cvtepi32_ps((__m512i)v);
}
/* In the low 16 bits; a NaN keeps its payload. */
LANES_INLINE vint to_half(vfloat v)
{
    return (vint)_mm512_cvtepu16_epi32(
        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
LANES_INLINE vfloat from_half(vint v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)v));
}

/* Row i, lane j becomes row j, lane i. */
LANES_INLINE void transpose(vfloat r[LANES])
{
    __m512 t[LANES], u[LANES];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            __m512d a = _mm512_castps_pd(t[i + k]), b = _mm512_castps_pd(t[i + k + 2]);
            u[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            u[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    /* u[4 * a + b] holds columns b, b + 4, b + 8, b + 12 of rows 4 * a to 4 * a + 3. */
    for (int b = 0; b < 4; b++) {
        __m512 even_lo = _mm512_shuffle_f32x4(u[b], u[4 + b], 0x88);
        __m512 odd_lo = _mm512_shuffle_f32x4(u[b], u[4 + b], 0xdd);
        __m512 even_hi = _mm512_shuffle_f32x4(u[8 + b], u[12 + b], 0x88);
        __m512 odd_hi = _mm512_shuffle_f32x4(u[8 + b], u[12 + b], 0xdd);
        r[b] = _mm512_shuffle_f32x4(even_lo, even_hi, 0x88);
        r[4 + b] = _mm512_shuffle_f32x4(odd_lo, odd_hi, 0x88);
        r[8 + b] = _mm512_shuffle_f32x4(even_lo, even_hi, 0xdd);
        r[12 + b] = _mm512_shuffle_f32x4(odd_lo, odd_hi, 0xdd);
    }
}

/* Element i of a table of 16, for the low four bits of i. */
LANES_INLINE vfloat lookup(const float table[16], vint i)
{
    return _mm512_permutexvar_ps((__m512i)i, _mm512_loadu_ps(table));
}

#else

enum { LANES = 8 };
typedef float vfloat __attribute__((vector_size(32)));
typedef int32_t vint __attribute__((vector_size(32)));
typedef vint vmask; /* 0 or -1; combined with & | ~ */

LANES_INLINE vfloat splat(float v)
{
    return _mm256_set1_ps(v);
}
LANES_INLINE vfloat vfloat_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
LANES_INLINE void vfloat_store(float *p, vfloat v)
{
    _mm256_storeu_ps(p, v);
}
LANES_INLINE vfloat smaller(vfloat a, vfloat b)
{
    return _mm256_min_ps(a, b);
}
LANES_INLINE vfloat larger(vfloat a, vfloat b)
{
    return _mm256_max_ps(a, b);
}
LANES_INLINE vfloat square_root(vfloat v)
{
    return _mm256_sqrt_ps(v);
}
LANES_INLINE vint smaller_int(vint a, vint b)
{
    return (vint)_mm256_min_epi32((__m256i)a, (__m256i)b);
}
LANES_INLINE vint larger_int(vint a, vint b)
{
    return (vint)_mm256_max_epi32((__m256i)a, (__m256i)b);
}
LANES_INLINE vmask less(vfloat a, vfloat b)
{
    return (vint)_mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
LANES_INLINE vmask equal_int(vint a, vint b)
{
    return a == b;
}
LANES_INLINE vmask equal(vfloat a, vfloat b)
{
    return (vint)_mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}
LANES_INLINE bool any(vmask m)
{
    return _mm256_movemask_ps((__m256)m);
}
LANES_INLINE vfloat choose(vmask m, vfloat yes, vfloat no)
{
    return _mm256_blendv_ps(no, yes, (__m256)m);
}
LANES_INLINE vint to_int(vfloat v)
{
    return (vint)_mm256_cvttps_epi32(v);
}
LANES_INLINE vfloat to_float(vint v)
{
    return _mm256_cvtepi32_ps((__m256i)v);
}
/* In the low 16 bits; a NaN keeps its payload. */
LANES_INLINE vint to_half(vfloat v)
{
    return (vint)_mm256_cvtepu16_epi32(
        _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
LANES_INLINE vfloat from_half(vint v)
{
    __m256i i = (__m256i)v;
    return _mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1)));
}

/* Row i, lane j becomes row j, lane i. */
LANES_INLINE void transpose(vfloat r[LANES])
{
    __m256 t[LANES], u[LANES];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            u[i + 2 * k] = _mm256_shuffle_ps(t[i + k], t[i + k + 2], 0x44);
            u[i + 2 * k + 1] = _mm256_shuffle_ps(t[i + k], t[i + k + 2], 0xee);
        }
    /* u[4 * a + b] holds columns b, b + 4 of rows 4 * a to 4 * a + 3. */
    for (int b = 0; b < 4; b++) {
        r[b] = _mm256_permute2f128_ps(u[b], u[4 + b], 0x20);
        r[4 + b] = _mm256_permute2f128_ps(u[b], u[4 + b], 0x31);
    }
}

/* Element i of a table of 16, for the low four bits of i. */
LANES_INLINE vfloat lookup(const float table[16], vint i)
{
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)i);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)i);
    return _mm256_blendv_ps(low, high, (__m256)(i << 28));
}

#endif

/* ---- the same for both ---- */

/* Into the second-level cache. What is ahead need not exist. */
LANES_INLINE void prefetch(const float *p, size_t ahead)
{
    _mm_prefetch((const char *)((uintptr_t)p + ahead * sizeof *p), _MM_HINT_T1);
}

LANES_INLINE vint splat_int(int v)
{
    return (vint){0} + v;
}

LANES_INLINE vint choose_int(vmask m, vint yes, vint no)
{
    return (vint)choose(m, (vfloat)yes, (vfloat)no);
}

LANES_INLINE vfloat magnitude(vfloat v)
{
    return (vfloat)((vint)v & 0x7fffffff);
}

LANES_INLINE vfloat with_sign(float magnitude_of, vfloat sign)
{
    return (vfloat)((vint)splat(magnitude_of) | ((vint)sign & INT32_MIN));
}

LANES_INLINE vint clamp_ints(vint v, int lo, int hi)
{
    return smaller_int(larger_int(v, splat_int(lo)), splat_int(hi));
}

/* 1.5 * 2^23: a float below 2^22 becomes an integer when it is added. */
#define ROUNDER 12582912.f

/* round_even in every lane, with its garbage beyond 2^22. */
LANES_INLINE vint round_even_ints(vfloat v)
{
    return ((vint)(v + ROUNDER) & 0x007fffff) - 0x00400000;
}

/* f16_from_f32 in every lane. */
LANES_INLINE vint f16_from_floats(vfloat v)
{
    vint half = to_half(v), nan = (half & 0x8000) | 0x7e00;
    return choose_int(equal(v, v), half, nan);
}

#endif

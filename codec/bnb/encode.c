/* SPDX-License-Identifier: MIT
 *
 * The encoders of bitsandbytes' formats, in plain C and, compiled once more for each instruction
 * set, in vectors.
 */
#include "codec/bnb/format.h"
#include "codec/encode_scaled.h"

#include <math.h>

#if defined ISA_AVX512 || defined ISA_AVX2
#include "codec/scaled_lanes.h"
#endif

/* ---- NF4 ---- */

/* Zero is code 7, also where 1 / absmax is infinite and so v no number. */
static uint8_t nf4_code(float v)
{
    uint8_t code = 0;
    if (v != v)
        return 7;
    for (int i = 0; i < 15; i++)
        code += v > nf4_thresholds[i];
    return code;
}

/* Up to a whole block: what there is not is zero. A short block is divided. */
static void nf4_block(const float *x, size_t n, uint8_t *out)
{
    uint8_t codes[NF4_BLOCK];
    float absmax = scaled_absmax(x, n), inverse = absmax > 0 ? 1 / absmax : 0;
    memset(codes, 7, sizeof codes);
    for (size_t i = 0; absmax > 0 && i < n; i++)
        codes[i] = nf4_code(n < NF4_BLOCK ? x[i] / absmax : x[i] * inverse);
    memcpy(out, &absmax, sizeof absmax);
    for (size_t i = 0; i < NF4_BLOCK / 2; i++)
        out[sizeof absmax + i] = (uint8_t)(codes[2 * i] << 4 | codes[2 * i + 1]);
}

#if defined ISA_AVX512 || defined ISA_AVX2

enum { VECTORS = NF4_BLOCK / LANES };

#ifdef ISA_AVX512

/* v is cut into cells of 1/14, so narrow that there is a threshold in one at most. So the code is
 * that of what lies below the cell, or the next one where v is greater than the threshold. No
 * threshold is near enough to the end of a cell for it to matter how that is rounded. Cells from 0
 * up, then from the lowest up to -1. */
static const int32_t cell_codes[32] = {7, 7, 8, 9, 10, 11, 12, 12, 13, 13, 14, 14, 14, 15, 15, 0,
                                       0, 0, 0, 0, 0,  1,  1,  1,  2,  2,  2,  3,  4,  4,  5,  6};
static const float cell_thresholds[32] = {
    2,
    0.03979014977812767f,
    0.1202552504837513f,
    0.2035212516784668f,
    0.2920137718319893f,
    0.3893125355243683f,
    2,
    0.5016634166240692f,
    2,
    0.6427869200706482f,
    2,
    2,
    0.8614784181118011f,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    -0.8480964004993439f,
    2,
    2,
    -0.6106329262256622f,
    2,
    2,
    -0.4599952697753906f,
    -0.33967943489551544f,
    2,
    -0.23460740596055984f,
    -0.13791173323988914f,
    -0.045525018125772476f,
};

LANES_INLINE vint nf4_codes(vfloat x, float inverse)
{
    __m512i cell = (__m512i)(vint)(x * (inverse * 14) + ROUNDER);
    __m512i codes = _mm512_permutex2var_epi32(_mm512_loadu_si512(cell_codes), cell,
                                              _mm512_loadu_si512(cell_codes + 16));
    __m512 thresholds = _mm512_permutex2var_ps(_mm512_loadu_ps(cell_thresholds), cell,
                                               _mm512_loadu_ps(cell_thresholds + 16));
    return (vint)_mm512_mask_add_epi32(codes, less(thresholds, x * inverse), codes,
                                       _mm512_set1_epi32(1));
}

#else

/* The thresholds in the order of a search by halves: each step's, by the code so far. */
static const float search_2[8] = {-0.33967943489551544f, 0.3893125355243683f};
static const float search_3[8] = {-0.6106329262256622f, -0.13791173323988914f, 0.2035212516784668f,
                                  0.6427869200706482f};
static const float search_4[8] = {
    -0.8480964004993439f, -0.4599952697753906f, -0.23460740596055984f, -0.045525018125772476f,
    0.1202552504837513f,  0.2920137718319893f,  0.5016634166240692f,   0.8614784181118011f};

LANES_INLINE vint search_step(const float table[8], vint code, vfloat v)
{
    vfloat thresholds = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)code);
    return code + code - (vint)less(thresholds, v);
}

LANES_INLINE vint nf4_codes(vfloat x, float inverse)
{
    vfloat v = x * inverse;
    vint code = -less(splat(0.03979014977812767f), v);
    code = search_step(search_2, code, v);
    code = search_step(search_3, code, v);
    return search_step(search_4, code, v);
}

#endif

/* A whole block, as nf4_block; false for one of next to nothing, which is left to that. */
LANES_INLINE bool nf4_vectors(const vfloat x[VECTORS], uint8_t *out)
{
    vint codes[VECTORS];
    float absmax = lanes_absmax(x, VECTORS), inverse = 1 / absmax;
    if (!(inverse < 0x1p120f))
        return false;
    for (int i = 0; i < VECTORS; i++)
        codes[i] = nf4_codes(x[i], inverse);
    memcpy(out, &absmax, sizeof absmax);
    store_nibbles(codes, 16, 1, out + sizeof absmax);
    return true;
}

static void nf4_whole_block(const float *x, uint8_t *out)
{
    vfloat v[VECTORS];
    lanes_load(x, VECTORS, v);
    if (!nf4_vectors(v, out))
        nf4_block(x, NF4_BLOCK, out);
}

static bool nf4_stored_block(const uint8_t *x, uint8_t *out)
{
    vfloat v[VECTORS];
    lanes_load_bf16(x, VECTORS, v);
    return nf4_vectors(v, out);
}

#else

static void nf4_whole_block(const float *x, uint8_t *out)
{
    nf4_block(x, NF4_BLOCK, out);
}

static bool nf4_stored_block(const uint8_t *x, uint8_t *out)
{
    (void)x;
    (void)out;
    return false;
}

#endif

void SCALED(nf4)(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    size_t n = nrows * ncols, whole = n / NF4_BLOCK * NF4_BLOCK;
    uint8_t *y = out;
    for (size_t i = 0; i < whole; i += NF4_BLOCK, y += NF4_SIZE)
        nf4_whole_block(x + i, y);
    if (whole < n)
        nf4_block(x + whole, n - whole, y);
}

void SCALED(nf4_stored)(const void *weights, size_t n, void *out)
{
    const uint8_t *x = weights;
    uint8_t *y = out;
    for (size_t i = 0; i < n; i += NF4_BLOCK, x += 2 * NF4_BLOCK, y += NF4_SIZE) {
        float block[NF4_BLOCK];
        size_t left = n - i < NF4_BLOCK ? n - i : NF4_BLOCK;
        if (left == NF4_BLOCK && nf4_stored_block(x, y))
            continue;
        decode_bf16(x, left, block);
        nf4_block(block, left, y);
    }
}

/* ---- INT8 ---- */

static inline float half(float v)
{
    return f32_from_f16(f16_from_f32(v));
}

static void int8_row(const float *restrict x, size_t n, uint8_t *restrict out)
{
    float absmax = half(scaled_absmax(x, n)), factor = absmax > 0 ? 1 / absmax * 127 : 0;
    memcpy(out, &absmax, sizeof absmax);
    out += sizeof absmax;
    size_t i = 0;
#if defined ISA_AVX512 || defined ISA_AVX2
    for (; i + LANES <= n; i += LANES)
        store_bytes(lanes_round(lanes_rounded(FORMAT_F16, vfloat_load(x + i)) * factor, 0),
                    out + i);
#endif
    for (; i < n; i++)
        out[i] = (uint8_t)scaled_round(half(x[i]) * factor);
}

void SCALED(int8)(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    uint8_t *y = out;
    for (size_t row = 0; row < nrows; row++, x += ncols, y += sizeof(float) + ncols)
        int8_row(x, ncols, y);
}

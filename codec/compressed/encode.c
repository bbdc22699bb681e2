/* SPDX-License-Identifier: MIT
 *
 * The encoders of compressed-tensors' formats, compiled for plain C and once more for each
 * instruction set, in vectors. Every step is rounded to the type, as torch rounds it.
 */
#include "codec/bytes.h"
#include "codec/compressed/format.h"
#include "codec/encode_scaled.h"

#if defined ISA_AVX512 || defined ISA_AVX2
#include "codec/scaled_lanes.h"
#endif

static inline float rounded(enum format_id type, float v)
{
    return type == FORMAT_F16    ? f32_from_f16(f16_from_f32(v))
           : type == FORMAT_BF16 ? f32_from_bf16(bf16_from_f32(v))
                                 : v;
}

/* Where all weights are 0: the distance from 1 to the next number of the type. */
static inline float epsilon(enum format_id type)
{
    return type == FORMAT_F16 ? 0x1p-10f : type == FORMAT_BF16 ? 0x1p-7f : 0x1p-23f;
}

static inline float fit_scale(enum format_id type, float absmax, float half_range)
{
    float scale = rounded(type, rounded(type, absmax) / half_range);
    return scale == 0 ? epsilon(type) : scale;
}

static inline size_t put_scale(enum format_id type, float scale, uint8_t *out)
{
    if (type == FORMAT_F32)
        memcpy(out, &scale, sizeof scale);
    else
        store_u16(out, type == FORMAT_F16 ? f16_from_f32(scale) : bf16_from_f32(scale));
    return type == FORMAT_F32 ? sizeof(float) : sizeof(uint16_t);
}

static inline int code_of(enum format_id type, float x, float scale, float low, float high)
{
    float q = rounded(type, rounded(type, x) / scale);
    q = q < low ? low : q;
    return scaled_round(q > high ? high : q);
}

#if defined ISA_AVX512 || defined ISA_AVX2

/* What weights are divided by, and in BF16 multiplied with instead. That gives the same: a quotient
 * of two numbers of 8 bits, x / s, is no middle between two others, for a middle m has 9 bits with
 * the lowest set, and m s = x 2^k would make it a divisor of x. So it is at least 2^-17 of itself
 * away from one, and the product is less than 2^-22 off. */
struct divisor {
    float scale, inverse; /* inverse 0: divide */
};

LANES_INLINE struct divisor divisor_of(enum format_id type, float scale)
{
    return (struct divisor){scale, type == FORMAT_BF16 && scale >= 0x1p-126f ? 1 / scale : 0};
}

/* code_of in every lane, plus an even number. */
LANES_INLINE vint lanes_code(enum format_id type, vfloat x, bool divide, struct divisor d,
                             float low, float high, int bias)
{
    vfloat v = lanes_rounded(type, x),
           q = lanes_rounded(type, divide ? v / d.scale : v * d.inverse);
    return lanes_round(smaller(larger(q, splat(low)), splat(high)), bias);
}

enum { GROUP_VECTORS = COMPRESSED_GROUP / LANES };

LANES_INLINE void lanes_fields(enum format_id type, const vfloat x[GROUP_VECTORS], bool divide,
                               struct divisor d, uint8_t *out)
{
    for (int i = 0; i < GROUP_VECTORS; i += NIBBLE_VECTORS, out += NIBBLES / 2) {
        vint codes[NIBBLE_VECTORS];
        for (int k = 0; k < NIBBLE_VECTORS; k++)
            codes[k] = lanes_code(type, x[i + k], divide, d, -8, 7, 8);
        store_nibbles(codes, 1, 16, out);
    }
}

#ifdef ISA_AVX512

/* In BF16, the code of x is how many of 15 numbers are less than x / s: the middle between the last
 * one that is rounded down and the next. As above, the product is on the same side of them.
 * Quotients are cut into cells of a half, in which there is one of the numbers at most: fields, and
 * what is between a field and the next. Cells from 0 up, then from the lowest up to -1. */
static const int32_t cell_fields[32] = {
    8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15,
    0, 0, 1, 1, 2,  2,  3,  3,  4,  4,  5,  5,  6,  6,  7,  7,
};
static const float cell_borders[32] = {
    16, 0.501953125f, 16, 1.49609375f, 16, 2.5078125f,   16, 3.4921875f,
    16, 4.515625f,    16, 5.484375f,   16, 6.515625f,    16, 16,
    16, -7.484375f,   16, -6.515625f,  16, -5.484375f,   16, -4.515625f,
    16, -3.4921875f,  16, -2.5078125f, 16, -1.49609375f, 16, -0.501953125f,
};

LANES_INLINE void cells_fields(const vfloat x[GROUP_VECTORS], float inverse, uint8_t *out)
{
    __m512i low = _mm512_loadu_si512(cell_fields), high = _mm512_loadu_si512(cell_fields + 16);
    __m512 low_border = _mm512_loadu_ps(cell_borders);
    __m512 high_border = _mm512_loadu_ps(cell_borders + 16);
    for (int i = 0; i < GROUP_VECTORS; i += NIBBLE_VECTORS, out += NIBBLES / 2) {
        vint codes[NIBBLE_VECTORS];
        for (int k = 0; k < NIBBLE_VECTORS; k++) {
            vfloat v = x[i + k] * inverse;
            __m512i cell = (__m512i)(vint)(v + ROUNDER / 2);
            __m512i field = _mm512_permutex2var_epi32(low, cell, high);
            vfloat border = _mm512_permutex2var_ps(low_border, cell, high_border);
            codes[k] =
                (vint)_mm512_mask_add_epi32(field, less(border, v), field, _mm512_set1_epi32(1));
        }
        store_nibbles(codes, 1, 16, out);
    }
}

#else

LANES_INLINE void cells_fields(const vfloat x[GROUP_VECTORS], float inverse, uint8_t *out)
{
    lanes_fields(FORMAT_BF16, x, false, (struct divisor){0, inverse}, out);
}

#endif

/* A group; stored: its weights are of the type already. */
LANES_INLINE void w4_vectors(enum format_id type, const vfloat x[GROUP_VECTORS], bool stored,
                             uint8_t *out)
{
    float scale = fit_scale(type, lanes_absmax(x, GROUP_VECTORS), 7.5f);
    struct divisor d = divisor_of(type, scale);
    out += put_scale(type, scale, out);
    if (d.inverse == 0)
        lanes_fields(type, x, true, d, out);
    else if (stored)
        cells_fields(x, d.inverse, out);
    else
        lanes_fields(type, x, false, d, out);
}

LANES_INLINE void w4_group(enum format_id type, const float *x, uint8_t *out)
{
    vfloat v[GROUP_VECTORS];
    lanes_load(x, GROUP_VECTORS, v);
    w4_vectors(type, v, false, out);
}

static void w4_stored_group(const uint8_t *x, uint8_t *out)
{
    vfloat v[GROUP_VECTORS];
    lanes_load_bf16(x, GROUP_VECTORS, v);
    w4_vectors(FORMAT_BF16, v, true, out);
}

LANES_INLINE size_t lanes_bytes(enum format_id type, const float *x, size_t n, bool divide,
                                struct divisor d, uint8_t *out)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_bytes(lanes_code(type, vfloat_load(x + i), divide, d, -128, 127, 0), out + i);
    return i;
}

/* As many codes of a row as fill vectors; their number. */
LANES_INLINE size_t put_bytes(enum format_id type, const float *x, size_t n, float scale,
                              uint8_t *out)
{
    struct divisor d = divisor_of(type, scale);
    return d.inverse > 0 ? lanes_bytes(type, x, n, false, d, out)
                         : lanes_bytes(type, x, n, true, d, out);
}

#else

static inline void w4_group(enum format_id type, const float *restrict x, uint8_t *restrict out)
{
    uint8_t codes[COMPRESSED_GROUP];
    float scale = fit_scale(type, scaled_absmax(x, COMPRESSED_GROUP), 7.5f);
    out += put_scale(type, scale, out);
    for (size_t i = 0; i < COMPRESSED_GROUP; i++)
        codes[i] = (uint8_t)(code_of(type, x[i], scale, -8, 7) + 8);
    for (size_t i = 0; i < COMPRESSED_GROUP / 2; i++)
        out[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
}

static void w4_stored_group(const uint8_t *x, uint8_t *out)
{
    float group[COMPRESSED_GROUP];
    decode_bf16(x, COMPRESSED_GROUP, group);
    w4_group(FORMAT_BF16, group, out);
}

static inline size_t put_bytes(enum format_id type, const float *x, size_t n, float scale,
                               uint8_t *out)
{
    (void)type;
    (void)x;
    (void)n;
    (void)scale;
    (void)out;
    return 0;
}

#endif

static inline void w8_row(enum format_id type, const float *restrict x, size_t n,
                          uint8_t *restrict out)
{
    float scale = fit_scale(type, scaled_absmax(x, n), 127.5f);
    out += put_scale(type, scale, out);
    for (size_t i = put_bytes(type, x, n, scale, out); i < n; i++)
        out[i] = (uint8_t)code_of(type, x[i], scale, -128, 127);
}

#define ENCODERS(TYPE, type, scale_size)                                                           \
    void SCALED(w4_##type)(const float *x, size_t nrows, size_t ncols, const float *importance,    \
                           void *out)                                                              \
    {                                                                                              \
        (void)importance;                                                                          \
        uint8_t *y = out;                                                                          \
        for (size_t i = 0; i < nrows * ncols; i += COMPRESSED_GROUP)                               \
            w4_group(FORMAT_##TYPE, x + i, y + i / COMPRESSED_GROUP * (scale_size + 64));          \
    }                                                                                              \
    void SCALED(w8_##type)(const float *x, size_t nrows, size_t ncols, const float *importance,    \
                           void *out)                                                              \
    {                                                                                              \
        (void)importance;                                                                          \
        uint8_t *y = out;                                                                          \
        for (size_t row = 0; row < nrows; row++)                                                   \
            w8_row(FORMAT_##TYPE, x + row * ncols, ncols, y + row * (scale_size + ncols));         \
    }
ENCODERS(BF16, bf16, 2)
ENCODERS(F16, f16, 2)
ENCODERS(F32, f32, 4)

void SCALED(w4_stored)(const void *weights, size_t n, void *out)
{
    const uint8_t *x = weights;
    uint8_t *y = out;
    for (size_t i = 0; i < n; i += COMPRESSED_GROUP)
        w4_stored_group(x + 2 * i, y + i / COMPRESSED_GROUP * (2 + COMPRESSED_GROUP / 2));
}

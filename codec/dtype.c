/* SPDX-License-Identifier: MIT */
#include "codec/dtype.h"

#include "codec/float16.h"
#include "codec/spqr/format.h"

#include <string.h>

static void widen_f64(const void *data, size_t n, float *out)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) {
        double v;
        memcpy(&v, p + 8 * i, sizeof v);
        out[i] = (float)v;
    }
}

/* Eight-bit floats: a sign, exponent bits, `mantissa` bits. unit is the least value above zero. */
static inline void widen_f8(const uint8_t *p, size_t n, int mantissa, int bias, float unit,
                            float *restrict out)
{
    for (size_t i = 0; i < n; i++) {
        int magnitude = p[i] & 0x7f;
        float subnormal = (float)magnitude * unit;
        uint32_t normal = (uint32_t)((magnitude << (23 - mantissa)) + ((127 - bias) << 23));
        uint32_t bits = magnitude < 1 << mantissa ? f32_bits(subnormal) : normal;
        out[i] = f32_from_bits(bits | (uint32_t)(p[i] & 0x80) << 24);
    }
}

static void widen_f8_e4m3(const void *data, size_t n, float *out)
{
    widen_f8(data, n, 3, 7, 0x1p-9f, out);
}

static void widen_f8_e5m2(const void *data, size_t n, float *out)
{
    widen_f8(data, n, 2, 15, 0x1p-16f, out);
}

/* One result for all elements, so that the compiler can check many at a time. */
#define ALL_FINITE(type, mask)                                                                     \
    const uint8_t *p = data;                                                                       \
    unsigned bad = 0;                                                                              \
    for (size_t i = 0; i < n; i++) {                                                               \
        type bits;                                                                                 \
        memcpy(&bits, p + sizeof bits * i, sizeof bits);                                           \
        bad |= (bits & (mask)) == (mask);                                                          \
    }                                                                                              \
    return !bad

static bool finite_f32(const void *data, size_t n) { ALL_FINITE(uint32_t, 0x7f800000u); }
static bool finite_f16(const void *data, size_t n) { ALL_FINITE(uint16_t, 0x7c00); }
static bool finite_bf16(const void *data, size_t n) { ALL_FINITE(uint16_t, 0x7f80); }

/* E4M3 has no infinity, and one NaN of either sign; E5M2 is like binary16. */
static bool finite_f8_e4m3(const void *data, size_t n) { ALL_FINITE(uint8_t, 0x7f); }
static bool finite_f8_e5m2(const void *data, size_t n) { ALL_FINITE(uint8_t, 0x7c); }

/* A double beyond the range of float counts as infinite, for that is what it becomes. */
static bool finite_f64(const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float v;
        widen_f64((const uint8_t *)data + 8 * i, 1, &v);
        if (!finite_f32(&v, 1))
            return false;
    }
    return true;
}

/* clang-format off */
const struct dtype dtypes[DTYPE_COUNT] = {
    /* name         lower         elements, bytes, ggml, scaled */
    {"F32",         "f32",         1,   4,   0,  false, decode_f32, finite_f32, &formats[FORMAT_F32]},
    {"F16",         "f16",         1,   2,   1,  false, decode_f16, finite_f16, &formats[FORMAT_F16]},
    {"BF16",        "bf16",        1,   2,   30, false, decode_bf16, finite_bf16, &formats[FORMAT_BF16]},
    {"F64",         "f64",         1,   8,   28, false, widen_f64, finite_f64, NULL},
    {"BOOL",        "bool",        1,   1,   -1, false, NULL, NULL, NULL},
    {"U8",          "u8",          1,   1,   -1, false, NULL, NULL, NULL},
    {"I8",          "i8",          1,   1,   24, false, NULL, NULL, NULL},
    {"I16",         "i16",         1,   2,   25, false, NULL, NULL, NULL},
    {"U16",         "u16",         1,   2,   -1, false, NULL, NULL, NULL},
    {"I32",         "i32",         1,   4,   26, false, NULL, NULL, NULL},
    {"U32",         "u32",         1,   4,   -1, false, NULL, NULL, NULL},
    {"I64",         "i64",         1,   8,   27, false, NULL, NULL, NULL},
    {"U64",         "u64",         1,   8,   -1, false, NULL, NULL, NULL},
    {"C64",         "c64",         1,   8,   -1, false, NULL, NULL, NULL},
    {"F8_E4M3",     "f8_e4m3",     1,   1,   -1, true,  widen_f8_e4m3, finite_f8_e4m3, NULL},
    {"F8_E5M2",     "f8_e5m2",     1,   1,   -1, true,  widen_f8_e5m2, finite_f8_e5m2, NULL},
    {"F8_E8M0",     "f8_e8m0",     1,   1,   -1, false, NULL, NULL, NULL},
    {"F8_E4M3FNUZ", "f8_e4m3fnuz", 1,   1,   -1, false, NULL, NULL, NULL},
    {"F8_E5M2FNUZ", "f8_e5m2fnuz", 1,   1,   -1, false, NULL, NULL, NULL},
    {"F6_E2M3",     "f6_e2m3",     4,   3,   -1, false, NULL, NULL, NULL},
    {"F6_E3M2",     "f6_e3m2",     4,   3,   -1, false, NULL, NULL, NULL},
    {"F4",          "f4",          2,   1,   -1, false, NULL, NULL, NULL},
    /* of GGUF alone */
    {"Q4_0",        "q4_0",        32,  18,  2,  false, decode_q4_0, NULL, &formats[FORMAT_Q4_0]},
    {"Q4_1",        "q4_1",        32,  20,  3,  false, decode_q4_1, NULL, &formats[FORMAT_Q4_1]},
    {"Q5_0",        "q5_0",        32,  22,  6,  false, decode_q5_0, NULL, &formats[FORMAT_Q5_0]},
    {"Q5_1",        "q5_1",        32,  24,  7,  false, decode_q5_1, NULL, &formats[FORMAT_Q5_1]},
    {"Q8_0",        "q8_0",        32,  34,  8,  false, decode_q8_0, NULL, &formats[FORMAT_Q8_0]},
    {"Q2_K",        "q2_k",        256, 84,  10, false, decode_q2_k, NULL, &formats[FORMAT_Q2_K]},
    {"Q3_K",        "q3_k",        256, 110, 11, false, decode_q3_k, NULL, &formats[FORMAT_Q3_K]},
    {"Q4_K",        "q4_k",        256, 144, 12, false, decode_q4_k, NULL, &formats[FORMAT_Q4_K]},
    {"Q5_K",        "q5_k",        256, 176, 13, false, decode_q5_k, NULL, &formats[FORMAT_Q5_K]},
    {"Q6_K",        "q6_k",        256, 210, 14, false, decode_q6_k, NULL, &formats[FORMAT_Q6_K]},
    {"IQ4_NL",      "iq4_nl",      32,  18,  20, false, decode_iq4_nl, NULL, &formats[FORMAT_IQ4_NL]},
    {"Q8_1",        "q8_1",        32,  36,  9,  false, NULL, NULL, NULL},
    {"Q8_K",        "q8_k",        256, 292, 15, false, NULL, NULL, NULL},
    {"IQ2_XXS",     "iq2_xxs",     256, 66,  16, false, NULL, NULL, NULL},
    {"IQ2_XS",      "iq2_xs",      256, 74,  17, false, NULL, NULL, NULL},
    {"IQ3_XXS",     "iq3_xxs",     256, 98,  18, false, NULL, NULL, NULL},
    {"IQ1_S",       "iq1_s",       256, 50,  19, false, NULL, NULL, NULL},
    {"IQ3_S",       "iq3_s",       256, 110, 21, false, NULL, NULL, NULL},
    {"IQ2_S",       "iq2_s",       256, 82,  22, false, NULL, NULL, NULL},
    {"IQ4_XS",      "iq4_xs",      256, 136, 23, false, NULL, NULL, NULL},
    {"IQ1_M",       "iq1_m",       256, 56,  29, false, NULL, NULL, NULL},
    {"TQ1_0",       "tq1_0",       256, 54,  34, false, NULL, NULL, NULL},
    {"TQ2_0",       "tq2_0",       256, 66,  35, false, NULL, NULL, NULL},
    {"MXFP4",       "mxfp4",       32,  17,  39, false, NULL, NULL, NULL},
    {"NVFP4",       "nvfp4",       64,  36,  40, false, NULL, NULL, NULL},
    {"Q1_0",        "q1_0",        128, 18,  41, false, NULL, NULL, NULL},
    {"Q2_0",        "q2_0",        64,  18,  42, false, NULL, NULL, NULL},
    /* of our own GGUF files */
    {"SPQR2",       "spqr2",       1024, 336, SPQR_GGML_TYPE + 2, false, NULL, NULL, &spqr_formats[2]},
    {"SPQR3",       "spqr3",       1024, 464, SPQR_GGML_TYPE + 3, false, NULL, NULL, &spqr_formats[1]},
    {"SPQR4",       "spqr4",       1024, 592, SPQR_GGML_TYPE + 4, false, NULL, NULL, &spqr_formats[0]},
};
/* clang-format on */

enum { SAFETENSORS_COUNT = 22 };

const struct dtype *dtype_by_name(const char *name)
{
    for (int i = 0; i < SAFETENSORS_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return &dtypes[i];
    return NULL;
}

const struct dtype *dtype_by_ggml_type(uint32_t ggml_type)
{
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (dtypes[i].ggml_type >= 0 && (uint32_t)dtypes[i].ggml_type == ggml_type)
            return &dtypes[i];
    return NULL;
}

bool dtype_bytes(const struct dtype *t, uint64_t n, uint64_t *bytes)
{
    return n % t->block == 0 &&
           !__builtin_mul_overflow(n / t->block, (uint64_t)t->block_size, bytes);
}

double dtype_bits(const struct dtype *t) { return 8.0 * t->block_size / t->block; }

bool dtype_finite(const struct dtype *t, const void *data, size_t n)
{
    if (t->finite)
        return t->finite(data, n);
    return format_first_invalid(t->format, data, n / t->block) == n / t->block;
}

/* SPDX-License-Identifier: MIT */
#include "codec/dtype.h"

#include <stdint.h>
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
    {"F32",         "f32",         32, decode_f32,  finite_f32,  &formats[FORMAT_F32]},
    {"F16",         "f16",         16, decode_f16,  finite_f16,  &formats[FORMAT_F16]},
    {"BF16",        "bf16",        16, decode_bf16, finite_bf16, &formats[FORMAT_BF16]},
    {"F64",         "f64",         64, widen_f64,   finite_f64,  NULL},
    {"BOOL",        "bool",        8,  NULL, NULL, NULL},
    {"U8",          "u8",          8,  NULL, NULL, NULL},
    {"I8",          "i8",          8,  NULL, NULL, NULL},
    {"I16",         "i16",         16, NULL, NULL, NULL},
    {"U16",         "u16",         16, NULL, NULL, NULL},
    {"I32",         "i32",         32, NULL, NULL, NULL},
    {"U32",         "u32",         32, NULL, NULL, NULL},
    {"I64",         "i64",         64, NULL, NULL, NULL},
    {"U64",         "u64",         64, NULL, NULL, NULL},
    {"C64",         "c64",         64, NULL, NULL, NULL},
    {"F8_E4M3",     "f8_e4m3",     8,  NULL, NULL, NULL},
    {"F8_E5M2",     "f8_e5m2",     8,  NULL, NULL, NULL},
    {"F8_E8M0",     "f8_e8m0",     8,  NULL, NULL, NULL},
    {"F8_E4M3FNUZ", "f8_e4m3fnuz", 8,  NULL, NULL, NULL},
    {"F8_E5M2FNUZ", "f8_e5m2fnuz", 8,  NULL, NULL, NULL},
    {"F6_E2M3",     "f6_e2m3",     6,  NULL, NULL, NULL},
    {"F6_E3M2",     "f6_e3m2",     6,  NULL, NULL, NULL},
    {"F4",          "f4",          4,  NULL, NULL, NULL},
};
/* clang-format on */

const struct dtype *dtype_by_name(const char *name)
{
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return &dtypes[i];
    return NULL;
}

bool dtype_bytes(const struct dtype *t, uint64_t n, uint64_t *bytes)
{
    uint64_t bits;
    if (__builtin_mul_overflow(n, (uint64_t)t->bits, &bits) || bits % 8)
        return false;
    *bytes = bits / 8;
    return true;
}

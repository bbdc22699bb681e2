/* SPDX-License-Identifier: MIT
 *
 * binary16 and bfloat16 against float. To half: round to nearest even, overflow to infinity,
 * subnormals kept, NaN becomes sign | 0x7e00; the same for every input as ggml's software
 * conversion and as VCVTPS2PH (NaN payloads apart). No hardware conversion is used, so every
 * machine gives the same bytes; without branches, so that loops become vectors.
 */
#ifndef CODEC_FLOAT16_H
#define CODEC_FLOAT16_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t magnitude = h & 0x7fff;
    /* Subnormal halves are exact multiples of 2^-24; the multiplication is exact. */
    float subnormal = (float)(int32_t)magnitude * 0x1p-24f;
    uint32_t normal = (magnitude << 13) + (112u << 23);
    if (magnitude >= 0x7c00) /* infinity, NaN */
        normal += 112u << 23;
    return f32_from_bits(sign | (magnitude < 0x0400 ? f32_bits(subnormal) : normal));
}

static inline uint16_t f16_from_f32(float f)
{
    uint32_t bits = f32_bits(f);
    uint32_t sign = bits >> 16 & 0x8000;
    int32_t magnitude = bits & 0x7fffffff;
    /* A normal half: RNE on the 13 bits that go. */
    int32_t normal = (magnitude - (112 << 23) + 0x0fff + (magnitude >> 13 & 1)) >> 13;
    /* A subnormal half: adding 0.5 puts the unit 2^-24 at the float's last bit. */
    int32_t subnormal =
        (int32_t)(f32_bits(f32_from_bits((uint32_t)magnitude) + 0.5f) - f32_bits(0.5f));
    int32_t half = magnitude < 0x38800000 ? subnormal : normal;
    half = magnitude >= 0x477ff000 ? 0x7c00 : half; /* 65520 and above round to infinity */
    half = magnitude > 0x7f800000 ? 0x7e00 : half;
    return (uint16_t)(sign | (uint32_t)half);
}

static inline float f32_from_bf16(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }

static inline uint16_t bf16_from_f32(float f)
{
    uint32_t bits = f32_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 64); /* quiet */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif

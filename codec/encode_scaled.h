/* SPDX-License-Identifier: MIT
 *
 * Encoders of formats with one scale for a block or a row and codes by a closed formula (bnb/,
 * compressed/). Their files are compiled for plain C and once more for each instruction set; SCALED
 * is what an encoder is called in the one that is being compiled.
 */
#ifndef CODEC_ENCODE_SCALED_H
#define CODEC_ENCODE_SCALED_H

#include "codec/encode.h"
#include "codec/float16.h"

#if defined ISA_AVX512
#define SCALED(name) encode_##name##_avx512
#elif defined ISA_AVX2
#define SCALED(name) encode_##name##_avx2
#else
#define SCALED(name) encode_##name
#endif

/* All rows are one: blocks go on from row to row, and the last one may be short. */
encode_fn SCALED(nf4);

/* Rows with a head. */
encode_fn SCALED(int8), SCALED(w8_bf16), SCALED(w8_f16), SCALED(w8_f32);

encode_fn SCALED(w4_bf16), SCALED(w4_f16), SCALED(w4_f32);

/* Of weights in BF16. */
encode_bf16_fn SCALED(nf4_stored), SCALED(w4_stored);

/* Rows of isa.encode and of isa.encode_bf16. */
#define SCALED_ENCODERS                                                                            \
    [ENCODER_NF4] = SCALED(nf4), [ENCODER_INT8] = SCALED(int8),                                    \
    [ENCODER_W4_BF16] = SCALED(w4_bf16), [ENCODER_W4_F16] = SCALED(w4_f16),                        \
    [ENCODER_W4_F32] = SCALED(w4_f32), [ENCODER_W8_BF16] = SCALED(w8_bf16),                        \
    [ENCODER_W8_F16] = SCALED(w8_f16), [ENCODER_W8_F32] = SCALED(w8_f32)
#define SCALED_STORED_ENCODERS                                                                     \
    [ENCODER_NF4] = SCALED(nf4_stored), [ENCODER_W4_BF16] = SCALED(w4_stored)

/* The greatest magnitude. Weights are finite, and magnitudes are in the order of their bits: as
 * integers a compiler compares many at a time. */
static inline float scaled_absmax(const float *x, size_t n)
{
    int32_t greatest = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t magnitude = (int32_t)(f32_bits(x[i]) & 0x7fffffff);
        greatest = magnitude > greatest ? magnitude : greatest;
    }
    return f32_from_bits((uint32_t)greatest);
}

/* Rounds half to even what is below 2^22: 1.5 * 2^23 has no room for a fraction. */
static inline int scaled_round(float v)
{
    return (int)(v + 12582912.f - 12582912.f);
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * What the encoders of encode_k_lanes.c and encode_32_lanes.c are called in the instruction set that
 * is being compiled.
 */
#ifndef CODEC_ENCODE_ISA_H
#define CODEC_ENCODE_ISA_H

#include "codec/encode.h"

#ifdef ISA_AVX512
#define ENCODER(format) encode_##format##_avx512
#else
#define ENCODER(format) encode_##format##_avx2
#endif

encode_fn ENCODER(q6_k), ENCODER(q5_k), ENCODER(q4_k), ENCODER(q3_k), ENCODER(q2_k);
encode_fn ENCODER(q8_0), ENCODER(q5_1), ENCODER(q5_0), ENCODER(q4_1), ENCODER(q4_0),
    ENCODER(iq4_nl);

#endif

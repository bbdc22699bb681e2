/* SPDX-License-Identifier: MIT
 *
 * The decoders, one per format: n weights (a multiple of the block) of packed blocks become
 * floats. The order of operations is ggml's, so the floats are its floats to the bit.
 */
#ifndef CODEC_DECODE_H
#define CODEC_DECODE_H

#include <stddef.h>

typedef void decode_fn(const void *blocks, size_t n, float *out);

decode_fn decode_f32, decode_f16, decode_bf16;
decode_fn decode_q8_0, decode_q4_0, decode_q4_1, decode_q5_0, decode_q5_1, decode_iq4_nl;
decode_fn decode_q2_k, decode_q3_k, decode_q4_k, decode_q5_k, decode_q6_k;

/* The same for other instruction sets, by enum format_id; for isa.h. */
extern decode_fn *const decoders_avx2[], *const decoders_avx512[];

#endif

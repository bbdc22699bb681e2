/* SPDX-License-Identifier: MIT
 *
 * The table of an instruction set. This file is compiled once for each.
 */
#include "codec/isa.h"

#include "codec/bytes.h"
#include "codec/encode_isa.h"
#include "codec/encode_scaled.h"
#include "codec/float16.h"

static void f16(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    uint8_t *y = out;
    for (size_t i = 0; i < nrows * ncols; i++)
        store_u16(y + 2 * i, f16_from_f32(x[i]));
}

static void bf16(const float *x, size_t nrows, size_t ncols, const float *importance, void *out)
{
    (void)importance;
    uint8_t *y = out;
    for (size_t i = 0; i < nrows * ncols; i++)
        store_u16(y + 2 * i, bf16_from_f32(x[i]));
}

#ifdef ISA_AVX512
extern const struct isa isa_avx512;
spqr_encode_fn spqr_encode_avx512;
feedback_fn feedback_avx512;
const struct isa isa_avx512 = {
    "avx512",
    .decode = decoders_avx512,
    .spqr_encode = spqr_encode_avx512,
    .feedback = feedback_avx512,
    .lora_add = lora_add_avx512,
#else
extern const struct isa isa_avx2;
spqr_encode_fn spqr_encode_avx2;
feedback_fn feedback_avx2;
const struct isa isa_avx2 = {
    "avx2",
    .decode = decoders_avx2,
    .spqr_encode = spqr_encode_avx2,
    .feedback = feedback_avx2,
    .lora_add = lora_add_avx2,
#endif
    .encode_bf16 = {SCALED_STORED_ENCODERS},
    .encode =
        {
                 [FORMAT_F32] = encode_f32,
                 [FORMAT_F16] = f16,
                 [FORMAT_BF16] = bf16,
                 [FORMAT_Q8_0] = ENCODER(q8_0),
                 [FORMAT_Q6_K] = ENCODER(q6_k),
                 [FORMAT_Q5_K] = ENCODER(q5_k),
                 [FORMAT_Q5_1] = ENCODER(q5_1),
                 [FORMAT_Q5_0] = ENCODER(q5_0),
                 [FORMAT_Q4_K] = ENCODER(q4_k),
                 [FORMAT_Q4_1] = ENCODER(q4_1),
                 [FORMAT_Q4_0] = ENCODER(q4_0),
                 [FORMAT_IQ4_NL] = ENCODER(iq4_nl),
                 [FORMAT_Q3_K] = ENCODER(q3_k),
                 [FORMAT_Q2_K] = ENCODER(q2_k),
                 SCALED_ENCODERS,
                 },
};

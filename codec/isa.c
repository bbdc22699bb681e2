/* SPDX-License-Identifier: MIT */
#include "codec/isa.h"

#include "codec/encode_scaled.h"

#include <errno.h>
#include <string.h>

static decode_fn *const decoders_c[FORMAT_COUNT] = {
    [FORMAT_F32] = decode_f32,   [FORMAT_F16] = decode_f16,   [FORMAT_BF16] = decode_bf16,
    [FORMAT_Q8_0] = decode_q8_0, [FORMAT_Q6_K] = decode_q6_k, [FORMAT_Q5_K] = decode_q5_k,
    [FORMAT_Q5_1] = decode_q5_1, [FORMAT_Q5_0] = decode_q5_0, [FORMAT_Q4_K] = decode_q4_k,
    [FORMAT_Q4_1] = decode_q4_1, [FORMAT_Q4_0] = decode_q4_0, [FORMAT_IQ4_NL] = decode_iq4_nl,
    [FORMAT_Q3_K] = decode_q3_k, [FORMAT_Q2_K] = decode_q2_k,
};

static const struct isa isa_c = {
    "c",
    {
      [FORMAT_F32] = encode_f32,
      [FORMAT_F16] = encode_f16,
      [FORMAT_BF16] = encode_bf16,
      [FORMAT_Q8_0] = encode_q8_0,
      [FORMAT_Q6_K] = encode_q6_k,
      [FORMAT_Q5_K] = encode_q5_k,
      [FORMAT_Q5_1] = encode_q5_1,
      [FORMAT_Q5_0] = encode_q5_0,
      [FORMAT_Q4_K] = encode_q4_k,
      [FORMAT_Q4_1] = encode_q4_1,
      [FORMAT_Q4_0] = encode_q4_0,
      [FORMAT_IQ4_NL] = encode_iq4_nl,
      [FORMAT_Q3_K] = encode_q3_k,
      [FORMAT_Q2_K] = encode_q2_k,
      SCALED_ENCODERS,
      },
    {SCALED_STORED_ENCODERS},
    decoders_c,
    spqr_encode,
    feedback_quantize,
    lora_add_c,
};

#ifdef __x86_64__
extern const struct isa isa_avx2, isa_avx512;
const struct isa *const isas[] = {&isa_avx512, &isa_avx2, &isa_c, NULL};
#else
const struct isa *const isas[] = {&isa_c, NULL};
#endif

bool isa_supported(const struct isa *isa)
{
#ifdef __x86_64__
    if (isa == &isa_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (isa == &isa_avx2) /* no processor with AVX2 lacks F16C */
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == &isa_c;
}

int isa_choose(const char *name, const struct isa **out, struct error *err)
{
    for (const struct isa *const *isa = isas; *isa; isa++) {
        if (name ? strcmp(name, (*isa)->name) != 0 : !isa_supported(*isa))
            continue;
        if (!isa_supported(*isa))
            return error_set(err, -ENOTSUP, "this processor cannot run \"%s\"", name);
        *out = *isa;
        return 0;
    }
    return error_set(err, -EINVAL, "\"%s\" is no instruction set that this program knows", name);
}

/* SPDX-License-Identifier: MIT */
#include "codec/isa.h"

#include <errno.h>
#include <string.h>

static const struct isa isa_c = {
    "c",
    {encode_f32, encode_f16, encode_bf16, encode_q8_0, encode_q6_k, encode_q5_k, encode_q5_1,
      encode_q5_0, encode_q4_k, encode_q4_1, encode_q4_0, encode_iq4_nl, encode_q3_k, encode_q2_k},
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
        return __builtin_cpu_supports("avx2");
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

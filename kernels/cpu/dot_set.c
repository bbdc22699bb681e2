/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/dot.h"

#include <errno.h>
#include <string.h>

#ifdef __x86_64__
const struct dot_set *const dot_sets[] = {&dot_set_avx512_vnni, &dot_set_avx512, &dot_set_avx2,
                                          &dot_set_c, NULL};
#else
const struct dot_set *const dot_sets[] = {&dot_set_c, NULL};
#endif

bool dot_set_supported(const struct dot_set *set)
{
#ifdef __x86_64__
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (set == &dot_set_avx512_vnni)
        return avx512 && __builtin_cpu_supports("avx512vnni");
    if (set == &dot_set_avx512)
        return avx512;
    if (set == &dot_set_avx2) /* no processor with AVX2 lacks F16C */
        return __builtin_cpu_supports("avx2");
#endif
    return set == &dot_set_c;
}

int dot_set_choose(const char *name, const struct dot_set **out, struct error *err)
{
    for (const struct dot_set *const *set = dot_sets; *set; set++) {
        if (name ? strcmp(name, (*set)->name) != 0 : !dot_set_supported(*set))
            continue;
        if (!dot_set_supported(*set))
            return error_set(err, -ENOTSUP, "this processor cannot run \"%s\"", name);
        *out = *set;
        return 0;
    }
    return error_set(err, -EINVAL, "\"%s\" is no instruction set that this program knows", name);
}

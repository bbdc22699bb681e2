/* SPDX-License-Identifier: MIT */
#include "codec/format.h"

#include "codec/block.h"
#include "codec/bytes.h"
#include "codec/float16.h"

#include <strings.h>

enum { EXPONENT_F16 = 0x7c00, EXPONENT_BF16 = 0x7f80 };

/* clang-format off */
const struct format formats[FORMAT_COUNT] = {
    [FORMAT_F32]    = {"f32",    "F32",    0,  1,   4,   true,  false, false, 1, encode_f32,    decode_f32,    0, {0},      0},
    [FORMAT_F16]    = {"f16",    "F16",    1,  1,   2,   true,  false, false, 1, encode_f16,    decode_f16,    1, {0},      EXPONENT_F16},
    [FORMAT_BF16]   = {"bf16",   "BF16",   30, 1,   2,   true,  false, false, 1, encode_bf16,   decode_bf16,   1, {0},      EXPONENT_BF16},
    [FORMAT_Q8_0]   = {"q8_0",   "Q8_0",   8,  32,  34,  false, false, false, 1, encode_q8_0,   decode_q8_0,   1, {0},      EXPONENT_F16},
    [FORMAT_Q6_K]   = {"q6_k",   "Q6_K",   14, 256, 210, false, true,  false, 1, encode_q6_k,   decode_q6_k,   1, {208},    EXPONENT_F16},
    [FORMAT_Q5_K]   = {"q5_k",   "Q5_K",   13, 256, 176, false, true,  false, 1, encode_q5_k,   decode_q5_k,   2, {0, 2},   EXPONENT_F16},
    [FORMAT_Q5_1]   = {"q5_1",   "Q5_1",   7,  32,  24,  false, true,  true,  1, encode_q5_1,   decode_q5_1,   2, {0, 2},   EXPONENT_F16},
    [FORMAT_Q5_0]   = {"q5_0",   "Q5_0",   6,  32,  22,  false, true,  true,  1, encode_q5_0,   decode_q5_0,   1, {0},      EXPONENT_F16},
    [FORMAT_Q4_K]   = {"q4_k",   "Q4_K",   12, 256, 144, false, true,  false, 1, encode_q4_k,   decode_q4_k,   2, {0, 2},   EXPONENT_F16},
    [FORMAT_Q4_1]   = {"q4_1",   "Q4_1",   3,  32,  20,  false, true,  true,  1, encode_q4_1,   decode_q4_1,   2, {0, 2},   EXPONENT_F16},
    [FORMAT_Q4_0]   = {"q4_0",   "Q4_0",   2,  32,  18,  false, true,  true,  1, encode_q4_0,   decode_q4_0,   1, {0},      EXPONENT_F16},
    [FORMAT_IQ4_NL] = {"iq4_nl", "IQ4_NL", 20, 32,  18,  false, true,  false, 1, encode_iq4_nl, decode_iq4_nl, 1, {0},      EXPONENT_F16},
    [FORMAT_Q3_K]   = {"q3_k",   "Q3_K",   11, 256, 110, false, true,  false, 1, encode_q3_k,   decode_q3_k,   1, {108},    EXPONENT_F16},
    [FORMAT_Q2_K]   = {"q2_k",   "Q2_K",   10, 256, 84,  false, true,  false, 1, encode_q2_k,   decode_q2_k,   2, {80, 82}, EXPONENT_F16},
};
/* clang-format on */

const struct format *format_by_name(const char *name)
{
    for (int i = 0; i < FORMAT_COUNT; i++)
        if (strcasecmp(name, formats[i].name) == 0)
            return &formats[i];
    return NULL;
}

const struct format *format_by_ggml_type(uint32_t ggml_type)
{
    for (int i = 0; i < FORMAT_COUNT; i++)
        if (formats[i].ggml_type == ggml_type)
            return &formats[i];
    return NULL;
}

double format_bpw(const struct format *f) { return 8.0 * f->block_size / f->block; }

bool format_bytes(const struct format *f, uint64_t n, uint64_t *bytes)
{
    return !__builtin_mul_overflow(n / f->block, (uint64_t)f->block_size, bytes);
}

bool format_packed_bytes(const struct format *f, uint64_t cols, uint64_t n, uint64_t *bytes)
{
    uint64_t heads, short_block = f->run && n % f->block ? f->block_size : 0;
    return format_bytes(f, n, bytes) && !__builtin_add_overflow(*bytes, short_block, bytes) &&
           !__builtin_mul_overflow(cols ? n / cols : 0, (uint64_t)f->row_head, &heads) &&
           !__builtin_add_overflow(*bytes, heads, bytes);
}

void format_round(const struct format *f, float *v, size_t n)
{
    if (f == &formats[FORMAT_BF16])
        for (size_t i = 0; i < n; i++)
            v[i] = f32_from_bf16(bf16_from_f32(v[i]));
    else if (f == &formats[FORMAT_F16])
        for (size_t i = 0; i < n; i++)
            v[i] = f32_from_f16(f16_from_f32(v[i]));
}

const char *format_torch_name(const struct format *f)
{
    return f == &formats[FORMAT_F32]   ? "float32"
           : f == &formats[FORMAT_F16] ? "float16"
                                       : "bfloat16";
}

uint64_t format_first_invalid(const struct format *f, const void *blocks, uint64_t n)
{
    const uint8_t *p = blocks;
    for (uint64_t i = 0; i < n; i++, p += f->block_size)
        for (int h = 0; h < f->halves; h++)
            if ((load_u16(p + f->half_offset[h]) & f->exponent) == f->exponent)
                return i;
    return n;
}

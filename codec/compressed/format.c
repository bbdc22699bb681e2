/* SPDX-License-Identifier: MIT */
#include "codec/compressed/format.h"

#include "codec/bytes.h"
#include "codec/float16.h"

static decode_fn decode_w4_bf16, decode_w4_f16, decode_w4_f32;
static decode_fn decode_w8_bf16, decode_w8_f16, decode_w8_f32;

/* What is not below the limit is infinite in the type. */
#define LIMIT_BF16 0x1.ffp127f
#define LIMIT_F16  65520
#define LIMIT_F32  0

#define W4(KIND, kind, suffix, scale)                                                              \
    {                                                                                              \
        .name = "w4a16-g128" suffix, .title = "W4A16-G128" suffix, .block = COMPRESSED_GROUP,      \
        .block_size = scale + COMPRESSED_GROUP / 2, .version = 1, .decode = decode_w4_##kind,      \
        .encoder = ENCODER_W4_##KIND, .type = &formats[FORMAT_##KIND], .limit = LIMIT_##KIND       \
    }
#define W8(KIND, kind, suffix, scale)                                                              \
    {                                                                                              \
        .name = "w8a16" suffix, .title = "W8A16" suffix, .block = 1, .block_size = 1,              \
        .version = 1, .decode = decode_w8_##kind, .encoder = ENCODER_W8_##KIND, .row_head = scale, \
        .type = &formats[FORMAT_##KIND], .limit = LIMIT_##KIND                                     \
    }

const struct format compressed_formats[COMPRESSED_FORMAT_COUNT] = {
    W4(BF16, bf16, "", 2),   W8(BF16, bf16, "", 2),   W4(F16, f16, "-f16", 2),
    W8(F16, f16, "-f16", 2), W4(F32, f32, "-f32", 4), W8(F32, f32, "-f32", 4),
};

const struct format *compressed_of_type(const struct format *f, const struct format *type)
{
    for (int i = 0; i < COMPRESSED_FORMAT_COUNT; i++)
        if (compressed_formats[i].type == type && compressed_formats[i].block == f->block)
            return &compressed_formats[i];
    return NULL;
}

int compressed_bits(const struct format *f)
{
    return f->row_head ? 8 : 4;
}

/* ---- back ---- */

static inline size_t take_scale(enum format_id type, const uint8_t *p, float *scale)
{
    if (type == FORMAT_F32)
        memcpy(scale, p, sizeof *scale);
    else
        *scale = type == FORMAT_F16 ? f32_from_f16(load_u16(p)) : f32_from_bf16(load_u16(p));
    return formats[type].block_size;
}

/* The product is of the type, too. */
static inline float product(enum format_id type, float scale, int code)
{
    float v = scale * (float)code;
    return type == FORMAT_F16    ? f32_from_f16(f16_from_f32(v))
           : type == FORMAT_BF16 ? f32_from_bf16(bf16_from_f32(v))
                                 : v;
}

static inline void decode_w4(enum format_id type, const void *blocks, size_t n, float *restrict out)
{
    const uint8_t *p = blocks;
    for (size_t g = 0; g < n; g += COMPRESSED_GROUP) {
        float scale;
        p += take_scale(type, p, &scale);
        for (size_t i = 0; i < COMPRESSED_GROUP; i += 2, p++) {
            *out++ = product(type, scale, (*p & 15) - 8);
            *out++ = product(type, scale, (*p >> 4) - 8);
        }
    }
}

/* One row. */
static inline void decode_w8(enum format_id type, const void *row, size_t n, float *restrict out)
{
    const uint8_t *p = row;
    float scale;
    p += take_scale(type, p, &scale);
    for (size_t i = 0; i < n; i++)
        out[i] = product(type, scale, (int8_t)p[i]);
}

#define DECODERS(TYPE, type)                                                                       \
    static void decode_w4_##type(const void *blocks, size_t n, float *restrict out)                \
    {                                                                                              \
        decode_w4(FORMAT_##TYPE, blocks, n, out);                                                  \
    }                                                                                              \
    static void decode_w8_##type(const void *row, size_t n, float *restrict out)                   \
    {                                                                                              \
        decode_w8(FORMAT_##TYPE, row, n, out);                                                     \
    }
DECODERS(BF16, bf16)
DECODERS(F16, f16)
DECODERS(F32, f32)

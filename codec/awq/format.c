/* SPDX-License-Identifier: MIT */
#include "codec/awq/format.h"

#include "codec/bytes.h"
#include "codec/float16.h"

static encode_rows_fn encode_awq;
static decode_fn decode_awq;

const struct format awq_formats[AWQ_FORMAT_COUNT] = {
    {.name = "rtn-awq4-g128",
     .title = "RTN-AWQ4-g128",
     .block = AWQ_GROUP,
     .block_size = AWQ_BLOCK_SIZE,
     .version = 1,
     .decode = decode_awq,
     .halves = 1,
     .exponent = 0x7c00,
     .encode_rows = encode_awq},
};

/* What binary16 makes of it. */
static inline float half(float v)
{
    return f32_from_f16(f16_from_f32(v));
}

/* To the next whole number, to an even one where two are as near. |v| is below 2^22. */
static inline float nearest(float v)
{
    return v + 0x1.8p23f - 0x1.8p23f;
}

static inline float within(float v, float low, float high)
{
    v = v > low ? v : low;
    return v < high ? v : high;
}

/* Every step is rounded to binary16, as where weights have that type. Quotients are held within what
 * decides anything before they are rounded to whole numbers. The range of a group does not have to
 * contain 0; then its zero is the code next to it, and what is farther away is lost. */
struct awq_group awq_quantize(const float *x, size_t n, uint8_t *codes)
{
    enum { FAR = 2 * (AWQ_CODE_MAX + 1) };
    float least = half(x[0]), greatest = least;
    for (size_t i = 0; i < n; i++) {
        float v = half(x[i]);
        least = v < least ? v : least;
        greatest = v > greatest ? v : greatest;
    }
    float range = half(greatest - least), floor = half(1e-5f);
    float scale = half((range < floor ? floor : range) / AWQ_CODE_MAX);
    float zero = within(-nearest(within(half(least / scale), -FAR, FAR)), 0, AWQ_CODE_MAX);
    for (size_t i = 0; i < n; i++) {
        float code = nearest(within(half(half(x[i]) / scale), -FAR, FAR)) + zero;
        codes[i] = (uint8_t)(int)within(code, 0, AWQ_CODE_MAX);
    }
    return (struct awq_group){scale, (uint8_t)(int)zero};
}

/* ---- rows ---- */

static void pack(const struct awq_group *g, const uint8_t *codes, uint8_t *out)
{
    store_u16(out, f16_from_f32(g->scale));
    out[AWQ_SCALE_SIZE] = g->zero;
    for (size_t i = 0; i < AWQ_GROUP; i += 2)
        out[AWQ_HEAD_SIZE + i / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
}

/* Groups know nothing of each other; rows come whole because that is how they are made on demand. */
static void encode_awq(const struct format *f, const struct isa *isa, float *x, size_t nrows,
                       size_t ncols, const float *importance, const struct feedback *feedback,
                       void *scratch, void *out)
{
    (void)f;
    (void)isa;
    (void)importance;
    (void)feedback;
    (void)scratch;
    uint8_t codes[AWQ_GROUP], *block = out;
    for (size_t at = 0; at < nrows * ncols; at += AWQ_GROUP, block += AWQ_BLOCK_SIZE) {
        struct awq_group g = awq_quantize(x + at, AWQ_GROUP, codes);
        pack(&g, codes, block);
    }
}

static void decode_awq(const void *blocks, size_t n, float *restrict out)
{
    const uint8_t *block = blocks;
    for (size_t at = 0; at < n; at += AWQ_GROUP, block += AWQ_BLOCK_SIZE) {
        float scale = f32_from_f16(load_u16(block));
        int zero = block[AWQ_SCALE_SIZE];
        const uint8_t *codes = block + AWQ_HEAD_SIZE;
        for (size_t i = 0; i < AWQ_GROUP; i++)
            out[at + i] = scale * (float)((codes[i / 2] >> i % 2 * 4 & 15) - zero);
    }
}

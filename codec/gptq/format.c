/* SPDX-License-Identifier: MIT */
#include "codec/gptq/format.h"

#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/isa.h"

#include <math.h>

static encode_rows_fn encode_gptq;
static decode_fn decode_4_128, decode_4_32, decode_3_128, decode_3_32, decode_8_128;

/* clang-format off */
const struct format gptq_formats[GPTQ_FORMAT_COUNT] = {
#define ROW(name, title, bits, group, damping, natural) \
    {name, title, 0, group, 2 + group * bits / 8, false, false, false, 1, NULL, decode_##bits##_##group, 1, {0}, 0x7c00, 0, damping, natural, .encode_rows = encode_gptq}
#define ROWS(bits, group) \
    ROW("gptq" #bits "-g" #group,            "GPTQ" #bits "-g" #group,            bits, group, 0.1f, false), \
    ROW("gptq" #bits "-g" #group "-natural", "GPTQ" #bits "-g" #group "-natural", bits, group, 0.1f, true), \
    ROW("rtn" #bits "-g" #group,             "RTN" #bits "-g" #group,             bits, group, 0,    false)
    ROWS(4, 128),
    ROWS(4, 32),
    ROWS(3, 128),
    ROWS(3, 32),
    ROWS(8, 128),
};
/* clang-format on */

int gptq_bits(const struct format *f)
{
    return (int)((f->block_size - 2) * 8 / f->block);
}

/* ---- groups ---- */

/* Eight codes are a whole number of bytes. */
static void pack_codes(const uint8_t *codes, size_t n, int bits, uint8_t *out)
{
    for (size_t i = 0; i < n; i += 8, out += bits) {
        uint64_t eight = 0;
        for (int k = 0; k < 8; k++)
            eight |= (uint64_t)codes[i + (size_t)k] << k * bits;
        memcpy(out, &eight, (size_t)bits);
    }
}

static inline void decode(int bits, size_t group, const void *blocks, size_t n, float *restrict out)
{
    const uint8_t *p = blocks;
    int middle = 1 << (bits - 1);
    for (size_t g = 0; g < n; g += group) {
        float scale = f32_from_f16(load_u16(p));
        p += 2;
        for (size_t i = 0; i < group; i += 8, p += bits) {
            uint64_t eight = 0;
            memcpy(&eight, p, (size_t)bits);
            for (int k = 0; k < 8; k++)
                *out++ = scale *
                         (float)((int)(eight >> k * bits & (2u * (unsigned)middle - 1)) - middle);
        }
    }
}

#define DECODER(bits, group)                                                                       \
    static void decode_##bits##_##group(const void *blocks, size_t n, float *restrict out)         \
    {                                                                                              \
        decode(bits, group, blocks, n, out);                                                       \
    }
DECODER(4, 128)
DECODER(4, 32)
DECODER(3, 128)
DECODER(3, 32)
DECODER(8, 128)

/* As it will be decoded; infinite where binary16 has no such number. */
static float fit_scale(const float *x, size_t group, int bits)
{
    float greatest = 0;
    for (size_t i = 0; i < group; i++)
        greatest = fabsf(x[i]) > greatest ? fabsf(x[i]) : greatest;
    if (greatest == 0)
        return 0;
    float scale = (greatest + greatest) / (float)((1 << bits) - 1);
    return f32_from_f16(f16_from_f32(scale < 0x1p-24f ? 0x1p-24f : scale));
}

/* ---- rows ---- */

static void clear_dead(float *x, size_t nrows, size_t ncols, const struct feedback *feedback)
{
    for (size_t place = 0; place < ncols; place++)
        for (size_t row = 0; feedback->dead[place] && row < nrows; row++)
            x[row * ncols + feedback->order[place]] = 0;
}

/* Lanes without a row of their own repeat the last one. */
static void fit_rows(const struct feedback_rows *q, int bits)
{
    for (size_t row = 0; row < FEEDBACK_ROWS; row++)
        for (size_t g = 0; g < q->columns / q->group; g++) {
            const float *x = q->x + (row < q->rows ? row : q->rows - 1) * q->columns;
            q->scales[g][row] = fit_scale(x + g * q->group, q->group, bits);
        }
}

static void encode_gptq(const struct format *f, const struct isa *isa, float *x, size_t nrows,
                        size_t ncols, const float *importance, const struct feedback *feedback,
                        void *scratch, void *out)
{
    (void)importance;
    int bits = gptq_bits(f), middle = 1 << (bits - 1);
    struct feedback_rows q = {.x = x,
                              .rows = nrows,
                              .columns = ncols,
                              .low = (float)-middle,
                              .high = (float)(middle - 1),
                              .group = f->block};
    if (feedback)
        clear_dead(x, nrows, ncols, feedback);
    feedback_begin(&q, scratch);
    fit_rows(&q, bits);
    memset(q.codes, middle, nrows * ncols);
    isa->feedback(&q, feedback);
    uint8_t *bytes = out;
    for (size_t row = 0; row < nrows; row++)
        for (size_t c = 0; c < ncols; c += f->block, bytes += f->block_size) {
            store_u16(bytes, f16_from_f32(q.scales[c / f->block][row]));
            pack_codes(q.codes + row * ncols + c, f->block, bits, bytes + 2);
        }
}

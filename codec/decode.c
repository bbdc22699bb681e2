/* SPDX-License-Identifier: MIT
 *
 * This file is compiled once for each instruction set: as the functions of decode.h, and as a
 * table of them for the others. A decoder knows of no order, so loops without branches over what a
 * group has in common are all that the compiler needs to make vectors of them.
 */
#include "codec/decode.h"

#include "codec/block.h"
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/format.h"

#ifdef ISA_DECODERS /* the name of the table */
#define DECODER(name) static void name
#else
#define DECODER(name) void decode_##name
#endif

/* ---- plain floats ---- */

DECODER(f32)(const void *blocks, size_t n, float *restrict out)
{
    memcpy(out, blocks, n * sizeof *out);
}

DECODER(f16)(const void *blocks, size_t n, float *restrict out)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n; i++)
        out[i] = f32_from_f16(load_u16(p + 2 * i));
}

DECODER(bf16)(const void *blocks, size_t n, float *restrict out)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n; i++)
        out[i] = f32_from_bf16(load_u16(p + 2 * i));
}

/* ---- blocks of 32 ---- */

DECODER(q8_0)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q8_0 *b = blocks;
    for (; n; n -= BLOCK, b++, out += BLOCK) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < BLOCK; i++)
            out[i] = (float)b->qs[i] * d;
    }
}

DECODER(q4_0)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q4_0 *b = blocks;
    for (; n; n -= BLOCK, b++, out += BLOCK) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)((b->qs[i] & 15) - 8) * d;
            out[i + 16] = (float)((b->qs[i] >> 4) - 8) * d;
        }
    }
}

DECODER(q4_1)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q4_1 *b = blocks;
    for (; n; n -= BLOCK, b++, out += BLOCK) {
        float d = f32_from_f16(b->d), m = f32_from_f16(b->m);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)(b->qs[i] & 15) * d + m;
            out[i + 16] = (float)(b->qs[i] >> 4) * d + m;
        }
    }
}

/* Bit i of the word where the fifth bit of a level belongs. */
static int fifth_bit(uint32_t bits, int i)
{
    return (int)(bits >> i & 1) << 4;
}

DECODER(q5_0)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q5_0 *b = blocks;
    for (; n; n -= BLOCK, b++, out += BLOCK) {
        float d = f32_from_f16(b->d);
        uint32_t bits;
        memcpy(&bits, b->qh, sizeof bits);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)(((b->qs[i] & 15) | fifth_bit(bits, i)) - 16) * d;
            out[i + 16] = (float)((b->qs[i] >> 4 | fifth_bit(bits, i + 16)) - 16) * d;
        }
    }
}

DECODER(q5_1)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q5_1 *b = blocks;
    for (; n; n -= BLOCK, b++, out += BLOCK) {
        float d = f32_from_f16(b->d), m = f32_from_f16(b->m);
        uint32_t bits;
        memcpy(&bits, b->qh, sizeof bits);
        for (int i = 0; i < 16; i++) {
            out[i] = (float)((b->qs[i] & 15) | fifth_bit(bits, i)) * d + m;
            out[i + 16] = (float)(b->qs[i] >> 4 | fifth_bit(bits, i + 16)) * d + m;
        }
    }
}

DECODER(iq4_nl)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_iq4_nl *b = blocks;
    for (; n; n -= BLOCK, b++, out += BLOCK) {
        float d = f32_from_f16(b->d), values[16];
        for (int i = 0; i < 16; i++)
            values[i] = d * (float)iq4_nl_values[i];
        for (int i = 0; i < 16; i++) {
            out[i] = values[b->qs[i] & 15];
            out[i + 16] = values[b->qs[i] >> 4];
        }
    }
}

/* ---- superblocks ---- */

/* The two-bit fields that Q2_K and Q3_K share the layout of, and the top bits of Q6_K. */
static void two_bits_get(const uint8_t qs[64], uint8_t q[SUPERBLOCK])
{
    for (int h = 0; h < 2; h++, qs += 32, q += 128)
        for (int i = 0; i < 32; i++) {
            q[i] = qs[i] & 3;
            q[i + 32] = qs[i] >> 2 & 3;
            q[i + 64] = qs[i] >> 4 & 3;
            q[i + 96] = qs[i] >> 6;
        }
}

/* The nibbles that Q4_K and Q5_K share the layout of. */
static void four_bits_get(const uint8_t qs[128], uint8_t q[SUPERBLOCK])
{
    for (int g = 0; g < 4; g++, qs += 32, q += 64)
        for (int i = 0; i < 32; i++) {
            q[i] = qs[i] & 15;
            q[i + 32] = qs[i] >> 4;
        }
}

/* Bit j of the 32 bytes belongs to group j of 32 weights: Q3_K's third bit, Q5_K's fifth. */
static void top_bit_add(const uint8_t qh[32], int bit, uint8_t q[SUPERBLOCK])
{
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++)
            q[32 * j + i] |= (uint8_t)((qh[i] >> j & 1) << bit);
}

/* n weights scale * q - min. */
static void affine_put(int n, const uint8_t *q, float scale, float min, float *restrict out)
{
    for (int i = 0; i < n; i++)
        out[i] = scale * (float)q[i] - min;
}

/* 16 weights scale * (q - zero). */
static void symmetric_put(const uint8_t q[16], int zero, float scale, float *restrict out)
{
    for (int i = 0; i < 16; i++)
        out[i] = scale * (float)(q[i] - zero);
}

DECODER(q2_k)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q2_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++, out += SUPERBLOCK) {
        uint8_t q[SUPERBLOCK];
        float d = f32_from_f16(b->d), dmin = f32_from_f16(b->dmin);
        two_bits_get(b->qs, q);
        for (int j = 0; j < 16; j++)
            affine_put(16, q + 16 * j, d * (float)(b->scales[j] & 15),
                       dmin * (float)(b->scales[j] >> 4), out + 16 * j);
    }
}

DECODER(q3_k)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q3_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++, out += SUPERBLOCK) {
        uint8_t q[SUPERBLOCK];
        float d = f32_from_f16(b->d);
        two_bits_get(b->qs, q);
        top_bit_add(b->hmask, 2, q);
        for (int j = 0; j < 16; j++) {
            int level = (b->scales[j % 8] >> 4 * (j / 8) & 15) |
                        (b->scales[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
            symmetric_put(q + 16 * j, 4, d * (float)(level - 32), out + 16 * j);
        }
    }
}

/* Groups of 32 whose scales and mins are packed as in Q4_K. */
static void scale_mins_put(const uint8_t q[SUPERBLOCK], uint16_t d, uint16_t dmin,
                           const uint8_t packed[12], float *restrict out)
{
    for (int j = 0; j < 8; j++) {
        uint8_t scale_level, min_level;
        scale_min_get(j, packed, &scale_level, &min_level);
        affine_put(BLOCK, q + BLOCK * j, f32_from_f16(d) * (float)scale_level,
                   f32_from_f16(dmin) * (float)min_level, out + BLOCK * j);
    }
}

DECODER(q4_k)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q4_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++, out += SUPERBLOCK) {
        uint8_t q[SUPERBLOCK];
        four_bits_get(b->qs, q);
        scale_mins_put(q, b->d, b->dmin, b->scales, out);
    }
}

DECODER(q5_k)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q5_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++, out += SUPERBLOCK) {
        uint8_t q[SUPERBLOCK];
        four_bits_get(b->qs, q);
        top_bit_add(b->qh, 4, q);
        scale_mins_put(q, b->d, b->dmin, b->scales, out);
    }
}

DECODER(q6_k)(const void *blocks, size_t n, float *restrict out)
{
    const struct block_q6_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++, out += SUPERBLOCK) {
        uint8_t q[SUPERBLOCK];
        float d = f32_from_f16(b->d);
        two_bits_get(b->qh, q);
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < 64; i++) {
                uint8_t *to = q + 128 * h + i, low = b->ql[64 * h + i];
                to[0] = (uint8_t)(to[0] << 4 | (low & 15));
                to[64] = (uint8_t)(to[64] << 4 | low >> 4);
            }
        for (int j = 0; j < 16; j++)
            symmetric_put(q + 16 * j, 32, d * (float)b->scales[j], out + 16 * j);
    }
}

#ifdef ISA_DECODERS
/* clang-format off */
decode_fn *const ISA_DECODERS[FORMAT_COUNT] = {
    [FORMAT_F32] = f32,   [FORMAT_F16] = f16,   [FORMAT_BF16] = bf16, [FORMAT_Q8_0] = q8_0,
    [FORMAT_Q6_K] = q6_k, [FORMAT_Q5_K] = q5_k, [FORMAT_Q5_1] = q5_1, [FORMAT_Q5_0] = q5_0,
    [FORMAT_Q4_K] = q4_k, [FORMAT_Q4_1] = q4_1, [FORMAT_Q4_0] = q4_0, [FORMAT_IQ4_NL] = iq4_nl,
    [FORMAT_Q3_K] = q3_k, [FORMAT_Q2_K] = q2_k,
};
#endif

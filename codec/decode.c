/* SPDX-License-Identifier: MIT */
#include "codec/decode.h"

#include "codec/block.h"
#include "codec/bytes.h"
#include "codec/float16.h"

void decode_f32(const void *blocks, size_t n, float *out) { memcpy(out, blocks, n * sizeof *out); }

void decode_f16(const void *blocks, size_t n, float *out)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n; i++)
        out[i] = f32_from_f16(load_u16(p + 2 * i));
}

void decode_bf16(const void *blocks, size_t n, float *out)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n; i++)
        out[i] = f32_from_bf16(load_u16(p + 2 * i));
}

static int nibble(const uint8_t qs[16], int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

static int fifth_bit(const uint8_t qh[4], int i) { return (qh[i / 8] >> i % 8 & 1) << 4; }

void decode_q8_0(const void *blocks, size_t n, float *out)
{
    const struct block_q8_0 *b = blocks;
    for (; n; n -= BLOCK, b++) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < BLOCK; i++)
            *out++ = (float)b->qs[i] * d;
    }
}

void decode_q4_0(const void *blocks, size_t n, float *out)
{
    const struct block_q4_0 *b = blocks;
    for (; n; n -= BLOCK, b++) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < BLOCK; i++)
            *out++ = (float)(nibble(b->qs, i) - 8) * d;
    }
}

void decode_q4_1(const void *blocks, size_t n, float *out)
{
    const struct block_q4_1 *b = blocks;
    for (; n; n -= BLOCK, b++) {
        float d = f32_from_f16(b->d), m = f32_from_f16(b->m);
        for (int i = 0; i < BLOCK; i++)
            *out++ = (float)nibble(b->qs, i) * d + m;
    }
}

void decode_q5_0(const void *blocks, size_t n, float *out)
{
    const struct block_q5_0 *b = blocks;
    for (; n; n -= BLOCK, b++) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < BLOCK; i++)
            *out++ = (float)((nibble(b->qs, i) | fifth_bit(b->qh, i)) - 16) * d;
    }
}

void decode_q5_1(const void *blocks, size_t n, float *out)
{
    const struct block_q5_1 *b = blocks;
    for (; n; n -= BLOCK, b++) {
        float d = f32_from_f16(b->d), m = f32_from_f16(b->m);
        for (int i = 0; i < BLOCK; i++)
            *out++ = (float)(nibble(b->qs, i) | fifth_bit(b->qh, i)) * d + m;
    }
}

void decode_iq4_nl(const void *blocks, size_t n, float *out)
{
    const struct block_iq4_nl *b = blocks;
    for (; n; n -= BLOCK, b++) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < BLOCK; i++)
            *out++ = d * (float)iq4_nl_values[nibble(b->qs, i)];
    }
}

/* Two-bit field i of the 64 bytes that Q2_K and Q3_K share the layout of. */
static int two_bits(const uint8_t qs[64], int i)
{
    return qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
}

/* Nibble i of the 128 bytes that Q4_K and Q5_K share the layout of. */
static int four_bits(const uint8_t qs[128], int i)
{
    return qs[32 * (i / 64) + i % 32] >> 4 * (i % 64 / 32) & 15;
}

void decode_q2_k(const void *blocks, size_t n, float *out)
{
    const struct block_q2_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++) {
        float d = f32_from_f16(b->d), dmin = f32_from_f16(b->dmin);
        for (int i = 0; i < SUPERBLOCK; i++) {
            uint8_t packed = b->scales[i / 16];
            float scale = d * (float)(packed & 15), min = dmin * (float)(packed >> 4);
            *out++ = scale * (float)two_bits(b->qs, i) - min;
        }
    }
}

void decode_q3_k(const void *blocks, size_t n, float *out)
{
    const struct block_q3_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < SUPERBLOCK; i++) {
            int j = i / 16;
            int level = (b->scales[j % 8] >> 4 * (j / 8) & 15) |
                        (b->scales[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
            int q = two_bits(b->qs, i) | (b->hmask[i % 32] >> i / 32 & 1) << 2;
            *out++ = d * (float)(level - 32) * (float)(q - 4);
        }
    }
}

void decode_q4_k(const void *blocks, size_t n, float *out)
{
    const struct block_q4_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++)
        for (int j = 0; j < 8; j++) {
            uint8_t scale_level, min_level;
            scale_min_get(j, b->scales, &scale_level, &min_level);
            float scale = f32_from_f16(b->d) * (float)scale_level;
            float min = f32_from_f16(b->dmin) * (float)min_level;
            for (int i = BLOCK * j; i < BLOCK * j + BLOCK; i++)
                *out++ = scale * (float)four_bits(b->qs, i) - min;
        }
}

void decode_q5_k(const void *blocks, size_t n, float *out)
{
    const struct block_q5_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++)
        for (int j = 0; j < 8; j++) {
            uint8_t scale_level, min_level;
            scale_min_get(j, b->scales, &scale_level, &min_level);
            float scale = f32_from_f16(b->d) * (float)scale_level;
            float min = f32_from_f16(b->dmin) * (float)min_level;
            for (int i = BLOCK * j; i < BLOCK * j + BLOCK; i++) {
                int q = four_bits(b->qs, i) | (b->qh[i % 32] >> j & 1) << 4;
                *out++ = scale * (float)q - min;
            }
        }
}

void decode_q6_k(const void *blocks, size_t n, float *out)
{
    const struct block_q6_k *b = blocks;
    for (; n; n -= SUPERBLOCK, b++) {
        float d = f32_from_f16(b->d);
        for (int i = 0; i < SUPERBLOCK; i++) {
            int r = i % 128;
            int low = b->ql[64 * (i / 128) + r % 64] >> 4 * (r / 64) & 15;
            int high = b->qh[32 * (i / 128) + r % 32] >> 2 * (r / 32) & 3;
            *out++ = d * (float)b->scales[i / 16] * (float)((low | high << 4) - 32);
        }
    }
}

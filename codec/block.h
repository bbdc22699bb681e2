/* SPDX-License-Identifier: MIT
 *
 * The packed blocks of ggml's formats, byte for byte (x86: little-endian, no padding). `d`, `dmin`
 * and `m` are binary16. What each bit means stands at the member; i is the index of a weight in
 * its block. The value of a weight is given in the comment above its struct.
 */
#ifndef CODEC_BLOCK_H
#define CODEC_BLOCK_H

#include <stdint.h>

enum {
    BLOCK = 32,       /* weights in a block of the legacy formats and IQ4_NL */
    SUPERBLOCK = 256, /* weights in a block of the K formats */
};

/* d * (q - 8); q: low nibble of qs[i] for i < 16, high nibble of qs[i - 16] above */
struct block_q4_0 {
    uint16_t d;
    uint8_t qs[16];
};

/* d * q + m; nibbles as in Q4_0 */
struct block_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
};

/* d * (q - 16); nibbles as in Q4_0, fifth bit = bit i of the 32-bit qh */
struct block_q5_0 {
    uint16_t d;
    uint8_t qh[4];
    uint8_t qs[16];
};

/* d * q + m */
struct block_q5_1 {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
};

/* d * q */
struct block_q8_0 {
    uint16_t d;
    int8_t qs[32];
};

/* d * iq4_nl_values[q]; nibbles as in Q4_0 */
struct block_iq4_nl {
    uint16_t d;
    uint8_t qs[16];
};

/* d * sc * q - dmin * m, one (sc, m) for 16 weights */
struct block_q2_k {
    uint8_t scales[16]; /* sc: low nibble of scales[i / 16]; m: high nibble */
    uint8_t qs[64];     /* q = qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3 */
    uint16_t d, dmin;
};

/* d * (sc - 32) * (q - 4), one sc for 16 weights */
struct block_q3_k {
    uint8_t hmask[32];  /* q's bit 2 = bit i / 32 of hmask[i % 32] */
    uint8_t qs[64];     /* q's low two bits as in Q2_K */
    uint8_t scales[12]; /* 6 bits each, j = i / 16: low nibble of scales[j] for j < 8, high nibble
                           of scales[j - 8] above; top bits scales[8 + j % 4] >> 2 * (j / 4) & 3 */
    uint16_t d;
};

/* d * sc * q - dmin * m, one (sc, m) for 32 weights, 6 bits each */
struct block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12]; /* see scale_min_get */
    uint8_t qs[128];    /* q = nibble of qs[32 * (i / 64) + i % 32], low one if i % 64 < 32 */
};

/* as Q4_K */
struct block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32]; /* fifth bit = bit i / 32 of qh[i % 32] */
    uint8_t qs[128];
};

/* d * sc * (q - 32), one signed sc for 16 weights */
struct block_q6_k {
    uint8_t ql[128]; /* with r = i % 128: nibble of ql[64 * (i / 128) + r % 64], low if r < 64 */
    uint8_t qh[64];  /* top bits = qh[32 * (i / 128) + r % 32] >> 2 * (r / 32) & 3 */
    int8_t scales[16];
    uint16_t d;
};

_Static_assert(sizeof(struct block_q4_0) == 18 && sizeof(struct block_q4_1) == 20 &&
                   sizeof(struct block_q5_0) == 22 && sizeof(struct block_q5_1) == 24 &&
                   sizeof(struct block_q8_0) == 34 && sizeof(struct block_iq4_nl) == 18 &&
                   sizeof(struct block_q2_k) == 84 && sizeof(struct block_q3_k) == 110 &&
                   sizeof(struct block_q4_k) == 144 && sizeof(struct block_q5_k) == 176 &&
                   sizeof(struct block_q6_k) == 210,
               "blocks are packed");

/* The levels of IQ4_NL, ascending. */
extern const int8_t iq4_nl_values[16];

/* Reads the 6-bit scale and min of sub-block j (0..7) from the 12 packed bytes of Q4_K and Q5_K. */
static inline void scale_min_get(int j, const uint8_t b[12], uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = b[j] & 63;
        *min = b[j + 4] & 63;
    } else {
        *scale = (uint8_t)((b[j + 4] & 15) | b[j - 4] >> 6 << 4);
        *min = (uint8_t)(b[j + 4] >> 4 | b[j] >> 6 << 4);
    }
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The dot products in plain C, for reading and as what the others are compared with. A format is
 * what it makes of one block; codec/block.h explains the bits.
 */
#include "kernels/cpu/dot.h"

#include "codec/block.h"
#include "codec/bytes.h"
#include "codec/float16.h"

/* One block: weight i is d * scale[i / 16] * q[i] - dmin * min[i / 16], less than int8 codes all of
 * them, zero subtracted. In blocks of 32 the scales are 1. */
struct levels {
    int q[SUPERBLOCK], scale[SUPERBLOCK / FINE], min[SUPERBLOCK / FINE];
    float d, dmin;
};

typedef void levels_fn(const void *block, struct levels *l);

/* ---- blocks of 32 ---- */

static void scales_one(struct levels *l, float d)
{
    *l = (struct levels){
        .scale = {1, 1},
          .d = d
    };
}

/* Q4_1 and Q5_1 add m: that is a min of -m. */
static void mins_one(struct levels *l, float m)
{
    l->min[0] = l->min[1] = 1;
    l->dmin = -m;
}

static int nibble(const uint8_t *qs, int i)
{
    return qs[i % 16] >> 4 * (i / 16) & 15;
}

static int fifth_bit(const uint8_t *qh, int i)
{
    return (qh[i / 8] >> i % 8 & 1) << 4;
}

static void q8_0(const void *block, struct levels *l)
{
    const struct block_q8_0 *b = block;
    scales_one(l, f32_from_f16(b->d));
    for (int i = 0; i < BLOCK; i++)
        l->q[i] = b->qs[i];
}

static void q4_0(const void *block, struct levels *l)
{
    const struct block_q4_0 *b = block;
    scales_one(l, f32_from_f16(b->d));
    for (int i = 0; i < BLOCK; i++)
        l->q[i] = nibble(b->qs, i) - 8;
}

static void q4_1(const void *block, struct levels *l)
{
    const struct block_q4_1 *b = block;
    scales_one(l, f32_from_f16(b->d));
    mins_one(l, f32_from_f16(b->m));
    for (int i = 0; i < BLOCK; i++)
        l->q[i] = nibble(b->qs, i);
}

static void q5_0(const void *block, struct levels *l)
{
    const struct block_q5_0 *b = block;
    scales_one(l, f32_from_f16(b->d));
    for (int i = 0; i < BLOCK; i++)
        l->q[i] = (nibble(b->qs, i) | fifth_bit(b->qh, i)) - 16;
}

static void q5_1(const void *block, struct levels *l)
{
    const struct block_q5_1 *b = block;
    scales_one(l, f32_from_f16(b->d));
    mins_one(l, f32_from_f16(b->m));
    for (int i = 0; i < BLOCK; i++)
        l->q[i] = nibble(b->qs, i) | fifth_bit(b->qh, i);
}

static void iq4_nl(const void *block, struct levels *l)
{
    const struct block_iq4_nl *b = block;
    scales_one(l, f32_from_f16(b->d));
    for (int i = 0; i < BLOCK; i++)
        l->q[i] = iq4_nl_values[nibble(b->qs, i)];
}

/* ---- superblocks ---- */

static int two_bits(const uint8_t *qs, int i)
{
    return qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
}

static int four_bits(const uint8_t *qs, int i)
{
    return qs[32 * (i / 64) + i % 32] >> 4 * (i % 64 / 32) & 15;
}

static int top_bit(const uint8_t *qh, int i)
{
    return qh[i % 32] >> i / 32 & 1;
}

static void q2_k(const void *block, struct levels *l)
{
    const struct block_q2_k *b = block;
    l->d = f32_from_f16(b->d);
    l->dmin = f32_from_f16(b->dmin);
    for (int j = 0; j < 16; j++) {
        l->scale[j] = b->scales[j] & 15;
        l->min[j] = b->scales[j] >> 4;
    }
    for (int i = 0; i < SUPERBLOCK; i++)
        l->q[i] = two_bits(b->qs, i);
}

static void q3_k(const void *block, struct levels *l)
{
    const struct block_q3_k *b = block;
    *l = (struct levels){.d = f32_from_f16(b->d)};
    for (int j = 0; j < 16; j++) {
        int low = b->scales[j % 8] >> 4 * (j / 8) & 15;
        int top = b->scales[8 + j % 4] >> 2 * (j / 4) & 3;
        l->scale[j] = (low | top << 4) - 32;
    }
    for (int i = 0; i < SUPERBLOCK; i++)
        l->q[i] = (two_bits(b->qs, i) | top_bit(b->hmask, i) << 2) - 4;
}

/* What Q4_K and Q5_K have in common. */
static void scale_mins(uint16_t d, uint16_t dmin, const uint8_t *scales, struct levels *l)
{
    l->d = f32_from_f16(d);
    l->dmin = f32_from_f16(dmin);
    for (int j = 0; j < 16; j++) {
        uint8_t scale, min;
        scale_min_get(j / 2, scales, &scale, &min);
        l->scale[j] = scale;
        l->min[j] = min;
    }
}

static void q4_k(const void *block, struct levels *l)
{
    const struct block_q4_k *b = block;
    scale_mins(b->d, b->dmin, b->scales, l);
    for (int i = 0; i < SUPERBLOCK; i++)
        l->q[i] = four_bits(b->qs, i);
}

static void q5_k(const void *block, struct levels *l)
{
    const struct block_q5_k *b = block;
    scale_mins(b->d, b->dmin, b->scales, l);
    for (int i = 0; i < SUPERBLOCK; i++)
        l->q[i] = four_bits(b->qs, i) | top_bit(b->qh, i) << 4;
}

static void q6_k(const void *block, struct levels *l)
{
    const struct block_q6_k *b = block;
    *l = (struct levels){.d = f32_from_f16(b->d)};
    for (int j = 0; j < 16; j++)
        l->scale[j] = b->scales[j];
    for (int i = 0; i < SUPERBLOCK; i++) {
        int low = b->ql[64 * (i / 128) + i % 64] >> 4 * (i % 128 / 64) & 15;
        l->q[i] = (low | two_bits(b->qh, i) << 4) - 32;
    }
}

/* ---- the sums ---- */

/* Adds the upper half to the lower until one is left. */
static float halves_add(float *sum, int lanes)
{
    for (int half = lanes / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            sum[l] += sum[l + half];
    return sum[0];
}

static float block_dot(const struct levels *l, const int8_t *q, size_t block, float scale)
{
    int isum = 0, msum = 0;
    for (size_t j = 0; j < block / FINE; j++) {
        int dot = 0, sum = 0;
        for (size_t i = FINE * j; i < FINE * (j + 1); i++) {
            dot += l->q[i] * q[i];
            sum += q[i];
        }
        isum += l->scale[j] * dot;
        msum += l->min[j] * sum;
    }
    return (l->d * scale) * (float)isum - (l->dmin * scale) * (float)msum;
}

static void dot(levels_fn *levels, size_t block_size, const uint8_t *row,
                const struct activations *a, uint32_t column, uint32_t count, float *out,
                size_t stride)
{
    struct levels l;
    for (uint32_t c = column; c < column + count; c++) {
        float sum[SUM_LANES] = {0};
        for (size_t k = 0; k < a->blocks; k++) {
            levels(row + k * block_size, &l);
            sum[k % SUM_LANES] += block_dot(&l, a->q + c * a->q_stride + k * a->block, a->block,
                                            a->scale[c * a->scale_stride + k]);
        }
        out[c * stride] = halves_add(sum, SUM_LANES);
    }
}

static void dot_float(const struct format *f, const uint8_t *row, const struct activations *a,
                      uint32_t column, uint32_t count, float *out, size_t stride)
{
    float w[SUPERBLOCK];
    for (uint32_t c = column; c < column + count; c++) {
        const float *x = a->x + c * a->cols;
        float sum[FLOAT_LANES] = {0};
        for (size_t i = 0; i < a->cols; i += f->block) {
            f->decode(row + i / f->block * f->block_size, f->block, w);
            for (size_t j = 0; j < f->block; j++)
                sum[(i + j) % FLOAT_LANES] += w[j] * x[i + j];
        }
        out[c * stride] = halves_add(sum, FLOAT_LANES);
    }
}

/* ---- tables ---- */

#define DOT(name)                                                                                  \
    static void dot_##name(const uint8_t *row, const struct activations *a, uint32_t column,       \
                           uint32_t count, float *out, size_t stride)                              \
    {                                                                                              \
        dot(name, sizeof(struct block_##name), row, a, column, count, out, stride);                \
    }
DOT(q8_0)
DOT(q4_0)
DOT(q4_1)
DOT(q5_0)
DOT(q5_1)
DOT(iq4_nl)
DOT(q2_k)
DOT(q3_k)
DOT(q4_k)
DOT(q5_k)
DOT(q6_k)

/* clang-format off */
const struct dot_set dot_set_c = {
    .name = "c",
    .dot = {
        [FORMAT_Q8_0] = dot_q8_0, [FORMAT_Q6_K] = dot_q6_k, [FORMAT_Q5_K] = dot_q5_k,
        [FORMAT_Q5_1] = dot_q5_1, [FORMAT_Q5_0] = dot_q5_0, [FORMAT_Q4_K] = dot_q4_k,
        [FORMAT_Q4_1] = dot_q4_1, [FORMAT_Q4_0] = dot_q4_0, [FORMAT_IQ4_NL] = dot_iq4_nl,
        [FORMAT_Q3_K] = dot_q3_k, [FORMAT_Q2_K] = dot_q2_k,
    },
    .dot_float = dot_float,
    .stripe = stripe_c,
    .attend = attend_c,
};

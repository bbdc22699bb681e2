/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/activations.h"

#include "codec/float16.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { ALIGNMENT = 64 };

static const size_t blocks_of_kind[ACTIVATION_KINDS] = {1, 32, 256, 64};

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Sums of how many levels are kept. */
static size_t sum_width(const struct activations *a)
{
    return a->block == 32 ? 32 : FINE;
}

/* A place for n elements of so many bytes behind *end. */
static size_t place(size_t *end, size_t n, size_t size)
{
    size_t at = *end;
    *end = round_up(at + n * size, ALIGNMENT);
    return at;
}

/* Sets the strides for the kind and the planes' places in memory; the bytes that they take. */
static size_t lay_out(struct activations *a, enum activation_kind kind, uint32_t batch)
{
    size_t end = 0;
    char *memory = a->memory;
    uint32_t rest = batch % TILE;
    a->kind = kind;
    a->batch = batch;
    a->block = blocks_of_kind[kind];
    a->blocks = (a->cols + a->block - 1) / a->block;
    if (kind == ACTIVATIONS_F32) {
        a->tiles = 0;
        a->x = (float *)memory;
        return batch * a->cols * sizeof *a->x;
    }
    a->scale_stride = round_up(a->blocks, SUM_LANES);
    a->q_stride = round_up(a->cols, GROUP);
    a->sum_stride = a->block == 32 ? a->scale_stride : a->q_stride / FINE;
    a->tiles = a->tiled && a->block != 64 ? batch / TILE + (rest >= TILE_LEAST) : 0;

    size_t columns = (size_t)a->tiles * TILE;
    size_t at[] = {
        place(&end, batch * a->q_stride, sizeof *a->q),
        place(&end, batch * a->scale_stride, sizeof *a->scale),
        place(&end, batch * a->sum_stride, sizeof *a->sums),
        place(&end, columns * a->q_stride, sizeof *a->tile_q),
        place(&end, columns * a->scale_stride, sizeof *a->tile_scale),
        place(&end, columns * a->sum_stride, sizeof *a->tile_sums),
        place(&end, kind == ACTIVATIONS_INT8_64 ? batch * a->cols + TILE : 0, sizeof *a->x),
        place(&end, kind == ACTIVATIONS_INT8_64 ? batch * a->sum_stride : 0, sizeof *a->lsum),
    };
    if (!memory) /* asked how much there is to be */
        return end;
    a->q = (int8_t *)memory + at[0];
    a->scale = (float *)(memory + at[1]);
    a->sums = (int16_t *)(memory + at[2]);
    a->tile_q = (int8_t *)memory + at[3];
    a->tile_scale = (float *)(memory + at[4]);
    a->tile_sums = (int16_t *)(memory + at[5]);
    a->x = (float *)(memory + at[6]);
    a->lsum = (float *)(memory + at[7]);
    return end;
}

int activations_new(uint64_t cols, uint32_t batch, bool tiled, struct activations **out)
{
    uint64_t all;
    if (__builtin_mul_overflow(cols + GROUP * SUM_LANES, (uint64_t)batch + TILE, &all) ||
        all > SIZE_MAX / 16)
        return -EOVERFLOW;
    struct activations *a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
    *a = (struct activations){.cols = cols, .batch_max = batch, .tiled = tiled};
    size_t size = 0;
    for (enum activation_kind kind = 0; kind < ACTIVATION_KINDS; kind++) {
        /* A tile less than full takes more room than its columns without one. */
        size_t n = lay_out(a, kind, (uint32_t)round_up(batch, TILE));
        size = n > size ? n : size;
    }
    a->batch = 0;
    a->memory = aligned_alloc(ALIGNMENT, round_up(size + 1, ALIGNMENT));
    if (!a->memory) {
        free(a);
        return -ENOMEM;
    }
    *out = a;
    return 0;
}

void activations_free(struct activations *a)
{
    if (!a)
        return;
    free(a->memory);
    free(a);
}

int activations_begin(struct activations *a, enum activation_kind kind, uint32_t batch,
                      const uint32_t *order)
{
    if (kind >= ACTIVATION_KINDS || batch > a->batch_max)
        return -EINVAL;
    bool ordered = kind == ACTIVATIONS_F32 || kind == ACTIVATIONS_INT8_64;
    if ((order && !ordered) || (!ordered && a->cols % blocks_of_kind[kind]))
        return -EINVAL;
    lay_out(a, kind, batch);
    a->order = order;
    return 0;
}

/* n levels of values, the largest in magnitude of which becomes 127; returns their scale. */
static float quantize(const float *x, size_t n, int8_t *q)
{
    /* Magnitudes compare as their bits do, and without the bother that NaN is. */
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = f32_bits(x[i]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float magnitude = f32_from_bits(largest);
    bool finite = isfinite(magnitude);
    /* Nothing is that small; and 127 / it is finite above. */
    if (!finite || magnitude < 0x1p-119f) {
        memset(q, 0, n);
        return finite ? 0 : NAN;
    }
    float inverse = 127 / magnitude;
    for (size_t i = 0; i < n; i++) {
        /* To the nearest integer, halves to even; 1.5 * 2^23 leaves it in the low bits. */
        float level = x[i] * inverse + 12582912.0f;
        q[i] = (int8_t)f32_bits(level);
    }
    return 1 / inverse;
}

/* n activations from place `first` on. */
static void gather(const struct activations *a, const float *x, size_t first, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = x[a->order ? a->order[first + i] : first + i];
}

/* The blocks of a column, whose last may be shorter. */
static void quantize_in_order(const struct activations *a, uint32_t column, const float *x,
                              int8_t *q, float *scale)
{
    float block[64];
    for (size_t k = 0, first = 0; k < a->blocks; k++, first += a->block) {
        size_t left = a->cols - first, n = left < a->block ? left : a->block;
        gather(a, x, first, n, block);
        scale[k] = quantize(block, n, q + first);
        for (size_t i = 0; i < n; i++)
            a->x[(first + i) * a->batch + column] = scale[k] * (float)q[first + i];
    }
}

/* The planes of a column, spread over its tile. */
static void tile_put(struct activations *a, uint32_t column, const int8_t *q, const float *scale,
                     const int16_t *sums)
{
    size_t tile = column / TILE, lane = column % TILE;
    int8_t *tile_q = a->tile_q + tile * TILE * a->q_stride + 4 * lane;
    float *tile_scale = a->tile_scale + tile * TILE * a->scale_stride + lane;
    int16_t *tile_sums = a->tile_sums + tile * TILE * a->sum_stride;
    for (size_t i = 0; i < a->q_stride; i += 4)
        memcpy(tile_q + TILE * i, q + i, 4);
    for (size_t i = 0; i < a->scale_stride; i++)
        tile_scale[TILE * i] = scale[i];
    for (size_t i = 0; i < a->sum_stride; i++)
        if (a->block == 32)
            tile_sums[TILE * i + lane] = sums[i];
        else
            tile_sums[TILE * (i & ~(size_t)1) + 2 * lane + i % 2] = sums[i];
}

static void column_put(struct activations *a, uint32_t column, const float *x)
{
    int8_t *q = a->q + column * a->q_stride;
    float *scale = a->scale + column * a->scale_stride;
    int16_t *sums = a->sums + column * a->sum_stride;
    size_t width = sum_width(a);
    if (a->block == 64)
        quantize_in_order(a, column, x, q, scale);
    for (size_t k = 0; a->block != 64 && k < a->blocks; k++)
        scale[k] = quantize(x + k * a->block, a->block, q + k * a->block);
    memset(scale + a->blocks, 0, (a->scale_stride - a->blocks) * sizeof *scale);
    memset(q + a->cols, 0, a->q_stride - a->cols);
    memset(sums, 0, a->sum_stride * sizeof *sums);
    for (size_t i = 0; i < a->cols; i += width) { /* behind the last level there are zeros */
        int sum = 0;
        for (size_t j = 0; j < width; j++)
            sum += q[i + j];
        size_t at = i / width;
        if (a->block == 256)
            at = at / 16 * 16 + at % 2 * 8 + at % 16 / 2;
        sums[at] = (int16_t)sum;
    }
    for (size_t i = 0; a->block == 64 && i < a->sum_stride; i++)
        a->lsum[column * a->sum_stride + i] = (float)sums[i];
    /* Lanes of a tile that no column fills get a copy; what comes of it goes nowhere. */
    uint32_t end = column + 1 == a->batch ? a->tiles * TILE : column + 1;
    for (uint32_t to = column; to < end && to < a->tiles * TILE; to++)
        tile_put(a, to, q, scale, sums);
}

int activations_put(struct activations *a, const float *x, uint32_t first, uint32_t count)
{
    if (first > a->batch || count > a->batch - first)
        return -EINVAL;
    if (a->kind == ACTIVATIONS_F32) {
        for (size_t c = first; c < first + count; c++)
            gather(a, x + c * a->cols, 0, a->cols, a->x + c * a->cols);
        return 0;
    }
    for (uint32_t c = first; c < first + count; c++)
        column_put(a, c, x + c * a->cols);
    return 0;
}

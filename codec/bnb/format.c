/* SPDX-License-Identifier: MIT */
#include "codec/bnb/format.h"

#include "codec/bytes.h"

#include <math.h>

static decode_fn decode_nf4, decode_int8;

/* int8 rounds weights to binary16 first, which ends at 65520. */
const struct format bnb_formats[BNB_FORMAT_COUNT] = {
    [BNB_NF4] = {.name = "nf4",
                 .title = "NF4",
                 .block = NF4_BLOCK,
                 .block_size = NF4_SIZE,
                 .version = 1,
                 .decode = decode_nf4,
                 .encoder = ENCODER_NF4,
                 .run = NF4_BLOCK * NF4_NESTED},
    [BNB_INT8] = { .name = "int8",
                 .title = "INT8",
                 .block = 1,
                 .block_size = 1,
                 .version = 1,
                 .decode = decode_int8,
                 .encoder = ENCODER_INT8,
                 .row_head = sizeof(float),
                 .limit = 65520},
};

const float nf4_values[16] = {
    -0x1p+0f,        -0x1.647362p-1f, -0x1.0cd660p-1f, -0x1.946540p-2f,
    -0x1.23449ap-2f, -0x1.7a6a7ep-3f, -0x1.74f0e2p-4f, 0,
    0x1.45f5fep-4f,  0x1.4995c6p-3f,  0x1.f809bap-3f,  0x1.5a0674p-2f,
    0x1.c34970p-2f,  0x1.200f56p-1f,  0x1.722766p-1f,  0x1p+0f,
};

const float nf4_thresholds[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f,
};

static void decode_nf4(const void *blocks, size_t n, float *restrict out)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n; i += NF4_BLOCK, p += NF4_SIZE) {
        float absmax;
        memcpy(&absmax, p, sizeof absmax);
        for (size_t k = 0; k < NF4_BLOCK && i + k < n; k++) {
            int byte = p[sizeof absmax + k / 2];
            out[i + k] = nf4_values[k % 2 ? byte & 15 : byte >> 4] * absmax;
        }
    }
}

/* One row. */
static void decode_int8(const void *row, size_t n, float *restrict out)
{
    const uint8_t *p = row;
    float absmax;
    memcpy(&absmax, p, sizeof absmax);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(int8_t)p[sizeof absmax + i] * absmax * 7.874015718698502e-3f;
}

/* ---- absmax, quantized in turn ---- */

double nf4_add_absmax(double sum, const void *blocks, size_t n)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n; i++) {
        float absmax;
        memcpy(&absmax, p + i * NF4_SIZE, sizeof absmax);
        sum += (double)absmax;
    }
    return sum;
}

/* Seven decades, the i-th cut into 2^i cells, of which the middles are taken. Corners are spaced as
 * torch.linspace does, from either end to the middle. */
void nf4_nested_values(float values[256])
{
    enum { ZERO = 127, DECADES = 7 };
    static const float decades[DECADES] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1};
    int at = ZERO;
    values[at++] = 0;
    for (int i = 0; i < DECADES; i++) {
        int cells = 1 << i;
        float corners[(1 << (DECADES - 1)) + 1], step = (1 - 0.1f) / (float)cells;
        for (int j = 0; j <= cells; j++)
            corners[j] =
                2 * j < cells + 1 ? fmaf(step, (float)j, 0.1f) : fmaf(-step, (float)(cells - j), 1);
        for (int j = 0; j < cells; j++)
            values[at++] = decades[i] * ((corners[j] + corners[j + 1]) / 2);
    }
    values[at] = 1;
    for (int i = 1; i <= ZERO; i++)
        values[ZERO - i] = -values[ZERO + i];
}

/* The nearest; from the very middle, down. */
static uint8_t nearest(const float values[256], float v)
{
    int low = 0, high = 255;
    while (low < high) {
        int middle = (low + high) / 2;
        if (v > (values[middle] + values[middle + 1]) * 0.5f)
            low = middle + 1;
        else
            high = middle;
    }
    return (uint8_t)low;
}

float nf4_nest(const float values[256], const float *absmax, size_t n, float mean, uint8_t *codes)
{
    float greatest = 0;
    for (size_t i = 0; i < n; i++)
        greatest = fmaxf(greatest, fabsf(absmax[i] - mean));
    /* where all are alike nothing is left */
    float inverse = greatest > 0 ? 1 / greatest : 0;
    for (size_t i = 0; i < n; i++)
        codes[i] = nearest(values, fminf(fmaxf((absmax[i] - mean) * inverse, -1), 1));
    return greatest;
}

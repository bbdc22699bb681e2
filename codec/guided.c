/* SPDX-License-Identifier: MIT */
#include "codec/guided.h"

#include "codec/block.h"
#include "codec/float16.h"
#include "codec/isa.h"

enum { PLANES = 2, GROUPS_MAX = SUPERBLOCK / 16 };

static encode_rows_fn encode_guided;

/* clang-format off */
const struct format guided_formats[GUIDED_FORMAT_COUNT] = {
    {"q5_k-guided", "Q5_K-guided", 13, 256, 176, false, true, false, 1, NULL, decode_q5_k, 2, {0, 2},   0x7c00, 0, 0.1f, false, .encode_rows = encode_guided, .plain = &formats[FORMAT_Q5_K]},
    {"q4_k-guided", "Q4_K-guided", 12, 256, 144, false, true, false, 1, NULL, decode_q4_k, 2, {0, 2},   0x7c00, 0, 0.1f, false, .encode_rows = encode_guided, .plain = &formats[FORMAT_Q4_K]},
    {"q3_k-guided", "Q3_K-guided", 11, 256, 110, false, true, false, 1, NULL, decode_q3_k, 1, {108},    0x7c00, 0, 0.1f, false, .encode_rows = encode_guided, .plain = &formats[FORMAT_Q3_K]},
    {"q2_k-guided", "Q2_K-guided", 10, 256, 84,  false, true, false, 1, NULL, decode_q2_k, 2, {80, 82}, 0x7c00, 0, 0.1f, false, .encode_rows = encode_guided, .plain = &formats[FORMAT_Q2_K]},
};
/* clang-format on */

const struct format *guided_format_of(const struct format *plain)
{
    for (int i = 0; i < GUIDED_FORMAT_COUNT; i++)
        if (guided_formats[i].plain == plain)
            return &guided_formats[i];
    return NULL;
}

/* ---- superblocks ---- */

static void scales_q2_k(const void *block, float *scales, float *mins)
{
    const struct block_q2_k *b = block;
    float d = f32_from_f16(b->d), dmin = f32_from_f16(b->dmin);
    for (int j = 0; j < 16; j++) {
        scales[j] = d * (float)(b->scales[j] & 15);
        mins[j] = dmin * (float)(b->scales[j] >> 4);
    }
}

static void scales_q3_k(const void *block, float *scales, float *mins)
{
    const struct block_q3_k *b = block;
    float d = f32_from_f16(b->d);
    for (int j = 0; j < 16; j++) {
        int low = b->scales[j % 8] >> 4 * (j / 8) & 15;
        int high = b->scales[8 + j % 4] >> 2 * (j / 4) & 3;
        scales[j] = d * (float)((low | high << 4) - 32);
        mins[j] = 0;
    }
}

/* Q5_K begins as Q4_K does. */
static void scales_q4_k(const void *block, float *scales, float *mins)
{
    const struct block_q4_k *b = block;
    float d = f32_from_f16(b->d), dmin = f32_from_f16(b->dmin);
    for (int j = 0; j < 8; j++) {
        uint8_t scale, min;
        scale_min_get(j, b->scales, &scale, &min);
        scales[j] = d * (float)scale;
        mins[j] = dmin * (float)min;
    }
}

/* How the codes of a superblock lie in it: in planes of 1, 2 or 4 bits, the low bits first. A byte of
 * a plane has the bits of weights that are 32 apart, from its lowest bits up. */
struct code_layout {
    int group;
    float low, high; /* levels */
    struct {
        uint8_t at, bits; /* 0: no plane */
    } planes[PLANES];
    void (*scales)(const void *block, float *scales, float *mins); /* of all groups */
};

/* clang-format off */
static const struct code_layout code_layouts[GUIDED_FORMAT_COUNT] = {
    {32, 0,  31, {{offsetof(struct block_q5_k, qs), 4}, {offsetof(struct block_q5_k, qh), 1}},    scales_q4_k},
    {32, 0,  15, {{offsetof(struct block_q4_k, qs), 4}},                                          scales_q4_k},
    {16, -4, 3,  {{offsetof(struct block_q3_k, qs), 2}, {offsetof(struct block_q3_k, hmask), 1}}, scales_q3_k},
    {16, 0,  3,  {{offsetof(struct block_q2_k, qs), 2}},                                          scales_q2_k},
};
/* clang-format on */

/* Byte `at` of a plane has the code of weight i of the superblock, shifted by so much. */
struct place {
    int at, shift;
};

static inline struct place place_of(int bits, int i)
{
    int strides = 8 / bits;
    return (struct place){i / (32 * strides) * 32 + i % 32, i / 32 % strides * bits};
}

static void get_codes(const struct code_layout *l, const uint8_t *block, uint8_t codes[SUPERBLOCK])
{
    memset(codes, 0, SUPERBLOCK);
    int shift = 0;
    for (int p = 0; p < PLANES && l->planes[p].bits; p++) {
        int bits = l->planes[p].bits;
        for (int i = 0; i < SUPERBLOCK; i++) {
            struct place from = place_of(bits, i);
            int code = block[l->planes[p].at + from.at] >> from.shift & ((1 << bits) - 1);
            codes[i] |= (uint8_t)(code << shift);
        }
        shift += bits;
    }
}

static void put_codes(const struct code_layout *l, const uint8_t codes[SUPERBLOCK], uint8_t *block)
{
    int shift = 0;
    for (int p = 0; p < PLANES && l->planes[p].bits; p++) {
        int bits = l->planes[p].bits;
        uint8_t *plane = block + l->planes[p].at;
        memset(plane, 0, SUPERBLOCK / 8 * (size_t)bits);
        for (int i = 0; i < SUPERBLOCK; i++) {
            struct place to = place_of(bits, i);
            plane[to.at] |= (uint8_t)((codes[i] >> shift & ((1 << bits) - 1)) << to.shift);
        }
        shift += bits;
    }
}

/* ---- rows ---- */

static void get_row(const struct feedback_rows *q, const struct code_layout *l, size_t row,
                    const uint8_t *block, size_t block_size)
{
    size_t groups = SUPERBLOCK / q->group;
    uint8_t *codes = q->codes + row * q->columns;
    for (size_t g = 0; g < q->columns / q->group; g += groups, block += block_size) {
        float scales[GROUPS_MAX], mins[GROUPS_MAX];
        l->scales(block, scales, mins);
        for (size_t j = 0; j < groups; j++) {
            q->scales[g + j][row] = scales[j];
            q->mins[g + j][row] = mins[j];
        }
        get_codes(l, block, codes + g * q->group);
    }
}

/* Lanes without a row of their own are quantized, too, but nobody looks at them. */
static void clear_lanes(const struct feedback_rows *q)
{
    for (size_t g = 0; g < q->columns / q->group; g++)
        for (size_t row = q->rows; row < FEEDBACK_ROWS; row++)
            q->scales[g][row] = 1;
}

static void encode_guided(const struct format *f, const struct isa *isa, float *x, size_t nrows,
                          size_t ncols, const float *importance, const struct feedback *feedback,
                          void *scratch, void *out)
{
    const struct code_layout *l = &code_layouts[f - guided_formats];
    isa->encode[f->plain - formats](x, nrows, ncols, importance, out);
    if (!feedback)
        return;
    size_t row_size = ncols / f->block * f->block_size;
    struct feedback_rows q = {.x = x,
                              .rows = nrows,
                              .columns = ncols,
                              .low = l->low,
                              .high = l->high,
                              .group = (size_t)l->group};
    feedback_begin(&q, scratch);
    clear_lanes(&q);
    uint8_t *bytes = out;
    for (size_t row = 0; row < nrows; row++)
        get_row(&q, l, row, bytes + row * row_size, f->block_size);
    isa->feedback(&q, feedback);
    for (size_t row = 0; row < nrows; row++)
        for (size_t c = 0; c < ncols; c += SUPERBLOCK)
            put_codes(l, q.codes + row * ncols + c,
                      bytes + row * row_size + c / SUPERBLOCK * f->block_size);
}

/* SPDX-License-Identifier: MIT
 *
 * From nf4 and int8 to the tensors of bitsandbytes' loaders. Codes and absmax keep their order and
 * move apart. Where absmax is quantized in turn, a unit has all that is quantized together, and
 * what is taken off before is the mean of the whole matrix: whoever asks for it knows it already.
 */
#include "codec/repack.h"

#include "codec/bnb/format.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CODES_SIZE = NF4_BLOCK / 2, ABSMAX_SIZE = sizeof(float), STATE_SIZE = 200 };

static uint64_t blocks_of(const struct repack_matrix *m)
{
    uint64_t n = m->rows * m->cols;
    return n / NF4_BLOCK + (n % NF4_BLOCK != 0);
}

/* The units whose blocks have `each` bytes of a window. */
static struct repack_units units_in(uint64_t at, size_t size, uint64_t each)
{
    uint64_t first = at / each / NF4_NESTED, last = (at + size - 1) / each / NF4_NESTED;
    return (struct repack_units){first, last - first + 1};
}

/* The blocks of a run of units, of which the last may lack some. */
static struct repack_units blocks_in(const struct repack_matrix *m, struct repack_units run)
{
    uint64_t first = run.first * NF4_NESTED, end = (run.first + run.count) * NF4_NESTED;
    return (struct repack_units){first, (end < blocks_of(m) ? end : blocks_of(m)) - first};
}

/* Of those, the ones that have `each` bytes in the window. */
static struct repack_units blocks_shown(const struct repack_matrix *m, struct repack_units run,
                                        const struct repack_window *w, uint64_t each)
{
    struct repack_units blocks = blocks_in(m, run);
    uint64_t first = w->at / each, end = (w->at + w->size - 1) / each + 1;
    uint64_t from = first > blocks.first ? first : blocks.first;
    uint64_t to = end < blocks.first + blocks.count ? end : blocks.first + blocks.count;
    return (struct repack_units){from, to > from ? to - from : 0};
}

static const uint8_t *block_at(const uint8_t *bytes, struct repack_units run, uint64_t block)
{
    return bytes + (block - run.first * NF4_NESTED) * NF4_SIZE;
}

/* ---- NF4: weight, two codes in a byte ---- */

static void codes_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    uint64_t n = m->rows * m->cols;
    shape[0] = n / 2 + n % 2;
    shape[1] = 1;
}

static struct repack_units codes_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    (void)m;
    return units_in(at, size, CODES_SIZE);
}

static int codes_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)err;
    struct repack_units shown = blocks_shown(m, run, w, CODES_SIZE);
    for (uint64_t b = shown.first; b < shown.first + shown.count; b++)
        repack_copy(w, b * CODES_SIZE, block_at(bytes, run, b) + ABSMAX_SIZE, CODES_SIZE);
    return 0;
}

/* ---- weight.absmax, as floats ---- */

static void blocks_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = blocks_of(m);
}

static struct repack_units absmax_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    (void)m;
    return units_in(at, size, ABSMAX_SIZE);
}

static int absmax_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      const struct repack_window *w, struct error *err)
{
    (void)err;
    struct repack_units shown = blocks_shown(m, run, w, ABSMAX_SIZE);
    for (uint64_t b = shown.first; b < shown.first + shown.count; b++)
        repack_copy(w, b * ABSMAX_SIZE, block_at(bytes, run, b), ABSMAX_SIZE);
    return 0;
}

/* ---- weight.absmax, quantized, and weight.nested_absmax: the scales of that ---- */

static struct repack_units nested_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    (void)m;
    return units_in(at, size, 1);
}

static void nested_scales_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    uint64_t blocks = blocks_of(m);
    shape[0] = blocks / NF4_NESTED + (blocks % NF4_NESTED != 0);
}

static struct repack_units nested_scales_need(const struct repack_matrix *m, uint64_t at,
                                              size_t size)
{
    (void)m;
    uint64_t first = at / ABSMAX_SIZE;
    return (struct repack_units){first, (at + size - 1) / ABSMAX_SIZE - first + 1};
}

/* Each unit's codes, or their scales. */
static void put_nested(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                       bool scales, const struct repack_window *w)
{
    float values[256], absmax[NF4_NESTED];
    uint8_t codes[NF4_NESTED];
    nf4_nested_values(values);
    for (uint64_t unit = run.first; unit < run.first + run.count; unit++) {
        struct repack_units blocks = blocks_in(m, (struct repack_units){unit, 1});
        for (uint64_t i = 0; i < blocks.count; i++)
            memcpy(&absmax[i], block_at(bytes, run, blocks.first + i), sizeof *absmax);
        float scale = nf4_nest(values, absmax, (size_t)blocks.count, m->mean, codes);
        if (scales)
            repack_copy(w, unit * sizeof scale, &scale, sizeof scale);
        else
            repack_copy(w, blocks.first, codes, (size_t)blocks.count);
    }
}

static int nested_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      const struct repack_window *w, struct error *err)
{
    (void)err;
    put_nested(m, bytes, run, false, w);
    return 0;
}

static int nested_scales_put(const struct repack_matrix *m, const uint8_t *bytes,
                             struct repack_units run, const struct repack_window *w,
                             struct error *err)
{
    (void)err;
    put_nested(m, bytes, run, true, w);
    return 0;
}

/* ---- weight.quant_map, weight.nested_quant_map: what the codes mean ---- */

static void map_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    (void)m;
    shape[0] = 16;
}

static int map_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                   const struct repack_window *w, struct error *err)
{
    (void)m;
    (void)bytes;
    (void)run;
    (void)err;
    repack_copy(w, 0, nf4_values, sizeof nf4_values);
    return 0;
}

static void nested_map_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    (void)m;
    shape[0] = 256;
}

static int nested_map_put(const struct repack_matrix *m, const uint8_t *bytes,
                          struct repack_units run, const struct repack_window *w, struct error *err)
{
    (void)m;
    (void)bytes;
    (void)run;
    (void)err;
    float values[256];
    nf4_nested_values(values);
    repack_copy(w, 0, values, sizeof values);
    return 0;
}

/* ---- weight.quant_state.bitsandbytes__nf4: JSON, with spaces behind it ---- */

static void state_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    (void)m;
    shape[0] = STATE_SIZE;
}

/* A number as Python prints it: as few digits as tell it from all others. */
static void print_number(double v, char out[32])
{
    int digits = 0;
    do
        snprintf(out, 32, "%.*e", digits++, v);
    while (strtod(out, NULL) != v && digits < 17);
    int exponent = atoi(strchr(out, 'e') + 1), decimals = digits - 1 - exponent;
    if (exponent >= -4 && exponent < 16)
        snprintf(out, 32, "%.*f", decimals > 1 ? decimals : 1, v);
}

static void put_state(const struct repack_matrix *m, const char *nested,
                      const struct repack_window *w)
{
    char text[STATE_SIZE + 1];
    int n = snprintf(text, sizeof text,
                     "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"%s\", "
                     "\"shape\": [%" PRIu64 ", %" PRIu64 "]%s}",
                     NF4_BLOCK, format_torch_name(&formats[m->type]), m->rows, m->cols, nested);
    memset(text + n, ' ', STATE_SIZE - (size_t)n);
    repack_copy(w, 0, text, STATE_SIZE);
}

static int state_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)bytes;
    (void)run;
    (void)err;
    put_state(m, "", w);
    return 0;
}

static int nested_state_put(const struct repack_matrix *m, const uint8_t *bytes,
                            struct repack_units run, const struct repack_window *w,
                            struct error *err)
{
    (void)bytes;
    (void)run;
    (void)err;
    char number[32], nested[112];
    print_number(m->mean, number);
    snprintf(nested, sizeof nested,
             ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %s",
             NF4_NESTED, number);
    put_state(m, nested, w);
    return 0;
}

#define STATE "weight.quant_state.bitsandbytes__nf4"

const struct repack nf4_repacks[NF4_REPACK_COUNT] = {
    {"weight.absmax",    "F32", 4, 1, blocks_shape, absmax_need, absmax_put, false},
    {"weight.quant_map", "F32", 4, 1, map_shape,    NULL,        map_put,    false},
    {STATE,              "U8",  1, 1, state_shape,  NULL,        state_put,  false},
    {"weight",           "U8",  1, 2, codes_shape,  codes_need,  codes_put,  false},
};

const struct repack nf4_dq_repacks[NF4_DQ_REPACK_COUNT] = {
    {"weight.nested_absmax",    "F32", 4, 1, nested_scales_shape, nested_scales_need,
     nested_scales_put,                                                                                 true },
    {"weight.nested_quant_map", "F32", 4, 1, nested_map_shape,    NULL,               nested_map_put,   false},
    {"weight.quant_map",        "F32", 4, 1, map_shape,           NULL,               map_put,          false},
    {STATE,                     "U8",  1, 1, state_shape,         NULL,               nested_state_put, true },
    {"weight.absmax",           "U8",  1, 1, blocks_shape,        nested_need,        nested_put,       true },
    {"weight",                  "U8",  1, 2, codes_shape,         codes_need,         codes_put,        false},
};

/* ---- INT8 ---- */

static void int8_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->rows;
    shape[1] = m->cols;
}

/* The rows that have `each` bytes in a window. */
static struct repack_units rows_in(uint64_t at, size_t size, uint64_t each)
{
    uint64_t first = at / each;
    return (struct repack_units){first, (at + size - 1) / each - first + 1};
}

static struct repack_units int8_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return rows_in(at, size, m->cols);
}

static struct repack_units greatest_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    (void)m;
    return rows_in(at, size, ABSMAX_SIZE);
}

static int int8_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                    const struct repack_window *w, struct error *err)
{
    (void)err;
    size_t cols = (size_t)m->cols;
    for (uint64_t i = 0; i < run.count; i++)
        repack_copy(w, (run.first + i) * cols, bytes + i * (ABSMAX_SIZE + cols) + ABSMAX_SIZE,
                    cols);
    return 0;
}

static int greatest_put(const struct repack_matrix *m, const uint8_t *bytes,
                        struct repack_units run, const struct repack_window *w, struct error *err)
{
    (void)err;
    for (uint64_t i = 0; i < run.count; i++)
        repack_copy(w, (run.first + i) * ABSMAX_SIZE, bytes + i * (ABSMAX_SIZE + (size_t)m->cols),
                    ABSMAX_SIZE);
    return 0;
}

/* Rows as they are: 0. */
static int layout_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      const struct repack_window *w, struct error *err)
{
    static const uint8_t by_rows = 0;
    (void)m;
    (void)bytes;
    (void)run;
    (void)err;
    repack_copy(w, 0, &by_rows, sizeof by_rows);
    return 0;
}

static void rows_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->rows;
}

static void scalar_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    (void)m;
    (void)shape;
}

const struct repack int8_repacks[INT8_REPACK_COUNT] = {
    {"SCB",           "F32", 4, 1, rows_shape,   greatest_need, greatest_put, false},
    {"weight",        "I8",  1, 2, int8_shape,   int8_need,     int8_put,     false},
    {"weight_format", "U8",  1, 0, scalar_shape, NULL,          layout_put,   false},
};

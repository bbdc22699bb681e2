/* SPDX-License-Identifier: MIT
 *
 * From gptq4-g128 and its kin to the four tensors of GPTQ's loaders. These have the codes of a row in
 * a column of words and the scales of a row in a column of halfs; within a column the bits are in the
 * order that they have here. So a window nearly always needs a little of every row.
 */
#include "codec/repack.h"

#include "codec/bytes.h"
#include "codec/gptq/format.h"

enum { WORD_BITS = 32, SCALE_SIZE = sizeof(uint16_t) };

static uint64_t groups_of(const struct repack_matrix *m)
{
    return m->cols / m->format->block;
}

/* ---- columns of elements ---- */

/* The rows that have elements in a window: as many as it has elements, where these are beside each
 * other, else all. */
static struct repack_units rows_in(const struct repack_matrix *m, uint64_t at, size_t size,
                                   uint64_t width)
{
    uint64_t first = at / width, last = (at + size - 1) / width;
    if (first / m->rows != last / m->rows)
        return (struct repack_units){0, m->rows};
    return (struct repack_units){first % m->rows, last - first + 1};
}

/* Element e of a row is `width` bytes at e / per_group groups, lead and e % per_group elements. */
static void put_columns(const struct repack_matrix *m, const uint8_t *bytes,
                        struct repack_units run, const struct repack_window *w, size_t width,
                        size_t lead, uint64_t per_group)
{
    size_t row_size = repack_unit_size(m), group_size = m->format->block_size;
    uint64_t first = w->at / width / m->rows, last = (w->at + w->size - 1) / width / m->rows;
    for (uint64_t row = run.first; row < run.first + run.count; row++, bytes += row_size)
        for (uint64_t e = first; e <= last; e++)
            repack_copy(w, (e * m->rows + row) * width,
                        bytes + e / per_group * group_size + lead + e % per_group * width, width);
}

/* ---- qweight ---- */

/* Words of a row's codes in a group. */
static uint64_t words_of(const struct repack_matrix *m)
{
    return (m->format->block_size - SCALE_SIZE) / sizeof(uint32_t);
}

static void codes_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = groups_of(m) * words_of(m);
    shape[1] = m->rows;
}

static struct repack_units codes_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return rows_in(m, at, size, sizeof(uint32_t));
}

static int codes_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)err;
    put_columns(m, bytes, run, w, sizeof(uint32_t), SCALE_SIZE, words_of(m));
    return 0;
}

/* ---- qzeros: 2^(bits - 1) everywhere, of which version 1 stores one less ---- */

static void zeros_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = groups_of(m);
    shape[1] = m->rows * (uint64_t)gptq_bits(m->format) / WORD_BITS;
}

/* A number has all bits set but the highest. */
static uint32_t zeros_word(uint64_t word, unsigned bits)
{
    uint32_t out = 0;
    for (unsigned i = 0; i < WORD_BITS; i++)
        out |= (uint32_t)((word * WORD_BITS + i) % bits != bits - 1) << i;
    return out;
}

static int zeros_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)bytes;
    (void)run;
    (void)err;
    uint64_t shape[REPACK_DIMS];
    unsigned bits = (unsigned)gptq_bits(m->format);
    zeros_shape(m, shape);
    for (uint64_t i = w->at / sizeof(uint32_t); i * sizeof(uint32_t) < w->at + w->size; i++) {
        uint32_t word = zeros_word(i % shape[1], bits);
        repack_copy(w, i * sizeof word, &word, sizeof word);
    }
    return 0;
}

/* ---- scales ---- */

static void scales_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = groups_of(m);
    shape[1] = m->rows;
}

static struct repack_units scales_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return rows_in(m, at, size, SCALE_SIZE);
}

static int scales_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      const struct repack_window *w, struct error *err)
{
    (void)err;
    put_columns(m, bytes, run, w, SCALE_SIZE, 0, 1);
    return 0;
}

/* ---- g_idx: the group of every column ---- */

static void groups_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->cols;
}

static int groups_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      const struct repack_window *w, struct error *err)
{
    (void)bytes;
    (void)run;
    (void)err;
    for (uint64_t c = w->at / sizeof(uint32_t); c * sizeof(uint32_t) < w->at + w->size; c++) {
        uint32_t group = (uint32_t)(c / m->format->block);
        repack_copy(w, c * sizeof group, &group, sizeof group);
    }
    return 0;
}

const struct repack gptq_repacks[GPTQ_REPACK_COUNT] = {
    {"qweight", "I32", 4, 2, codes_shape,  codes_need,  codes_put, false},
    {"qzeros",  "I32", 4, 2, zeros_shape,  NULL,        zeros_put, false},
    {"scales",  "F16", 2, 2, scales_shape, scales_need, scales_put, false},
    {"g_idx",   "I32", 4, 1, groups_shape, NULL,        groups_put, false},
};

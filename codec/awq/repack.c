/* SPDX-License-Identifier: MIT
 *
 * From rows of AWQ's groups (FORMAT.md) to the three tensors of its loaders, in the layout that they
 * call gemm. A word there has the codes of eight rows in one column, so rows come and go in eights,
 * and a window nearly always needs a little of every row.
 */
#include "codec/repack.h"

#include "codec/awq/format.h"
#include "codec/bytes.h"

enum { WORD_ROWS = 8, WORD_SIZE = sizeof(uint32_t) };

/* Where in a word the codes of eight rows stand: first those of even numbers, then the others. */
static const uint8_t shifts[WORD_ROWS] = {0, 16, 4, 20, 8, 24, 12, 28};

static uint64_t groups_of(const struct repack_matrix *m)
{
    return m->cols / AWQ_GROUP;
}

/* The rows of elements `width` wide, each of which has `rows` rows: those between the first and the
 * last where these are in one line, else all. */
static struct repack_units rows_in(const struct repack_matrix *m, uint64_t at, size_t size,
                                   uint64_t width, uint64_t rows)
{
    uint64_t line = m->rows / rows, first = at / width, last = (at + size - 1) / width;
    if (first / line != last / line)
        return (struct repack_units){0, m->rows};
    return (struct repack_units){first % line * rows, (last - first + 1) * rows};
}

/* ---- words of eight rows ---- */

/* Puts those bits of a word that are in the mask, and leaves the others, whose rows come another time. */
static void put_word(const struct repack_window *w, uint64_t at, uint32_t word, uint32_t mask)
{
    if (mask == UINT32_MAX) {
        repack_copy(w, at, &word, WORD_SIZE);
        return;
    }
    for (unsigned i = 0; i < WORD_SIZE; i++, word >>= 8, mask >>= 8) {
        uint64_t byte = at + i - w->at;
        if (at + i >= w->at && byte < w->size)
            w->out[byte] = (uint8_t)((w->out[byte] & ~mask) | (word & mask));
    }
}

/* The rows of a word that are in a run, and where the first of them lies. */
struct rows {
    const uint8_t *bytes;
    unsigned first, end;
    uint32_t mask;
};

static struct rows rows_of_word(const uint8_t *bytes, struct repack_units run, uint64_t word,
                                size_t row_size)
{
    uint64_t start = word * WORD_ROWS, end = start + WORD_ROWS;
    struct rows r = {.first = run.first > start ? (unsigned)(run.first - start) : 0,
                     .end = run.first + run.count < end ? (unsigned)(run.first + run.count - start)
                                                        : WORD_ROWS};
    r.bytes = bytes + (start + r.first - run.first) * row_size;
    for (unsigned i = r.first; i < r.end; i++)
        r.mask |= 15u << shifts[i];
    return r;
}

/* Where a line of numbers of four bits lies in a row, and in which half of the byte. */
struct place {
    size_t byte;
    unsigned shift;
};

typedef struct place place_fn(uint64_t line);

static struct place code_place(uint64_t column)
{
    size_t i = (size_t)(column % AWQ_GROUP);
    return (struct place){(size_t)(column / AWQ_GROUP) * AWQ_BLOCK_SIZE + AWQ_HEAD_SIZE + i / 2,
                          i % 2 * 4};
}

static struct place zero_place(uint64_t group)
{
    return (struct place){(size_t)group * AWQ_BLOCK_SIZE + AWQ_SCALE_SIZE, 0};
}

static inline void put_lines(const struct repack_matrix *m, const uint8_t *bytes,
                             struct repack_units run, const struct repack_window *w,
                             place_fn *place)
{
    size_t row_size = repack_unit_size(m);
    uint64_t words = m->rows / WORD_ROWS;
    uint64_t first = w->at / WORD_SIZE / words, last = (w->at + w->size - 1) / WORD_SIZE / words;
    for (uint64_t k = run.first / WORD_ROWS; k * WORD_ROWS < run.first + run.count; k++) {
        struct rows r = rows_of_word(bytes, run, k, row_size);
        for (uint64_t line = first; line <= last; line++) {
            struct place p = place(line);
            const uint8_t *at = r.bytes + p.byte;
            uint32_t word = 0;
            for (unsigned i = r.first; i < r.end; i++, at += row_size)
                word |= (uint32_t)(*at >> p.shift & 15) << shifts[i];
            put_word(w, (line * words + k) * WORD_SIZE, word, r.mask);
        }
    }
}

static struct repack_units words_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return rows_in(m, at, size, WORD_SIZE, WORD_ROWS);
}

/* ---- qweight ---- */

static void codes_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->cols;
    shape[1] = m->rows / WORD_ROWS;
}

static int codes_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)err;
    put_lines(m, bytes, run, w, code_place);
    return 0;
}

/* ---- qzeros ---- */

static void zeros_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = groups_of(m);
    shape[1] = m->rows / WORD_ROWS;
}

static int zeros_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)err;
    put_lines(m, bytes, run, w, zero_place);
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
    return rows_in(m, at, size, AWQ_SCALE_SIZE, 1);
}

static int scales_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      const struct repack_window *w, struct error *err)
{
    (void)err;
    size_t row_size = repack_unit_size(m);
    uint64_t first = w->at / AWQ_SCALE_SIZE / m->rows;
    uint64_t last = (w->at + w->size - 1) / AWQ_SCALE_SIZE / m->rows;
    for (uint64_t row = run.first; row < run.first + run.count; row++, bytes += row_size)
        for (uint64_t g = first; g <= last; g++)
            repack_copy(w, (g * m->rows + row) * AWQ_SCALE_SIZE, bytes + g * AWQ_BLOCK_SIZE,
                        AWQ_SCALE_SIZE);
    return 0;
}

const struct repack awq_repacks[AWQ_REPACK_COUNT] = {
    {"qweight", "I32", 4, 2, codes_shape,  words_need,  codes_put, false},
    {"qzeros",  "I32", 4, 2, zeros_shape,  words_need,  zeros_put, false},
    {"scales",  "F16", 2, 2, scales_shape, scales_need, scales_put, false},
};

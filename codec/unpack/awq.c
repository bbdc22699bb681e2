/* SPDX-License-Identifier: MIT
 *
 * AWQ in the layout "gemm": a row of words for each column of the matrix, eight rows in a word, the
 * even ones in its lower half; zeros alike, a row of words for each group of columns.
 */
#include "codec/bytes.h"
#include "codec/unpack/unpack.h"

#include <errno.h>
#include <inttypes.h>

enum { QWEIGHT, QZEROS, SCALES, PARTS };
enum { BITS = 4, IN_WORD = 8, WORD_SIZE = 4, VALUES = 1 << BITS };

/* Where in a word the code of row k is. */
static unsigned shift_of(uint64_t row)
{
    unsigned k = (unsigned)(row % IN_WORD);
    return BITS * (k / 2 + k % 2 * (IN_WORD / 2));
}

static int make(const struct unpack_settings *s, struct derived *d, struct error *err)
{
    const struct tensor *words = d->parts[QWEIGHT], *scales = d->parts[SCALES];
    d->bits = BITS;
    d->across = true;
    if (words->ndim != 2)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is no matrix", words->name);
    d->cols = words->shape[0];
    d->group = s->group ? s->group : d->cols;
    if (__builtin_mul_overflow(words->shape[1], (uint64_t)IN_WORD, &d->rows) || !d->cols ||
        d->cols % d->group)
        return error_set(err, -EINVAL, "tensor \"%s\" has an impossible shape", words->name);
    uint64_t groups = d->cols / d->group;
    int rc = unpack_check(words, "I32", 2, d->cols, words->shape[1], err);
    rc = rc ? rc : unpack_check(d->parts[QZEROS], "I32", 2, groups, words->shape[1], err);
    rc = rc ? rc : unpack_check_floats(scales, err);
    rc = rc ? rc : unpack_check(scales, NULL, 2, groups, d->rows, err);
    d->type = scales->dtype;
    return rc;
}

/* The words of the window's rows, out of rows of them. */
static int read_words(const struct derived *d, const struct derived_reader *r, uint32_t part,
                      const struct unpack_window *w, uint64_t first, uint64_t count, uint8_t **out,
                      struct error *err)
{
    uint64_t from = w->row / IN_WORD, until = (w->row + w->rows - 1) / IN_WORD + 1;
    return unpack_read(r, part, first, count, d->rows / IN_WORD * WORD_SIZE, from * WORD_SIZE,
                       (until - from) * WORD_SIZE, out, err);
}

/* Codes of `count` columns, whose words are `step` bytes apart; all that they can be is worked out
 * before. The product is rounded once, to the type of the scales. */
static void decode_group(const struct derived *d, const uint8_t *words, size_t step, size_t count,
                         unsigned shift, float scale, unsigned zero, float *out)
{
    float values[VALUES];
    for (int q = 0; q < VALUES; q++)
        values[q] = scale * (float)(q - (int)zero);
    derived_round(d, NULL, values, VALUES);
    for (size_t c = 0; c < count; c++)
        out[c] = values[load_u32(words + c * step) >> shift & (VALUES - 1)];
}

static void decode_row(const struct derived *d, const struct unpack_window *w, size_t row,
                       const uint8_t *words, const uint8_t *zeros, const float *scales, float *out)
{
    uint64_t begin = w->row / IN_WORD, word = (w->row + row) / IN_WORD - begin;
    size_t step = (size_t)((w->row + w->rows - 1) / IN_WORD + 1 - begin) * WORD_SIZE;
    unsigned shift = shift_of(w->row + row);
    words += word * WORD_SIZE;
    zeros += word * WORD_SIZE;
    for (size_t done = 0, group = 0; done < w->cols; group++) {
        uint64_t left = d->group - (w->col + done) % d->group;
        size_t run = w->cols - done < left ? w->cols - done : (size_t)left;
        decode_group(d, words + done * step, step, run, shift, scales[group * w->rows + row],
                     load_u32(zeros + group * step) >> shift & (VALUES - 1), out + done);
        done += run;
    }
}

static int weights(const struct derived *d, const struct isa *isa, const struct derived_reader *r,
                   uint64_t first, size_t n, float *out, struct error *err)
{
    (void)isa;
    struct unpack_window w = unpack_window_of(d, first, n);
    uint64_t group = w.col / d->group, groups = (w.col + w.cols - 1) / d->group - group + 1;
    uint8_t *words = NULL, *zeros = NULL;
    float *scales = NULL;
    int rc = read_words(d, r, QWEIGHT, &w, w.col, w.cols, &words, err);
    rc = rc ? rc : read_words(d, r, QZEROS, &w, group, groups, &zeros, err);
    rc = rc ? rc
            : unpack_read_floats(d, r, SCALES, group, groups, d->rows, w.row, w.rows, &scales, err);
    for (size_t row = 0; !rc && row < w.rows; row++)
        decode_row(d, &w, row, words, zeros, scales, out + row * w.cols);
    free(words);
    free(zeros);
    free(scales);
    return rc;
}

/* clang-format off */
const struct unpack unpack_awq = {{"awq", 1, true, weights}, PARTS, 0, make};
/* clang-format on */

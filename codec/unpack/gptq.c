/* SPDX-License-Identifier: MIT
 *
 * GPTQ, versions 1 and 2: codes of a row in a column of words, the lowest bits first; the zeros of a
 * group beside each other in the same way; scales; and for each column the number of its group.
 */
#include "codec/bytes.h"
#include "codec/unpack/unpack.h"

#include <errno.h>
#include <inttypes.h>

enum { QWEIGHT, QZEROS, SCALES, G_IDX, PARTS };
enum { WORD = 32, WORD_SIZE = 4 };

static int make(const struct unpack_settings *s, struct derived *d, struct error *err)
{
    const struct tensor *words = d->parts[QWEIGHT];
    uint64_t bits = s->bits, string, zeros;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return error_set(err, -ENOTSUP, "codes of %" PRIu64 " bits are not known", bits);
    if (words->ndim != 2)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is no matrix", words->name);
    d->type = dtype_by_name("F32");
    d->across = true;
    d->rows = words->shape[1];
    if (__builtin_mul_overflow(words->shape[0], (uint64_t)WORD, &string) || string % bits ||
        __builtin_mul_overflow(d->rows, bits, &zeros) || zeros % WORD || !string || !zeros)
        return error_set(err, -EINVAL,
                         "tensor \"%s\": its shape does not fit codes of %" PRIu64 " bits",
                         words->name, bits);
    d->cols = string / bits;
    d->group = s->group ? s->group : d->cols;
    uint64_t groups = (d->cols - 1) / d->group + 1;
    int rc = unpack_check(words, "I32", 2, words->shape[0], d->rows, err);
    rc = rc ? rc : unpack_check(d->parts[QZEROS], "I32", 2, groups, zeros / WORD, err);
    rc = rc ? rc : unpack_check_floats(d->parts[SCALES], err);
    rc = rc ? rc : unpack_check(d->parts[SCALES], NULL, 2, groups, d->rows, err);
    if (!rc && d->parts[G_IDX])
        rc = unpack_check(d->parts[G_IDX], "I32", 1, d->cols, 0, err);
    return rc;
}

/* ---- groups of columns ---- */

/* Columns beside each other that are of one group. */
struct run {
    uint32_t group, count;
};

struct groups {
    struct run *runs;
    size_t count;
    uint32_t first, last; /* groups that there are */
};

static int add_column(struct groups *g, uint64_t group, uint64_t all, struct error *err)
{
    if (group >= all)
        return error_set(err, -EINVAL, "a column is of group %" PRId32 ", and there are %" PRIu64,
                         (int32_t)group, all);
    struct run *last = g->count ? &g->runs[g->count - 1] : NULL;
    if (last && last->group == group)
        last->count++;
    else
        g->runs[g->count++] = (struct run){(uint32_t)group, 1};
    g->first = group < g->first ? (uint32_t)group : g->first;
    g->last = group > g->last ? (uint32_t)group : g->last;
    return 0;
}

static int read_groups(const struct derived *d, const struct derived_reader *r,
                       const struct unpack_window *w, struct groups *g, struct error *err)
{
    uint8_t *indices = NULL;
    uint64_t all = (d->cols - 1) / d->group + 1;
    *g = (struct groups){.runs = calloc(w->cols, sizeof *g->runs), .first = UINT32_MAX};
    int rc = g->runs ? 0 : error_set(err, -ENOMEM, "out of memory");
    if (!rc && d->parts[G_IDX])
        rc = unpack_read(r, G_IDX, 0, 1, d->cols * WORD_SIZE, w->col * WORD_SIZE,
                         w->cols * WORD_SIZE, &indices, err);
    for (size_t c = 0; !rc && c < w->cols; c++)
        rc = add_column(g, indices ? load_u32(indices + c * WORD_SIZE) : (w->col + c) / d->group,
                        all, err);
    free(indices);
    return rc;
}

/* ---- scales and zeros of the groups that there are, [group][row] ---- */

struct fit {
    float *scales;
    float *zeros;
};

static int read_zeros(const struct derived *d, const struct derived_reader *r,
                      const struct unpack_window *w, const struct groups *g, float *out,
                      struct error *err)
{
    uint64_t skip = w->row % 8, row_size = d->rows * d->bits / 8, at = w->row / 8 * d->bits;
    uint64_t end = (w->row + w->rows + 7) / 8 * d->bits, n = (end < row_size ? end : row_size) - at;
    uint64_t count = g->last - g->first + 1;
    float less = d->variant == GPTQ_ZEROS_LESS_1 ? 1 : 0;
    uint8_t *bytes = NULL, *codes = malloc((size_t)(skip + w->rows));
    int rc = codes ? 0 : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : unpack_read(r, QZEROS, g->first, count, row_size, at, n, &bytes, err);
    for (uint64_t i = 0; !rc && i < count; i++, out += w->rows) {
        unpack_codes(bytes + i * n, (size_t)(skip + w->rows), d->bits, codes);
        for (size_t k = 0; k < w->rows; k++)
            out[k] = (float)codes[skip + k] + less; /* not masked: 16 may be the zero of 4 bits */
    }
    free(codes);
    free(bytes);
    return rc;
}

static int read_fit(const struct derived *d, const struct derived_reader *r,
                    const struct unpack_window *w, const struct groups *g, struct fit *f,
                    struct error *err)
{
    uint64_t count = g->last - g->first + 1;
    f->zeros = calloc((size_t)(count * w->rows), sizeof *f->zeros);
    int rc = f->zeros ? 0 : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : read_zeros(d, r, w, g, f->zeros, err);
    return rc ? rc
              : unpack_read_floats(d, r, SCALES, g->first, count, d->rows, w->row, w->rows,
                                   &f->scales, err);
}

/* ---- weights ---- */

static void decode_row(const struct groups *g, const struct fit *f, size_t row, size_t rows,
                       const uint8_t *codes, float *out)
{
    for (size_t i = 0; i < g->count; i++) {
        size_t n = g->runs[i].count, at = (g->runs[i].group - g->first) * rows + row;
        float scale = f->scales[at], zero = f->zeros[at];
        for (size_t k = 0; k < n; k++)
            out[k] = scale * ((float)codes[k] - zero);
        codes += n;
        out += n;
    }
}

/* Words of a row lie below each other: they are put beside each other first. A multiple of WORD codes
 * is a whole number of words. */
static int decode(const struct derived *d, const struct derived_reader *r,
                  const struct unpack_window *w, const struct groups *g, const struct fit *f,
                  float *out, struct error *err)
{
    uint64_t skip = w->col % WORD, first = w->col / WORD * d->bits, all = d->cols * d->bits / WORD;
    uint64_t end = (w->col + w->cols + WORD - 1) / WORD * d->bits;
    uint64_t count = (end < all ? end : all) - first;
    uint8_t *columns = NULL, *codes = malloc((size_t)(skip + w->cols));
    uint8_t *row_words = calloc((size_t)count * WORD_SIZE + UNPACK_PADDING, 1);
    int rc = codes && row_words ? 0 : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc
            : unpack_read(r, QWEIGHT, first, count, d->rows * WORD_SIZE, w->row * WORD_SIZE,
                          w->rows * WORD_SIZE, &columns, err);
    for (size_t row = 0; !rc && row < w->rows; row++) {
        for (uint64_t i = 0; i < count; i++)
            memcpy(row_words + i * WORD_SIZE, columns + (i * w->rows + row) * WORD_SIZE, WORD_SIZE);
        unpack_codes(row_words, (size_t)(skip + w->cols), d->bits, codes);
        decode_row(g, f, row, w->rows, codes + skip, out + row * w->cols);
    }
    free(columns);
    free(codes);
    free(row_words);
    return rc;
}

static int weights(const struct derived *d, const struct isa *isa, const struct derived_reader *r,
                   uint64_t first, size_t n, float *out, struct error *err)
{
    (void)isa;
    struct unpack_window w = unpack_window_of(d, first, n);
    struct groups g;
    struct fit f = {0};
    int rc = read_groups(d, r, &w, &g, err);
    rc = rc ? rc : read_fit(d, r, &w, &g, &f, err);
    rc = rc ? rc : decode(d, r, &w, &g, &f, out, err);
    free(g.runs);
    free(f.scales);
    free(f.zeros);
    return rc;
}

/* clang-format off */
const struct unpack unpack_gptq = {{"gptq", 1, true, weights}, PARTS, 1 << G_IDX, make};
/* clang-format on */

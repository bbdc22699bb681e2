/* SPDX-License-Identifier: MIT
 *
 * compressed-tensors: integers of a row, packed in words, the lowest bits first, or as bytes; scales of
 * the groups of a row beside each other; zeros, where there are any, packed down the rows.
 */
#include "codec/bytes.h"
#include "codec/unpack/unpack.h"

#include <errno.h>
#include <inttypes.h>

enum { CODES, SCALE, ZERO_POINT, PARTS };
enum { WORD = 32, WORD_SIZE = 4, BITS_MAX = 8 };

static uint64_t groups_of(const struct derived *d)
{
    return (d->cols - 1) / d->group + 1;
}

/* Words of n codes beside each other. */
static uint64_t words_of(const struct derived *d, uint64_t n)
{
    return (n * d->bits - 1) / WORD + 1;
}

static int check_scales(struct derived *d, const struct unpack_settings *s, struct error *err)
{
    d->type = dtype_by_name("F32");
    d->group = s->group && s->group < d->cols ? s->group : d->cols;
    if (d->cols % d->group)
        return error_set(err, -EINVAL,
                         "tensor \"%s\": groups of %" PRIu64
                         " columns do not fit its width of %" PRIu64,
                         d->parts[CODES]->name, d->group, d->cols);
    int rc = unpack_check_floats(d->parts[SCALE], err);
    return rc ? rc : unpack_check(d->parts[SCALE], NULL, 2, d->rows, groups_of(d), err);
}

static int make_packed(const struct unpack_settings *s, struct derived *d, struct error *err)
{
    uint64_t string;
    d->rows = s->rows;
    d->cols = s->cols;
    if (!s->bits || s->bits > BITS_MAX)
        return error_set(err, -ENOTSUP, "codes of %" PRIu32 " bits are not known", s->bits);
    if (!d->rows || !d->cols || __builtin_mul_overflow(d->rows, (uint64_t)s->bits, &string) ||
        __builtin_mul_overflow(d->cols, (uint64_t)s->bits, &string))
        return error_set(err, -EINVAL, "tensor \"%s\" has an impossible shape",
                         d->parts[CODES]->name);
    int rc = unpack_check(d->parts[CODES], "I32", 2, d->rows, words_of(d, d->cols), err);
    rc = rc ? rc : check_scales(d, s, err);
    if (!rc && d->parts[ZERO_POINT])
        rc = unpack_check(d->parts[ZERO_POINT], "I32", 2, words_of(d, d->rows), groups_of(d), err);
    return rc;
}

static int make_bytes(const struct unpack_settings *s, struct derived *d, struct error *err)
{
    const struct tensor *codes = d->parts[CODES];
    d->bits = BITS_MAX;
    if (codes->ndim != 2)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is no matrix", codes->name);
    d->rows = codes->shape[0];
    d->cols = codes->shape[1];
    int rc = unpack_check(codes, "I8", 2, d->rows, d->cols, err);
    if (!rc && (!d->rows || !d->cols))
        rc = error_set(err, -EINVAL, "tensor \"%s\" has no weights", codes->name);
    rc = rc ? rc : check_scales(d, s, err);
    if (!rc && d->parts[ZERO_POINT])
        rc = unpack_check(d->parts[ZERO_POINT], "I8", 2, d->rows, groups_of(d), err);
    return rc;
}

/* ---- scales and zeros of the window, [row][group] ---- */

struct fit {
    uint64_t first; /* group */
    size_t count;
    float *scales;
    float *zeros;
};

static int read_packed_zeros(const struct derived *d, const struct derived_reader *r,
                             const struct unpack_window *w, struct fit *f, struct error *err)
{
    uint64_t first = w->row / WORD * d->bits, all = words_of(d, d->rows);
    uint64_t end = (w->row + w->rows + WORD - 1) / WORD * d->bits;
    size_t count = (size_t)((end < all ? end : all) - first), skip = w->row % WORD;
    uint8_t *words = NULL, *codes = malloc(skip + w->rows);
    uint8_t *column = calloc(count * WORD_SIZE + UNPACK_PADDING, 1);
    int rc = codes && column ? 0 : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc
            : unpack_read(r, ZERO_POINT, first, count, groups_of(d) * WORD_SIZE,
                          f->first * WORD_SIZE, f->count * WORD_SIZE, &words, err);
    for (size_t g = 0; !rc && g < f->count; g++) {
        for (size_t i = 0; i < count; i++)
            memcpy(column + i * WORD_SIZE, words + (i * f->count + g) * WORD_SIZE, WORD_SIZE);
        unpack_codes(column, skip + w->rows, d->bits, codes);
        for (size_t row = 0; row < w->rows; row++)
            f->zeros[row * f->count + g] = (float)codes[skip + row];
    }
    free(words);
    free(codes);
    free(column);
    return rc;
}

static int read_byte_zeros(const struct derived *d, const struct derived_reader *r,
                           const struct unpack_window *w, struct fit *f, struct error *err)
{
    uint8_t *bytes;
    int rc =
        unpack_read(r, ZERO_POINT, w->row, w->rows, groups_of(d), f->first, f->count, &bytes, err);
    for (size_t i = 0; !rc && i < w->rows * f->count; i++)
        f->zeros[i] = (float)(int8_t)bytes[i];
    free(bytes);
    return rc;
}

/* packed: of codes in words, whose zero is in the middle where there is no tensor of zeros. */
static int read_fit(const struct derived *d, const struct derived_reader *r,
                    const struct unpack_window *w, bool packed, struct fit *f, struct error *err)
{
    *f = (struct fit){.first = w->col / d->group};
    f->count = (size_t)((w->col + w->cols - 1) / d->group - f->first + 1);
    f->zeros = calloc(w->rows * f->count, sizeof *f->zeros);
    if (!f->zeros)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; packed && i < w->rows * f->count; i++)
        f->zeros[i] = (float)(1u << (d->bits - 1));
    int rc = !d->parts[ZERO_POINT] ? 0
             : packed              ? read_packed_zeros(d, r, w, f, err)
                                   : read_byte_zeros(d, r, w, f, err);
    return rc ? rc
              : unpack_read_floats(d, r, SCALE, w->row, w->rows, groups_of(d), f->first, f->count,
                                   &f->scales, err);
}

/* ---- weights ---- */

/* Integers less their zero are exact as floats, so there is one rounding. */
#define DECODE_ROW(name, type)                                                                     \
    static void name(const struct derived *d, const struct unpack_window *w, const struct fit *f,  \
                     size_t row, const type *codes, float *out)                                    \
    {                                                                                              \
        for (size_t done = 0, g = 0; done < w->cols; g++) {                                        \
            uint64_t left = d->group - (w->col + done) % d->group;                                 \
            size_t run = w->cols - done < left ? w->cols - done : (size_t)left;                    \
            float scale = f->scales[row * f->count + g], zero = f->zeros[row * f->count + g];      \
            for (size_t k = 0; k < run; k++)                                                       \
                out[done + k] = scale * ((float)codes[done + k] - zero);                           \
            done += run;                                                                           \
        }                                                                                          \
    }
DECODE_ROW(decode_codes, uint8_t)
DECODE_ROW(decode_bytes, int8_t)

static int decode_packed(const struct derived *d, const struct derived_reader *r,
                         const struct unpack_window *w, const struct fit *f, float *out,
                         struct error *err)
{
    uint64_t row_size = words_of(d, d->cols) * WORD_SIZE, at = w->col / 8 * d->bits;
    uint64_t end = (w->col + w->cols + 7) / 8 * d->bits;
    size_t skip = w->col % 8, n = (size_t)((end < row_size ? end : row_size) - at);
    n = w->cols == d->cols ? (size_t)row_size : n;
    uint8_t *bytes = NULL, *codes = malloc(skip + w->cols);
    int rc = codes ? 0 : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : unpack_read(r, CODES, w->row, w->rows, row_size, at, n, &bytes, err);
    for (size_t row = 0; !rc && row < w->rows; row++) {
        unpack_codes(bytes + row * n, skip + w->cols, d->bits, codes);
        decode_codes(d, w, f, row, codes + skip, out + row * w->cols);
    }
    free(bytes);
    free(codes);
    return rc;
}

static int weights_packed(const struct derived *d, const struct isa *isa,
                          const struct derived_reader *r, uint64_t first, size_t n, float *out,
                          struct error *err)
{
    (void)isa;
    struct unpack_window w = unpack_window_of(d, first, n);
    struct fit f;
    int rc = read_fit(d, r, &w, true, &f, err);
    rc = rc ? rc : decode_packed(d, r, &w, &f, out, err);
    free(f.scales);
    free(f.zeros);
    return rc;
}

static int weights_bytes(const struct derived *d, const struct isa *isa,
                         const struct derived_reader *r, uint64_t first, size_t n, float *out,
                         struct error *err)
{
    (void)isa;
    struct unpack_window w = unpack_window_of(d, first, n);
    struct fit f;
    uint8_t *bytes = NULL;
    int rc = read_fit(d, r, &w, false, &f, err);
    rc = rc ? rc : unpack_read(r, CODES, w.row, w.rows, d->cols, w.col, w.cols, &bytes, err);
    for (size_t row = 0; !rc && row < w.rows; row++)
        decode_bytes(d, &w, &f, row, (const int8_t *)bytes + row * w.cols, out + row * w.cols);
    free(bytes);
    free(f.scales);
    free(f.zeros);
    return rc;
}

/* clang-format off */
const struct unpack unpack_pack_quantized = {{"pack-quantized", 1, true, weights_packed}, PARTS, 1 << ZERO_POINT, make_packed};
const struct unpack unpack_int_quantized = {{"int-quantized", 1, true, weights_bytes}, PARTS, 1 << ZERO_POINT, make_bytes};
/* clang-format on */

/* SPDX-License-Identifier: MIT
 *
 * The weights of a merged tensor, row by row: a row takes its row of the base, its row of B, and all of
 * A. Transposed it takes its column of A and all of B.
 */
#include "codec/lora.h"

#include "codec/bnb/format.h"
#include "codec/isa.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where things are among the parts. */
struct places {
    uint32_t a, b, magnitude;
};

static struct places places_of(const struct derived *d)
{
    return (struct places){d->part_count - 3, d->part_count - 2, d->part_count - 1};
}

/* Elements [at, at + n) of a part, as floats; raw: room for n * 4 bytes. */
static int read_floats(const struct derived *d, const struct derived_reader *r, uint32_t part,
                       uint64_t at, size_t n, void *raw, float *out, struct error *err)
{
    const struct dtype *t = d->parts[part]->dtype;
    if (t->format == &formats[FORMAT_F32])
        return r->read(r->context, part, at * sizeof *out, out, n * sizeof *out, err);
    int rc = r->read(r->context, part, at * t->block_size, raw, n * t->block_size, err);
    if (!rc)
        t->widen(raw, n, out);
    return rc;
}

/* Columns [first, first + n) of a part with so many rows. */
static int read_columns(const struct derived *d, const struct derived_reader *r, uint32_t part,
                        uint64_t rows, uint64_t cols, uint64_t first, size_t n, void *raw,
                        float *out, struct error *err)
{
    int rc = 0;
    if (n == cols)
        return read_floats(d, r, part, 0, rows * n, raw, out, err);
    for (uint64_t row = 0; !rc && row < rows; row++)
        rc = read_floats(d, r, part, row * cols + first, n, raw, out + row * n, err);
    return rc;
}

/* The base as NF4 has it, of the blocks of 64 in which these weights are, which know no rows. */
static int read_nf4_base(const struct derived *d, const struct isa *isa,
                         const struct derived_reader *r, uint64_t first, size_t n, float *out,
                         struct error *err)
{
    const struct format *f = d->parts[0]->dtype->format, *nf4 = &bnb_formats[BNB_NF4];
    uint64_t all = d->rows * d->cols, begin = first / NF4_BLOCK * NF4_BLOCK;
    uint64_t end = (first + n + NF4_BLOCK - 1) / NF4_BLOCK * NF4_BLOCK;
    size_t count = (size_t)((end < all ? end : all) - begin);
    size_t blocks = (count + NF4_BLOCK - 1) / NF4_BLOCK;
    uint8_t *raw = malloc(count * f->block_size), *packed = malloc(blocks * NF4_SIZE);
    float *weights = malloc(count * sizeof *weights);
    int rc = raw && packed && weights
                 ? r->read(r->context, 0, begin * f->block_size, raw, count * f->block_size, err)
                 : error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        isa->decode[f - formats](raw, count, weights);
        isa->encode[nf4->encoder](weights, 1, count, NULL, packed);
        nf4->decode(packed, count, weights);
        derived_round(d, isa, weights, count);
        memcpy(out, weights + (first - begin), n * sizeof *out);
    }
    free(raw);
    free(packed);
    free(weights);
    return rc;
}

static int read_base(const struct derived *d, const struct isa *isa,
                     const struct derived_reader *r, uint64_t first, size_t n, void *raw,
                     float *out, struct error *err)
{
    const struct format *f = d->parts[0]->dtype->format;
    if (d->variant & LORA_ONTO_NF4)
        return read_nf4_base(d, isa, r, first, n, out, err);
    if (d->base)
        return d->base->method->weights(d->base, isa, r, first, n, out, err);
    int rc = r->read(r->context, 0, first * f->block_size, raw, n * f->block_size, err);
    if (!rc)
        isa->decode[f - formats](raw, n, out);
    return rc;
}

/* The rank x n numbers that all rows have in common, [rank][n], and those of each row, [rows][rank]:
 * columns [col, col + n) of A and rows of B; transposed, as much of B and columns of A. */
static int read_both(const struct derived *d, const struct derived_reader *r, uint64_t row,
                     size_t rows, uint64_t col, size_t n, void *raw, float *common, float *own,
                     struct error *err)
{
    struct places p = places_of(d);
    size_t rank = (size_t)d->rank;
    if (!(d->variant & LORA_TRANSPOSED)) {
        int rc = read_columns(d, r, p.a, rank, d->cols, col, n, raw, common, err);
        return rc ? rc : read_floats(d, r, p.b, row * rank, rows * rank, raw, own, err);
    }
    float *stored = malloc(rank * (n > rows ? n : rows) * sizeof *stored);
    int rc = stored ? read_floats(d, r, p.b, col * rank, n * rank, raw, stored, err)
                    : error_set(err, -ENOMEM, "out of memory");
    for (size_t j = 0; !rc && j < n; j++)
        for (size_t k = 0; k < rank; k++)
            common[k * n + j] = stored[j * rank + k];
    rc = rc ? rc : read_columns(d, r, p.a, rank, d->rows, row, rows, raw, stored, err);
    for (size_t i = 0; !rc && i < rows; i++)
        for (size_t k = 0; k < rank; k++)
            own[i * rank + k] = stored[k * rows + i];
    free(stored);
    return rc;
}

/* Gives rows, whole ones, the lengths that the adapter has for them. */
static int set_lengths(const struct derived *d, const struct derived_reader *r, uint64_t row,
                       size_t rows, void *raw, float *w, struct error *err)
{
    for (size_t i = 0; i < rows; i++, w += d->cols) {
        double squares = 0;
        float length;
        int rc = read_floats(d, r, places_of(d).magnitude, row + i, 1, raw, &length, err);
        if (rc)
            return rc;
        for (size_t j = 0; j < d->cols; j++)
            squares += (double)w[j] * (double)w[j];
        length /= (float)sqrt(squares);
        for (size_t j = 0; j < d->cols; j++)
            w[j] *= length;
    }
    return 0;
}

/* What is needed at a time: A and B of all rows, and the base of so many that the cache holds them. */
struct room {
    float *common, *own, *base; /* base: where it is not read to its place; else NULL */
    uint8_t *raw;
    size_t rows; /* of the base */
};

static int room_get(const struct derived *d, size_t rows, size_t n, struct room *out)
{
    enum { WEIGHTS_AT_ONCE = 1 << 15 };
    size_t rank = (size_t)d->rank;
    out->rows = n < WEIGHTS_AT_ONCE ? WEIGHTS_AT_ONCE / n : 1;
    out->rows = out->rows < rows ? out->rows : rows;
    size_t most = n > rows ? n : rows, raw = out->rows * n > rank * most ? out->rows * n : rank * most;
    out->common = malloc(rank * n * sizeof(float));
    out->own = malloc(rank * rows * sizeof(float));
    out->raw = malloc(raw * sizeof(float));
    bool rounded = d->variant & LORA_ROUNDED;
    out->base = rounded ? malloc(out->rows * n * sizeof(float)) : NULL;
    return out->common && out->own && out->raw && !out->base == !rounded ? 0 : -ENOMEM;
}

static void room_free(struct room *r)
{
    free(r->common);
    free(r->own);
    free(r->base);
    free(r->raw);
}

/* count * n weights of the base and what is added to them, in out. */
static int add_to_base(const struct derived *d, const struct isa *isa,
                       const struct derived_reader *r, uint64_t first, const struct room *room,
                       const float *own, size_t count, size_t n, float *out, struct error *err)
{
    size_t rank = (size_t)d->rank;
    float *base = room->base ? room->base : out;
    int rc = read_base(d, isa, r, first, count * n, room->raw, base, err);
    if (rc)
        return rc;
    if (room->base)
        memset(out, 0, count * n * sizeof *out);
    isa->lora_add(room->common, own, rank, d->number, out, count, n);
    if (!room->base)
        return 0;
    derived_round(d, isa, out, count * n);
    for (size_t i = 0; i < count * n; i++)
        out[i] += base[i];
    return 0;
}

/* Columns [col, col + n) of some rows; whole ones with DoRA. */
static int merge_rows(const struct derived *d, const struct isa *isa,
                      const struct derived_reader *r, uint64_t row, size_t rows, uint64_t col,
                      size_t n, float *out, struct error *err)
{
    struct room room;
    size_t rank = (size_t)d->rank, at = 0;
    int rc = room_get(d, rows, n, &room) ? error_set(err, -ENOMEM, "out of memory")
                                         : read_both(d, r, row, rows, col, n, room.raw,
                                                     room.common, room.own, err);
    for (size_t count; !rc && at < rows; at += count, out += count * n) {
        count = rows - at < room.rows ? rows - at : room.rows;
        rc = add_to_base(d, isa, r, (row + at) * d->cols + col, &room, room.own + at * rank, count,
                         n, out, err);
        if (!rc && d->variant & LORA_DORA)
            rc = set_lengths(d, r, row + at, count, room.raw, out, err);
        if (!rc)
            derived_round(d, isa, out, count * n);
    }
    room_free(&room);
    return rc;
}

/* With DoRA a piece of a row takes all of it. */
static int merge_piece(const struct derived *d, const struct isa *isa,
                       const struct derived_reader *r, uint64_t first, size_t n, float *out,
                       struct error *err)
{
    uint64_t row = first / d->cols, col = first % d->cols;
    if (!(d->variant & LORA_DORA))
        return merge_rows(d, isa, r, row, 1, col, n, out, err);
    float *whole = malloc(d->cols * sizeof *whole);
    int rc = whole ? merge_rows(d, isa, r, row, 1, 0, (size_t)d->cols, whole, err)
                   : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < n; i++)
        out[i] = whole[col + i];
    free(whole);
    return rc;
}

static int weights(const struct derived *d, const struct isa *isa, const struct derived_reader *r,
                   uint64_t first, size_t n, float *out, struct error *err)
{
    uint64_t cols = d->cols;
    return first % cols || n % cols
               ? merge_piece(d, isa, r, first, n, out, err)
               : merge_rows(d, isa, r, first / cols, (size_t)(n / cols), 0, (size_t)cols, out, err);
}

const struct derived_method lora_method = {"lora", 1, false, weights};

/* ---- A and B as they stand in a file of their own ---- */

/* Columns [col, col + n) of some rows. */
static int turn(const struct derived *d, const struct derived_reader *r, uint64_t row, size_t rows,
                uint64_t col, size_t n, void *raw, float *column, float *out, struct error *err)
{
    int rc = 0;
    for (size_t k = 0; !rc && k < n; k++) {
        rc = read_floats(d, r, 0, (col + k) * d->rows + row, rows, raw, column, err);
        for (size_t i = 0; !rc && i < rows; i++)
            out[i * n + k] = column[i];
    }
    return rc;
}

static int factor_weights(const struct derived *d, const struct isa *isa,
                          const struct derived_reader *r, uint64_t first, size_t n, float *out,
                          struct error *err)
{
    (void)isa;
    bool whole = first % d->cols == 0 && n % d->cols == 0;
    size_t width = whole ? (size_t)d->cols : n;
    float *raw = malloc(n * sizeof *raw), *column = malloc(n * sizeof *column);
    int rc = !raw || !column ? error_set(err, -ENOMEM, "out of memory")
             : d->variant & LORA_TRANSPOSED
                 ? turn(d, r, first / d->cols, n / width, first % d->cols, width, raw, column, out,
                        err)
                 : read_floats(d, r, 0, first, n, raw, out, err);
    for (size_t i = 0; !rc && i < n; i++)
        out[i] *= d->number;
    free(raw);
    free(column);
    return rc;
}

const struct derived_method lora_factor_method = {"lora-factor", 1, false, factor_weights};

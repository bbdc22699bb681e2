/* SPDX-License-Identifier: MIT
 *
 * From w4a16-g128 and w8a16 to the tensors of compressed-tensors. Both have the order of rows, so a
 * window needs the groups, or rows, that it shows: scales and codes only move apart.
 */
#include "codec/repack.h"

#include "codec/compressed/format.h"

/* The units that have parts of `each` bytes in a window. */
static struct repack_units parts_in(uint64_t at, size_t size, uint64_t each)
{
    uint64_t first = at / each;
    return (struct repack_units){first, (at + size - 1) / each - first + 1};
}

/* Puts n bytes of each unit, from byte `skip` of it on, end to end. */
static void put_parts(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      size_t skip, size_t n, const struct repack_window *w)
{
    size_t unit = repack_unit_size(m);
    for (uint64_t i = 0; i < run.count; i++)
        repack_copy(w, (run.first + i) * n, bytes + i * unit + skip, n);
}

static size_t scale_size(const struct repack_matrix *m)
{
    return m->format->type->block_size;
}

/* ---- scales: of groups, and of rows ---- */

static void scales_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->rows;
    shape[1] = m->format->row_head ? 1 : m->cols / m->format->block;
}

static struct repack_units scales_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return parts_in(at, size, scale_size(m));
}

static int scales_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                      const struct repack_window *w, struct error *err)
{
    (void)err;
    put_parts(m, bytes, run, 0, scale_size(m), w);
    return 0;
}

/* ---- codes: a group's are whole words already, a row's bytes ---- */

static void words_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->rows;
    shape[1] = m->cols * (uint64_t)compressed_bits(m->format) / 32;
}

static void bytes_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->rows;
    shape[1] = m->cols;
}

static size_t codes_size(const struct repack_matrix *m)
{
    return repack_unit_size(m) - scale_size(m);
}

static struct repack_units codes_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return parts_in(at, size, codes_size(m));
}

static int codes_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)err;
    put_parts(m, bytes, run, scale_size(m), codes_size(m), w);
    return 0;
}

/* ---- the matrix's own shape ---- */

static void shape_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    (void)m;
    shape[0] = 2;
}

static int shape_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)bytes;
    (void)run;
    (void)err;
    const uint64_t shape[2] = {m->rows, m->cols};
    repack_copy(w, 0, shape, sizeof shape);
    return 0;
}

const struct repack w4_repacks[W4_REPACK_COUNT] = {
    {"weight_shape",  "I64", 8, 1, shape_shape,  NULL,        shape_put,  false},
    {"weight_packed", "I32", 4, 2, words_shape,  codes_need,  codes_put,  false},
    {"weight_scale",  NULL,  0, 2, scales_shape, scales_need, scales_put, false},
};

const struct repack w8_repacks[W8_REPACK_COUNT] = {
    {"weight_scale", NULL, 0, 2, scales_shape, scales_need, scales_put, false},
    {"weight",       "I8", 1, 2, bytes_shape,  codes_need,  codes_put,  false},
};

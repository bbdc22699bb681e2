/* SPDX-License-Identifier: MIT
 *
 * Weights that other programs have packed, as floats again: the methods of derived tensors (derived.h),
 * one file for each family of layouts. What a method takes is checked when a tensor is made of its
 * parts, so that reading meets no shape that it does not know.
 */
#ifndef CODEC_UNPACK_UNPACK_H
#define CODEC_UNPACK_UNPACK_H

#include "codec/derived.h"

/* What config.json, or a tensor's own description, says of the layout. */
struct unpack_settings {
    uint32_t bits;
    uint32_t variant;
    uint64_t group; /* columns, or weights in a row, that share a scale; 0: those of a row */
    float number;
    const struct dtype *type; /* that the weights had, where this is said */
    uint64_t rows, cols;      /* likewise */
};

/* A row of a table, one for each layout. */
struct unpack {
    struct derived_method method;
    uint32_t part_count;
    uint32_t optional; /* bits of the parts that may be missing */
    /* Fills in what is not known yet of *d, whose parts are there. -EINVAL where the shapes or types of
     * the parts do not fit the settings or each other; -ENOTSUP where they are none that is known. The
     * sentence names the part. */
    int (*make)(const struct unpack_settings *s, struct derived *d, struct error *err);
};

/* Parts: weight, absmax, quant_map, nested_absmax, nested_quant_map. Settings: group and, with nested
 * scales, variant, which is the group of these, and number, which is added to them; type, rows, cols. */
extern const struct unpack unpack_nf4, unpack_fp4;

/* Parts: weight, SCB. */
extern const struct unpack unpack_int8;

/* Parts: qweight, qzeros, scales, g_idx. Settings: bits, group; variant: of qzeros. */
enum { GPTQ_ZEROS_LESS_1, GPTQ_ZEROS };
extern const struct unpack unpack_gptq;

/* Parts: qweight, qzeros, scales. Settings: group. */
extern const struct unpack unpack_awq;

/* Parts: weight_packed, weight_scale, weight_zero_point. Settings: bits, group, rows, cols. */
extern const struct unpack unpack_pack_quantized;

/* Parts: weight, weight_scale, weight_zero_point. Settings: group. */
extern const struct unpack unpack_int_quantized;

/* The derived tensor that the parts make. */
int unpack_make(const struct unpack *u, const struct unpack_settings *s,
                const struct tensor *const *parts, struct derived *out, struct error *err);

/* ---- for the methods ---- */

/* Which weights are wanted: whole rows, or a piece of one. */
struct unpack_window {
    uint64_t row, col;
    size_t rows, cols;
};

static inline struct unpack_window unpack_window_of(const struct derived *d, uint64_t first,
                                                    size_t n)
{
    bool whole = n >= d->cols;
    return (struct unpack_window){first / d->cols, first % d->cols, whole ? n / (size_t)d->cols : 1,
                                  whole ? (size_t)d->cols : n};
}

/* Behind every buffer of codes, so that eight can be loaded at once. */
enum { UNPACK_PADDING = 8 };

/* Bytes [at, at + n) of each of `rows` rows of row_size bytes from row `row` on, without the gaps
 * between them, in new memory, to be freed, with padding behind it. */
int unpack_read(const struct derived_reader *r, uint32_t part, uint64_t row, uint64_t rows,
                uint64_t row_size, uint64_t at, uint64_t n, uint8_t **out, struct error *err);

/* The same, of elements that can be widened, as floats. */
int unpack_read_floats(const struct derived *d, const struct derived_reader *r, uint32_t part,
                       uint64_t row, uint64_t rows, uint64_t row_length, uint64_t at, uint64_t n,
                       float **out, struct error *err);

/* n codes of a string of bits, the lowest first; the bytes have padding behind them. */
void unpack_codes(const uint8_t *bytes, size_t n, unsigned bits, uint8_t *out);

/* Whether a part has that type, or any where it is NULL, and that shape of 1 or 2 dimensions; if not,
 * -ENOTSUP or -EINVAL with the sentence. */
int unpack_check(const struct tensor *part, const char *type, uint32_t ndim, uint64_t rows,
                 uint64_t cols, struct error *err);

/* Whether a part holds floats that can be scales. */
int unpack_check_floats(const struct tensor *part, struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * bitsandbytes: 4-bit codes of a table, row by row without a gap, the first of two in the high half of
 * a byte, each block of them with the greatest magnitude that it had, which may be packed itself; and
 * 8-bit integers with the greatest magnitude of their row.
 */
#include "codec/unpack/unpack.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* ---- 4 bits ---- */

enum { CODES, ABSMAX, MAP, NESTED_ABSMAX, NESTED_MAP, PARTS_4 };
enum { MAP_SIZE = 16, NESTED_MAP_SIZE = 256 };
enum { NESTED = 1 << NESTED_ABSMAX | 1 << NESTED_MAP }; /* the parts of scales that are packed */

static bool is_power_of_2(uint64_t n)
{
    return n && !(n & (n - 1));
}

static int check_nested(const struct unpack_settings *s, const struct derived *d, uint64_t blocks,
                        struct error *err)
{
    if (!d->parts[NESTED_ABSMAX] || !d->parts[NESTED_MAP])
        return error_set(err, -EINVAL, "tensor \"%s\" is packed, and its scales are missing",
                         d->parts[ABSMAX]->name);
    if (!is_power_of_2(s->variant))
        return error_set(err, -EINVAL, "tensor \"%s\": blocks of %" PRIu32 " scales are not known",
                         d->parts[ABSMAX]->name, s->variant);
    int rc = unpack_check(d->parts[ABSMAX], "U8", 1, blocks, 0, err);
    rc =
        rc ? rc
           : unpack_check(d->parts[NESTED_ABSMAX], "F32", 1, (blocks - 1) / s->variant + 1, 0, err);
    return rc ? rc : unpack_check(d->parts[NESTED_MAP], "F32", 1, NESTED_MAP_SIZE, 0, err);
}

static int make_4(const struct unpack_settings *s, struct derived *d, struct error *err)
{
    uint64_t weights;
    const struct tensor *codes = d->parts[CODES];
    d->bits = 4;
    d->type = s->type;
    d->rows = s->rows;
    d->cols = s->cols;
    if (!is_power_of_2(s->group) || s->group > INT32_MAX)
        return error_set(err, -EINVAL, "tensor \"%s\": blocks of %" PRIu64 " weights are not known",
                         codes->name, s->group);
    if (__builtin_mul_overflow(s->rows, s->cols, &weights) || !weights)
        return error_set(err, -EINVAL, "tensor \"%s\" has an impossible shape", codes->name);
    uint64_t blocks = (weights - 1) / s->group + 1;
    int rc = unpack_check(codes, "U8", 2, weights / 2 + weights % 2, 1, err);
    rc = rc ? rc : unpack_check(d->parts[MAP], "F32", 1, MAP_SIZE, 0, err);
    if (rc || s->variant)
        return rc ? rc : check_nested(s, d, blocks, err);
    d->parts[NESTED_ABSMAX] = d->parts[NESTED_MAP] = NULL;
    return unpack_check(d->parts[ABSMAX], "F32", 1, blocks, 0, err);
}

/* The scales of blocks [first, first + n). Two roundings. */
static int read_nested(const struct derived *d, const struct derived_reader *r, uint64_t first,
                       size_t n, float *out, struct error *err)
{
    float map[NESTED_MAP_SIZE], *scales = NULL;
    uint8_t *codes = NULL;
    uint64_t each = d->variant, begin = first / each, count = (first + n - 1) / each - begin + 1;
    int rc = r->read(r->context, NESTED_MAP, 0, map, sizeof map, err);
    rc = rc ? rc : unpack_read(r, ABSMAX, 0, 1, d->parts[ABSMAX]->size, first, n, &codes, err);
    rc = rc ? rc
            : unpack_read_floats(d, r, NESTED_ABSMAX, 0, 1, d->parts[NESTED_ABSMAX]->elements,
                                 begin, count, &scales, err);
    for (size_t i = 0; !rc && i < n; i++) {
        float scaled = map[codes[i]] * scales[(first + i) / each - begin];
        out[i] = scaled + d->number;
    }
    free(codes);
    free(scales);
    return rc;
}

static int read_scales(const struct derived *d, const struct derived_reader *r, uint64_t first,
                       size_t n, float *out, struct error *err)
{
    if (d->variant)
        return read_nested(d, r, first, n, out, err);
    return r->read(r->context, ABSMAX, first * sizeof *out, out, n * sizeof *out, err);
}

/* The i-th code of bytes of two. */
static inline unsigned code_at(const uint8_t *bytes, size_t i)
{
    return i & 1 ? bytes[i / 2] & 15u : bytes[i / 2] >> 4;
}

/* n weights of one block; all that they can be is worked out before. */
static void decode_block(const struct derived *d, const float *map, float scale,
                         const uint8_t *bytes, size_t at, size_t n, float *out)
{
    float values[MAP_SIZE];
    for (int i = 0; i < MAP_SIZE; i++)
        values[i] = map[i] * scale;
    derived_round(d, NULL, values, MAP_SIZE);
    size_t i = 0;
    for (; i < n && (at + i) & 1; i++)
        out[i] = values[code_at(bytes, at + i)];
    for (const uint8_t *p = bytes + (at + i) / 2; i + 2 <= n; i += 2, p++) {
        out[i] = values[*p >> 4];
        out[i + 1] = values[*p & 15];
    }
    for (; i < n; i++)
        out[i] = values[code_at(bytes, at + i)];
}

static int weights_4(const struct derived *d, const struct isa *isa, const struct derived_reader *r,
                     uint64_t first, size_t n, float *out, struct error *err)
{
    (void)isa;
    float map[MAP_SIZE];
    uint8_t *bytes = NULL;
    uint64_t begin = first / d->group, blocks = (first + n - 1) / d->group - begin + 1;
    uint64_t from = first / 2, until = (first + n + 1) / 2;
    float *scales = calloc((size_t)blocks, sizeof *scales);
    int rc = scales ? 0 : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : r->read(r->context, MAP, 0, map, sizeof map, err);
    rc = rc ? rc : read_scales(d, r, begin, (size_t)blocks, scales, err);
    rc = rc ? rc
            : unpack_read(r, CODES, 0, 1, d->parts[CODES]->size, from, until - from, &bytes, err);
    for (size_t done = 0, at = first % 2; !rc && done < n;) {
        uint64_t block = (first + done) / d->group, left = (block + 1) * d->group - first - done;
        size_t run = n - done < left ? n - done : (size_t)left;
        decode_block(d, map, scales[block - begin], bytes, at + done, run, out + done);
        done += run;
    }
    free(scales);
    free(bytes);
    return rc;
}

/* clang-format off */
const struct unpack unpack_nf4 = {{"nf4", 1, true, weights_4}, PARTS_4, NESTED, make_4};
const struct unpack unpack_fp4 = {{"fp4", 1, true, weights_4}, PARTS_4, NESTED, make_4};
/* clang-format on */

/* ---- 8 bits ---- */

enum { WEIGHT, SCB, PARTS_8 };

static int make_8(const struct unpack_settings *s, struct derived *d, struct error *err)
{
    (void)s;
    const struct tensor *weight = d->parts[WEIGHT];
    d->bits = 8;
    d->type = dtype_by_name("F32");
    if (weight->ndim != 2)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is no matrix", weight->name);
    d->rows = weight->shape[0];
    d->cols = d->group = weight->shape[1];
    int rc = unpack_check(weight, "I8", 2, d->rows, d->cols, err);
    return rc ? rc : unpack_check(d->parts[SCB], "F32", 1, d->rows, 0, err);
}

/* The library multiplies by what is nearly 1 / 127; two roundings. */
static int weights_8(const struct derived *d, const struct isa *isa, const struct derived_reader *r,
                     uint64_t first, size_t n, float *out, struct error *err)
{
    (void)isa;
    static const float of_127 = 7.874015718698502e-3f;
    struct unpack_window w = unpack_window_of(d, first, n);
    uint8_t *bytes = NULL;
    float *scales = NULL;
    int rc = unpack_read(r, WEIGHT, 0, 1, d->parts[WEIGHT]->size, first, n, &bytes, err);
    rc = rc ? rc : unpack_read_floats(d, r, SCB, 0, 1, d->rows, w.row, w.rows, &scales, err);
    for (size_t row = 0; !rc && row < w.rows; row++) {
        const int8_t *codes = (const int8_t *)bytes + row * w.cols;
        float scale = scales[row], *x = out + row * w.cols;
        for (size_t c = 0; c < w.cols; c++)
            x[c] = (float)codes[c] * scale * of_127;
    }
    free(bytes);
    free(scales);
    return rc;
}

/* clang-format off */
const struct unpack unpack_int8 = {{"int8", 1, true, weights_8}, PARTS_8, 0, make_8};
/* clang-format on */

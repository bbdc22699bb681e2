/* SPDX-License-Identifier: MIT */
#include "codec/unpack/unpack.h"

#include "codec/bytes.h"
#include "codec/float16.h"

#include <errno.h>
#include <inttypes.h>

enum {
    GAP_MAX = 8 << 10,    /* bytes that are sooner read than left out */
    BLOCK_SIZE = 1 << 18, /* of a read with gaps */
};

/* ---- reading ---- */

/* A read of all that lies between the rows, a block at a time. */
static int read_with_gaps(const struct derived_reader *r, uint32_t part, uint64_t row,
                          uint64_t rows, uint64_t row_size, uint64_t at, uint64_t n, uint8_t *out,
                          struct error *err)
{
    uint64_t each = row_size < BLOCK_SIZE ? BLOCK_SIZE / row_size : 1;
    each = each < rows ? each : rows;
    uint8_t *block = malloc((size_t)(each * row_size));
    int rc = block ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (uint64_t done = 0; !rc && done < rows; done += each) {
        uint64_t count = each < rows - done ? each : rows - done;
        uint64_t size = (count - 1) * row_size + n;
        rc = r->read(r->context, part, (row + done) * row_size + at, block, (size_t)size, err);
        for (uint64_t i = 0; !rc && i < count; i++, out += n)
            memcpy(out, block + i * row_size, (size_t)n);
    }
    free(block);
    return rc;
}

int unpack_read(const struct derived_reader *r, uint32_t part, uint64_t row, uint64_t rows,
                uint64_t row_size, uint64_t at, uint64_t n, uint8_t **out, struct error *err)
{
    uint64_t size;
    *out = NULL;
    if (__builtin_mul_overflow(rows, n, &size) || size > SIZE_MAX - UNPACK_PADDING)
        return error_set(err, -ENOMEM, "out of memory");
    uint8_t *bytes = *out = malloc((size_t)size + UNPACK_PADDING);
    if (!bytes)
        return error_set(err, -ENOMEM, "out of memory");
    memset(bytes + size, 0, UNPACK_PADDING);
    int rc = 0;
    if (n == row_size || rows == 1)
        rc = r->read(r->context, part, row * row_size + at, bytes, (size_t)size, err);
    else if (row_size - n <= GAP_MAX)
        rc = read_with_gaps(r, part, row, rows, row_size, at, n, bytes, err);
    else
        for (uint64_t i = 0; !rc && i < rows; i++)
            rc =
                r->read(r->context, part, (row + i) * row_size + at, bytes + i * n, (size_t)n, err);
    if (rc) {
        free(bytes);
        *out = NULL;
    }
    return rc;
}

int unpack_read_floats(const struct derived *d, const struct derived_reader *r, uint32_t part,
                       uint64_t row, uint64_t rows, uint64_t row_length, uint64_t at, uint64_t n,
                       float **out, struct error *err)
{
    const struct dtype *t = d->parts[part]->dtype;
    uint64_t width = t->block_size;
    uint8_t *raw;
    *out = NULL;
    int rc = unpack_read(r, part, row, rows, row_length * width, at * width, n * width, &raw, err);
    if (rc)
        return rc;
    *out = calloc((size_t)(rows * n), sizeof **out);
    if (*out)
        t->widen(raw, (size_t)(rows * n), *out);
    free(raw);
    return *out ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* ---- codes ---- */

/* Eight codes are a whole number of bytes. */
static inline void unpack_eights(const uint8_t *bytes, size_t n, unsigned bits, uint8_t *out)
{
    uint64_t mask = (1u << bits) - 1;
    for (; n >= 8; n -= 8, bytes += bits, out += 8) {
        uint64_t eight = load_u64(bytes);
        for (unsigned k = 0; k < 8; k++)
            out[k] = (uint8_t)(eight >> k * bits & mask);
    }
    uint64_t eight = n ? load_u64(bytes) : 0;
    for (unsigned k = 0; k < n; k++)
        out[k] = (uint8_t)(eight >> k * bits & mask);
}

/* The number of bits is a constant in each, which makes vectors of the loop. */
void unpack_codes(const uint8_t *bytes, size_t n, unsigned bits, uint8_t *out)
{
    switch (bits) {
    case 2:
        unpack_eights(bytes, n, 2, out);
        return;
    case 3:
        unpack_eights(bytes, n, 3, out);
        return;
    case 4:
        unpack_eights(bytes, n, 4, out);
        return;
    case 8:
        memcpy(out, bytes, n);
        return;
    default:
        unpack_eights(bytes, n, bits, out);
        return;
    }
}

/* ---- checks ---- */

int unpack_check(const struct tensor *part, const char *type, uint32_t ndim, uint64_t rows,
                 uint64_t cols, struct error *err)
{
    if (type && strcmp(part->dtype->name, type) != 0)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is stored as %s, not as %s", part->name,
                         part->dtype->name, type);
    if (part->ndim == ndim && part->shape[0] == rows && (ndim == 1 || part->shape[1] == cols))
        return 0;
    if (ndim == 2)
        return error_set(err, -EINVAL,
                         "tensor \"%s\" does not have the shape [%" PRIu64 ", %" PRIu64
                         "] that its weights need",
                         part->name, rows, cols);
    return error_set(err, -EINVAL,
                     "tensor \"%s\" does not have the %" PRIu64 " elements that its weights need",
                     part->name, rows);
}

int unpack_check_floats(const struct tensor *part, struct error *err)
{
    const struct format *f = part->dtype->format;
    if (f && f->plain_float)
        return 0;
    return error_set(err, -ENOTSUP, "tensor \"%s\" is stored as %s, which are no scales",
                     part->name, part->dtype->name);
}

int unpack_make(const struct unpack *u, const struct unpack_settings *s,
                const struct tensor *const *parts, struct derived *out, struct error *err)
{
    *out = (struct derived){.method = &u->method,
                            .part_count = u->part_count,
                            .bits = s->bits,
                            .variant = s->variant,
                            .group = s->group,
                            .number = s->number};
    for (uint32_t i = 0; i < u->part_count; i++)
        out->parts[i] = parts[i];
    int rc = u->make(s, out, err);
    uint64_t weights, size;
    if (!rc && (!out->rows || !out->cols))
        rc = error_set(err, -EINVAL, "tensor \"%s\" has no weights", parts[0]->name);
    if (!rc && (__builtin_mul_overflow(out->rows, out->cols, &weights) ||
                !dtype_bytes(out->type, weights, &size) || size > INT64_MAX))
        rc = error_set(err, -EINVAL, "tensor \"%s\" is too large", parts[0]->name);
    return rc;
}

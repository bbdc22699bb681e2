/* SPDX-License-Identifier: MIT */
#include "codec/spqr/stripe.h"

#include "codec/bytes.h"
#include "codec/float16.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum {
    GROUPS = SPQR_COLUMNS / SPQR_GROUP, /* of a supertile */
    PLANES = 2,
    ENDS_SIZE = SPQR_ROWS * sizeof(uint32_t),
    ALIGNMENT = 16,
};

/* How many bits of a code lie in each plane, the low ones first. */
static const uint8_t plane_bits[5][PLANES] = {
    {0},
    {0},
    {2},
    {2, 1},
    {4}
};

/* Behind the weights. */
struct statistics {
    uint8_t scales[SPQR_ROWS], zeros[SPQR_ROWS], third_bits[SPQR_ROWS];
    uint16_t halfs[4][GROUPS]; /* ss, sz, zs, zz */
};

_Static_assert(sizeof(struct statistics) == 80, "statistics are packed");

/* ---- layout ---- */

static size_t plane_row_size(int bits)
{
    return SPQR_COLUMNS / 8 * (size_t)bits;
}

static size_t align(size_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

int spqr_layout(int bits, uint64_t columns, double budget, struct spqr_layout *out,
                struct error *err)
{
    if (bits < 2 || bits > 4)
        return error_set(err, -EINVAL, "SpQR with %d bits", bits);
    if (columns == 0 || columns > UINT32_MAX / SPQR_ROWS - SPQR_COLUMNS)
        return error_set(err, -EINVAL, "SpQR with %llu columns", (unsigned long long)columns);
    if (!(budget >= 0 && budget <= 1))
        return error_set(err, -EINVAL, "an outlier budget of %g", budget);
    size_t supertiles = ((size_t)columns + SPQR_COLUMNS - 1) / SPQR_COLUMNS;
    struct spqr_layout l = {
        .bits = bits,
        .columns = (size_t)columns,
        .padded = supertiles * SPQR_COLUMNS,
        .slots = (size_t)floor(budget * SPQR_ROWS * (double)columns + 0.5),
        .index_size = columns <= 65536 ? 2 : 4,
        .supertile_size = SPQR_ROWS * plane_row_size(bits) + sizeof(struct statistics),
    };
    size_t dense = supertiles * l.supertile_size;
    l.columns_at = dense + ENDS_SIZE;
    l.values_at = l.columns_at + align(l.slots * l.index_size);
    l.stripe_size = l.slots ? l.values_at + align(l.slots * sizeof(uint16_t)) : dense;
    *out = l;
    return 0;
}

int spqr_size(const struct spqr_layout *l, uint64_t rows, uint64_t *size, struct error *err)
{
    uint64_t stripes = rows / SPQR_ROWS + (rows % SPQR_ROWS != 0);
    if (__builtin_mul_overflow(stripes, l->stripe_size, size) ||
        __builtin_add_overflow(*size, l->columns * l->index_size, size))
        return error_set(err, -EINVAL, "SpQR with %llu rows", (unsigned long long)rows);
    return 0;
}

/* ---- supertiles ---- */

/* `bits` bits of each code, from bit `shift` on. */
static void pack_plane(const uint8_t (*codes)[SPQR_ROWS], int bits, int shift, uint8_t *out)
{
    size_t size = plane_row_size(bits);
    memset(out, 0, SPQR_ROWS * size);
    for (size_t column = 0; column < SPQR_COLUMNS; column++)
        for (size_t row = 0; row < SPQR_ROWS; row++) {
            int code = codes[column][row] >> shift & ((1 << bits) - 1);
            out[row * size + column % size] |= (uint8_t)(code << column / size * (size_t)bits);
        }
}

static void unpack_plane(const uint8_t *in, int bits, int shift, uint8_t (*codes)[SPQR_ROWS])
{
    size_t size = plane_row_size(bits);
    for (size_t column = 0; column < SPQR_COLUMNS; column++)
        for (size_t row = 0; row < SPQR_ROWS; row++) {
            int code = in[row * size + column % size] >> column / size * (size_t)bits;
            codes[column][row] |= (uint8_t)((code & ((1 << bits) - 1)) << shift);
        }
}

static void pack_statistics(const struct spqr_group *groups, struct statistics *out)
{
    *out = (struct statistics){0};
    for (int i = 0; i < GROUPS; i++) {
        const struct spqr_group *g = &groups[i];
        for (int row = 0; row < SPQR_ROWS; row++) {
            out->scales[row] |= (uint8_t)((g->scales[row] & 3) << 2 * i);
            out->zeros[row] |= (uint8_t)((g->zeros[row] & 3) << 2 * i);
            out->third_bits[row] |=
                (uint8_t)((g->scales[row] >> 2) << i | (g->zeros[row] >> 2) << (4 + i));
        }
        out->halfs[0][i] = f16_from_f32(g->scale_scale);
        out->halfs[1][i] = f16_from_f32(g->scale_zero);
        out->halfs[2][i] = f16_from_f32(g->zero_scale);
        out->halfs[3][i] = f16_from_f32(g->zero_zero);
    }
}

static void unpack_statistics(const struct statistics *in, struct spqr_group *groups)
{
    for (int i = 0; i < GROUPS; i++) {
        struct spqr_group *g = &groups[i];
        for (int row = 0; row < SPQR_ROWS; row++) {
            int third = in->third_bits[row] >> i;
            g->scales[row] = (uint8_t)((in->scales[row] >> 2 * i & 3) | (third & 1) << 2);
            g->zeros[row] = (uint8_t)((in->zeros[row] >> 2 * i & 3) | (third >> 4 & 1) << 2);
        }
        g->scale_scale = f32_from_f16(in->halfs[0][i]);
        g->scale_zero = f32_from_f16(in->halfs[1][i]);
        g->zero_scale = f32_from_f16(in->halfs[2][i]);
        g->zero_zero = f32_from_f16(in->halfs[3][i]);
    }
}

static void pack_supertile(int bits, const uint8_t (*codes)[SPQR_ROWS],
                           const struct spqr_group *groups, uint8_t *out)
{
    int shift = 0;
    for (int i = 0; i < PLANES && plane_bits[bits][i]; i++) {
        int plane = plane_bits[bits][i];
        pack_plane(codes, plane, shift, out);
        out += SPQR_ROWS * plane_row_size(plane);
        shift += plane;
    }
    struct statistics statistics;
    pack_statistics(groups, &statistics);
    memcpy(out, &statistics, sizeof statistics);
}

static void unpack_supertile(int bits, const uint8_t *in, uint8_t (*codes)[SPQR_ROWS],
                             struct spqr_group *groups)
{
    int shift = 0;
    memset(codes, 0, SPQR_COLUMNS * sizeof *codes);
    for (int i = 0; i < PLANES && plane_bits[bits][i]; i++) {
        int plane = plane_bits[bits][i];
        unpack_plane(in, plane, shift, codes);
        in += SPQR_ROWS * plane_row_size(plane);
        shift += plane;
    }
    struct statistics statistics;
    memcpy(&statistics, in, sizeof statistics);
    unpack_statistics(&statistics, groups);
}

/* ---- outliers ---- */

static void store_column(const struct spqr_layout *l, uint8_t *stripe, size_t slot, size_t column)
{
    uint32_t number = (uint32_t)column;
    memcpy(stripe + l->columns_at + slot * l->index_size, &number, l->index_size);
}

static size_t load_column(const struct spqr_layout *l, const uint8_t *stripe, size_t slot)
{
    uint32_t number = 0;
    memcpy(&number, stripe + l->columns_at + slot * l->index_size, l->index_size);
    return number;
}

static float load_residual(const struct spqr_layout *l, const uint8_t *stripe, size_t slot)
{
    return f32_from_f16(load_u16(stripe + l->values_at + slot * sizeof(uint16_t)));
}

static void pack_outliers(const struct spqr_layout *l, const struct spqr_stripe *s, uint8_t *out)
{
    uint32_t ends[SPQR_ROWS], slot = 0;
    size_t ends_at = l->columns_at - ENDS_SIZE;
    memset(out + ends_at, 0, l->stripe_size - ends_at);
    for (int row = 0; row < SPQR_ROWS; row++) {
        for (size_t column = 0; column < l->columns; column++) {
            if (!(s->outlier_rows[column] >> row & 1))
                continue;
            store_column(l, out, slot, column);
            store_u16(out + l->values_at + slot * sizeof(uint16_t),
                      f16_from_f32(s->outliers[column][row]));
            slot++;
        }
        ends[row] = slot;
    }
    memcpy(out + ends_at, ends, sizeof ends);
}

/* The ends of the rows' slots, all zero where there are no slots. -EINVAL unless slots and columns
 * are in order. */
static int load_ends(const struct spqr_layout *l, const uint8_t *stripe, size_t size,
                     uint32_t ends[SPQR_ROWS], struct error *err)
{
    if (size != l->stripe_size)
        return error_set(err, -EINVAL, "an SpQR stripe has %zu bytes and not %zu", l->stripe_size,
                         size);
    memset(ends, 0, ENDS_SIZE);
    if (!l->slots)
        return 0;
    memcpy(ends, stripe + l->columns_at - ENDS_SIZE, ENDS_SIZE);
    size_t slot = 0;
    for (int row = 0; row < SPQR_ROWS; row++) {
        if (ends[row] < slot || ends[row] > l->slots)
            return error_set(err, -EINVAL, "row %d has SpQR outliers from slot %zu to %u of %zu",
                             row, slot, ends[row], l->slots);
        for (size_t next = 0; slot < ends[row]; slot++) {
            size_t column = load_column(l, stripe, slot);
            if (column < next || column >= l->columns)
                return error_set(err, -EINVAL, "SpQR slot %zu has column %zu out of order", slot,
                                 column);
            next = column + 1;
        }
    }
    return 0;
}

/* ---- stripes ---- */

void spqr_pack(const struct spqr_layout *l, const struct spqr_stripe *s, uint8_t *out)
{
    uint8_t *tile = out;
    for (size_t c = 0; c < l->padded; c += SPQR_COLUMNS, tile += l->supertile_size)
        pack_supertile(l->bits, (const uint8_t(*)[SPQR_ROWS])s->codes + c,
                       s->groups + c / SPQR_GROUP, tile);
    if (l->slots)
        pack_outliers(l, s, out);
}

int spqr_unpack(const struct spqr_layout *l, const uint8_t *bytes, size_t size,
                struct spqr_stripe *out, struct error *err)
{
    uint32_t ends[SPQR_ROWS];
    int rc = load_ends(l, bytes, size, ends, err);
    if (rc)
        return rc;
    const uint8_t *tile = bytes;
    for (size_t c = 0; c < l->padded; c += SPQR_COLUMNS, tile += l->supertile_size)
        unpack_supertile(l->bits, tile, out->codes + c, out->groups + c / SPQR_GROUP);
    memset(out->outlier_rows, 0, l->padded * sizeof *out->outlier_rows);
    size_t slot = 0;
    for (int row = 0; row < SPQR_ROWS; row++)
        for (; slot < ends[row]; slot++) {
            size_t column = load_column(l, bytes, slot);
            out->outlier_rows[column] |= (uint16_t)(1 << row);
            out->outliers[column][row] = load_residual(l, bytes, slot);
        }
    return 0;
}

static void decode_group(const struct spqr_group *g, const uint8_t (*codes)[SPQR_ROWS],
                         size_t columns, size_t stride, float *out)
{
    for (int row = 0; row < SPQR_ROWS; row++, out += stride) {
        float scale = g->scale_scale * ((float)g->scales[row] - g->scale_zero);
        float zero = g->zero_scale * ((float)g->zeros[row] - g->zero_zero);
        for (size_t c = 0; c < columns; c++)
            out[c] = scale * ((float)codes[c][row] - zero);
    }
}

int spqr_decode(const struct spqr_layout *l, const uint8_t *bytes, size_t size, float *out,
                struct error *err)
{
    uint32_t ends[SPQR_ROWS];
    int rc = load_ends(l, bytes, size, ends, err);
    if (rc)
        return rc;
    const uint8_t *tile = bytes;
    for (size_t c = 0; c < l->columns; c += SPQR_COLUMNS, tile += l->supertile_size) {
        uint8_t codes[SPQR_COLUMNS][SPQR_ROWS];
        struct spqr_group groups[GROUPS];
        unpack_supertile(l->bits, tile, codes, groups);
        for (size_t g = 0, at = c; g < GROUPS && at < l->columns; g++, at += SPQR_GROUP) {
            size_t left = l->columns - at;
            decode_group(&groups[g], (const uint8_t(*)[SPQR_ROWS])codes + g * SPQR_GROUP,
                         left < SPQR_GROUP ? left : SPQR_GROUP, l->columns, out + at);
        }
    }
    size_t slot = 0;
    for (size_t row = 0; row < SPQR_ROWS; row++)
        for (; slot < ends[row]; slot++)
            out[row * l->columns + load_column(l, bytes, slot)] += load_residual(l, bytes, slot);
    return 0;
}

int spqr_order_parse(const struct spqr_layout *l, const uint8_t *bytes, size_t size, uint32_t *order,
                     struct error *err)
{
    if (size != l->columns * l->index_size)
        return error_set(err, -EINVAL, "a permutation of %zu bytes for %zu columns", size,
                         l->columns);
    bool *seen = calloc(l->columns, sizeof *seen);
    if (!seen)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = 0;
    for (size_t i = 0; !rc && i < l->columns; i++) {
        uint32_t column = l->index_size == 2 ? load_u16(bytes + 2 * i) : load_u32(bytes + 4 * i);
        if (column >= l->columns || seen[column])
            rc = error_set(err, -EINVAL, "place %zu has column %u, which is %s", i, column,
                           column >= l->columns ? "too large" : "there twice");
        else
            seen[order[i] = column] = true;
    }
    free(seen);
    return rc;
}

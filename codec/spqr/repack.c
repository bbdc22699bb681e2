/* SPDX-License-Identifier: MIT
 *
 * From spqr3 to the four tensors of the published kernel, which knows 3 bits and nothing else. It has
 * 16 weights of a row in 64 bits: three bits each of the scale's code, the zero's, and the weights,
 * lowest first, then an eighth of the 16 rows' four halfs. Row r of a tile has byte r / 2 of these.
 */
#include "codec/repack.h"

#include "codec/bytes.h"
#include "codec/spqr/format.h"

#include <errno.h>

enum {
    TILE_SIZE = SPQR_ROWS * sizeof(uint64_t), /* of 16 by 16 weights in dense_weights */
    STRIPE_OFFSETS = SPQR_ROWS * sizeof(uint32_t),
    /* planes of a supertile of spqr3 (FORMAT.md) */
    LOW_BITS = 0,
    THIRD_BITS = 256,
    SCALES = 384,
    ZEROS = 400,
    STATISTICS_THIRD_BITS = 416,
    HALFS = 432,
    HALFS_SIZE = 8, /* of each of ss, sz, zs, zz */
};

static struct spqr_layout stripes_of(const struct repack_matrix *m)
{
    struct spqr_layout l = {0};
    spqr_format_layout(m->format, m->cols, &l, NULL);
    return l;
}

static uint64_t stripe_count(const struct repack_matrix *m)
{
    return m->rows / SPQR_ROWS;
}

/* The stripes of a window, of which each has so many bytes; what is behind them comes with the last. */
static struct repack_units stripes_in(const struct repack_matrix *m, uint64_t at, size_t size,
                                      uint64_t each)
{
    uint64_t last = stripe_count(m) - 1, first = at / each, end = (at + size - 1) / each;
    first = first < last ? first : last;
    end = end < last ? end : last;
    return (struct repack_units){first, end - first + 1};
}

/* ---- dense_weights: tiles of a stripe from left to right, in each a word of every row ---- */

static void dense_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->rows * m->cols / SPQR_GROUP;
}

static struct repack_units dense_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return stripes_in(m, at, size, m->cols / SPQR_GROUP * TILE_SIZE);
}

/* The lowest three bits of eight bytes, side by side. */
static uint64_t squeeze(uint64_t x)
{
    x = (x | x >> 5) & 0x003f003f003f003f;
    x = (x | x >> 10) & 0x00000fff00000fff;
    return (x | x >> 20) & 0xffffff;
}

/* Codes of eight columns of a group: of the first eight, or the last. low: their two-bit plane's
 * bytes; third: the third bits of the row. */
static uint64_t eight_codes(uint64_t low, uint64_t third, unsigned group, unsigned half)
{
    return squeeze((low >> 2 * group & 0x0303030303030303) |
                   (third >> (2 * group + half) & 0x0101010101010101) << 2);
}

/* Row `row` of group `group` of a supertile, without the halfs. */
static uint64_t tile_word(const uint8_t *supertile, unsigned row, unsigned group)
{
    const uint8_t *low = supertile + LOW_BITS + 16 * row;
    uint64_t third = load_u64(supertile + THIRD_BITS + 8 * row);
    unsigned thirds = supertile[STATISTICS_THIRD_BITS + row] >> group;
    uint64_t scale = (supertile[SCALES + row] >> 2 * group & 3) | (thirds & 1) << 2;
    uint64_t zero = (supertile[ZEROS + row] >> 2 * group & 3) | (thirds >> 4 & 1) << 2;
    return scale | zero << 3 | eight_codes(load_u64(low), third, group, 0) << 6 |
           eight_codes(load_u64(low + 8), third, group, 1) << 30;
}

/* ss, zs, sz, zz from the lowest bits up: not the order that they are stored in. */
static uint64_t tile_halfs(const uint8_t *supertile, unsigned group)
{
    const uint8_t *at = supertile + HALFS + 2 * group;
    return load_u16(at) | (uint64_t)load_u16(at + 2 * HALFS_SIZE) << 16 |
           (uint64_t)load_u16(at + HALFS_SIZE) << 32 |
           (uint64_t)load_u16(at + 3 * HALFS_SIZE) << 48;
}

static void put_tile(const uint8_t *supertile, unsigned group, const struct repack_window *w,
                     uint64_t at)
{
    uint64_t words[SPQR_ROWS], halfs = tile_halfs(supertile, group);
    for (unsigned row = 0; row < SPQR_ROWS; row++)
        words[row] = tile_word(supertile, row, group) | (halfs >> row / 2 * 8 & 0xff) << 54;
    repack_copy(w, at, words, sizeof words);
}

static int dense_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)err;
    struct spqr_layout l = stripes_of(m);
    uint64_t tiles = m->cols / SPQR_GROUP;
    for (uint64_t i = 0; i < run.count; i++, bytes += l.stripe_size) {
        uint64_t start = (run.first + i) * tiles * TILE_SIZE;
        uint64_t tile = w->at > start ? (w->at - start) / TILE_SIZE : 0;
        for (; tile < tiles && start + tile * TILE_SIZE < w->at + w->size; tile++)
            put_tile(bytes + tile * SPQR_GROUP / SPQR_COLUMNS * l.supertile_size,
                     tile % (SPQR_COLUMNS / SPQR_GROUP), w, start + tile * TILE_SIZE);
    }
    return 0;
}

/* ---- in_perm: which column stands at each place ---- */

static void order_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->cols * sizeof(uint16_t) / sizeof(uint32_t);
}

static int order_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    (void)bytes;
    (void)run;
    (void)err;
    for (uint64_t c = w->at / sizeof(uint16_t); c * sizeof(uint16_t) < w->at + w->size; c++) {
        uint16_t column = (uint16_t)(m->order ? m->order[c] : c);
        repack_copy(w, c * sizeof column, &column, sizeof column);
    }
    return 0;
}

/* ---- col_vals: all slots of a stripe, column below and value above ---- */

static void slots_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = stripe_count(m) * stripes_of(m).slots;
}

static struct repack_units slots_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return stripes_in(m, at, size, stripes_of(m).slots * sizeof(uint32_t));
}

static int slots_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                     const struct repack_window *w, struct error *err)
{
    struct spqr_layout l = stripes_of(m);
    for (uint64_t i = 0; i < run.count; i++, bytes += l.stripe_size) {
        uint64_t start = (run.first + i) * l.slots * sizeof(uint32_t);
        size_t slot = w->at > start ? (size_t)(w->at - start) / sizeof(uint32_t) : 0;
        for (; slot < l.slots && start + slot * sizeof(uint32_t) < w->at + w->size; slot++) {
            uint32_t column = load_u16(bytes + l.columns_at + slot * sizeof(uint16_t));
            uint32_t value = load_u16(bytes + l.values_at + slot * sizeof(uint16_t));
            if (column >= m->cols)
                return error_set(err, -EINVAL, "SpQR slot %zu has column %u", slot, column);
            uint32_t entry = column | value << 16;
            repack_copy(w, start + slot * sizeof entry, &entry, sizeof entry);
        }
    }
    return 0;
}

/* ---- row_offsets: where the entries of a row begin, and behind the last row where they end ---- */

static void offsets_shape(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS])
{
    shape[0] = m->rows + 1;
}

static struct repack_units offsets_need(const struct repack_matrix *m, uint64_t at, size_t size)
{
    return stripes_in(m, at, size, STRIPE_OFFSETS);
}

/* Slots that are not filled are entries of the stripe's last row: column 0, value 0. */
static int offsets_put(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
                       const struct repack_window *w, struct error *err)
{
    struct spqr_layout l = stripes_of(m);
    for (uint64_t s = run.first; s < run.first + run.count; s++, bytes += l.stripe_size) {
        const uint8_t *ends = bytes + l.columns_at - STRIPE_OFFSETS;
        uint32_t base = (uint32_t)(s * l.slots), offsets[SPQR_ROWS + 1] = {base};
        for (int row = 1; row < SPQR_ROWS; row++) {
            offsets[row] = base + load_u32(ends + (size_t)(row - 1) * sizeof(uint32_t));
            if (offsets[row] < offsets[row - 1] || offsets[row] - base > l.slots)
                return error_set(err, -EINVAL, "the SpQR outliers of row %d end out of order",
                                 row - 1);
        }
        offsets[SPQR_ROWS] = base + (uint32_t)l.slots;
        repack_copy(w, s * STRIPE_OFFSETS, offsets,
                    s + 1 == stripe_count(m) ? sizeof offsets : STRIPE_OFFSETS);
    }
    return 0;
}

const struct repack spqr_repacks[SPQR_REPACK_COUNT] = {
    {"dense_weights", "I64", 8, 1, dense_shape,   dense_need,   dense_put, false},
    {"in_perm",       "I32", 4, 1, order_shape,   NULL,         order_put, false},
    {"col_vals",      "I32", 4, 1, slots_shape,   slots_need,   slots_put, false},
    {"row_offsets",   "I32", 4, 1, offsets_shape, offsets_need, offsets_put, false},
};

/* SPDX-License-Identifier: MIT
 *
 * Layouts for transformers: what a published packer makes of a tile of SpQR, every weight that the
 * layouts have against the canonical bytes, and windows, which are what they are of the whole.
 */
#include "codec/awq/format.h"
#include "codec/bnb/format.h"
#include "codec/bytes.h"
#include "codec/compressed/format.h"
#include "codec/float16.h"
#include "codec/gptq/format.h"
#include "codec/repack.h"
#include "codec/spqr/format.h"
#include "tests/weights.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DENSE, ORDER, SLOTS, OFFSETS };    /* spqr_repacks */
enum { CODES, ZEROS, SCALES, GROUPS_OF }; /* gptq_repacks, and the first three of awq_repacks */

static void *allocate(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

static const struct format *find(const struct format *list, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    fail_msg("no format %s", name);
    return NULL;
}

static const struct format *gptq_format(const char *name)
{
    return find(gptq_formats, GPTQ_FORMAT_COUNT, name);
}

/* ---- matrices ---- */

struct packed {
    struct repack_matrix matrix;
    uint8_t *bytes;
    size_t unit, count;
};

/* A half between -2 and 2. */
static float random_half(struct random *r)
{
    return (float)((int)(random_bits(r) % 4096) - 2048) / 1024;
}

static void fill_stripe(const struct spqr_layout *l, struct random *r, uint8_t *out)
{
    struct spqr_stripe s = {
        allocate(l->padded, sizeof *s.codes), allocate(l->padded / SPQR_GROUP, sizeof *s.groups),
        allocate(l->padded, sizeof *s.outlier_rows), allocate(l->padded, sizeof *s.outliers)};
    for (size_t c = 0; c < l->padded; c++)
        for (int row = 0; row < SPQR_ROWS; row++)
            s.codes[c][row] = random_bits(r) % 8;
    for (size_t g = 0; g < l->padded / SPQR_GROUP; g++) {
        for (int row = 0; row < SPQR_ROWS; row++) {
            s.groups[g].scales[row] = random_bits(r) % 8;
            s.groups[g].zeros[row] = random_bits(r) % 8;
        }
        s.groups[g].scale_scale = random_half(r);
        s.groups[g].scale_zero = random_half(r);
        s.groups[g].zero_scale = random_half(r);
        s.groups[g].zero_zero = random_half(r);
    }
    for (size_t i = 0; i < l->slots - 2; i++) {
        size_t c = i == 0 ? 0 : i == 1 ? l->columns - 1 : random_bits(r) % l->columns;
        int row = (int)(random_bits(r) % SPQR_ROWS);
        s.outlier_rows[c] |= (uint16_t)(1 << row);
        s.outliers[c][row] = random_half(r);
    }
    spqr_pack(l, &s, out);
    free(s.codes);
    free(s.groups);
    free(s.outlier_rows);
    free(s.outliers);
}

static struct packed spqr_matrix(uint64_t rows, uint64_t cols)
{
    struct random r = {rows * cols};
    struct spqr_layout l;
    struct packed p = {
        .matrix = {find(spqr_formats, SPQR_FORMAT_COUNT, "spqr3"), rows, cols, NULL}
    };
    assert_int_equal(spqr_format_layout(p.matrix.format, cols, &l, NULL), 0);
    p.unit = l.stripe_size;
    p.count = (size_t)rows / SPQR_ROWS;
    p.bytes = allocate(p.count, p.unit);
    for (size_t i = 0; i < p.count; i++)
        fill_stripe(&l, &r, p.bytes + i * p.unit);
    return p;
}

static struct packed gptq_matrix(const char *format, uint64_t rows, uint64_t cols)
{
    struct random r = {rows + cols};
    struct packed p = {
        .matrix = {gptq_format(format), rows, cols, NULL}
    };
    p.unit = (size_t)(cols / p.matrix.format->block * p.matrix.format->block_size);
    p.count = (size_t)rows;
    p.bytes = allocate(p.count, p.unit);
    for (size_t i = 0; i < p.count * p.unit; i++)
        p.bytes[i] = (uint8_t)random_bits(&r);
    for (size_t at = 0; at < p.count * p.unit; at += p.matrix.format->block_size)
        store_u16(p.bytes + at, f16_from_f32(random_half(&r)));
    return p;
}

/* Any bytes are such a matrix, but for zeros beyond four bits. */
static struct packed awq_matrix(uint64_t rows, uint64_t cols)
{
    struct random r = {rows + cols};
    struct packed p = {
        .matrix = {&awq_formats[0], rows, cols, NULL}
    };
    p.unit = (size_t)(cols / AWQ_GROUP * AWQ_BLOCK_SIZE);
    p.count = (size_t)rows;
    p.bytes = allocate(p.count, p.unit);
    for (size_t i = 0; i < p.count * p.unit; i++)
        p.bytes[i] = (uint8_t)random_bits(&r);
    for (size_t at = 0; at < p.count * p.unit; at += AWQ_BLOCK_SIZE) {
        store_u16(p.bytes + at, f16_from_f32(random_half(&r)));
        p.bytes[at + AWQ_SCALE_SIZE] %= 16;
    }
    return p;
}

/* One of bnb/ or compressed/: random bytes, but for what is a float in NF4. */
static struct packed scaled_matrix(const struct format *f, uint64_t rows, uint64_t cols)
{
    struct random r = {rows * 7 + cols};
    struct packed p = {
        .matrix = {.format = f, .rows = rows, .cols = cols, .type = FORMAT_BF16, .mean = 0.25f}
    };
    uint64_t size;
    assert_true(format_packed_bytes(f, cols, rows * cols, &size));
    p.unit = repack_unit_size(&p.matrix);
    p.count = (size_t)(size - 1) / p.unit + 1;
    p.bytes = allocate(p.count, p.unit);
    for (size_t i = 0; i < size; i++)
        p.bytes[i] = (uint8_t)random_bits(&r);
    for (size_t at = 0; f->run && at < size; at += f->block_size) {
        float absmax = fabsf(random_half(&r));
        memcpy(p.bytes + at, &absmax, sizeof absmax);
    }
    return p;
}

/* A window out of the units that it needs, `step` of them at a time, the last ones first. */
static void read_window(const struct packed *p, const struct repack *repack, uint64_t at,
                        size_t size, uint64_t step, uint8_t *out)
{
    struct error err;
    const struct repack_window w = {out, at, size};
    struct repack_units need = {0, 0};
    if (!repack->need) {
        assert_int_equal(repack->put(&p->matrix, NULL, need, &w, &err), 0);
        return;
    }
    need = repack->need(&p->matrix, at, size);
    assert_true(need.count > 0 && need.first + need.count <= p->count);
    for (uint64_t end = need.first + need.count; end > need.first;) {
        struct repack_units run = {end - need.first > step ? end - step : need.first, 0};
        run.count = end - run.first;
        assert_int_equal(repack->put(&p->matrix, p->bytes + run.first * p->unit, run, &w, &err), 0);
        end = run.first;
    }
}

static void *read_whole(const struct packed *p, const struct repack *repack)
{
    size_t size = (size_t)repack_size(repack, &p->matrix);
    uint8_t *out = allocate(size, 1);
    memset(out, 0xee, size);
    assert_int_equal(repack_unit_size(&p->matrix), p->unit);
    read_window(p, repack, 0, size, p->count, out);
    return out;
}

/* ---- windows ---- */

static void check_window(const struct packed *p, const struct repack *repack, const uint8_t *whole,
                         size_t at, size_t size, uint64_t step)
{
    enum { GUARD = 16 };
    uint8_t *out = allocate(size + 2 * GUARD, 1);
    memset(out, 0x5a, size + 2 * GUARD);
    read_window(p, repack, at, size, step, out + GUARD);
    assert_memory_equal(out + GUARD, whole + at, size);
    for (size_t i = 0; i < GUARD; i++)
        assert_true(out[i] == 0x5a && out[GUARD + size + i] == 0x5a);
    free(out);
}

static void check_windows(const struct packed *p, const struct repack *repack)
{
    struct random r = {p->unit};
    uint8_t *whole = read_whole(p, repack);
    size_t size = (size_t)repack_size(repack, &p->matrix);
    for (int i = 0; i < 300; i++) {
        size_t at = random_bits(&r) % size, left = size - at;
        size_t n = i % 2 && left > 40 ? 1 + random_bits(&r) % 40 : 1 + random_bits(&r) % left;
        check_window(p, repack, whole, at, n, 1 + (uint64_t)i % 3);
    }
    check_window(p, repack, whole, size - 1, 1, 1);
    check_window(p, repack, whole, 0, size, 1);
    free(whole);
}

static void test_windows_are_those_of_the_whole(void **state)
{
    (void)state;
    static const uint64_t shapes[][2] = {
        {16, 16 },
        {48, 144},
        {64, 64 },
        {32, 304}
    };
    static const char *const names[] = {"gptq3-g128", "gptq4-g128", "gptq8-g128"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct packed p = spqr_matrix(shapes[i][0], shapes[i][1]);
        for (int k = 0; k < SPQR_REPACK_COUNT; k++)
            check_windows(&p, &spqr_repacks[k]);
        free(p.bytes);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct packed p = gptq_matrix(names[i], 64, 384);
        for (int k = 0; k < GPTQ_REPACK_COUNT; k++)
            check_windows(&p, &gptq_repacks[k]);
        free(p.bytes);
    }
    for (uint64_t rows = 8; rows <= 64; rows += 56) {
        struct packed p = awq_matrix(rows, 384);
        for (int k = 0; k < AWQ_REPACK_COUNT; k++)
            check_windows(&p, &awq_repacks[k]);
        free(p.bytes);
    }
}

static void check_scaled(const struct format *f, uint64_t rows, uint64_t cols,
                         const struct repack *repacks, int count)
{
    struct packed p = scaled_matrix(f, rows, cols);
    for (int k = 0; k < count; k++)
        check_windows(&p, &repacks[k]);
    free(p.bytes);
}

/* Also where blocks run over rows, and the last unit and the last block are short. */
static void test_windows_of_scaled_layouts(void **state)
{
    (void)state;
    static const uint64_t shapes[][2] = {
        {64, 1024},
        {100, 333},
        {5,  20  },
        {1,  1   }
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        uint64_t rows = shapes[i][0], cols = shapes[i][1];
        check_scaled(&bnb_formats[BNB_NF4], rows, cols, nf4_repacks, NF4_REPACK_COUNT);
        check_scaled(&bnb_formats[BNB_NF4], rows, cols, nf4_dq_repacks, NF4_DQ_REPACK_COUNT);
        check_scaled(&bnb_formats[BNB_INT8], rows, cols, int8_repacks, INT8_REPACK_COUNT);
        for (int k = 0; k < COMPRESSED_FORMAT_COUNT; k += 2) {
            check_scaled(&compressed_formats[k], rows, 128 * (cols % 3 + 1), w4_repacks,
                         W4_REPACK_COUNT);
            check_scaled(&compressed_formats[k + 1], rows, cols, w8_repacks, W8_REPACK_COUNT);
        }
    }
}

static void check_need(const struct packed *p, const struct repack *repack, uint64_t at,
                       size_t size, uint64_t first, uint64_t count)
{
    struct repack_units need = repack->need(&p->matrix, at, size);
    assert_int_equal(need.first, first);
    assert_int_equal(need.count, count);
}

static void test_no_more_is_needed(void **state)
{
    (void)state;
    struct packed p = spqr_matrix(64, 144); /* 23 slots a stripe */
    check_need(&p, &spqr_repacks[DENSE], 8 * 144, 8 * 144, 1, 1);
    check_need(&p, &spqr_repacks[DENSE], 8 * 144 - 1, 2, 0, 2);
    check_need(&p, &spqr_repacks[SLOTS], 4 * 23 * 2, 4 * 23 * 2, 2, 2);
    check_need(&p, &spqr_repacks[OFFSETS], 64, 64, 1, 1);
    check_need(&p, &spqr_repacks[OFFSETS], 4 * 64, 4, 3, 1); /* the last one, behind all rows */
    assert_null(spqr_repacks[ORDER].need);
    free(p.bytes);
    p = gptq_matrix("gptq4-g128", 64, 256);
    check_need(&p, &gptq_repacks[CODES], 5 * 4 * 64 + 4 * 10, 12, 10, 3);
    check_need(&p, &gptq_repacks[CODES], 5 * 4 * 64 + 4 * 60, 20, 0,
               64); /* on into the next words */
    check_need(&p, &gptq_repacks[SCALES], 2 * 64 + 7, 2, 3, 2);
    assert_null(gptq_repacks[ZEROS].need);
    assert_null(gptq_repacks[GROUPS_OF].need);
    free(p.bytes);
    p = awq_matrix(64, 256);
    check_need(&p, &awq_repacks[CODES], 5 * 4 * 8 + 4 * 2 + 1, 4, 16, 16);
    check_need(&p, &awq_repacks[CODES], 5 * 4 * 8 + 4 * 7, 5, 0, 64); /* on into the next column */
    check_need(&p, &awq_repacks[ZEROS], 4 * 8, 4, 0, 8);
    check_need(&p, &awq_repacks[SCALES], 2 * 64 + 7, 2, 3, 2);
    free(p.bytes);
    p = scaled_matrix(&bnb_formats[BNB_NF4], 64, 1024); /* four units of 256 blocks */
    check_need(&p, &nf4_repacks[3], 2 * 8192 - 1, 2, 1, 2);
    check_need(&p, &nf4_repacks[0], 1024, 1024, 1, 1);
    check_need(&p, &nf4_dq_repacks[4], 256, 257, 1, 2);
    check_need(&p, &nf4_dq_repacks[0], 8, 4, 2, 1);
    free(p.bytes);
    p = scaled_matrix(&compressed_formats[0], 64, 256); /* of two groups */
    check_need(&p, &w4_repacks[1], 64 * 5, 64, 5, 1);
    check_need(&p, &w4_repacks[2], 2 * 127, 2, 127, 1);
    free(p.bytes);
    p = scaled_matrix(&bnb_formats[BNB_INT8], 64, 100);
    check_need(&p, &int8_repacks[1], 100 * 7 + 99, 2, 7, 2);
    free(p.bytes);
}

/* ---- SpQR ---- */

/* One tile, as the packer of SpQR's authors has packed it. */
static const uint64_t golden[SPQR_ROWS] = {
    0x003eb1a23eb1a218, 0x003eb1a23eb1a221, 0x083eb1a23eb1a22a, 0x083eb1a23eb1a233,
    0x003eb1a23eb1a23c, 0x003eb1a23eb1a205, 0x0e3eb1a23eb1a20e, 0x0e3eb1a23eb1a217,
    0x003eb1a23eb1a218, 0x003eb1a23eb1a221, 0x303eb1a23eb1a22a, 0x303eb1a23eb1a233,
    0x003eb1a23eb1a23c, 0x003eb1a23eb1a205, 0x0f3eb1a23eb1a20e, 0x0f3eb1a23eb1a217,
};

static void fill_golden(struct packed *p)
{
    struct spqr_layout l;
    static uint8_t codes[SPQR_COLUMNS][SPQR_ROWS];
    static struct spqr_group groups[SPQR_COLUMNS / SPQR_GROUP];
    static uint16_t outlier_rows[SPQR_COLUMNS];
    static float outliers[SPQR_COLUMNS][SPQR_ROWS];
    struct spqr_stripe s = {codes, groups, outlier_rows, outliers};
    for (int row = 0; row < SPQR_ROWS; row++) {
        for (int c = 0; c < SPQR_GROUP; c++)
            codes[c][row] = (uint8_t)((16 * row + c) % 8);
        groups[0].scales[row] = (uint8_t)(row % 8);
        groups[0].zeros[row] = (uint8_t)((row + 3) % 8);
    }
    groups[0].scale_scale = 0.0078125f;
    groups[0].scale_zero = -2;
    groups[0].zero_scale = 0.5f;
    groups[0].zero_zero = 1;
    outlier_rows[5] = 1 << 2;
    outliers[5][2] = 1;
    outlier_rows[15] = 1 << 7;
    outliers[15][7] = -2;
    assert_int_equal(spqr_format_layout(p->matrix.format, SPQR_GROUP, &l, NULL), 0);
    assert_int_equal(l.slots, 3);
    spqr_pack(&l, &s, p->bytes);
}

static void test_golden_tile(void **state)
{
    (void)state;
    struct packed p = spqr_matrix(16, 16);
    fill_golden(&p);
    void *dense = read_whole(&p, &spqr_repacks[DENSE]);
    assert_int_equal(repack_size(&spqr_repacks[DENSE], &p.matrix), sizeof golden);
    assert_memory_equal(dense, golden, sizeof golden);
    static const uint32_t entries[] = {5 | 0x3c00u << 16, 15 | 0xc000u << 16, 0};
    void *slots = read_whole(&p, &spqr_repacks[SLOTS]);
    assert_int_equal(repack_size(&spqr_repacks[SLOTS], &p.matrix), sizeof entries);
    assert_memory_equal(slots, entries, sizeof entries);
    static const uint32_t starts[] = {0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3};
    void *offsets = read_whole(&p, &spqr_repacks[OFFSETS]);
    assert_int_equal(repack_size(&spqr_repacks[OFFSETS], &p.matrix), sizeof starts);
    assert_memory_equal(offsets, starts, sizeof starts);
    free(dense);
    free(slots);
    free(offsets);
    free(p.bytes);
}

/* The weights of a tile, by the table of its bits; the sum of both kinds of rows must give the same
 * halfs. */
static void decode_tile(const uint64_t words[SPQR_ROWS], float out[SPQR_ROWS][SPQR_GROUP])
{
    uint64_t halfs = 0, again = 0;
    for (int k = 0; k < SPQR_ROWS; k += 2) {
        halfs |= (words[k] >> 54) << k / 2 * 8;
        again |= (words[k + 1] >> 54) << k / 2 * 8;
    }
    assert_true(halfs == again);
    float ss = f32_from_f16((uint16_t)halfs), zs = f32_from_f16((uint16_t)(halfs >> 16)),
          sz = f32_from_f16((uint16_t)(halfs >> 32)), zz = f32_from_f16((uint16_t)(halfs >> 48));
    for (int k = 0; k < SPQR_ROWS; k++) {
        float scale = ss * ((float)(words[k] & 7) - sz),
              zero = zs * ((float)(words[k] >> 3 & 7) - zz);
        assert_int_equal(words[k] >> 62, 0);
        for (int c = 0; c < SPQR_GROUP; c++)
            out[k][c] = scale * ((float)(words[k] >> (6 + 3 * c) & 7) - zero);
    }
}

/* All weights of four tensors, columns in the order of the tiles. */
static void decode_spqr(const struct packed *p, float *out)
{
    uint64_t rows = p->matrix.rows, cols = p->matrix.cols;
    uint64_t *dense = read_whole(p, &spqr_repacks[DENSE]);
    uint32_t *entries = read_whole(p, &spqr_repacks[SLOTS]);
    uint32_t *offsets = read_whole(p, &spqr_repacks[OFFSETS]);
    for (uint64_t ti = 0; ti < rows / 16; ti++)
        for (uint64_t tj = 0; tj < cols / 16; tj++) {
            float tile[SPQR_ROWS][SPQR_GROUP];
            decode_tile(dense + (ti * (cols / 16) + tj) * 16, tile);
            for (int k = 0; k < SPQR_ROWS; k++)
                memcpy(out + (ti * 16 + (uint64_t)k) * cols + tj * 16, tile[k], sizeof tile[k]);
        }
    assert_int_equal(offsets[0], 0);
    assert_int_equal(4 * offsets[rows], repack_size(&spqr_repacks[SLOTS], &p->matrix));
    for (uint64_t row = 0; row < rows; row++)
        for (uint32_t i = offsets[row]; i < offsets[row + 1]; i++)
            out[row * cols + (entries[i] & 0xffff)] += f32_from_f16((uint16_t)(entries[i] >> 16));
    free(dense);
    free(entries);
    free(offsets);
}

static void test_spqr_weights(void **state)
{
    (void)state;
    static const uint64_t shapes[][2] = {
        {16, 16 },
        {48, 144},
        {64, 64 },
        {32, 304}
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct packed p = spqr_matrix(shapes[i][0], shapes[i][1]);
        struct spqr_layout l;
        struct error err;
        size_t weights = (size_t)(p.matrix.rows * p.matrix.cols);
        float *found = allocate(weights, sizeof *found),
              *expected = allocate(weights, sizeof *found);
        spqr_format_layout(p.matrix.format, p.matrix.cols, &l, NULL);
        for (size_t s = 0; s < p.count; s++)
            assert_int_equal(spqr_decode(&l, p.bytes + s * p.unit, p.unit,
                                         expected + s * SPQR_ROWS * l.columns, &err),
                             0);
        decode_spqr(&p, found);
        for (size_t k = 0; k < weights; k++)
            assert_true(found[k] == expected[k]);
        free(found);
        free(expected);
        free(p.bytes);
    }
}

static void test_spqr_order(void **state)
{
    (void)state;
    struct packed p = spqr_matrix(16, 48);
    uint32_t order[48];
    uint16_t *found = read_whole(&p, &spqr_repacks[ORDER]);
    for (uint32_t c = 0; c < 48; c++) {
        assert_int_equal(found[c], c);
        order[c] = c * 5 % 48;
    }
    free(found);
    p.matrix.order = order;
    found = read_whole(&p, &spqr_repacks[ORDER]);
    for (uint32_t c = 0; c < 48; c++)
        assert_int_equal(found[c], order[c]);
    check_windows(&p, &spqr_repacks[ORDER]);
    free(found);
    free(p.bytes);
}

static void check_damaged(const struct packed *p, const struct repack *repack)
{
    struct error err;
    size_t size = (size_t)repack_size(repack, &p->matrix);
    const struct repack_window w = {allocate(size, 1), 0, size};
    assert_int_equal(
        repack->put(&p->matrix, p->bytes, (struct repack_units){0, p->count}, &w, &err), -EINVAL);
    free(w.out);
}

static void test_damaged_stripes(void **state)
{
    (void)state;
    static const uint8_t beyond[] = {160, 0};
    struct packed p = spqr_matrix(32, 160);
    struct spqr_layout l;
    spqr_format_layout(p.matrix.format, 160, &l, NULL);
    memcpy(p.bytes + p.unit + l.columns_at + 2 * 3, beyond, sizeof beyond);
    check_damaged(&p, &spqr_repacks[SLOTS]);
    uint8_t *ends = p.bytes + p.unit + l.columns_at - 64, first[4];
    memcpy(first, ends, 4);
    memset(ends, 0xff, 4);
    check_damaged(&p, &spqr_repacks[OFFSETS]);
    memcpy(ends, (uint8_t[]){(uint8_t)l.slots, 0, 0, 0}, 4);
    check_damaged(&p, &spqr_repacks[OFFSETS]);
    free(p.bytes);
}

/* ---- GPTQ ---- */

/* Number i of a string of bits in words that are `stride` apart. */
static uint32_t bits_at(const uint32_t *words, size_t stride, size_t i, unsigned bits)
{
    uint32_t out = 0;
    for (unsigned b = 0; b < bits; b++) {
        size_t bit = i * bits + b;
        out |= (words[bit / 32 * stride] >> bit % 32 & 1) << b;
    }
    return out;
}

static void check_gptq(const char *name, uint32_t first_zeros)
{
    struct packed p = gptq_matrix(name, 96, 384);
    size_t rows = 96, cols = 384;
    unsigned bits = (unsigned)gptq_bits(p.matrix.format);
    uint32_t *codes = read_whole(&p, &gptq_repacks[CODES]);
    uint32_t *zeros = read_whole(&p, &gptq_repacks[ZEROS]);
    uint16_t *scales = read_whole(&p, &gptq_repacks[SCALES]);
    uint32_t *groups = read_whole(&p, &gptq_repacks[GROUPS_OF]);
    float row[384];
    assert_int_equal(zeros[0], first_zeros);
    for (size_t i = 0; i < rows; i++) {
        p.matrix.format->decode(p.bytes + i * p.unit, cols, row);
        for (size_t j = 0; j < cols; j++) {
            uint32_t g = groups[j];
            assert_int_equal(g, j / 128);
            uint32_t zero = bits_at(zeros + g * (rows * bits / 32), 1, i, bits) + 1;
            float weight = f32_from_f16(scales[g * rows + i]) *
                           (float)((int)bits_at(codes + i, rows, j, bits) - (int)zero);
            assert_true(weight == row[j]);
        }
    }
    free(codes);
    free(zeros);
    free(scales);
    free(groups);
    free(p.bytes);
}

static void test_gptq_weights(void **state)
{
    (void)state;
    check_gptq("gptq3-g128", 0xdb6db6db);
    check_gptq("gptq4-g128", 0x77777777);
    check_gptq("gptq8-g128", 0x7f7f7f7f);
}

static void test_gptq_shapes(void **state)
{
    (void)state;
    uint64_t shape[REPACK_DIMS];
    const struct repack_matrix m = {.format = gptq_format("gptq3-g128"), .rows = 64, .cols = 256};
    gptq_repacks[CODES].shape(&m, shape);
    assert_true(shape[0] == 24 && shape[1] == 64);
    gptq_repacks[ZEROS].shape(&m, shape);
    assert_true(shape[0] == 2 && shape[1] == 6);
    gptq_repacks[SCALES].shape(&m, shape);
    assert_true(shape[0] == 2 && shape[1] == 64);
    gptq_repacks[GROUPS_OF].shape(&m, shape);
    assert_true(shape[0] == 256);
}

/* ---- AWQ ---- */

/* Row i of eight that share a word. */
static uint32_t nibble_of(uint32_t word, size_t i)
{
    static const unsigned nibbles[] = {0, 4, 1, 5, 2, 6, 3, 7};
    return word >> 4 * nibbles[i % 8] & 15;
}

static void test_awq_weights(void **state)
{
    (void)state;
    enum { COLS = 384 };
    struct packed p = awq_matrix(40, COLS);
    size_t rows = 40, words = rows / 8;
    uint32_t *codes = read_whole(&p, &awq_repacks[CODES]);
    uint32_t *zeros = read_whole(&p, &awq_repacks[ZEROS]);
    uint16_t *scales = read_whole(&p, &awq_repacks[SCALES]);
    float row[COLS];
    for (size_t i = 0; i < rows; i++) {
        p.matrix.format->decode(p.bytes + i * p.unit, COLS, row);
        for (size_t j = 0; j < COLS; j++) {
            size_t g = j / 128;
            float weight = f32_from_f16(scales[g * rows + i]) *
                           (float)((int)nibble_of(codes[j * words + i / 8], i) -
                                   (int)nibble_of(zeros[g * words + i / 8], i));
            assert_true(weight == row[j]);
        }
    }
    free(codes);
    free(zeros);
    free(scales);
    free(p.bytes);
}

static void test_awq_shapes(void **state)
{
    (void)state;
    uint64_t shape[REPACK_DIMS];
    const struct repack_matrix m = {.format = &awq_formats[0], .rows = 64, .cols = 256};
    awq_repacks[CODES].shape(&m, shape);
    assert_true(shape[0] == 256 && shape[1] == 8);
    awq_repacks[ZEROS].shape(&m, shape);
    assert_true(shape[0] == 2 && shape[1] == 8);
    awq_repacks[SCALES].shape(&m, shape);
    assert_true(shape[0] == 2 && shape[1] == 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows_are_those_of_the_whole),
        cmocka_unit_test(test_windows_of_scaled_layouts),
        cmocka_unit_test(test_no_more_is_needed),
        cmocka_unit_test(test_golden_tile),
        cmocka_unit_test(test_spqr_weights),
        cmocka_unit_test(test_spqr_order),
        cmocka_unit_test(test_damaged_stripes),
        cmocka_unit_test(test_gptq_weights),
        cmocka_unit_test(test_gptq_shapes),
        cmocka_unit_test(test_awq_weights),
        cmocka_unit_test(test_awq_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

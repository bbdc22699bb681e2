/* SPDX-License-Identifier: MIT
 *
 * The bytes of SpQR stripes: sizes, the place of every bit as FORMAT.md says it, the way there and
 * back, what decodes, and what is refused.
 */
#include "codec/bytes.h"
#include "codec/float16.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/stripes.h"

static void test_sizes(void **state)
{
    (void)state;
    static const size_t supertile[5] = {[2] = 336, [3] = 464, [4] = 592};
    struct error err;
    uint64_t size;
    for (int bits = 2; bits <= 4; bits++) {
        struct spqr_layout l = layout(bits, 4096, 0);
        assert_int_equal(l.supertile_size, supertile[bits]);
        assert_int_equal(l.stripe_size, 64 * supertile[bits]);
        assert_int_equal(l.slots, 0);
    }
    /* 655.36 slots; 16 * 2.5 of a tenth */
    struct spqr_layout l = layout(3, 4096, 0.01);
    assert_int_equal(l.slots, 655);
    assert_int_equal(l.stripe_size, 64 * 464 + 64 + 1312 + 1312);
    assert_int_equal(spqr_size(&l, 4095, &size, &err), 0);
    assert_int_equal(size, 256 * l.stripe_size + 2 * 4096);
    l = layout(3, 100, 1. / 64);
    assert_int_equal(l.padded, 128);
    assert_int_equal(l.slots, 25);
    assert_int_equal(layout(3, 1, 1. / 32).slots, 1); /* halves up */
    assert_int_equal(layout(3, 65536, 0.01).index_size, 2);
    assert_int_equal(layout(3, 65537, 0.01).index_size, 4);
    assert_int_equal(spqr_size(&l, UINT64_MAX, &size, &err), -EINVAL);
}

static void test_what_has_no_layout(void **state)
{
    (void)state;
    struct spqr_layout l;
    struct error err;
    assert_int_equal(spqr_layout(1, 64, 0, &l, &err), -EINVAL);
    assert_int_equal(spqr_layout(5, 64, 0, &l, &err), -EINVAL);
    assert_int_equal(spqr_layout(3, 0, 0, &l, &err), -EINVAL);
    assert_int_equal(spqr_layout(3, UINT64_MAX, 0, &l, &err), -EINVAL);
    assert_int_equal(spqr_layout(3, 64, -0.1, &l, &err), -EINVAL);
    assert_int_equal(spqr_layout(3, 64, 1.1, &l, &err), -EINVAL);
    assert_int_equal(spqr_layout(3, 64, (double)NAN, &l, &err), -EINVAL);
}

/* ---- every bit ---- */

/* Packs s and checks that of a supertile's bytes only one is not 0, which is that. */
static void assert_byte(const struct spqr_layout *l, const struct spqr_stripe *s, size_t at,
                        uint8_t value)
{
    uint8_t bytes[592];
    memset(bytes, 0xff, sizeof bytes);
    spqr_pack(l, s, bytes);
    for (size_t i = 0; i < l->stripe_size; i++)
        assert_int_equal(bytes[i], i == at ? value : 0);
}

static void test_where_weights_lie(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 4; bits++) {
        struct spqr_layout l = layout(bits, 64, 0);
        struct spqr_stripe s;
        stripe_allocate(&l, &s);
        for (size_t row = 0; row < 16; row++)
            for (size_t c = 0; c < 64; c++)
                for (int bit = 0; bit < bits; bit++) {
                    int plane = bits == 4 ? 4 : bit < 2 ? 2 : 1;
                    size_t at = bit < 2 || bits == 4 ? 0 : 256;
                    int in_plane = bits == 4 ? bit : bit % 2;
                    size_t size = 8 * (size_t)plane;
                    s.codes[c][row] = (uint8_t)(1 << bit);
                    assert_byte(&l, &s, at + size * row + c % size,
                                (uint8_t)(1 << ((int)(c / size) * plane + in_plane)));
                    s.codes[c][row] = 0;
                }
        stripe_free(&s);
    }
}

static void test_where_statistics_lie(void **state)
{
    (void)state;
    static const size_t weights[5] = {[2] = 256, [3] = 384, [4] = 512};
    for (int bits = 2; bits <= 4; bits++) {
        struct spqr_layout l = layout(bits, 64, 0);
        struct spqr_stripe s;
        stripe_allocate(&l, &s);
        for (size_t g = 0; g < 4; g++) {
            struct spqr_group *group = &s.groups[g];
            for (size_t row = 0; row < 16; row++)
                for (int bit = 0; bit < 3; bit++) {
                    size_t at = weights[bits] + row, scales = bit < 2 ? at : at + 32,
                           zeros = bit < 2 ? at + 16 : at + 32;
                    size_t shift = bit < 2 ? 2 * g + (size_t)bit : g;
                    group->scales[row] = (uint8_t)(1 << bit);
                    assert_byte(&l, &s, scales, (uint8_t)(1 << shift));
                    group->scales[row] = 0;
                    group->zeros[row] = (uint8_t)(1 << bit);
                    assert_byte(&l, &s, zeros, (uint8_t)(1 << (bit < 2 ? shift : 4 + g)));
                    group->zeros[row] = 0;
                }
            float *halfs[] = {&group->scale_scale, &group->scale_zero, &group->zero_scale,
                              &group->zero_zero};
            for (size_t i = 0; i < 4; i++) {
                *halfs[i] = 2; /* 0x4000 */
                assert_byte(&l, &s, weights[bits] + 48 + 8 * i + 2 * g + 1, 0x40);
                *halfs[i] = 0;
            }
        }
        stripe_free(&s);
    }
}

/* By row, then by column; ends of rows; columns of two bytes and of four. */
static void check_outliers(size_t columns, double budget)
{
    struct spqr_layout l = layout(3, columns, budget);
    struct spqr_stripe s;
    stripe_allocate(&l, &s);
    uint8_t *bytes = allocate(l.stripe_size, 1);
    static const struct {
        size_t column_from_last;
        int row;
        float residual;
    } outliers[] = {
        {5, 0,  1    },
        {0, 0,  -2   },
        {7, 3,  0.5f },
        {0, 15, 0.25f}
    };
    for (size_t i = 0; i < 4; i++) {
        size_t c = columns - 1 - outliers[i].column_from_last;
        s.outlier_rows[c] |= (uint16_t)(1 << outliers[i].row);
        s.outliers[c][outliers[i].row] = outliers[i].residual;
    }
    memset(bytes, 0xff, l.stripe_size);
    spqr_pack(&l, &s, bytes);
    const uint8_t *section = bytes + l.padded / 64 * 464;
    size_t width = columns > 65536 ? 4 : 2, plane = (l.slots * width + 15) / 16 * 16;
    for (int row = 0; row < 16; row++) {
        uint32_t end;
        memcpy(&end, section + 4 * row, 4);
        assert_int_equal(end, row < 3 ? 2 : row < 15 ? 3 : 4);
    }
    for (size_t slot = 0; slot < l.slots; slot++) {
        uint32_t column = 0;
        memcpy(&column, section + 64 + slot * width, width);
        uint16_t half = load_u16(section + 64 + plane + 2 * slot);
        assert_int_equal(column, slot < 4 ? columns - 1 - outliers[slot].column_from_last : 0);
        assert_int_equal(half, slot < 4 ? f16_from_f32(outliers[slot].residual) : 0);
    }
    assert_ptr_equal(section + 64 + plane + (l.slots * 2 + 15) / 16 * 16, bytes + l.stripe_size);
    free(bytes);
    stripe_free(&s);
}

static void test_where_outliers_lie(void **state)
{
    (void)state;
    check_outliers(100, 0.005);
    check_outliers(4096, 0.01);
    check_outliers(65536, 0.0001);
    check_outliers(70000, 0.0001);
}

/* ---- there and back ---- */

static void test_round_trip(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 64, 100, 1000, 70000};
    static const double budgets[] = {0, 0.01, 0.1, 1};
    struct random r = {1};
    for (int bits = 2; bits <= 4; bits++)
        for (size_t i = 0; i < 5 * 4; i++) {
            struct spqr_layout l = layout(bits, widths[i / 4], budgets[i % 4]);
            struct spqr_stripe s, back;
            struct error err;
            uint8_t *bytes = allocate(l.stripe_size, 1);
            stripe_allocate(&l, &s);
            stripe_allocate(&l, &back);
            stripe_fill(&l, &r, l.slots * 9 / 10, &s);
            spqr_pack(&l, &s, bytes);
            assert_int_equal(spqr_unpack(&l, bytes, l.stripe_size, &back, &err), 0);
            assert_memory_equal(s.codes, back.codes, l.padded * sizeof *s.codes);
            assert_memory_equal(s.groups, back.groups, l.padded / 16 * sizeof *s.groups);
            assert_memory_equal(s.outlier_rows, back.outlier_rows, l.padded * 2);
            assert_memory_equal(s.outliers, back.outliers, l.padded * sizeof *s.outliers);
            stripe_free(&back);
            stripe_free(&s);
            free(bytes);
        }
}

/* By the formulas, weight by weight; a residual is added. */
static void test_what_decodes(void **state)
{
    (void)state;
    struct random r = {2};
    for (int bits = 2; bits <= 4; bits++) {
        struct spqr_layout l = layout(bits, 200, 0.02);
        struct spqr_stripe s;
        struct error err;
        uint8_t *bytes = allocate(l.stripe_size, 1);
        float *out = allocate(16 * 200, sizeof *out);
        size_t outliers = 0;
        stripe_allocate(&l, &s);
        stripe_fill(&l, &r, l.slots * 9 / 10, &s);
        spqr_pack(&l, &s, bytes);
        assert_int_equal(spqr_decode(&l, bytes, l.stripe_size, out, &err), 0);
        for (size_t row = 0; row < 16; row++)
            for (size_t c = 0; c < 200; c++) {
                const struct spqr_group *g = &s.groups[c / 16];
                float scale = g->scale_scale * ((float)g->scales[row] - g->scale_zero);
                float zero = g->zero_scale * ((float)g->zeros[row] - g->zero_zero);
                float weight = scale * ((float)s.codes[c][row] - zero);
                if (s.outlier_rows[c] >> row & 1) {
                    weight += s.outliers[c][row];
                    outliers++;
                }
                assert_int_equal(f32_bits(out[row * 200 + c]), f32_bits(weight));
            }
        assert_true(outliers > 30);
        stripe_free(&s);
        free(out);
        free(bytes);
    }
}

/* ---- what is refused ---- */

static void assert_refused(const struct spqr_layout *l, const uint8_t *bytes, size_t size)
{
    struct spqr_stripe s;
    struct error err;
    float *out = allocate(16 * l->columns, sizeof *out);
    stripe_allocate(l, &s);
    assert_int_equal(spqr_decode(l, bytes, size, out, &err), -EINVAL);
    assert_int_equal(spqr_unpack(l, bytes, size, &s, &err), -EINVAL);
    stripe_free(&s);
    free(out);
}

static void test_outliers_out_of_order_are_refused(void **state)
{
    (void)state;
    struct spqr_layout l = layout(3, 100, 0.01); /* 16 slots */
    struct random r = {3};
    struct spqr_stripe s;
    uint8_t *good = allocate(l.stripe_size, 1), *bad = allocate(l.stripe_size, 1);
    stripe_allocate(&l, &s);
    stripe_fill(&l, &r, l.slots * 9 / 10, &s);
    spqr_pack(&l, &s, good);
    assert_refused(&l, good, l.stripe_size - 1);
    assert_refused(&l, good, 0);

    memcpy(bad, good, l.stripe_size);
    put_end(&l, bad, 15, 17);
    assert_refused(&l, bad, l.stripe_size);
    put_end(&l, bad, 15, UINT32_MAX);
    assert_refused(&l, bad, l.stripe_size);
    memcpy(bad, good, l.stripe_size);
    put_end(&l, bad, 7, 16); /* then row 8 ends before it begins */
    assert_refused(&l, bad, l.stripe_size);

    memset(bad, 0, l.stripe_size);
    for (int row = 0; row < 16; row++)
        put_end(&l, bad, row, 2);
    store_u16(bad + l.columns_at + 2, 100); /* the matrix has no such column, its padding has */
    assert_refused(&l, bad, l.stripe_size);
    store_u16(bad + l.columns_at, 9);
    store_u16(bad + l.columns_at + 2, 9); /* twice */
    assert_refused(&l, bad, l.stripe_size);
    store_u16(bad + l.columns_at + 2, 8); /* falling */
    assert_refused(&l, bad, l.stripe_size);
    stripe_free(&s);
    free(bad);
    free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_what_has_no_layout),
        cmocka_unit_test(test_where_weights_lie),
        cmocka_unit_test(test_where_statistics_lie),
        cmocka_unit_test(test_where_outliers_lie),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_what_decodes),
        cmocka_unit_test(test_outliers_out_of_order_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

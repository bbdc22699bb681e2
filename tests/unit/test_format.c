/* SPDX-License-Identifier: MIT
 *
 * The table of formats: what the rest of the program reads off it.
 */
#include "codec/bytes.h"
#include "codec/format.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct {
    enum format_id id;
    const char *name, *title;
    uint32_t ggml_type, block, block_size;
    double bpw;
    bool importance, whole_rows;
} expected[FORMAT_COUNT] = {
    {FORMAT_F32,    "f32",    "F32",    0,  1,   4,   32,     false, false},
    {FORMAT_F16,    "f16",    "F16",    1,  1,   2,   16,     false, false},
    {FORMAT_BF16,   "bf16",   "BF16",   30, 1,   2,   16,     false, false},
    {FORMAT_Q8_0,   "q8_0",   "Q8_0",   8,  32,  34,  8.5,    false, false},
    {FORMAT_Q6_K,   "q6_k",   "Q6_K",   14, 256, 210, 6.5625, true,  false},
    {FORMAT_Q5_K,   "q5_k",   "Q5_K",   13, 256, 176, 5.5,    true,  false},
    {FORMAT_Q5_1,   "q5_1",   "Q5_1",   7,  32,  24,  6,      true,  true },
    {FORMAT_Q5_0,   "q5_0",   "Q5_0",   6,  32,  22,  5.5,    true,  true },
    {FORMAT_Q4_K,   "q4_k",   "Q4_K",   12, 256, 144, 4.5,    true,  false},
    {FORMAT_Q4_1,   "q4_1",   "Q4_1",   3,  32,  20,  5,      true,  true },
    {FORMAT_Q4_0,   "q4_0",   "Q4_0",   2,  32,  18,  4.5,    true,  true },
    {FORMAT_IQ4_NL, "iq4_nl", "IQ4_NL", 20, 32,  18,  4.5,    true,  false},
    {FORMAT_Q3_K,   "q3_k",   "Q3_K",   11, 256, 110, 3.4375, true,  false},
    {FORMAT_Q2_K,   "q2_k",   "Q2_K",   10, 256, 84,  2.625,  true,  false},
};

static void test_every_format_is_as_published(void **state)
{
    (void)state;
    for (int i = 0; i < FORMAT_COUNT; i++) {
        const struct format *f = &formats[expected[i].id];
        assert_string_equal(f->name, expected[i].name);
        assert_string_equal(f->title, expected[i].title);
        assert_int_equal(f->ggml_type, expected[i].ggml_type);
        assert_int_equal(f->block, expected[i].block);
        assert_int_equal(f->block_size, expected[i].block_size);
        assert_true(format_bpw(f) == expected[i].bpw);
        assert_int_equal(f->plain_float, expected[i].block == 1);
        assert_int_equal(f->importance, expected[i].importance);
        assert_int_equal(f->whole_rows, expected[i].whole_rows);
        assert_true(f->version >= 1);
    }
}

static void test_lookup_by_name_title_and_type(void **state)
{
    (void)state;
    for (int i = 0; i < FORMAT_COUNT; i++) {
        const struct format *f = &formats[expected[i].id];
        assert_ptr_equal(format_by_name(expected[i].name), f);
        assert_ptr_equal(format_by_name(expected[i].title), f);
        assert_ptr_equal(format_by_ggml_type(expected[i].ggml_type), f);
    }
    assert_ptr_equal(format_by_name("iQ4_nL"), &formats[FORMAT_IQ4_NL]);
}

static void test_what_is_no_format_is_not_found(void **state)
{
    (void)state;
    static const char *const names[] = {"",      "q4",   "q4_k_m", " q4_k", "q4_k ", "q8_1",
                                        "q8_k",  "f64",  "q4_k\n", "iq4_xs", "q2_k_s"};
    static const uint32_t types[] = {4, 5, 9, 15, 23, 31, 43, UINT32_MAX}; /* 9, 15: Q8_1, Q8_K */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_null(format_by_name(names[i]));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        assert_null(format_by_ggml_type(types[i]));
}

static void test_bytes_of_weights(void **state)
{
    (void)state;
    for (int i = 0; i < FORMAT_COUNT; i++) {
        const struct format *f = &formats[expected[i].id];
        uint64_t bytes;
        assert_true(format_bytes(f, 0, &bytes));
        assert_int_equal(bytes, 0);
        assert_true(format_bytes(f, f->block, &bytes));
        assert_int_equal(bytes, expected[i].block_size);
        assert_true(format_bytes(f, 4096ull * 11008, &bytes));
        assert_true((double)bytes == 4096. * 11008 * expected[i].bpw / 8);
    }
}

/* Only formats of more than a byte a weight can overflow; the others must not claim to. */
static void test_bytes_beyond_64_bits(void **state)
{
    (void)state;
    for (int i = 0; i < FORMAT_COUNT; i++) {
        const struct format *f = &formats[i];
        uint64_t bytes, most = UINT64_MAX / f->block_size; /* blocks */
        bool can_overflow = f->block_size > f->block;
        assert_int_equal(format_bytes(f, UINT64_MAX / f->block * f->block, &bytes), !can_overflow);
        if (!can_overflow)
            continue;
        assert_true(format_bytes(f, most * f->block, &bytes));
        assert_int_equal(bytes, most * f->block_size);
        assert_false(format_bytes(f, (most + 1) * f->block, &bytes));
    }
}

/* A block with the half at offset set; everything else as bad as can be, but no scale. */
static uint64_t first_invalid(const struct format *f, int half, uint16_t value)
{
    enum { BLOCKS = 4, BAD = 2 };
    uint8_t blocks[BLOCKS * 256];
    memset(blocks, 0xff, sizeof blocks);
    for (int i = 0; i < BLOCKS; i++)
        for (int h = 0; h < f->halves; h++)
            store_u16(blocks + i * f->block_size + f->half_offset[h], 0x0001);
    store_u16(blocks + BAD * f->block_size + f->half_offset[half], value);
    return format_first_invalid(f, blocks, BLOCKS);
}

static void test_scales_that_are_not_finite(void **state)
{
    (void)state;
    static const struct {
        uint16_t value;
        bool f16, bf16; /* whether it is finite */
    } halves[] = {
        {0x0000, true,  true }, {0x8000, true,  true }, {0x7bff, true,  true }, {0xfbff, true,  true },
        {0x7c00, false, true }, {0xfc00, false, true }, {0x7e00, false, true }, {0x7c01, false, true },
        {0x7f7f, false, true }, {0x7f80, false, false}, {0xff80, false, false}, {0x7fff, false, false},
    };
    for (const struct format *f = formats; f < formats + FORMAT_COUNT; f++)
        for (int h = 0; h < f->halves; h++)
            for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
                bool finite = f == &formats[FORMAT_BF16] ? halves[i].bf16 : halves[i].f16;
                assert_int_equal(first_invalid(f, h, halves[i].value), finite ? 4 : 2);
            }
}

/* F32 has no scales, and no blocks have none. */
static void test_nothing_to_object_to(void **state)
{
    (void)state;
    uint8_t nan[8];
    memset(nan, 0xff, sizeof nan);
    assert_int_equal(format_first_invalid(&formats[FORMAT_F32], nan, 2), 2);
    assert_int_equal(format_first_invalid(&formats[FORMAT_F16], nan, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format_is_as_published),
        cmocka_unit_test(test_lookup_by_name_title_and_type),
        cmocka_unit_test(test_what_is_no_format_is_not_found),
        cmocka_unit_test(test_bytes_of_weights),
        cmocka_unit_test(test_bytes_beyond_64_bits),
        cmocka_unit_test(test_scales_that_are_not_finite),
        cmocka_unit_test(test_nothing_to_object_to),
    };
    return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 *
 * The element types of checkpoints: their names, ids and sizes, their way to floats, and which of
 * their elements are none.
 */
#include "codec/bytes.h"
#include "codec/dtype.h"
#include "codec/float16.h"
#include "tests/unit/pattern.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { NO_ID = -1, SAFETENSORS = 22 };

/* Those of safetensors first. */
/* clang-format off */
static const struct {
    const char *name, *lower;
    unsigned block;
    double bits; /* of an element */
    int ggml_type;
    bool widens, scaled;
    const char *format; /* with the same bytes, or NULL */
} types[DTYPE_COUNT] = {
    {"F32",         "f32",         1,   32,     0,     true,  false, "F32"},
    {"F16",         "f16",         1,   16,     1,     true,  false, "F16"},
    {"BF16",        "bf16",        1,   16,     30,    true,  false, "BF16"},
    {"F64",         "f64",         1,   64,     28,    true,  false, NULL},
    {"BOOL",        "bool",        1,   8,      NO_ID, false, false, NULL},
    {"U8",          "u8",          1,   8,      NO_ID, false, false, NULL},
    {"I8",          "i8",          1,   8,      24,    false, false, NULL},
    {"I16",         "i16",         1,   16,     25,    false, false, NULL},
    {"U16",         "u16",         1,   16,     NO_ID, false, false, NULL},
    {"I32",         "i32",         1,   32,     26,    false, false, NULL},
    {"U32",         "u32",         1,   32,     NO_ID, false, false, NULL},
    {"I64",         "i64",         1,   64,     27,    false, false, NULL},
    {"U64",         "u64",         1,   64,     NO_ID, false, false, NULL},
    {"C64",         "c64",         1,   64,     NO_ID, false, false, NULL},
    {"F8_E4M3",     "f8_e4m3",     1,   8,      NO_ID, true,  true,  NULL},
    {"F8_E5M2",     "f8_e5m2",     1,   8,      NO_ID, true,  true,  NULL},
    {"F8_E8M0",     "f8_e8m0",     1,   8,      NO_ID, false, false, NULL},
    {"F8_E4M3FNUZ", "f8_e4m3fnuz", 1,   8,      NO_ID, false, false, NULL},
    {"F8_E5M2FNUZ", "f8_e5m2fnuz", 1,   8,      NO_ID, false, false, NULL},
    {"F6_E2M3",     "f6_e2m3",     4,   6,      NO_ID, false, false, NULL},
    {"F6_E3M2",     "f6_e3m2",     4,   6,      NO_ID, false, false, NULL},
    {"F4",          "f4",          2,   4,      NO_ID, false, false, NULL},
    {"Q4_0",        "q4_0",        32,  4.5,    2,     true,  false, "Q4_0"},
    {"Q4_1",        "q4_1",        32,  5,      3,     true,  false, "Q4_1"},
    {"Q5_0",        "q5_0",        32,  5.5,    6,     true,  false, "Q5_0"},
    {"Q5_1",        "q5_1",        32,  6,      7,     true,  false, "Q5_1"},
    {"Q8_0",        "q8_0",        32,  8.5,    8,     true,  false, "Q8_0"},
    {"Q8_1",        "q8_1",        32,  9,      9,     false, false, NULL},
    {"Q2_K",        "q2_k",        256, 2.625,  10,    true,  false, "Q2_K"},
    {"Q3_K",        "q3_k",        256, 3.4375, 11,    true,  false, "Q3_K"},
    {"Q4_K",        "q4_k",        256, 4.5,    12,    true,  false, "Q4_K"},
    {"Q5_K",        "q5_k",        256, 5.5,    13,    true,  false, "Q5_K"},
    {"Q6_K",        "q6_k",        256, 6.5625, 14,    true,  false, "Q6_K"},
    {"Q8_K",        "q8_k",        256, 9.125,  15,    false, false, NULL},
    {"IQ2_XXS",     "iq2_xxs",     256, 2.0625, 16,    false, false, NULL},
    {"IQ2_XS",      "iq2_xs",      256, 2.3125, 17,    false, false, NULL},
    {"IQ3_XXS",     "iq3_xxs",     256, 3.0625, 18,    false, false, NULL},
    {"IQ1_S",       "iq1_s",       256, 1.5625, 19,    false, false, NULL},
    {"IQ4_NL",      "iq4_nl",      32,  4.5,    20,    true,  false, "IQ4_NL"},
    {"IQ3_S",       "iq3_s",       256, 3.4375, 21,    false, false, NULL},
    {"IQ2_S",       "iq2_s",       256, 2.5625, 22,    false, false, NULL},
    {"IQ4_XS",      "iq4_xs",      256, 4.25,   23,    false, false, NULL},
    {"IQ1_M",       "iq1_m",       256, 1.75,   29,    false, false, NULL},
    {"TQ1_0",       "tq1_0",       256, 1.6875, 34,    false, false, NULL},
    {"TQ2_0",       "tq2_0",       256, 2.0625, 35,    false, false, NULL},
    {"MXFP4",       "mxfp4",       32,  4.25,   39,    false, false, NULL},
    {"NVFP4",       "nvfp4",       64,  4.5,    40,    false, false, NULL},
    {"Q1_0",        "q1_0",        128, 1.125,  41,    false, false, NULL},
    {"Q2_0",        "q2_0",        64,  2.25,   42,    false, false, NULL},
    {"SPQR2",       "spqr2",       1024, 2.625, 1002,  false, false, "SPQR2"},
    {"SPQR3",       "spqr3",       1024, 3.625, 1003,  false, false, "SPQR3"},
    {"SPQR4",       "spqr4",       1024, 4.625, 1004,  false, false, "SPQR4"},
};
/* clang-format on */

/* By the name or the id, whichever the type has; by both if it has both. */
static const struct dtype *look_up(int i)
{
    const struct dtype *named = i < SAFETENSORS ? dtype_by_name(types[i].name) : NULL;
    const struct dtype *numbered =
        types[i].ggml_type != NO_ID ? dtype_by_ggml_type((uint32_t)types[i].ggml_type) : NULL;
    if (named && numbered)
        assert_ptr_equal(named, numbered);
    return named ? named : numbered;
}

static void test_every_element_type(void **state)
{
    (void)state;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const struct dtype *t = look_up(i);
        if (!t)
            fail_msg("%s is not found", types[i].name);
        assert_string_equal(t->name, types[i].name);
        assert_string_equal(t->lower, types[i].lower);
        assert_int_equal(t->block, types[i].block);
        assert_int_equal(t->ggml_type, types[i].ggml_type);
        assert_true(dtype_bits(t) == types[i].bits);
        assert_int_equal(t->widen != NULL, types[i].widens);
        assert_int_equal(t->scaled, types[i].scaled);
        assert_int_equal(dtype_is_quantized(t), i >= SAFETENSORS);
        if (types[i].format)
            assert_string_equal(t->format->title, types[i].format);
        else
            assert_null(t->format);
    }
}

/* The names of packed types are GGUF's business: a safetensors file cannot have them. */
static void test_what_is_no_element_type_is_not_found(void **state)
{
    (void)state;
    static const char *const names[] = {"",    "f32",  "F",    "F320", "F32 ", "INT8",
                                        "F8",  "F128", "Q4_K", "Q8_0", "q8_0", "MXFP4"};
    static const uint32_t ids[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, 255, 1000, 1001, 1005, UINT32_MAX};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_null(dtype_by_name(names[i]));
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        assert_null(dtype_by_ggml_type(ids[i]));
}

static void test_bytes_of_whole_blocks(void **state)
{
    (void)state;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const struct dtype *t = look_up(i);
        double block_size = types[i].block * types[i].bits / 8;
        uint64_t bytes, n = types[i].block;
        assert_true(dtype_bytes(t, 0, &bytes));
        assert_int_equal(bytes, 0);
        assert_true(dtype_bytes(t, n, &bytes));
        assert_true((double)bytes == block_size);
        assert_true(dtype_bytes(t, 3 * n, &bytes));
        assert_true((double)bytes == 3 * block_size);
        for (uint64_t cut = 1; cut < n; cut++)
            assert_false(dtype_bytes(t, 3 * n + cut, &bytes));
    }
}

/* Only types of more than a byte an element can overflow; the others must not claim to. */
static void test_bytes_beyond_64_bits(void **state)
{
    (void)state;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const struct dtype *t = look_up(i);
        uint64_t bytes, n = types[i].block, most = UINT64_MAX / t->block_size; /* blocks */
        bool can_overflow = types[i].bits > 8;
        assert_int_equal(dtype_bytes(t, UINT64_MAX / n * n, &bytes), !can_overflow);
        if (!can_overflow)
            continue;
        assert_true(dtype_bytes(t, most * n, &bytes));
        assert_int_equal(bytes, most * t->block_size);
        assert_false(dtype_bytes(t, (most + 1) * n, &bytes));
    }
}

/* ---- to float ---- */

/* Three elements from an odd address, for tensors need not be aligned. */
static void test_widening(void **state)
{
    (void)state;
    static const struct {
        const char *type, *elements;
        float widened[3];
    } cases[] = {
        {"F32", "0000803f 01000000 000000c0", {1, 0x1p-149f, -2}},
        {"F16", "003c 0100 00c0", {1, 0x1p-24f, -2}},
        {"BF16", "803f 0100 00c0", {1, 0x1p-133f, -2}},
        {"F64", "000000000000f03f 010000101000f03f 00000000000000c0",
         {1, 0x1.000102p+0f, -2}},    /* rounded to nearest */
        {"F64", "000000100000f03f 000000300000f03f 0000000000000080",
         {1, 0x1.000004p+0f, -0.0f}}, /* halfway: to even */
        {"F8_E4M3", "38 01 c0", {1, 0x1p-9f, -2}},
        {"F8_E5M2", "3c 01 c0", {1, 0x1p-16f, -2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct dtype *t = dtype_by_name(cases[i].type);
        uint8_t bytes[25];
        float widened[3];
        assert_int_equal(pattern_bytes(cases[i].elements, bytes + 1, 24), 3 * t->block_size);
        t->widen(bytes + 1, 3, widened);
        assert_memory_equal(widened, cases[i].widened, sizeof widened);
        assert_true(dtype_finite(t, bytes + 1, 3));
    }
}

/* E5M2 is the upper byte of a half. E4M3 is a half with three of its bits of mantissa and an
 * exponent that lacks a bit: its bias is 8 less. */
static float widened_e5m2(uint32_t byte) { return f32_from_f16((uint16_t)(byte << 8)); }

static float widened_e4m3(uint32_t byte)
{
    return 256 * f32_from_f16((uint16_t)((byte & 0x80) << 8 | (byte & 0x7f) << 7));
}

static void test_all_bytes_as_eight_bit_floats(void **state)
{
    (void)state;
    const struct dtype *e4m3 = dtype_by_name("F8_E4M3"), *e5m2 = dtype_by_name("F8_E5M2");
    uint8_t bytes[256];
    float as_e4m3[256], as_e5m2[256];
    for (uint32_t b = 0; b < 256; b++)
        bytes[b] = (uint8_t)b;
    e4m3->widen(bytes, 256, as_e4m3);
    e5m2->widen(bytes, 256, as_e5m2);
    for (uint32_t b = 0; b < 256; b++) {
        bool e4m3_is_nan = (b & 0x7f) == 0x7f; /* it has no infinity */
        assert_int_equal(dtype_finite(e4m3, bytes + b, 1), !e4m3_is_nan);
        if (!e4m3_is_nan)
            assert_int_equal(f32_bits(as_e4m3[b]), f32_bits(widened_e4m3(b)));
        bool e5m2_is_finite = isfinite(widened_e5m2(b));
        assert_int_equal(dtype_finite(e5m2, bytes + b, 1), e5m2_is_finite);
        if (e5m2_is_finite)
            assert_int_equal(f32_bits(as_e5m2[b]), f32_bits(widened_e5m2(b)));
    }
}

/* ---- finite ---- */

/* One element that is not finite among many is found wherever it stands. */
static void test_elements_that_are_not_finite(void **state)
{
    (void)state;
    enum { COUNT = 67 };
    static const struct {
        const char *type, *element;
        bool finite;
    } cases[] = {
        {"F32", "ffff7f7f", true},          {"F32", "0000807f", false},
        {"F32", "000080ff", false},         {"F32", "010080ff", false},
        {"F16", "ff7b", true},              {"F16", "007c", false},
        {"F16", "00fc", false},             {"F16", "017e", false},
        {"BF16", "7f7f", true},             {"BF16", "807f", false},
        {"BF16", "80ff", false},            {"BF16", "c17f", false},
        {"F64", "000000e0ffffef47", true},  /* the largest float */
        {"F64", "000000f0ffffef47", false}, /* it becomes infinite */
        {"F64", "000000000000f07f", false}, {"F64", "010000000000f0ff", false},
        {"F8_E4M3", "fe", true},            {"F8_E4M3", "7f", false},
        {"F8_E5M2", "fb", true},            {"F8_E5M2", "fc", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct dtype *t = dtype_by_name(cases[i].type);
        size_t width = t->block_size;
        for (size_t at = 0; at < COUNT; at++) {
            uint8_t elements[8 * COUNT] = {0};
            pattern_bytes(cases[i].element, elements + at * width, width);
            assert_int_equal(dtype_finite(t, elements, COUNT), cases[i].finite);
            assert_true(dtype_finite(t, elements, at));
        }
    }
}

/* Of packed weights the scales tell, and nothing but the scales. */
static void test_packed_weights_that_are_not_finite(void **state)
{
    (void)state;
    enum { BLOCKS = 3, LAST = 2 };
    static const uint16_t infinity = 0x7c00, nan = 0xfe01;
    for (int i = SAFETENSORS; i < DTYPE_COUNT; i++) {
        const struct dtype *t = look_up(i);
        if (!t->widen)
            continue;
        uint8_t blocks[BLOCKS * 256];
        memset(blocks, 0xff, sizeof blocks);
        for (int b = 0; b < BLOCKS; b++)
            for (int h = 0; h < t->format->halves; h++)
                store_u16(blocks + b * t->block_size + t->format->half_offset[h], 0x7bff);
        assert_true(dtype_finite(t, blocks, BLOCKS * t->block));
        for (int h = 0; h < t->format->halves; h++) {
            uint8_t *half = blocks + LAST * t->block_size + t->format->half_offset[h];
            store_u16(half, infinity);
            assert_false(dtype_finite(t, blocks, BLOCKS * t->block));
            assert_true(dtype_finite(t, blocks, LAST * t->block));
            store_u16(half, nan);
            assert_false(dtype_finite(t, blocks, BLOCKS * t->block));
            store_u16(half, 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_element_type),
        cmocka_unit_test(test_what_is_no_element_type_is_not_found),
        cmocka_unit_test(test_bytes_of_whole_blocks),
        cmocka_unit_test(test_bytes_beyond_64_bits),
        cmocka_unit_test(test_widening),
        cmocka_unit_test(test_all_bytes_as_eight_bit_floats),
        cmocka_unit_test(test_elements_that_are_not_finite),
        cmocka_unit_test(test_packed_weights_that_are_not_finite),
    };
    return cmocka_run_group_tests_name("dtype", tests, NULL, NULL);
}

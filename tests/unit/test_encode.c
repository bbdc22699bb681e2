/* SPDX-License-Identifier: MIT
 *
 * Corner cases of the encoders, with the bytes that follow from the format's rule; what an encoder
 * may be given at a time; and the arithmetic below them that is garbage on purpose.
 */
#include "codec/isa.h"
#include "codec/search.h"
#include "tests/unit/pattern.h"
#include "tests/weights.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BLOCK_MAX = 256 };

/* ---- corner cases ---- */

enum mode { PLAIN = 1, WEIGHTED = 2, UNIMPORTANT = 4, ANY = PLAIN | WEIGHTED | UNIMPORTANT };

static const float mode_importance[] = {[WEIGHTED] = 1, [UNIMPORTANT] = 0};

static const struct corner {
    const char *name;
    enum format_id format;
    unsigned modes; /* no importance, all of it 1, all of it 0 */
    float rest;
    const char *weights, *bytes; /* see pattern.h */
} corners[] = {
    /* Zeros. Plain Q4_0 and Q5_0 divide 0 by a negative number and round up from the middle. */
    {"zeros", FORMAT_F32, ANY, 0, "", "00*4"},
    {"zeros", FORMAT_F16, ANY, 0, "", "00*2"},
    {"zeros", FORMAT_BF16, ANY, 0, "", "00*2"},
    {"zeros", FORMAT_Q8_0, ANY, 0, "", "00*34"},
    {"zeros", FORMAT_Q4_0, PLAIN, 0, "", "00 80 88*16"},
    {"zeros", FORMAT_Q4_0, WEIGHTED | UNIMPORTANT, 0, "", "00*18"},
    {"zeros", FORMAT_Q4_1, ANY, 0, "", "00 00 00 00 00*16"},
    {"zeros", FORMAT_Q5_0, PLAIN, 0, "", "00 80 ff*4 00*16"},
    {"zeros", FORMAT_Q5_0, WEIGHTED | UNIMPORTANT, 0, "", "00*22"},
    {"zeros", FORMAT_IQ4_NL, ANY, 0, "", "00 00 88*16"}, /* no level is 0; the nearest is 1 */
    {"zeros", FORMAT_Q2_K, ANY, 0, "", "00*84"},
    {"zeros", FORMAT_Q3_K, ANY, 0, "", "00*110"},
    {"zeros", FORMAT_Q4_K, ANY, 0, "", "00*144"},
    {"zeros", FORMAT_Q5_K, ANY, 0, "", "00*176"},
    {"zeros", FORMAT_Q6_K, ANY, 0, "", "00*210"},
    {"negative zeros", FORMAT_Q4_0, PLAIN, -0.0f, "", "00 80 88*16"},
    {"negative zeros", FORMAT_Q8_0, ANY, -0.0f, "", "00*34"},
    {"negative zeros", FORMAT_Q4_1, PLAIN, -0.0f, "", "00 00 00 80 00*16"},
    {"negative zeros", FORMAT_Q5_1, PLAIN, -0.0f, "", "00 00 00 80 00*20"},
    {"negative zeros", FORMAT_Q6_K, ANY, -0.0f, "", "00*210"},

    /* One value: the symmetric formats make it their lowest level, those with a minimum of the
     * whole block have nothing to scale. */
    {"ones", FORMAT_Q8_0, ANY, 127, "", "00 3c 7f*32"},
    {"ones", FORMAT_Q4_0, PLAIN | WEIGHTED, 1, "", "00 b0 00*16"},
    {"ones", FORMAT_Q5_0, PLAIN | WEIGHTED, 1, "", "00 ac 00*20"},
    {"ones", FORMAT_Q4_1, PLAIN, 1, "", "00 00 00 3c 00*16"},
    {"ones", FORMAT_Q5_1, PLAIN, 1, "", "00 00 00 3c 00*20"},
    {"ones", FORMAT_Q3_K, PLAIN, 1, "", "00*108 00 20"},
    {"ones", FORMAT_Q3_K, WEIGHTED, 1, "", "00*32 55*64 11*8 00*4 81 21"},
    {"ones", FORMAT_Q6_K, PLAIN | WEIGHTED, 1, "", "00*192 80*16 00 0c"},
    {"minus ones", FORMAT_Q8_0, ANY, -127, "", "00 3c 81*32"},
    {"minus ones", FORMAT_Q4_0, PLAIN | WEIGHTED, -1, "", "00 30 00*16"},
    {"minus ones", FORMAT_Q5_0, PLAIN | WEIGHTED, -1, "", "00 2c 00*20"},
    {"minus ones", FORMAT_Q4_1, PLAIN | WEIGHTED, -1, "", "00 00 00 bc 00*16"},
    {"minus ones", FORMAT_Q5_1, PLAIN | WEIGHTED, -1, "", "00 00 00 bc 00*20"},
    {"minus ones", FORMAT_Q3_K, PLAIN, -1, "", "00*108 00 a0"},
    {"minus ones", FORMAT_Q3_K, WEIGHTED, -1, "", "00*32 55*64 11*8 00*4 81 a1"},
    {"minus ones", FORMAT_Q6_K, PLAIN | WEIGHTED, -1, "", "00*192 80*16 00 8c"},

    /* The minimum of a group is never above zero: one positive value is the highest level. */
    {"one positive value", FORMAT_Q4_1, WEIGHTED, 15, "", "00 3c 00 00 ff*16"},
    {"one positive value", FORMAT_Q5_1, WEIGHTED, 31, "", "00 3c 00 00 ff*20"},
    {"one positive value", FORMAT_Q2_K, PLAIN | WEIGHTED, 45, "", "0f*16 ff*64 00 3c 00 00"},
    {"one positive value", FORMAT_Q4_K, PLAIN | WEIGHTED, 945, "",
     "00 3c 00 00 ff*4 00*4 0f*4 ff*128"},
    {"one positive value", FORMAT_Q5_K, PLAIN | WEIGHTED, 1953, "",
     "00 3c 00 00 ff*4 00*4 0f*4 ff*32 ff*128"},
    {"one negative value", FORMAT_Q2_K, PLAIN | WEIGHTED, -15, "", "f0*16 00*64 00 00 00 3c"},
    {"one negative value", FORMAT_Q4_K, PLAIN | WEIGHTED, -63, "",
     "00 00 00 3c 00*4 ff*4 f0*4 00*128"},
    {"one negative value", FORMAT_Q5_K, PLAIN | WEIGHTED, -63, "",
     "00 00 00 3c 00*4 ff*4 f0*4 00*160"},

    /* No importance at all: every sum of the search is 0, and its first guess stays, with which
     * symmetric formats and IQ4_NL end up at a scale of 0. */
    {"nothing matters", FORMAT_Q4_0, UNIMPORTANT, 1, "", "00 00 00*16"},
    {"nothing matters", FORMAT_Q5_0, UNIMPORTANT, 1, "", "00 00 00*20"},
    {"nothing matters", FORMAT_Q4_1, UNIMPORTANT, 15, "", "00 3c 00 00 ff*16"},
    {"nothing matters", FORMAT_Q5_1, UNIMPORTANT, 31, "", "00 3c 00 00 ff*20"},
    {"nothing matters", FORMAT_IQ4_NL, UNIMPORTANT, 1, "", "00 00 88*16"},
    {"nothing matters", FORMAT_Q2_K, UNIMPORTANT, 45, "", "0f*16 ff*64 00 00 00 00"},
    {"nothing matters", FORMAT_Q3_K, UNIMPORTANT, 1, "", "00*110"},
    {"nothing matters", FORMAT_Q4_K, UNIMPORTANT, 945, "", "00*4 ff*4 00*4 0f*4 ff*128"},
    {"nothing matters", FORMAT_Q5_K, UNIMPORTANT, 1953, "", "00*4 ff*4 00*4 0f*4 ff*160"},
    {"nothing matters", FORMAT_Q6_K, UNIMPORTANT, 1, "", "00*210"},
};

static void check_corner(const struct corner *c, enum mode mode)
{
    const struct format *f = &formats[c->format];
    float x[BLOCK_MAX], importance[BLOCK_MAX];
    uint8_t want[BLOCK_MAX] = {0}, is[BLOCK_MAX];
    pattern_weights(c->rest, c->weights, x, f->block);
    for (int i = 0; i < BLOCK_MAX; i++)
        importance[i] = mode_importance[mode];
    assert_int_equal(pattern_bytes(c->bytes, want, sizeof want), f->block_size);
    for (const struct isa *const *isa = isas; *isa; isa++) {
        if (!isa_supported(*isa))
            continue;
        (*isa)->encode[c->format](x, 1, f->block, mode == PLAIN ? NULL : importance, is);
        for (uint32_t i = 0; i < f->block_size; i++)
            if (is[i] != want[i])
                fail_msg("%s, %s, mode %d with %s: byte %u is %02x instead of %02x", c->name,
                         f->title, mode, (*isa)->name, i, is[i], want[i]);
    }
}

static void test_corner_cases(void **state)
{
    (void)state;
    for (const struct corner *c = corners; c < corners + sizeof corners / sizeof *corners; c++)
        for (unsigned mode = PLAIN; mode <= UNIMPORTANT; mode *= 2)
            if (c->modes & mode)
                check_corner(c, mode);
}

/* ---- what an encoder may be given at a time ---- */

enum { ROWS = 5, COLS = 3 * 256 };

/* Rows at once, row by row, and, where a row may be cut, block by block. */
static void check_parts(const struct isa *isa, const struct format *f, const float *x,
                        const float *importance)
{
    static uint8_t whole[4 * ROWS * COLS], parts[4 * ROWS * COLS];
    encode_fn *encode = isa->encode[f - formats];
    size_t row_size = COLS / f->block * f->block_size;
    encode(x, ROWS, COLS, importance, whole);
    for (size_t row = 0; row < ROWS; row++)
        encode(x + row * COLS, 1, COLS, importance, parts + row * row_size);
    if (memcmp(whole, parts, ROWS * row_size) != 0)
        fail_msg("%s with %s: row by row is different", f->title, isa->name);
    if (importance && f->whole_rows)
        return;
    for (size_t i = 0; i < ROWS * COLS; i += f->block)
        encode(x + i, 1, f->block, importance ? importance + i % COLS : NULL,
               parts + i / f->block * f->block_size);
    if (memcmp(whole, parts, ROWS * row_size) != 0)
        fail_msg("%s with %s: block by block is different", f->title, isa->name);
}

static void test_parts_make_the_same_bytes(void **state)
{
    (void)state;
    static float x[ROWS * COLS], importance[COLS];
    struct random r = {8};
    weights_fill(WEIGHTS_HEAVY_TAILS, &r, x, ROWS * COLS);
    importance_fill(2, &r, importance, COLS);
    for (const struct isa *const *isa = isas; *isa; isa++)
        for (const struct format *f = formats; f < formats + FORMAT_COUNT; f++)
            if (isa_supported(*isa)) {
                check_parts(*isa, f, x, NULL);
                check_parts(*isa, f, x, importance);
            }
}

/* ---- rounding ---- */

static void test_rounding_and_its_garbage(void **state)
{
    (void)state;
    static const struct {
        float v;
        int rounded;
    } cases[] = {
        {0.5f, 0},
        {1.5f, 2},
        {2.5f, 2},
        {-0.5f, 0},
        {-1.5f, -2},
        {0.50000006f, 1},
        {4194303, 4194303},
        {-4194303, -4194303},
        {4194304, -4194304},
        {4194306, -4194303},
        {-8388608, -4194304},
        {1e30f, 0x9f2ca}, /* the low bits of 1e30 itself */
        {INFINITY, -4194304},
        {NAN, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(round_even(cases[i].v), cases[i].rounded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corner_cases),
        cmocka_unit_test(test_parts_make_the_same_bytes),
        cmocka_unit_test(test_rounding_and_its_garbage),
    };
    return cmocka_run_group_tests_name("encode", tests, NULL, NULL);
}

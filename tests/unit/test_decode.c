/* SPDX-License-Identifier: MIT
 *
 * The way from bytes to floats: hand-made blocks of every format, blocks that come back when they
 * are encoded again, and conversions of 16-bit floats.
 */
#include "codec/float16.h"
#include "codec/format.h"
#include "tests/unit/pattern.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BLOCK_MAX = 256 };

static void read_block(const struct format *f, const char *text, uint8_t *block)
{
    assert_int_equal(pattern_bytes(text, block, BLOCK_MAX), f->block_size);
}

/* ---- what each bit means ---- */

static const struct {
    enum format_id format;
    const char *block;
    float rest;
    const char *weights;
} known[] = {
    {FORMAT_F32, "00 00 80 bf", -1, ""},
    {FORMAT_F16, "00 c0", -2, ""},
    {FORMAT_BF16, "49 40", 3.140625f, ""},
    {FORMAT_Q8_0, "00 38 80 7f 01 ff 00*28", 0, "0=-64 1=63.5 2=0.5 3=-0.5"},
    {FORMAT_Q4_0, "00 40 0f 88*14 f1", 0, "0=14 16=-16 15=-14 31=14"},
    {FORMAT_Q4_1, "00 34 00 bc 0f 00*14 f1", -1, "0=2.75 15=-0.75 31=2.75"},
    {FORMAT_Q5_0, "00 3c fe ff ff 7f 0f 00*14 f1", 0, "0=-1 15=1 31=-1"},
    {FORMAT_Q5_1, "00 38 00 48 01 00 00 80 0f 00*14 f1", 8, "0=23.5 15=8.5 31=23.5"},
    {FORMAT_IQ4_NL, "00 3c 10 32 54 76 98 ba dc fe 88*8", 1,
     "0=-127 1=-83 2=-49 3=-22 4=1 5=25 6=53 7=89 "
     "16=-104 17=-65 18=-35 19=-10 20=13 21=38 22=69 23=113"},
    {FORMAT_Q2_K, "21 01*14 03 e4 00*62 e4 00 3c 00 38", 0,
     "0-15=-1 32=1 64=2 96=3 191=1 223=2 255=9"},
    {FORMAT_Q3_K, "fe ff*30 7f e4 00*62 e4 11*7 31 aa*3 2a 00 3c", 0,
     "0=-4 32=1 64=2 96=3 191=1 223=2 240-254=-0 255=29 159=0"},
    {FORMAT_Q4_K, "00 3c 00 38 01*3 c1 3f 00*2 40 01*3 51 21 00*36 94 00*89 f3", 0,
     "0-31=-31.5 0=-30.5 32=2 69=4 101=9 223=3 224-255=-10.5 255=724.5"},
    {FORMAT_Q5_K,
     "00 3c 00 38 01*3 c1 3f 00*2 40 01*3 51 01 00*4 04 00*25 80 21 00*36 94 00*89 f3", 0,
     "0-31=-31.5 0=-14.5 32=2 69=20 101=9 223=3 224-255=-10.5 255=1508.5"},
    {FORMAT_Q6_K, "21 00*126 f3 aa*63 6a 01*11 02 01*3 80 00 38", 0,
     "0=0.5 64=1 191=3 240-254=-0 255=64"},
};

static void test_known_blocks(void **state)
{
    (void)state;
    bool seen[FORMAT_COUNT] = {false};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const struct format *f = &formats[known[i].format];
        uint8_t block[BLOCK_MAX];
        float want[BLOCK_MAX], is[BLOCK_MAX];
        pattern_weights(known[i].rest, known[i].weights, want, f->block);
        read_block(f, known[i].block, block);
        f->decode(block, f->block, is);
        for (uint32_t w = 0; w < f->block; w++)
            if (f32_bits(is[w]) != f32_bits(want[w]))
                fail_msg("%s: weight %u is %a, not %a", f->title, w, (double)is[w],
                         (double)want[w]);
        seen[known[i].format] = true;
    }
    for (int i = 0; i < FORMAT_COUNT; i++)
        assert_true(seen[i]);
}

/* ---- blocks that are fixed points ---- */

/* Every group has the extremes of its levels, and among the scales are the extremes of theirs: an
 * encoder can find nothing better than what is there. */
static const struct {
    enum format_id format;
    const char *block;
} fixed[] = {
    {FORMAT_F32, "01 00 80 3f"},
    {FORMAT_F16, "ff 03"},
    {FORMAT_BF16, "01 00"},
    {FORMAT_Q8_0, "00 20 81 7f 00 01 ff 10 f0 33 cd*24"},
    {FORMAT_Q4_0, "00 2c 1032547698badcfe*2"},
    {FORMAT_Q4_1, "00 2c 00 b4 f00f21436587a9cb*2"},
    {FORMAT_Q5_0, "00 28 aa 55 3c c3 1032547698badcfe*2"},
    {FORMAT_Q5_1, "00 28 00 b4 02 01 0d 0e f00f21436587a9cb*2"},
    {FORMAT_IQ4_NL, "00 20 1032547698badcfe*2"},
    {FORMAT_Q2_K, "f1 e2 d3 c4 b5 a6 97 88 79 6a 5b 4c 3d 2e 1f 0f e4394e93*16 00 24 00 24"},
    {FORMAT_Q3_K, "ee77bbdd00000000*4 e4394e93*16 10 32 54 76 98 ba dc fe e4*4 00 20"},
    {FORMAT_Q4_K, "00 14 00 18 ff 95 2a 47 bf 20 11 c1 82 c1 59 c1 f00f21436587a9cb*16"},
    {FORMAT_Q5_K,
     "00 14 00 18 ff 95 2a 47 bf 20 11 c1 82 c1 59 c1 aa553cc30ff09669*4 f00f21436587a9cb*16"},
    {FORMAT_Q6_K, "f00f21436587a9cb*16 f00f6cb1932e47d8*8 "
                  "80 7f 01 ff 40 c0 23 dd 11 ef 05 fb 60 a0 33 cd 00 0c"},
};

static void test_blocks_that_come_back(void **state)
{
    (void)state;
    bool seen[FORMAT_COUNT] = {false};
    float weights[BLOCK_MAX], importance[BLOCK_MAX];
    for (int i = 0; i < BLOCK_MAX; i++)
        importance[i] = 1;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        const struct format *f = &formats[fixed[i].format];
        uint8_t block[BLOCK_MAX], again[BLOCK_MAX];
        read_block(f, fixed[i].block, block);
        f->decode(block, f->block, weights);
        f->encode(weights, 1, f->block, NULL, again);
        if (memcmp(block, again, f->block_size))
            fail_msg("%s does not come back", f->title);
        f->encode(weights, 1, f->block, importance, again);
        if (memcmp(block, again, f->block_size))
            fail_msg("%s does not come back with an importance matrix", f->title);
        seen[fixed[i].format] = true;
    }
    for (int i = 0; i < FORMAT_COUNT; i++)
        assert_true(seen[i]);
}

static void test_blocks_in_a_row_are_decoded_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const struct format *f = &formats[known[i].format];
        uint8_t blocks[3 * BLOCK_MAX];
        float weights[3 * BLOCK_MAX + 1], alone[BLOCK_MAX];
        read_block(f, known[i].block, blocks);
        memset(blocks + f->block_size, 0, f->block_size);
        read_block(f, known[i].block, blocks + 2 * f->block_size);
        weights[3 * f->block] = 12345;
        f->decode(blocks, 3 * f->block, weights);
        f->decode(blocks, f->block, alone);
        assert_memory_equal(weights, alone, f->block * sizeof *alone);
        assert_memory_equal(weights + 2 * f->block, alone, f->block * sizeof *alone);
        assert_true(weights[3 * f->block] == 12345);
    }
}

/* ---- binary16 and bfloat16 ---- */

static bool f16_is_nan(uint32_t h) { return (h & 0x7fff) > 0x7c00; }

static void test_every_half_has_its_value(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        float f = f32_from_f16((uint16_t)h), want;
        if (exponent == 31)
            want = mantissa ? NAN : INFINITY;
        else if (exponent)
            want = ldexpf((float)(1024 + mantissa), exponent - 25);
        else
            want = ldexpf((float)mantissa, -24);
        assert_int_equal(signbit(f) != 0, h >> 15);
        assert_true(isnan(want) ? isnan(f) : fabsf(f) == want);
    }
}

static void test_every_half_comes_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint16_t again = f16_from_f32(f32_from_f16((uint16_t)h));
        assert_int_equal(again, f16_is_nan(h) ? (h & 0x8000) | 0x7e00 : h);
    }
}

/* Between each two neighbours: the middle goes to the even one, all else to the nearer one. Beyond
 * the largest half the neighbour is what would come next. */
static void test_rounding_to_half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = f32_from_f16((uint16_t)h);
        float high = h == 0x7bff ? 65536 : f32_from_f16((uint16_t)(h + 1));
        float middle = low + (high - low) / 2;
        assert_int_equal(f16_from_f32(middle), h + (h & 1));
        assert_int_equal(f16_from_f32(nextafterf(middle, low)), h);
        assert_int_equal(f16_from_f32(nextafterf(middle, high)), h + 1);
        assert_int_equal(f16_from_f32(-middle), 0x8000 | (h + (h & 1)));
    }
}

static void test_extremes_to_half(void **state)
{
    (void)state;
    static const struct {
        uint32_t bits;
        uint16_t half;
    } cases[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, /* zeros */
        {0x00000001, 0x0000}, {0x807fffff, 0x8000}, /* subnormal floats */
        {0x33000000, 0x0000}, {0x33000001, 0x0001}, /* 2^-25 and above */
        {0x7f7fffff, 0x7c00}, {0xff7fffff, 0xfc00}, /* the largest floats */
        {0x7f800000, 0x7c00}, {0xff800000, 0xfc00}, /* infinities */
        {0x7fc00000, 0x7e00}, {0xffc00000, 0xfe00}, /* NaN, whatever its payload */
        {0x7f800001, 0x7e00}, {0xffffffff, 0xfe00},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(f16_from_f32(f32_from_bits(cases[i].bits)), cases[i].half);
}

/* NaN payloads stay but for the bit that makes them quiet. */
static void test_every_bfloat16_comes_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        bool nan = (h & 0x7fff) > 0x7f80;
        assert_int_equal(f32_bits(f32_from_bf16((uint16_t)h)), h << 16);
        assert_int_equal(bf16_from_f32(f32_from_bits(h << 16)), nan ? h | 64 : h);
    }
}

static void test_rounding_to_bfloat16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        uint32_t middle = h << 16 | 0x8000;
        assert_int_equal(bf16_from_f32(f32_from_bits(middle)), h + (h & 1));
        assert_int_equal(bf16_from_f32(f32_from_bits(middle - 1)), h);
        assert_int_equal(bf16_from_f32(f32_from_bits(middle + 1)), h + 1);
        assert_int_equal(bf16_from_f32(f32_from_bits(0x80000000 | middle)), 0x8000 | (h + (h & 1)));
    }
}

static void test_nan_to_bfloat16(void **state)
{
    (void)state;
    static const struct {
        uint32_t bits;
        uint16_t bfloat16;
    } cases[] = {
        {0x7f800001, 0x7fc0}, /* rounding would make it infinite */
        {0xff800001, 0xffc0}, {0x7fa00000, 0x7fe0},
        {0x7fffffff, 0x7fff}, /* rounding would make it -0 */
        {0xffffffff, 0xffff}, {0x7fc12345, 0x7fc1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(bf16_from_f32(f32_from_bits(cases[i].bits)), cases[i].bfloat16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_blocks),
        cmocka_unit_test(test_blocks_that_come_back),
        cmocka_unit_test(test_blocks_in_a_row_are_decoded_alone),
        cmocka_unit_test(test_every_half_has_its_value),
        cmocka_unit_test(test_every_half_comes_back),
        cmocka_unit_test(test_rounding_to_half),
        cmocka_unit_test(test_extremes_to_half),
        cmocka_unit_test(test_every_bfloat16_comes_back),
        cmocka_unit_test(test_rounding_to_bfloat16),
        cmocka_unit_test(test_nan_to_bfloat16),
    };
    return cmocka_run_group_tests_name("decode", tests, NULL, NULL);
}

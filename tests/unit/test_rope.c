/* SPDX-License-Identifier: MIT
 *
 * Factors of rotary embeddings: Llama 3's against vectors of the converter (theta 500000, context
 * 8192), Phi-3's as the config lists them.
 */
#include "codec/rope.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct config parse(const char *text)
{
    struct config c;
    struct error err;
    assert_int_equal(config_parse((struct blob){text, strlen(text)}, &c, &err), 0);
    return c;
}

static struct config llama(uint32_t dim, uint32_t factor, const char *type)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"model_type\": \"llama\", \"head_dim\": %u, \"rope_theta\": 500000.0,"
             " \"rope_scaling\": {\"rope_type\": \"%s\", \"factor\": %u.0,"
             " \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}",
             dim, type, factor);
    return parse(text);
}

static void test_llama3(void **state)
{
    (void)state;
    static const struct {
        uint32_t dim, factor, ones, middle[6], middles;
    } expected[] = {
        {64, 8, 15, {0x3fc6d64a, 0x402c732e, 0x40a83c06}, 3},
        {64, 32, 15, {0x3fd35ec2, 0x4052b46f, 0x411aaaee}, 3},
        {128, 8, 29,
         {0x3f9a8ed5, 0x3fc6d64a, 0x4001af1d, 0x402c732e, 0x406bcace, 0x40a83c06}, 6},
        {128, 32, 29,
         {0x3f9e126b, 0x3fd35ec2, 0x4011b4ca, 0x4052b46f, 0x40a57db9, 0x411aaaee}, 6},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct config c = llama(expected[i].dim, expected[i].factor, "llama3");
        struct arena arena = {0};
        struct rope_factors factors;
        struct error err;
        assert_int_equal(rope_llama3_factors(&c, &arena, &factors, &err), 0);
        assert_int_equal(factors.count, expected[i].dim / 2);
        for (uint32_t j = 0; j < factors.count; j++) {
            uint32_t bits, ones = expected[i].ones, behind = ones + expected[i].middles;
            memcpy(&bits, &factors.values[j], sizeof bits);
            if (j < ones)
                assert_true(factors.values[j] == 1);
            else if (j < behind)
                assert_int_equal(bits, expected[i].middle[j - ones]);
            else
                assert_true(factors.values[j] == (float)expected[i].factor);
        }
        arena_free(&arena);
        config_free(&c);
    }
}

static void test_other_types_have_no_factors(void **state)
{
    (void)state;
    static const char *const types[] = {"default", "dynamic", "yarn", "linear"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct config c = llama(64, 8, types[i]);
        struct arena arena = {0};
        struct rope_factors factors;
        struct error err;
        assert_int_equal(rope_llama3_factors(&c, &arena, &factors, &err), 0);
        assert_int_equal(factors.count, 0);
        arena_free(&arena);
        config_free(&c);
    }
}

#define PHI3                                                                                       \
    "{\"model_type\": \"phi3\", \"hidden_size\": 64, \"num_attention_heads\": 4,"                  \
    " \"max_position_embeddings\": 131072, \"original_max_position_embeddings\": 4096,"            \
    " \"partial_rotary_factor\": 0.5, \"rope_scaling\": "

static void test_longrope(void **state)
{
    (void)state;
    struct config c = parse(PHI3 "{\"type\": \"longrope\", \"long_factor\": [1, 1.5, 2, 64.25],"
                                 " \"short_factor\": [1, 1, 1.1, 2]}}");
    struct arena arena = {0};
    struct rope_factors longs, shorts;
    struct error err;
    uint32_t dim;
    double attention;
    assert_int_equal(rope_dimensions(&c, &dim, &err), 0);
    assert_int_equal(dim, 8);
    assert_int_equal(rope_long_factors(&c, &arena, &longs, &shorts, &err), 0);
    assert_int_equal(longs.count, 4);
    assert_int_equal(shorts.count, 4);
    assert_true(longs.values[3] == 64.25F);
    assert_true(shorts.values[2] == 1.1F);
    assert_int_equal(rope_attn_factor(&c, &attention, &err), 0);
    assert_true(attention == sqrt(1 + log(32.0) / log(4096.0)));
    arena_free(&arena);
    config_free(&c);
}

static void test_longrope_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const char *const configs[] = {
        PHI3 "{\"type\": \"longrope\", \"long_factor\": [1, 2], \"short_factor\": [1, 2]}}",
        PHI3 "{\"type\": \"longrope\", \"long_factor\": [1, 2, 3, 4], \"short_factor\": [1]}}",
        PHI3 "{\"type\": \"longrope\", \"long_factor\": [1, 2, 3, \"4\"],"
             " \"short_factor\": [1, 1, 1, 1]}}",
        PHI3 "null, \"partial_rotary_factor\": 2}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct config c = parse(configs[i]);
        struct arena arena = {0};
        struct rope_factors longs, shorts;
        struct error err;
        assert_int_equal(rope_long_factors(&c, &arena, &longs, &shorts, &err), -EINVAL);
        arena_free(&arena);
        config_free(&c);
    }
}

static void test_a_config_without_factors(void **state)
{
    (void)state;
    struct config c = parse(PHI3 "null}");
    struct arena arena = {0};
    struct rope_factors longs, shorts;
    struct error err;
    double attention;
    assert_int_equal(rope_long_factors(&c, &arena, &longs, &shorts, &err), 0);
    assert_int_equal(longs.count + shorts.count, 0);
    assert_int_equal(rope_attn_factor(&c, &attention, &err), -ENOTSUP);
    arena_free(&arena);
    config_free(&c);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_other_types_have_no_factors),
        cmocka_unit_test(test_longrope),
        cmocka_unit_test(test_longrope_that_does_not_fit_is_refused),
        cmocka_unit_test(test_a_config_without_factors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

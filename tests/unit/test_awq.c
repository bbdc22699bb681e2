/* SPDX-License-Identifier: MIT
 *
 * AWQ's groups: what AutoAWQ makes of a matrix, bit by bit, groups of weights that are all alike or of
 * one sign or too large, and rows.
 */
#include "codec/awq/format.h"

#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/isa.h"
#include "tests/weights.h"

#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ROWS = 64, COLS = 128, GROUP = 32, GROUPS = COLS / GROUP, WORD = 8 };

/* The first 16 digits of the SHA-256. */
static void check_hash(const void *data, size_t n, const char *expected)
{
    uint8_t digest[crypto_hash_sha256_BYTES];
    char text[17];
    crypto_hash_sha256(digest, data, n);
    sodium_bin2hex(text, sizeof text, digest, 8);
    assert_string_equal(text, expected);
}

static void make_weights(float *out)
{
    uint16_t halves[ROWS * COLS];
    uint32_t x = 1;
    for (size_t i = 0; i < ROWS * COLS; i++) {
        x = x * 1664525 + 1013904223;
        out[i] = (float)((int)(x >> 8) - 8388608) / 8388608 * 0.1f;
        halves[i] = f16_from_f32(out[i]);
    }
    check_hash(halves, sizeof halves, "d19cbcc87f824bc1");
}

/* Output 8 k + column of the word is at this nibble. */
static const unsigned nibbles[WORD] = {0, 4, 1, 5, 2, 6, 3, 7};

/* What AutoAWQ made of these weights, in groups of 32. */
static void test_groups_are_those_of_autoawq(void **state)
{
    (void)state;
    static float weights[ROWS * COLS];
    static uint32_t words[COLS][ROWS / WORD], zeros[GROUPS][ROWS / WORD];
    static uint16_t scales[GROUPS][ROWS], decoded[COLS][ROWS];
    uint8_t codes[GROUP];
    make_weights(weights);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t g = 0; g < GROUPS; g++) {
            unsigned shift = 4 * nibbles[i % WORD];
            struct awq_group q = awq_quantize(weights + i * COLS + g * GROUP, GROUP, codes);
            scales[g][i] = f16_from_f32(q.scale);
            zeros[g][i / WORD] |= (uint32_t)q.zero << shift;
            for (size_t c = 0; c < GROUP; c++) {
                size_t j = g * GROUP + c;
                words[j][i / WORD] |= (uint32_t)codes[c] << shift;
                decoded[j][i] = f16_from_f32(q.scale * (float)(codes[c] - q.zero));
            }
        }
    assert_int_equal(words[0][0], 0x3f79fe24);
    assert_int_equal(zeros[0][0], 0x78788778);
    check_hash(scales, sizeof scales, "18cafef3e5c71004");
    check_hash(words, sizeof words, "82c74c860974f50a");
    check_hash(zeros, sizeof zeros, "e51cb8de2b3efb98");
    check_hash(decoded, sizeof decoded, "d88a02e9537ef356");
}

static void test_groups_that_are_special(void **state)
{
    (void)state;
    float x[GROUP] = {0};
    uint8_t codes[GROUP];
    struct awq_group g = awq_quantize(x, GROUP, codes);
    assert_true(g.scale > 0 && g.scale < 1e-6f && g.zero == 0);
    for (size_t i = 0; i < GROUP; i++)
        assert_int_equal(codes[i], 0);
    /* of one sign: the zero is at the end, and what is far from it is cut off */
    for (size_t i = 0; i < GROUP; i++)
        x[i] = 1 + (float)i / 64;
    g = awq_quantize(x, GROUP, codes);
    assert_true(g.zero == 0 && codes[0] == 15 && codes[GROUP - 1] == 15);
    for (size_t i = 0; i < GROUP; i++)
        x[i] = -x[i];
    g = awq_quantize(x, GROUP, codes);
    assert_true(g.zero == 15 && codes[0] == 0 && codes[GROUP - 1] == 0);
}

static uint8_t *encode(const float *weights, size_t rows, size_t cols)
{
    const struct format *f = &awq_formats[0];
    uint8_t *out = malloc(rows * cols / f->block * f->block_size);
    float *copy = malloc(rows * cols * sizeof *copy);
    assert_true(out && copy);
    memcpy(copy, weights, rows * cols * sizeof *copy);
    f->encode_rows(f, isas[0], copy, rows, cols, NULL, NULL, NULL, out);
    free(copy);
    return out;
}

static void test_rows(void **state)
{
    (void)state;
    enum { WIDTH = 3 * AWQ_GROUP };
    const struct format *f = &awq_formats[0];
    static float weights[16 * WIDTH], decoded[16 * WIDTH];
    struct random r = {3};
    for (size_t i = 0; i < 16 * WIDTH; i++)
        weights[i] = random_gaussian(&r);
    uint8_t *rows = encode(weights, 16, WIDTH), codes[AWQ_GROUP];
    f->decode(rows, 16 * WIDTH, decoded);
    for (size_t at = 0; at < 16 * WIDTH; at += AWQ_GROUP) {
        struct awq_group g = awq_quantize(weights + at, AWQ_GROUP, codes);
        for (size_t i = 0; i < AWQ_GROUP; i++) {
            assert_true(decoded[at + i] == g.scale * (float)(codes[i] - g.zero));
            assert_true(fabsf(decoded[at + i] - weights[at + i]) <= 0.6f * g.scale);
        }
    }
    assert_int_equal(format_first_invalid(f, rows, 48), 48);
    free(rows);
    assert_true(f->block == 128 && f->block_size == 67 && format_bpw(f) == 4.1875);
}

/* Where binary16 has no such weight or no such range, the block says so. */
static void test_weights_that_are_too_large(void **state)
{
    (void)state;
    static const float large[] = {7e4f, 1e38f, 5e4f};
    static float weights[3 * AWQ_GROUP];
    for (size_t k = 0; k < 3; k++) {
        memset(weights, 0, sizeof weights);
        weights[AWQ_GROUP + 5] = large[k];
        weights[AWQ_GROUP + 6] = -large[k];
        uint8_t *rows = encode(weights, 1, 3 * AWQ_GROUP);
        assert_int_equal(format_first_invalid(&awq_formats[0], rows, 3), 1);
        free(rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups_are_those_of_autoawq),
        cmocka_unit_test(test_groups_that_are_special),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_weights_that_are_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

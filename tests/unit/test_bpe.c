/* SPDX-License-Identifier: MIT
 *
 * Joining symbols: the same as trying every pair again and again, with merges made at random.
 */
#include "codec/bpe.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t state = 1;

static uint32_t random_below(uint32_t n)
{
    state = state * 1664525 + 1013904223;
    return (state >> 8) % n;
}

/* Where symbols end when the pair of the lowest rank, of these the leftmost, is joined until there
 * is none; symbols are single bytes at first. */
static size_t join_slowly(const struct bpe_merges *m, const char *piece, uint32_t n, uint32_t *ends)
{
    size_t count = n;
    for (uint32_t i = 0; i < n; i++)
        ends[i] = i + 1;
    for (;;) {
        uint32_t best = UINT32_MAX, rank;
        size_t where = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            uint32_t start = i ? ends[i - 1] : 0;
            if (bpe_merges_rank(m, piece + start, ends[i] - start, ends[i + 1] - start, &rank) &&
                rank < best) {
                best = rank;
                where = i;
            }
        }
        if (best == UINT32_MAX)
            return count;
        memmove(ends + where, ends + where + 1, (count - where - 1) * sizeof *ends);
        count--;
    }
}

static void test_random_merges(void **state_)
{
    (void)state_;
    enum { MERGES = 40, LONGEST = 60 };
    struct bpe_symbols s = {0};
    uint32_t expected[LONGEST], joined = 0;
    for (int round = 0; round < 300; round++) {
        char texts[MERGES][2][8], piece[LONGEST];
        struct bpe_merges m;
        assert_int_equal(bpe_merges_init(&m, MERGES), 0);
        for (uint32_t i = 0; i < MERGES; i++) {
            for (int k = 0; k < 2; k++) {
                size_t size = 1 + random_below(i < 10 ? 1 : 3);
                for (size_t c = 0; c < size; c++)
                    texts[i][k][c] = (char)('a' + random_below(3));
                texts[i][k][size] = '\0';
            }
            /* ranks that several merges share: the leftmost goes first */
            bpe_merges_add(&m, texts[i][0], (uint32_t)strlen(texts[i][0]), texts[i][1],
                           (uint32_t)strlen(texts[i][1]), random_below(20));
        }
        for (int word = 0; word < 20; word++) {
            uint32_t n = random_below(LONGEST);
            for (uint32_t i = 0; i < n; i++)
                piece[i] = (char)('a' + random_below(3));
            size_t count = join_slowly(&m, piece, n, expected);
            assert_int_equal(bpe_join(&s, bpe_merges_rank, &m, piece, n), 0);
            assert_int_equal(s.count, count);
            assert_memory_equal(s.ends, expected, count * sizeof *expected);
            joined += n - (uint32_t)count;
        }
        bpe_merges_free(&m);
    }
    assert_true(joined > 10000);
    bpe_symbols_free(&s);
}

/* Symbols are characters at first; one that is cut off ends with the piece. */
static void test_characters(void **state_)
{
    (void)state_;
    static const char piece[] = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\x80\xf0\x9f";
    static const uint32_t ends[] = {1, 3, 6, 10, 11, 13};
    struct bpe_merges none;
    struct bpe_symbols s = {0};
    assert_int_equal(bpe_merges_init(&none, 0), 0);
    assert_int_equal(bpe_join(&s, bpe_merges_rank, &none, piece, sizeof piece - 1), 0);
    assert_int_equal(s.count, 6);
    assert_memory_equal(s.ends, ends, sizeof ends);
    bpe_merges_free(&none);
    bpe_symbols_free(&s);
}

static void test_alphabet(void **state_)
{
    (void)state_;
    for (int byte = 0; byte < 256; byte++)
        assert_int_equal(bpe_char_byte(bpe_byte_char((uint8_t)byte)), byte);
    assert_int_equal(bpe_byte_char(' '), 0x120);
    assert_int_equal(bpe_char_byte(' '), -1);
    assert_int_equal(bpe_char_byte(0x144), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_merges),
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_alphabet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

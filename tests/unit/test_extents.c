/* SPDX-License-Identifier: MIT
 *
 * Extents files: what a good one says, and that whatever is not exactly the format is refused with
 * the number of its line.
 */
#include "codec/extents.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEAD "quantfs extents 1\nsize 1000\n"
#define OBJECTS HEAD "object 0 /c/a\nobject 1 /c/b\n"
#define PROOF " 0123456789abcdef fedcba9876543210\n"

static struct error err;

/* Parses a copy that is exactly as long as the text. */
static int parse_n(const char *text, size_t n, struct extents *out)
{
    char *copy = malloc(n + !n);
    assert_non_null(copy);
    memcpy(copy, text, n);
    int rc = extents_parse(copy, n, out, &err);
    free(copy);
    return rc;
}

static int parse(const char *text, struct extents *out) { return parse_n(text, strlen(text), out); }

static void test_what_is_there(void **state)
{
    (void)state;
    struct extents e;
    assert_int_equal(parse("quantfs extents 1\nsize 1000\n"
                           "object 0 /cache/v2/00/11\nobject 1 /a b/ \xff-\n"
                           "tile 10 90 1 4112" PROOF "tile 100 1 -\n"
                           "tile 200 800 0 0 ffffffffffffffff 0000000000000000\n",
                           &e), 0);
    assert_int_equal(e.size, 1000);
    assert_int_equal(e.object_count, 2);
    assert_string_equal(e.objects[0], "/cache/v2/00/11");
    assert_string_equal(e.objects[1], "/a b/ \xff-");
    static const struct extent expected[] = {
        {10,  90,  1,              4112, 0x0123456789abcdef, 0xfedcba9876543210},
        {100, 1,   EXTENT_NOWHERE, 0,    0,                  0                 },
        {200, 800, 0,              0,    UINT64_MAX,         0                 },
    };
    assert_int_equal(e.count, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct extent *a = &e.items[i], *b = &expected[i];
        assert_int_equal(a->offset, b->offset);
        assert_int_equal(a->length, b->length);
        assert_int_equal(a->object, b->object);
        assert_int_equal(a->at, b->at);
        assert_int_equal(a->checksum, b->checksum);
        assert_int_equal(a->seed, b->seed);
    }
    extents_free(&e);
}

static void test_nothing_but_the_size(void **state)
{
    (void)state;
    struct extents e;
    static const char *const good[] = {"quantfs extents 1\nsize 0\n", HEAD, OBJECTS,
                                       "quantfs extents 1\nsize 9223372036854775807\n"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(parse(good[i], &e), 0);
        assert_int_equal(e.count, 0);
        extents_free(&e);
    }
}

static void test_many_tiles(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    struct extents e;
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    fprintf(out, "quantfs extents 1\nsize %d\n", 10 * COUNT);
    for (int i = 0; i < COUNT; i++)
        fprintf(out, "object %d /o%d\n", i, i);
    for (int i = 0; i < COUNT; i++)
        fprintf(out, "tile %d 10 %d %d %016x %016x\n", 10 * i, COUNT - 1 - i, i, i, 2 * i);
    fclose(out);
    assert_int_equal(parse_n(text, n, &e), 0);
    assert_int_equal(e.count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        char path[16];
        snprintf(path, sizeof path, "/o%u", i);
        assert_string_equal(e.objects[i], path);
        assert_int_equal(e.items[i].offset, 10 * i);
        assert_int_equal(e.items[i].object, COUNT - 1 - i);
        assert_int_equal(e.items[i].seed, 2 * i);
    }
    extents_free(&e);
    free(text);
}

static void test_every_other_text_is_refused(void **state)
{
    (void)state;
    static const struct {
        int line;
        const char *text;
    } bad[] = {
        {1, ""},
        {1, "quantfs extents 1"},
        {1, "quantfs extents 2\nsize 1\n"},
        {1, "quantfs extents 1 \nsize 1\n"},
        {1, "quantfs extents 1\r\nsize 1\n"},
        {1, "\nquantfs extents 1\nsize 1\n"},
        {2, "quantfs extents 1\n"},
        {2, "quantfs extents 1\nsize 1"},
        {2, "quantfs extents 1\nsize \n"},
        {2, "quantfs extents 1\nsize -1\n"},
        {2, "quantfs extents 1\nsize 01\n"},
        {2, "quantfs extents 1\nsize 1 \n"},
        {2, "quantfs extents 1\nsize 0x1\n"},
        {2, "quantfs extents 1\nsize 9223372036854775808\n"},
        {2, "quantfs extents 1\nsize 18446744073709551616\n"},
        {2, "quantfs extents 1\nsize 99999999999999999999\n"},
        {3, HEAD "\n"},
        {3, HEAD "other\n"},
        {3, HEAD "object 0 /a"},
        {3, HEAD "object 1 /a\n"},
        {3, HEAD "object 0\n"},
        {3, HEAD "object 0 \n"},
        {3, HEAD "object 0 a\n"},
        {3, HEAD "object 0  /a\n"},
        {4, HEAD "object 0 /a\nobject 0 /b\n"},
        {4, HEAD "object 0 /a\nobject 2 /b\n"},
        {4, HEAD "tile 0 1 -\nobject 0 /a\n"},
        {3, HEAD "tile 0 0 -\n"},
        {3, HEAD "tile 0 1 -"},
        {3, HEAD "tile 0 1\n"},
        {3, HEAD "tile 0 1 - \n"},
        {3, HEAD "tile 0 1 --\n"},
        {3, HEAD "tile 0  1 -\n"},
        {3, HEAD "tile 0 1 0 0" PROOF},
        {3, HEAD "tile 1000 1 -\n"},
        {3, HEAD "tile 0 1001 -\n"},
        {3, HEAD "tile 18446744073709551615 2 -\n"},
        {3, HEAD "tile 2 18446744073709551615 -\n"},
        {4, HEAD "tile 0 10 -\ntile 9 1 -\n"},
        {4, HEAD "tile 10 10 -\ntile 0 10 -\n"},
        {4, HEAD "tile 10 10 -\ntile 10 10 -\n"},
        {5, OBJECTS "tile 0 1 2 0" PROOF},
        {5, OBJECTS "tile 0 1 4294967295 0" PROOF},
        {5, OBJECTS "tile 0 1 4294967296 0" PROOF},
        {5, OBJECTS "tile 0 1 0\n"},
        {5, OBJECTS "tile 0 1 0 \n"},
        {5, OBJECTS "tile 0 1 0 9223372036854775807" PROOF},
        {5, OBJECTS "tile 0 1 0 18446744073709551615" PROOF},
        {5, OBJECTS "tile 0 1 0 0 0123456789abcdef\n"},
        {5, OBJECTS "tile 0 1 0 0 0123456789abcdef fedcba987654321\n"},
        {5, OBJECTS "tile 0 1 0 0 0123456789abcdef fedcba98765432100\n"},
        {5, OBJECTS "tile 0 1 0 0 0123456789ABCDEF fedcba9876543210\n"},
        {5, OBJECTS "tile 0 1 0 0 0123456789abcdef fedcba9876543210 \n"},
        {6, OBJECTS "tile 0 1 0 0" PROOF "tile 1 1 1 0 0123456789abcdeg fedcba9876543210\n"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[32];
        struct extents e;
        assert_int_equal(parse(bad[i].text, &e), -EINVAL);
        snprintf(line, sizeof line, "line %d ", bad[i].line);
        if (strncmp(err.text, line, strlen(line)) != 0)
            fail_msg("%s is refused with: %s", bad[i].text, err.text);
        assert_null(e.items);
        assert_null(e.objects);
    }
}

static void test_nul_is_refused(void **state)
{
    (void)state;
    struct extents e;
    static const char path[] = HEAD "object 0 /a\0b\n", start[] = "\0uantfs extents 1\nsize 1\n";
    assert_int_equal(parse_n(path, sizeof path - 1, &e), -EINVAL);
    assert_int_equal(parse_n(start, sizeof start - 1, &e), -EINVAL);
    assert_int_equal(extents_parse(NULL, 0, &e, &err), -EINVAL);
}

/* Cut anywhere but behind a line, a good text is none. */
static void test_every_cut(void **state)
{
    (void)state;
    static const char text[] = OBJECTS "tile 10 90 1 4112" PROOF "tile 100 1 -\n";
    for (size_t n = 0; n < sizeof text; n++) {
        struct extents e;
        bool whole = n > strlen("quantfs extents 1\n") && text[n - 1] == '\n';
        assert_int_equal(parse_n(text, n, &e), whole ? 0 : -EINVAL);
        if (whole)
            extents_free(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_there),
        cmocka_unit_test(test_nothing_but_the_size),
        cmocka_unit_test(test_many_tiles),
        cmocka_unit_test(test_every_other_text_is_refused),
        cmocka_unit_test(test_nul_is_refused),
        cmocka_unit_test(test_every_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

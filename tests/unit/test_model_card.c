/* SPDX-License-Identifier: MIT
 *
 * Model cards: which part of README.md is one, how its values are read, and that damaged ones are
 * refused with a line number.
 */
#include "codec/model_card.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct error err;

static int parse_n(const char *text, size_t n, json_t **card)
{
    return model_card_parse((struct blob){text, n}, card, &err);
}

static json_t *parse(const char *text)
{
    json_t *card;
    assert_int_equal(parse_n(text, strlen(text), &card), 0);
    return card;
}

/* A card must read as this JSON. */
static void assert_reads(const char *text, const char *json)
{
    json_t *card = parse(text), *expected = json_loads(json, 0, NULL);
    assert_non_null(expected);
    assert_true(json_equal(card, expected));
    json_decref(card);
    json_decref(expected);
}

static void test_front_matter(void **state)
{
    (void)state;
    static const char *const none[] = {
        "", "# Title\n", "\n---\na: b\n---\n", "--- \na: b\n---\n", "\xef\xbb\xbf---\na: b\n---\n",
        "---", "---\n---\n", "---\n- a\n---\n", "---\ntext\n---\n",
        "---\n\n# only a comment\n---\n",
    };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_null(parse(none[i]));
    assert_reads("---\na: b\n---\nc: d\n", "{\"a\": \"b\"}");
    assert_reads("---\na: b\n", "{\"a\": \"b\"}");
    assert_reads("---\na: b", "{\"a\": \"b\"}");
    assert_reads("---\r\na: b\r\n---\r\nc: d", "{\"a\": \"b\"}");
    assert_reads("---\na: b\n ---\n---\n", "{\"a\": \"b ---\"}");
}

static void test_values(void **state)
{
    (void)state;
    assert_reads("---\na:\nb: ~\nc: Null\nd: \"null\"\ne: ''\n---\n",
                 "{\"a\": null, \"b\": null, \"c\": null, \"d\": \"null\", \"e\": \"\"}");
    assert_reads("---\na: yes\nb: Off\nc: 'no'\nd: y\ne: nO\n---\n",
                 "{\"a\": true, \"b\": false, \"c\": \"no\", \"d\": \"y\", \"e\": \"nO\"}");
    assert_reads("---\na: 1.0\nb: 2024-01-02\nc: 0x10\n---\n",
                 "{\"a\": \"1.0\", \"b\": \"2024-01-02\", \"c\": \"0x10\"}");
    assert_reads("---\na: [x, {y: z}]\n"
                 "b:\n  - |\n    two\n    lines\n  - >-\n    one\n    line\n---\n",
                 "{\"a\": [\"x\", {\"y\": \"z\"}], \"b\": [\"two\\nlines\\n\", \"one line\"]}");
    assert_reads("---\na: 1\na: 2\n---\n", "{\"a\": \"2\"}");
    assert_reads("---\nlanguage:\n- en\n- no\nother: [no]\n---\n",
                 "{\"language\": [\"en\", \"no\"], \"other\": [false]}");
    assert_reads("---\na:\n\t- b\tc\n---\n", "{\"a\": [\"b  c\"]}");
}

static void test_damaged_cards_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *place;
    } damaged[] = {
        {"---\na: b\nc: [d\n---\n", "line 4"},
        {"---\na: b\n c: d: e\n---\n", "line 3"},
        {"---\na: &x b\nc: *x\n---\n", "line 3"},
        {"---\n? [a]\n: b\n---\n", "line 2"},
        {"---\na: \"\xff\"\n---\n", "line"},
    };
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        json_t *card;
        assert_int_equal(parse_n(damaged[i].text, strlen(damaged[i].text), &card), -EINVAL);
        assert_null(card);
        assert_non_null(strstr(err.text, damaged[i].place));
    }
}

static void test_size_and_depth_are_bounded(void **state)
{
    (void)state;
    struct buffer text = {0};
    json_t *card;
    buffer_add(&text, "---\na: ", 7);
    for (int i = 0; i < 100000; i++)
        buffer_add(&text, "[", 1);
    assert_int_equal(parse_n((char *)text.data, text.size, &card), -EINVAL);
    text.size = 7;
    for (int i = 0; i < 200000; i++)
        buffer_add(&text, "- words\n", 8);
    assert_int_equal(parse_n((char *)text.data, text.size, &card), -EINVAL);
    buffer_free(&text);
}

static void test_name_takes_the_first_that_is_given(void **state)
{
    (void)state;
    json_t *card = parse("---\nname:\nmodel_name: Own\nversion: no\nmodel_version: v2\n"
                         "model_type: llama\n---\n");
    struct model_name name = {.name = "before", .finetune = "Chat"};
    model_card_name(card, &name);
    assert_string_equal(name.name, "before");
    assert_string_equal(name.basename, "llama");
    assert_string_equal(name.finetune, "Chat");
    assert_string_equal(name.version, ""); /* what is no text counts, but is not written */
    assert_null(name.organization);
    name = (struct model_name){0};
    model_card_name(card, &name);
    assert_string_equal(name.name, "Own");
    json_decref(card);
    name = (struct model_name){0};
    model_card_name(NULL, &name);
    assert_null(name.name);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_front_matter),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_damaged_cards_are_refused),
        cmocka_unit_test(test_size_and_depth_are_bounded),
        cmocka_unit_test(test_name_takes_the_first_that_is_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 *
 * Vocabularies of GGUF files: what is refused, what awkward texts become, and that every text comes
 * back from its ids. That the ids are llama.cpp's is proven by tests/mount/test_tokenize.py.
 */
#include "codec/gguf_encode.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct error err;

/* ---- vocabularies ---- */

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

/* A header under construction: a vocabulary is its tokens, their types and scores, and merges. */
struct maker {
    struct gguf_keys keys;
    struct buffer tokens, types, scores, merges;
    uint32_t count, merge_count;
    float score; /* of the next token; every one has a lower one than the last */
};

static uint32_t add_token(struct maker *m, const char *text, int32_t type)
{
    gguf_add_string(&m->tokens, text, strlen(text));
    buffer_add(&m->types, &type, sizeof type);
    buffer_add(&m->scores, &m->score, sizeof m->score);
    m->score--;
    return m->count++;
}

static void add_merge(struct maker *m, const char *text)
{
    gguf_add_string(&m->merges, text, strlen(text));
    m->merge_count++;
}

static void put_array(struct maker *m, const char *key, enum gguf_type type, uint32_t count,
                      const struct buffer *values)
{
    gguf_put_array(&m->keys, key, type, count);
    buffer_add(&m->keys.bytes, values->data, values->size);
}

/* A vocabulary, and the bytes that it points into. */
struct made {
    struct buffer file;
    struct gguf_header header;
    struct gguf_vocab vocab;
    int rc;
};

static struct made finish(struct maker *m)
{
    struct made out = {0};
    put_array(m, "tokenizer.ggml.tokens", GGUF_STRING, m->count, &m->tokens);
    put_array(m, "tokenizer.ggml.token_type", GGUF_I32, m->count, &m->types);
    put_array(m, "tokenizer.ggml.scores", GGUF_F32, m->count, &m->scores);
    if (m->merge_count)
        put_array(m, "tokenizer.ggml.merges", GGUF_STRING, m->merge_count, &m->merges);
    gguf_add_head(&out.file, 0, m->keys.count);
    buffer_add(&out.file, m->keys.bytes.data, m->keys.bytes.size);
    buffer_free(&m->keys.bytes);
    buffer_free(&m->tokens);
    buffer_free(&m->types);
    buffer_free(&m->scores);
    buffer_free(&m->merges);
    assert_int_equal(gguf_parse(out.file.data, out.file.size, &out.header, &err), 0);
    out.rc = gguf_vocab_load(&out.header, &out.vocab, &err);
    return out;
}

static void release(struct made *m)
{
    if (!m->rc)
        gguf_vocab_free(&m->vocab);
    gguf_header_free(&m->header);
    buffer_free(&m->file);
}

/* <unk> 0, <s> 1, </s> 2, bytes 3-258, then words, the first the most likely. */
static struct made make_spm(void)
{
    static const char *const words[] = {"▁", "a",  "ab", "bc", "de", "cd",
                                        "b", "ef", "fg", "abc", "▁a", "▁▁"};
    struct maker m = {0};
    char name[8];
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "llama");
    add_token(&m, "<unk>", UNKNOWN);
    add_token(&m, "<s>", CONTROL);
    add_token(&m, "</s>", CONTROL);
    for (int i = 0; i < 256; i++) {
        snprintf(name, sizeof name, "<0x%02X>", i);
        add_token(&m, name, BYTE);
    }
    m.score = 3; /* so that scores of both signs, and 0, are compared */
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        add_token(&m, words[i], NORMAL);
    add_token(&m, "[user]", USER);
    return finish(&m);
}

/* The 256 bytes in the order of the alphabet, then what merges make, then special tokens. */
static struct made make_bpe(const char *pre, const char *leave_out)
{
    static const char *const merges[] = {"a b", "b c", "ab c", "Ġ ab", "Ġ Ġ"};
    struct maker m = {0};
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "gpt2");
    gguf_put_string(&m.keys, "tokenizer.ggml.pre", pre);
    for (int byte = 0; byte < 256; byte++) {
        uint32_t code = bpe_byte_char((uint8_t)byte);
        char text[3] = {(char)code};
        if (code >= 0x80) {
            text[0] = (char)(0xc0 | code >> 6);
            text[1] = (char)(0x80 | (code & 0x3f));
        }
        if (strcmp(text, leave_out) != 0)
            add_token(&m, text, NORMAL);
    }
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        char text[16], *space;
        strcpy(text, merges[i]);
        space = strchr(text, ' ');
        memmove(space, space + 1, strlen(space));
        add_merge(&m, merges[i]);
        add_token(&m, text, NORMAL);
    }
    add_token(&m, "bab", NORMAL); /* no merges make it */
    add_token(&m, "<|im_end|>", NORMAL); /* its type is wrong */
    add_token(&m, "<|im", USER);
    return finish(&m);
}

/* ---- encoding and decoding ---- */

static struct token_ids encode_n(const struct made *m, const char *text, size_t n, unsigned flags)
{
    struct token_ids ids;
    assert_int_equal(m->rc, 0);
    assert_int_equal(gguf_encode(&m->vocab, text, n, flags, &ids, &err), 0);
    return ids;
}

/* The texts of the tokens, separated by '|', in out. */
static const char *cut(const struct made *m, const char *text, unsigned flags)
{
    static char out[512];
    struct token_ids ids = encode_n(m, text, strlen(text), flags);
    size_t n = 0;
    for (size_t i = 0; i < ids.count; i++) {
        const struct vocab_token *t = &m->vocab.tokens[ids.ids[i]];
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%.*s", i ? "|" : "", (int)t->size,
                              t->text);
    }
    out[n] = '\0';
    free(ids.ids);
    return out;
}

/* The text must come back, behind `prefix`. */
static void assert_returns(const struct made *m, const char *prefix, const char *text, size_t n)
{
    struct token_ids ids = encode_n(m, text, n, ENCODE_PARSE);
    struct buffer back = {0};
    for (size_t i = 0; i < ids.count; i++)
        gguf_vocab_decode(&m->vocab, ids.ids[i], true, &back);
    assert_int_equal(back.size, strlen(prefix) + n);
    assert_memory_equal(back.data, prefix, strlen(prefix));
    assert_memory_equal(back.data + strlen(prefix), text, n);
    buffer_free(&back);
    free(ids.ids);
}

static void test_awkward_texts_return(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
    } texts[] = {
#define TEXT(s) {s, sizeof(s) - 1}
        TEXT("a"), TEXT("\0"), TEXT("a\0b\0\0c"), TEXT("   a  b   "), TEXT("\n\n\t \r\n"),
        TEXT("\x01\x02\x1b[0m\x7f"), TEXT("👩‍👩‍👧‍👦👍🏽🇩🇪"),
        TEXT("Ärger A\u0308 мир שָׁלוֹם हिन्दी 中文 한국어 ｱ"), TEXT("\xc2\x85\u2028\u3000\ufeff"),
        TEXT("I'm we'LL 1234567 ½ ٣"), TEXT("<s>a</s> <unk>[user]<|im_end|><|im"),
#undef TEXT
    };
    struct made spm = make_spm(), bpe = make_bpe("llama-bpe", "");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bool special = texts[i].text[0] == '<'; /* no space goes in front of that one */
        if (!special)
            assert_returns(&spm, " ", texts[i].text, texts[i].n);
        assert_returns(&bpe, "", texts[i].text, texts[i].n);
    }
    /* a word of its own, and one of spaces */
    enum { LONG = 300000 };
    char *text = malloc(LONG);
    for (int space = 0; space < 2; space++) {
        memset(text, space ? ' ' : 'x', LONG);
        text[LONG - 1] = 'a';
        assert_returns(&spm, " ", text, LONG);
        assert_returns(&bpe, "", text, LONG);
    }
    free(text);
    release(&spm);
    release(&bpe);
}

/* BPE vocabularies see characters: U+FFFD for each byte that is none. SPM ones have all bytes. */
static void test_invalid_utf8(void **state)
{
    (void)state;
    static const char invalid[] = "a\xff\xc3(\xe2\x82z\x80\xf5\x80\x80\x80";
    static const char replaced[] = "a\ufffd\ufffd(\ufffd\ufffdz\ufffd\ufffd\ufffd\ufffd\ufffd";
    struct made spm = make_spm(), bpe = make_bpe("gpt-2", "");
    assert_returns(&spm, " ", invalid, sizeof invalid - 1);
    struct token_ids ids = encode_n(&bpe, invalid, sizeof invalid - 1, 0);
    struct token_ids same = encode_n(&bpe, replaced, sizeof replaced - 1, 0);
    assert_int_equal(ids.count, same.count);
    assert_memory_equal(ids.ids, same.ids, ids.count * sizeof *ids.ids);
    free(ids.ids);
    free(same.ids);
    release(&spm);
    release(&bpe);
}

static void test_spm(void **state)
{
    (void)state;
    struct made m = make_spm();
    assert_string_equal(cut(&m, "", 0), "");
    assert_string_equal(cut(&m, "", ENCODE_ADD), "<s>");
    assert_string_equal(cut(&m, "abc", ENCODE_ADD), "<s>|▁|abc");
    assert_string_equal(cut(&m, "bcabab", 0), "▁|bc|ab|ab");
    assert_string_equal(cut(&m, "bcdefg", 0), "▁|bc|de|fg");
    assert_string_equal(cut(&m, "abcd", 0), "▁|ab|cd");
    assert_string_equal(cut(&m, "  a", 0), "▁▁|▁a");
    assert_string_equal(cut(&m, "é", 0), "▁|<0xC3>|<0xA9>");
    /* the space goes in front again behind a special token, which is only one when parsed */
    assert_string_equal(cut(&m, "b</s>b", ENCODE_PARSE), "▁|b|</s>|▁|b");
    assert_string_equal(cut(&m, "b[user]b", 0), "▁|b|[user]|▁|b");
    assert_string_equal(cut(&m, "<s>", 0), "▁|<0x3C>|<0x73>|<0x3E>");
    release(&m);
}

static void test_bpe(void **state)
{
    (void)state;
    struct made m = make_bpe("gpt-2", "");
    assert_string_equal(cut(&m, "abc ab bc", 0), "abc|Ġab|Ġ|bc");
    assert_string_equal(cut(&m, "abcab", 0), "abc|ab");
    assert_string_equal(cut(&m, "bab", 0), "b|ab");
    assert_string_equal(cut(&m, "   ab", 0), "ĠĠ|Ġab");
    assert_string_equal(cut(&m, "ab'sab", 0), "ab|'|s|ab");
    release(&m);
    m = make_bpe("llama-bpe", "");
    assert_string_equal(cut(&m, "bab abab", 0), "bab|Ġab|ab"); /* words that are tokens: whole */
    release(&m);
    m = make_bpe("gpt-2", "z");
    assert_string_equal(cut(&m, "azb", 0), "a|b"); /* a byte that is no token is dropped */
    release(&m);
}

static void test_special_tokens(void **state)
{
    (void)state;
    struct made m = make_bpe("qwen2", "");
    /* the longest first; a token that looks like control is control, a user's is always one */
    assert_string_equal(cut(&m, "a<|im_end|>b", ENCODE_PARSE), "a|<|im_end|>|b");
    assert_string_equal(cut(&m, "a<|im_end|>b", 0), "a|<|im|_|e|n|d|||>|b");
    uint32_t end = gguf_vocab_find(&m.vocab, "<|im_end|>", 10);
    uint32_t user = gguf_vocab_find(&m.vocab, "<|im", 4), id;
    assert_true(m.vocab.tokens[end].end && !m.vocab.tokens[user].end);
    struct buffer out = {0};
    for (id = 0; id < 2; id++) {
        gguf_vocab_decode(&m.vocab, end, id, &out);
        gguf_vocab_decode(&m.vocab, user, id, &out);
        gguf_vocab_decode(&m.vocab, m.vocab.count, id, &out);
    }
    assert_int_equal(out.size, 18);
    assert_memory_equal(out.data, "<|im<|im_end|><|im", 18);
    buffer_free(&out);
    release(&m);
}

/* Characters of several bytes come in pieces, which the caller puts together. */
static void test_decodes_bytes(void **state)
{
    (void)state;
    struct made m = make_bpe("gpt-2", "");
    struct token_ids ids = encode_n(&m, "€", 3, 0);
    struct buffer out = {0};
    assert_int_equal(ids.count, 3);
    for (size_t i = 0; i < 3; i++) {
        gguf_vocab_decode(&m.vocab, ids.ids[i], false, &out);
        assert_int_equal(out.size, i + 1);
    }
    assert_memory_equal(out.data, "€", 3);
    buffer_free(&out);
    free(ids.ids);
    release(&m);
}

static void test_words(void **state)
{
    (void)state;
    static const struct {
        const char *pre, *text, *words;
    } rows[] = {
        {"", "it's 1234 !!", "it|'|s| |123|4| |!!"},
        {"gpt-2", "it's IT'S 1234  a", "it|'s| IT|'|S| 1234| | a"},
        {"smollm", "a 12", "a| |1|2"},
        {"llama-bpe", "it's IT'S\r\n 12345 (x)  \n\n y",
         "it|'s| IT|'S|\r\n| |123|45| (|x|)|  \n\n| y"},
        {"qwen2", "IT'S 123", "IT|'S| |1|2|3"},
        {"qwen35", "e\u0301a \u0301", "e\u0301a| \u0301"},
        {"minicpm5", "12345", "123|45"},
        {"ufakzeka", "it's", "it|'s"},
        {"gpt-4o", "HTTPServer's camelCase /a\n/", "HTTPServer's| camel|Case| /|a|\n|/"},
        {"tekken", "iPhone's 12", "i|Phone|'s| |1|2"},
        {"tiny_aya", "1234567", "1|234|567"},
        {"superbpe", "a 1234567", "a |1|234|567"},
        {"afmoe", "a12345 1234", "a|12|345| |1|234"},
        {"deepseek-llm", "ab  12中文", "ab|  |12|中文"},
        {"deepseek-v3", "1234中文.ab", "123|4|中文|.ab"},
        {"youtu", "한국中文、ㄅ", "한국|中文|、|ㄅ"},
        {"kimi-k2", "ab中文cd's", "ab|中文|cd's"},
        {"falcon", "a$$12345", "a|$$|123|45"},
        {"bloom", "a b, c。d", "a| b|,| c|。|d"},
        {"viking", "a 12", "a| |1|2"},
        {"chameleon", "<sentinel:7>IMGIMGABZ", "<|sentinel|:|7|>|IMGIMGABZ"},
        {"laguna", "a b\n\n c", "a| b|\n\n| c"},
        {"gemma4", "a b\n\nc", "a b|\n\n|c"},
        {"exaone-moe", "a b c1", "a b c|1"},
        {"jais-2", "a     b", "a|    | b"},
    };
    struct words *w;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct word_list l;
        char joined[256] = "";
        assert_int_equal(words_new(rows[i].pre, strlen(rows[i].pre), &w, &err), 0);
        assert_int_equal(words_cut(w, rows[i].text, strlen(rows[i].text), &l, &err), 0);
        for (size_t k = 0; k < l.count; k++) {
            uint32_t start = k ? l.ends[k - 1] : 0;
            strncat(joined, l.text + start, l.ends[k] - start);
            strcat(joined, k + 1 < l.count ? "|" : "");
        }
        assert_string_equal(joined, rows[i].words);
        word_list_free(&l);
        words_free(w);
    }
    assert_int_equal(words_new("gpt", 3, &w, &err), -ENOTSUP);
    assert_int_equal(words_new("gpt-20", 6, &w, &err), -ENOTSUP);
}

/* ---- what is refused ---- */

static void assert_refused(struct maker *m, int rc, const char *word)
{
    struct made made = finish(m);
    assert_int_equal(made.rc, rc);
    assert_non_null(strstr(err.text, word));
    release(&made);
}

static void test_refused(void **state)
{
    (void)state;
    struct maker m = {0};
    add_token(&m, "a", NORMAL);
    assert_refused(&m, -EINVAL, "tokenizer.ggml.model");
    m = (struct maker){0};
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "bert");
    add_token(&m, "a", NORMAL);
    assert_refused(&m, -ENOTSUP, "\"bert\"");
    m = (struct maker){0};
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "gpt2");
    gguf_put_string(&m.keys, "tokenizer.ggml.pre", "nonsense");
    add_token(&m, "a", NORMAL);
    assert_refused(&m, -ENOTSUP, "\"nonsense\"");
    m = (struct maker){0};
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "gpt2");
    add_token(&m, "a", NORMAL);
    assert_refused(&m, -EINVAL, "tokenizer.ggml.merges");
    m = (struct maker){0};
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "llama");
    assert_refused(&m, -EINVAL, "tokenizer.ggml.tokens");
    m = (struct maker){0};
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "llama");
    add_token(&m, "a", NORMAL);
    add_token(&m, "a", NORMAL);
    assert_refused(&m, -EINVAL, "tokens 0 and 1");
    m = (struct maker){0};
    gguf_put_string(&m.keys, "tokenizer.ggml.model", "llama");
    add_token(&m, "a", NORMAL);
    struct made made = finish(&m);
    struct token_ids ids;
    assert_int_equal(made.rc, 0);
    assert_int_equal(gguf_encode(&made.vocab, "a", 1, ENCODE_ADD, &ids, &err), -EINVAL);
    assert_non_null(strstr(err.text, "BOS"));
    release(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_awkward_texts_return), cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_spm),                  cmocka_unit_test(test_bpe),
        cmocka_unit_test(test_special_tokens),       cmocka_unit_test(test_decodes_bytes),
        cmocka_unit_test(test_words),     cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT */
#include "codec/pretokenizer.h"

#include "codec/bytes.h"

#include <errno.h>

/* The regular expressions of Split steps, as the files have them (JSON escapes undone). */
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define L3                                                                                         \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"        \
                 "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define Q2                                                                                         \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"             \
                 "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define Q35                                                                                        \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" \
                 "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200                                                                                       \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"      \
    CONTRACTIONS "?|"                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"      \
    CONTRACTIONS "?|"                                                                              \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define NEMO                                                                                       \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"     \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"     \
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CJK1 "[一-龥ࠀ-一가-퟿]+"
#define CJK2 "[一-龥぀-ゟ゠-ヿ]+"
#define ASCII_PUNCTUATION "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"
#define DS3                                                                                        \
    ASCII_PUNCTUATION "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"                       \
                      " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SPARK                                                                                      \
    ASCII_PUNCTUATION "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"                       \
                      " ?[\\p{P}\\p{S}]+|[\\r\\n]|\\s+(?!\\S)|\\s+"
#define PUNC "\\s?[!-/:-~！-／：-～‘-‟　-。]+"
#define BLOOM " ?[^(\\s|[.,!?…。，、।۔،])]+"
#define LING                                                                                       \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"   \
    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define SEED                                                                                       \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|"             \
                 "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define MINICPM5                                                                                   \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"            \
                 "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

enum bos { BOS_ANY, BOS_YES, BOS_NO };

/* A chain is its steps, each ended by a space. S(x): Split, Isolated. Sr(x): Split, Removed and
 * inverted. D1, D0: Digits, individual or not. B1, B0: ByteLevel with or without its own regex.
 * A row without conditions is its chain's default. */
struct row {
    const char *name, *chain;
    enum bos bos;
    const char *normalizer; /* NULL: any */
    size_t vocab_min, vocab_max; /* 0: any */
};

static const struct row rows[] = {
    {"smaug-bpe", "S(" L3 ") B0 ", BOS_NO, NULL, 128000, 128300},
    {"glm4", "S(" L3 ") B0 ", BOS_NO, NULL, 151000, 155000},
    {"lfm2", "S(" L3 ") B0 ", BOS_ANY, NULL, 64000, 66000},
    {"llama-bpe", "S(" L3 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"dbrx", "Sr(" L3 ") B0 ", BOS_NO, NULL, 100000, 101000},
    {"midm-2.0", "Sr(" L3 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"deepseek-r1-qwen", "S(" Q2 ") B0 ", BOS_YES, NULL, 0, 0},
    {"qwen2", "S(" Q2 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"qwen35", "S(" Q35 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"modern-bert", "B1 ", BOS_YES, "NFC", 0, 0},
    {"olmo", "B1 ", BOS_ANY, "NFC", 0, 0},
    {"phi-2", "B1 ", BOS_NO, NULL, 50290, 51200},
    {"gpt-2", "B1 ", BOS_ANY, NULL, 0, 0},
    {"command-r", "D1 B1 ", BOS_YES, "NFC", 255000, 257000},
    {"exaone", "D1 B1 ", BOS_ANY, "NFKC", 0, 0},
    {"refact", "D1 B1 ", BOS_ANY, "", 49216, 49216},
    {"smollm", "D1 B1 ", BOS_ANY, NULL, 0, 0},
    {"deepseek-llm", "S([\\r\\n]) S(LETTERS) S(" PUNC ") S(\\s+$) S(" CJK1 ") D1 B0 ", BOS_ANY, NULL,
     0, 0},
    {"deepseek-coder", "S([\\r\\n]) S(\\s?\\p{L}+) S(\\s?\\p{P}+) S(" CJK1 ") D1 B0 ", BOS_ANY, NULL,
     0, 0},
    {"deepseek-v3", "S(\\p{N}{1,3}) S(" CJK2 ") S(" DS3 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"spark2_5", "S(\\p{N}{1,3}) S(" CJK2 ") S(" SPARK ") D1 B0 ", BOS_ANY, NULL, 0, 0},
    {"falcon", "P(Contiguous) B1 D0 S([0-9][0-9][0-9]) ", BOS_ANY, NULL, 0, 0},
    {"tekken", "S(" NEMO ") B0 ", BOS_ANY, NULL, 0, 0},
    {"minimax-m2", "Sr(" O200 ") B0 ", BOS_ANY, "NFC", 0, 0},
    {"gpt-4o", "Sr(" O200 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"llama4", "S(" O200 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"tiny_aya", "S(\\d{1,3}(?=(?:\\d{3})*\\b)) S(" O200 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"minicpm5", "S(\\p{N}{1,3}) S(" MINICPM5 ") B0 ", BOS_ANY, NULL, 0, 0},
    {"bailingmoe", "S(" LING ") B0 ", BOS_ANY, NULL, 0, 0},
    {"seed-coder", "S(" SEED ") B0 ", BOS_ANY, NULL, 0, 0},
    {"bloom", "S(" BLOOM ") B0 ", BOS_ANY, NULL, 0, 0},
    {"viking", "S(" BLOOM ") D1 B0 ", BOS_ANY, NULL, 0, 0},
};

static const char *string_at(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static void add(struct buffer *b, const char *s) { buffer_add(b, s, strlen(s)); }

/* Newlines are literal in some files and escaped in others: here always escaped. The one pattern
 * that no table should repeat (deepseek-llm's list of letter ranges) becomes a word. */
static void add_pattern(struct buffer *b, const char *regex)
{
    enum { LETTERS_SIZE = 499 };
    if (strlen(regex) == LETTERS_SIZE && strncmp(regex, "\\s?[A-Za-z", 10) == 0) {
        add(b, "LETTERS");
        return;
    }
    for (; *regex; regex++) {
        if (*regex == '\r' || *regex == '\n')
            add(b, *regex == '\r' ? "\\r" : "\\n");
        else
            buffer_add(b, regex, 1);
    }
}

static void add_step(struct buffer *b, const json_t *step)
{
    const char *type = string_at(step, "type");
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        json_t *inner;
        json_array_foreach(json_object_get(step, "pretokenizers"), i, inner)
            add_step(b, inner);
        return;
    }
    if (strcmp(type, "Split") == 0) {
        bool inverted = json_is_true(json_object_get(step, "invert"));
        const char *behavior = string_at(step, "behavior");
        bool isolated = strcmp(behavior, "Isolated") == 0 && !inverted;
        bool removed = strcmp(behavior, "Removed") == 0 && inverted;
        add(b, isolated ? "S(" : removed ? "Sr(" : "Split(");
        add_pattern(b, string_at(json_object_get(step, "pattern"), "Regex"));
        add(b, ") ");
    } else if (strcmp(type, "Digits") == 0) {
        add(b, json_is_true(json_object_get(step, "individual_digits")) ? "D1 " : "D0 ");
    } else if (strcmp(type, "ByteLevel") == 0 &&
               !json_is_true(json_object_get(step, "add_prefix_space"))) {
        add(b, json_is_false(json_object_get(step, "use_regex")) ? "B0 " : "B1 ");
    } else if (strcmp(type, "Punctuation") == 0) {
        add(b, "P(");
        add(b, string_at(step, "behavior"));
        add(b, ") ");
    } else {
        add(b, type);
        add(b, " ");
    }
}

/* The type of the normalizer; of a sequence, that of its only member; "" for none. */
static const char *normalizer_type(const json_t *tokenizer)
{
    const json_t *n = json_object_get(tokenizer, "normalizer");
    const json_t *members = json_object_get(n, "normalizers");
    return string_at(json_array_size(members) == 1 ? json_array_get(members, 0) : n, "type");
}

/* Whether the template puts a special token in front of a single text. */
static bool prepends_token(const json_t *post_processor)
{
    size_t i;
    json_t *member;
    json_array_foreach(json_object_get(post_processor, "processors"), i, member)
        if (prepends_token(member))
            return true;
    const json_t *first = json_array_get(json_object_get(post_processor, "single"), 0);
    return json_object_get(first, "SpecialToken") != NULL;
}

int pretokenizer_name(const json_t *tokenizer, size_t vocab_size, const char **name,
                      struct error *err)
{
    struct buffer chain = {0};
    add_step(&chain, json_object_get(tokenizer, "pre_tokenizer"));
    buffer_add(&chain, "", 1);
    if (chain.failed) {
        buffer_free(&chain);
        return error_set(err, -ENOMEM, "out of memory");
    }
    bool bos = prepends_token(json_object_get(tokenizer, "post_processor"));
    const char *normalizer = normalizer_type(tokenizer);
    int rc = error_set(err, -ENOTSUP, "pre_tokenizer is not known: %.300s", (char *)chain.data);
    for (size_t i = 0; rc && i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        if (strcmp(r->chain, (char *)chain.data) != 0)
            continue;
        if ((r->bos == BOS_YES && !bos) || (r->bos == BOS_NO && bos) ||
            (r->normalizer && strcmp(r->normalizer, normalizer) != 0) ||
            (r->vocab_max && (vocab_size < r->vocab_min || vocab_size > r->vocab_max)))
            continue;
        *name = r->name;
        rc = 0;
    }
    buffer_free(&chain);
    return rc;
}

/* ---- the way back ---- */

/* What a chain does not tell: names that share another's, normalizers, and who takes tokens whole. */
static const struct {
    const char *pre, *chain_of; /* NULL: its own */
    const char *normalizer;
    bool whole;
} traits[] = {
    {"llama3", "llama-bpe", NULL, true},     {"llama-v3", "llama-bpe", NULL, true},
    {"llama-bpe", NULL, NULL, true},         {"smaug-bpe", NULL, NULL, true},
    {"glm4", NULL, NULL, true},              {"tekken", NULL, NULL, true},
    {"qwen2", NULL, "NFC", false},           {"deepseek-r1-qwen", NULL, "NFC", false},
    {"qwen35", NULL, "NFC", false},          {"olmo", NULL, "NFC", false},
    {"modern-bert", NULL, "NFC", false},     {"command-r", NULL, "NFC", false},
    {"exaone", NULL, "NFKC", false},         {"minimax-m2", NULL, "NFC", false},
    {"starcoder", "smollm", NULL, false},    {"f2llmv2", "qwen2", "NFC", false},
    {"jina-v5-nano", "llama-bpe", NULL, true},
};

enum { TRAIT_COUNT = sizeof traits / sizeof *traits };

static bool is_name(const char *name, const char *pre, size_t n)
{
    return strlen(name) == n && memcmp(name, pre, n) == 0;
}

/* Where a step of a chain ends: at the space that another step, or nothing, follows. */
static const char *step_end(const char *chain)
{
    static const char *const starts[] = {"S(", "Sr(", "B0 ", "B1 ", "D0 ", "D1 ", "P("};
    for (const char *space = strchr(chain, ' '); space; space = strchr(space + 1, ' ')) {
        if (!space[1])
            return space;
        for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
            if (strncmp(space + 1, starts[i], strlen(starts[i])) == 0)
                return space;
    }
    return chain + strlen(chain);
}

/* One step of a chain, of n bytes. */
static json_t *step_json(const char *step, size_t n)
{
    const char *open = memchr(step, '(', n);
    if (*step == 'B')
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                         "trim_offsets", 1, "use_regex", step[1] == '1');
    if (*step == 'D')
        return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", step[1] == '1');
    json_t *inside = json_stringn(open + 1, n - (size_t)(open + 1 - step) - 1);
    if (*step == 'P')
        return json_pack("{s:s, s:o}", "type", "Punctuation", "behavior", inside);
    bool removed = step[1] == 'r';
    return json_pack("{s:s, s:{s:o}, s:s, s:b}", "type", "Split", "pattern", "Regex", inside,
                     "behavior", removed ? "Removed" : "Isolated", "invert", removed);
}

static json_t *chain_json(const char *chain)
{
    json_t *steps = json_array();
    while (*chain) {
        const char *end = step_end(chain);
        json_array_append_new(steps, step_json(chain, (size_t)(end - chain)));
        chain = *end ? end + 1 : end;
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

int pretokenizer_steps(const char *pre, size_t n, json_t **steps, const char **normalizer,
                       bool *whole, struct error *err)
{
    const char *chain = NULL, *given = pre;
    size_t size = n;
    *normalizer = NULL;
    *whole = false;
    for (int i = 0; i < TRAIT_COUNT; i++) {
        if (!is_name(traits[i].pre, given, size))
            continue;
        *normalizer = traits[i].normalizer;
        *whole = traits[i].whole;
        if (traits[i].chain_of) {
            pre = traits[i].chain_of;
            n = strlen(pre);
        }
    }
    for (size_t i = 0; !chain && i < sizeof rows / sizeof *rows; i++)
        if (is_name(rows[i].name, pre, n))
            chain = rows[i].chain;
    if (!chain || strstr(chain, "LETTERS"))
        return error_set(err, -ENOTSUP, "tokenizer.ggml.pre \"%.*s\" is not known", (int)size,
                         given);
    *steps = chain_json(chain);
    return *steps ? 0 : error_set(err, -ENOMEM, "out of memory");
}

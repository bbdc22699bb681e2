/* SPDX-License-Identifier: MIT */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "codec/gguf_words.h"

#include "codec/bytes.h"
#include "codec/char_class.h"

#include <errno.h>
#include <pcre2.h>
#include <utf8proc.h>

/* ---- the rules ---- */

/* A step sees one byte for each character: ASCII as it is, white space as a vertical tab, the
 * rest as CLASS plus its class, or as RANGE plus the number of the range that it lies in. */
enum { VERTICAL_TAB = 0x0b, RANGE = 0x80, CLASS = 0xd0 };

/* Classes, to be written between brackets. */
#define N "0-9\xd1"
#define L "A-Za-z\xd2"
#define P "!-#%-*,-/:;?@\\[-\\]_{}\xd3"
#define M "\xd4"
#define S "$+<->^`|~\xd5"
_Static_assert(CLASS + CHAR_NUMBER == 0xd1 && CLASS + CHAR_LETTER == 0xd2 &&
                   CLASS + CHAR_PUNCTUATION == 0xd3 && CLASS + CHAR_MARK == 0xd4 &&
                   CLASS + CHAR_SYMBOL == 0xd5,
               "the macros above");

#define ENDING "'(?:[sStTmMdD]|[rRvV][eE]|[lL][lL])"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'(?:[stmd]|[rv]e|ll)| ?[" L "]+| ?[" N "]+| ?[^\\s" L N "]+|\\s+(?!\\S)|\\s+"
#define WORD "[^\\r\\n" L N "]?[" L "]+"
#define SIGNS " ?[^\\s" L N "]+[\\r\\n]*"
#define LLAMA3 ENDING "|" WORD "|[" N "]{1,3}|" SIGNS "|" SPACES
#define QWEN2 ENDING "|" WORD "|[" N "]|" SIGNS "|" SPACES
#define DEEPSEEK                                                                                   \
    "[!-/:-@[-`{-~][A-Za-z]+|[^\\r\\n" L P S "]?[" L M "]+| ?[" P S "]+[\\r\\n]*|" SPACES
/* Words of capitals, then of small letters, each with at least one; only ASCII has case. */
#define CASED(letters, small, capital, ending)                                                     \
    "[^\\r\\n" L N "]?[" capital letters "]*[" small letters "]+" ending "|"                       \
    "[^\\r\\n" L N "]?[" capital letters "]+[" small letters "]*" ending "|"
#define SIGNS_SLASH " ?[^\\s" L N "]+[\\r\\n/]*"

/* Characters outside of ASCII that a step names. The first range that matches counts. */
struct range {
    uint32_t first, last;
    uint8_t number;
};

static const struct range chinese_japanese[] = {
    {0x4e00, 0x9fa5, 0}, {0x3040, 0x309f, 0}, {0x30a0, 0x30ff, 0}, {0}};
static const struct range chinese_korean[] = {{0x800, 0x9fa5, 0}, {0xac00, 0xd7ff, 0}, {0}};
static const struct range han[] = {{0x3400, 0x4dbf, 0},   {0x4e00, 0x9fff, 0},
                                   {0xf900, 0xfaff, 0},   {0x20000, 0x2a6df, 0},
                                   {0x2a700, 0x2ebef, 0}, {0x2f800, 0x2fa1f, 0}, {0}};
static const struct range asian[] = {
    {0x4e00, 0x9fff, 0}, {0x3400, 0x4dbf, 0}, {0x8c48, 0xfaff, 0}, {0x3040, 0x309f, 0},
    {0x30a0, 0x30ff, 0}, {0xff65, 0xff9f, 0}, {0x2f00, 0x2fdf, 0}, {0xe40, 0xe7f, 0},
    {0xe80, 0xeff, 0},   {0x1780, 0x17ff, 0}, {0x1000, 0x109f, 0}, {0xaa60, 0xaa7f, 0},
    {0xa9e0, 0xa9ff, 0}, {0x1100, 0x11ff, 0}, {0}};
static const struct range youtu_runs[] = {
    {0xac00, 0xd7a3, 0}, {0x3131, 0x318e, 0}, {0xff01, 0xff01, 1}, {0x2026, 0x2026, 1},
    {0x201c, 0x201d, 1}, {0x2018, 0x2019, 1}, {0x2014, 0x2014, 1}, {0xff1a, 0xff1b, 1},
    {0xff0c, 0xff0c, 1}, {0x3001, 0x303f, 1}, {0xfe30, 0xfe4f, 1}, {0x3105, 0x312f, 2},
    {0x4e00, 0x9fa5, 3}, {0x3040, 0x30ff, 3}, {0}};
static const struct range wide_punctuation[] = {
    {0xff01, 0xff0f, 0}, {0xff1a, 0xff5e, 0}, {0x2018, 0x201f, 0}, {0x3000, 0x3002, 0}, {0}};
static const struct range sentence_ends[] = {
    {0x2026, 0x2026, 0}, {0x3001, 0x3002, 0}, {0xff0c, 0xff0c, 0}, {0x964, 0x964, 0},
    {0x6d4, 0x6d4, 0},   {0x60c, 0x60c, 0},   {0}};
/* letters that have case, as of some older Unicode */
static const struct range cased[] = {
    {0xb5, 0xb5, 0},       {0xc0, 0xd6, 0},       {0xd8, 0xf6, 0},       {0xf8, 0x1ba, 0},
    {0x1bc, 0x1bf, 0},     {0x1c4, 0x293, 0},     {0x295, 0x2af, 0},     {0x370, 0x373, 0},
    {0x376, 0x377, 0},     {0x37b, 0x37d, 0},     {0x37f, 0x37f, 0},     {0x386, 0x386, 0},
    {0x388, 0x38a, 0},     {0x38c, 0x38c, 0},     {0x38e, 0x3a1, 0},     {0x3a3, 0x3f5, 0},
    {0x3f7, 0x481, 0},     {0x48a, 0x52f, 0},     {0x531, 0x556, 0},     {0x10a0, 0x10c5, 0},
    {0x13a0, 0x13f5, 0},   {0x13f8, 0x13fd, 0},   {0x1c90, 0x1cba, 0},   {0x1cbd, 0x1cbf, 0},
    {0x1d00, 0x1d2b, 0},   {0x1d6b, 0x1d77, 0},   {0x1d79, 0x1d9a, 0},   {0x1e00, 0x1f15, 0},
    {0x1f18, 0x1f1d, 0},   {0x1f20, 0x1f45, 0},   {0x1f48, 0x1f4d, 0},   {0x1f50, 0x1f57, 0},
    {0x1f59, 0x1f59, 0},   {0x1f5b, 0x1f5b, 0},   {0x1f5d, 0x1f5d, 0},   {0x1f5f, 0x1f7d, 0},
    {0x1f80, 0x1fb4, 0},   {0x1fb6, 0x1fbc, 0},   {0x1fbe, 0x1fbe, 0},   {0x1fc2, 0x1fc4, 0},
    {0x1fc6, 0x1fcc, 0},   {0x1fd0, 0x1fd3, 0},   {0x1fd6, 0x1fdb, 0},   {0x1fe0, 0x1fec, 0},
    {0x1ff2, 0x1ff4, 0},   {0x1ff6, 0x1ffc, 0},   {0x2102, 0x2102, 0},   {0x2107, 0x2107, 0},
    {0x210a, 0x2113, 0},   {0x2115, 0x2115, 0},   {0x2119, 0x211d, 0},   {0x2124, 0x2124, 0},
    {0x2126, 0x2126, 0},   {0x2128, 0x2128, 0},   {0x212a, 0x212d, 0},   {0x212f, 0x2134, 0},
    {0x2139, 0x2139, 0},   {0x213c, 0x213f, 0},   {0x2145, 0x2149, 0},   {0x214e, 0x214e, 0},
    {0x2183, 0x2184, 0},   {0x2c00, 0x2c7b, 0},   {0x2c7e, 0x2ce4, 0},   {0x2ceb, 0x2cee, 0},
    {0x2cf2, 0x2cf3, 0},   {0xa640, 0xa66d, 0},   {0xa680, 0xa69b, 0},   {0xa722, 0xa76f, 0},
    {0xa771, 0xa787, 0},   {0xa78b, 0xa78e, 0},   {0xab70, 0xabbf, 0},   {0xfb00, 0xfb06, 0},
    {0xfb13, 0xfb17, 0},   {0xff21, 0xff3a, 0},   {0xff41, 0xff5a, 0},   {0x10400, 0x1044f, 0},
    {0x104b0, 0x104d3, 0}, {0x104d8, 0x104fb, 0}, {0x10c80, 0x10cb2, 0}, {0x10cc0, 0x10cf2, 0},
    {0x118a0, 0x118df, 0}, {0x1e900, 0x1e943, 0},
    {0}};

enum step_kind {
    END,
    MATCH,       /* the matches of a pattern, and what is between them */
    DIGITS_ENDS,   /* behind every third digit of a number, counted from its end */
    DIGITS_STARTS, /* in front of these, and ASCII digits only */
};

struct step {
    enum step_kind kind;
    const char *pattern;
    const struct range *ranges; /* NULL: none */
};

enum { STEPS_MAX = 6 };

#define RULE(name, ...) static const struct step name[] = {__VA_ARGS__, {END, NULL, NULL}}
#define SPLIT(pattern) {MATCH, pattern, NULL}
#define ONE_NUMBER SPLIT("[" N "]")
#define CHINESE_KOREAN {MATCH, "\x80+", chinese_korean}
#define CHINESE_JAPANESE {MATCH, "\x80+", chinese_japanese}

RULE(standard, SPLIT("[" P "$+<=>^~|]+"), SPLIT(GPT2), SPLIT("[" N "]+"), SPLIT("[0-9]{3}"));
RULE(llama3, SPLIT(LLAMA3));
RULE(jais2, SPLIT(ENDING "|" WORD "|[" N "]{1,3}|" SIGNS "|\\s*[\\r\\n]+|\\s{512}(?!\\S)|"
                         "\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|"
                         "\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s"));
/* what stands in front of \s+ in the last but two keeps the time linear, and changes no match */
RULE(deepseek_llm, SPLIT("[\\r\\n]"), {MATCH, "\\s?[A-Za-z\x80]+", cased},
     {MATCH, "\\s?[!-/:-~\x80]+", wide_punctuation}, SPLIT("(?<!\\s)\\s+\\z"), CHINESE_KOREAN,
     SPLIT("[" N "]+"));
RULE(deepseek_coder, SPLIT("[\\r\\n]"), SPLIT("\\s?[" L "]+"), SPLIT("\\s?[" P "]+"),
     CHINESE_KOREAN, ONE_NUMBER);
RULE(deepseek3, SPLIT("[" N "]{1,3}"), CHINESE_JAPANESE, SPLIT(DEEPSEEK));
RULE(spark, SPLIT("[" N "]{1,3}"), CHINESE_JAPANESE,
     SPLIT("[!-/:-@[-`{-~][A-Za-z]+|[^\\r\\n" L P S "]?[" L M "]+| ?[" P S "]+|[\\r\\n]|"
           "\\s+(?!\\S)|\\s+"),
     ONE_NUMBER);
RULE(youtu, {MATCH, "\x80+|\x81+|\x82+|\x83+", youtu_runs},
     SPLIT(CASED(L M, "", "", "(?:" ENDING ")?") "[" N "]|" SIGNS_SLASH "|" SPACES));
RULE(falcon, SPLIT("[" P "$+<=>^~|`]+"), SPLIT(GPT2), SPLIT("[0-9]{3}"));
RULE(starcoder, ONE_NUMBER, SPLIT(GPT2));
RULE(gpt2, SPLIT(GPT2));
RULE(qwen2, SPLIT(QWEN2));
RULE(qwen35, SPLIT(ENDING "|[^\\r\\n" L N "]?[" L M "]+|[" N "]| ?[^\\s" L M N "]+[\\r\\n]*|"
                   SPACES));
RULE(bloom, {MATCH, " ?[^(\\s|.,!?)\x80]+", sentence_ends});
RULE(viking, {MATCH, " ?[^(\\s|.,!?)\x80]+", sentence_ends}, ONE_NUMBER);
RULE(tekken, SPLIT(CASED("\xd2", "a-z", "A-Z", "") "[" N "]|" SIGNS_SLASH "|" SPACES));
RULE(chameleon, SPLIT("<sentinel:[0-9]+>"), SPLIT("IMGIMG[A-I]{1,4}Z"),
     SPLIT("[\\t\\n]|    |  "), ONE_NUMBER, SPLIT("[" P "!-/:-@[-`{-~]"), SPLIT(GPT2));
RULE(gpt4o, SPLIT(CASED("\xd2", "a-z", "A-Z", "(?:" ENDING ")?") "[" N "]{1,3}|" SIGNS_SLASH "|"
                  SPACES));
RULE(granite, SPLIT(CASED("\xd2" M, "a-z", "A-Z", "(?:" ENDING ")?") "[" N "]{1,3}|" SIGNS_SLASH
                    "|" SPACES));
RULE(tiny_aya, {DIGITS_ENDS, NULL, NULL},
     SPLIT(CASED(L M, "", "", "(?:" ENDING ")?") "[" N "]{1,3}|" SIGNS_SLASH "|" SPACES));
RULE(kimi, {MATCH,
            "\x80+|[^\\r\\n" L N "]?[" L "]+(?:" ENDING ")?|[" N "]{1,3}| ?[^\\s" L N
            "\x80]+[\\r\\n]*|" SPACES,
            han});
RULE(superbpe, SPLIT("[" N "]+"), {DIGITS_STARTS, NULL, NULL});
RULE(bailing, SPLIT(ENDING "|" WORD "|[" N "]|" SIGNS "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"));
RULE(seed, SPLIT(ENDING "|" WORD "|[" N "]| ?[^\\s" L N "\\r\\n]+|" SPACES));
RULE(ufakzeka, SPLIT(WORD "|[" N "]|" SIGNS "|" SPACES));
RULE(afmoe, {DIGITS_ENDS, NULL, NULL}, {MATCH, "\x80+", asian}, SPLIT(DEEPSEEK));
RULE(laguna, SPLIT("\\n+"), SPLIT(QWEN2));
RULE(exaone_moe, SPLIT(ENDING "|[^\\r\\n" L N "]?(?:[" L "]" M "*(?: [" L "]" M "*)*)+|[" N "]|"
                       " ?[^\\s" L N "]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"));
RULE(lines, SPLIT("\\n+"));
RULE(minicpm5, SPLIT("[" N "]{1,3}"), SPLIT(ENDING "|" WORD "|[" N "]+|" SIGNS "|" SPACES));

static const struct pre {
    const char *name;
    const struct step *steps;
    unsigned flags;
} pres[] = {
    {"default", standard, 0},
    {"minicpm5", minicpm5, WORDS_WHOLE},
    {"llama3", llama3, WORDS_WHOLE | WORDS_BOS},
    {"llama-v3", llama3, WORDS_WHOLE | WORDS_BOS},
    {"llama-bpe", llama3, WORDS_WHOLE | WORDS_BOS},
    {"falcon3", llama3, WORDS_WHOLE | WORDS_BOS},
    {"falcon-h1", llama3, WORDS_WHOLE | WORDS_BOS},
    {"pixtral", llama3, WORDS_WHOLE | WORDS_BOS},
    {"midm-2.0", llama3, WORDS_WHOLE | WORDS_BOS},
    {"lfm2", llama3, WORDS_WHOLE | WORDS_BOS},
    {"jina-v5-nano", llama3, WORDS_WHOLE | WORDS_BOS},
    {"deepseek-llm", deepseek_llm, 0},
    {"deepseek-coder", deepseek_coder, 0},
    {"deepseek-v3", deepseek3, 0},
    {"spark2_5", spark, 0},
    {"youtu", youtu, WORDS_WHOLE},
    {"falcon", falcon, 0},
    {"mpt", gpt2, 0},
    {"starcoder", starcoder, 0},
    {"gpt-2", gpt2, 0},
    {"phi-2", gpt2, 0},
    {"jina-es", gpt2, 0},
    {"jina-de", gpt2, 0},
    {"gigachat", gpt2, 0},
    {"jina-v2-es", gpt2, 0},
    {"jina-v2-de", gpt2, 0},
    {"a.x-4.0", gpt2, 0},
    {"mellum", gpt2, 0},
    {"modern-bert", gpt2, 0},
    {"jais-2", jais2, 0},
    {"gemma4", lines, WORDS_RAW | WORDS_ESCAPED | WORDS_LINES},
    {"granite-embed-multi-311m", lines, WORDS_RAW | WORDS_ESCAPED | WORDS_LINES},
    {"sarvam-moe", lines, WORDS_RAW | WORDS_ESCAPED},
    {"jina-v1-en", gpt2, 0},
    {"jina-v2-code", gpt2, 0},
    {"roberta-bpe", gpt2, 0},
    {"refact", starcoder, 0},
    {"command-r", starcoder, 0},
    {"qwen2", qwen2, 0},
    {"deepseek-r1-qwen", qwen2, 0},
    {"kormo", qwen2, 0},
    {"f2llmv2", qwen2, 0},
    {"qwen35", qwen35, 0},
    {"stablelm2", qwen2, 0},
    {"olmo", gpt2, 0},
    {"dbrx", llama3, 0},
    {"smaug-bpe", llama3, 0},
    {"poro-chat", bloom, 0},
    {"chatglm-bpe", llama3, WORDS_NO_BOS},
    {"glm4", llama3, WORDS_WHOLE | WORDS_NO_BOS},
    {"glm5", llama3, WORDS_WHOLE | WORDS_NO_BOS},
    {"viking", viking, 0},
    {"jais", gpt2, 0},
    {"tekken", tekken, WORDS_WHOLE | WORDS_BOS},
    {"smollm", starcoder, 0},
    {"codeshell", starcoder, 0},
    {"bloom", bloom, 0},
    {"gpt3-finnish", bloom, 0},
    {"exaone", starcoder, 0},
    {"exaone4", gpt2, 0},
    {"exaone-moe", exaone_moe, 0},
    {"chameleon", chameleon, WORDS_BOS},
    {"minerva-7b", starcoder, 0},
    {"megrez", qwen2, 0},
    {"gpt-4o", gpt4o, 0},
    {"llama4", gpt4o, 0},
    {"kanana2", gpt4o, 0},
    {"talkie", gpt4o, 0},
    {"granite-embed-multi-97m", granite, WORDS_WHOLE},
    {"tiny_aya", tiny_aya, 0},
    {"cohere2moe", tiny_aya, 0},
    {"superbpe", superbpe, 0},
    {"trillion", gpt2, 0},
    {"granite-docling", gpt2, 0},
    {"bailingmoe", bailing, 0},
    {"bailingmoe2", bailing, 0},
    {"llada-moe", bailing, 0},
    {"seed-coder", seed, 0},
    {"hunyuan", qwen2, 0},
    {"hunyuan-dense", deepseek3, 0},
    {"hy_v4", deepseek3, 0},
    {"joyai-llm", deepseek3, 0},
    {"kimi-k2", kimi, 0},
    {"ufakzeka", ufakzeka, 0},
    {"grok-2", qwen2, 0},
    {"afmoe", afmoe, 0},
    {"laguna", laguna, 0},
    {"minimax-m2", gpt4o, 0},
    {"solar-open", qwen2, 0},
    {"mellum2", starcoder, 0},
};

enum { PRE_COUNT = sizeof pres / sizeof *pres };

struct words {
    const struct pre *pre;
    pcre2_code *codes[STEPS_MAX]; /* NULL where a step has no pattern */
};

int words_new(const char *pre, size_t n, struct words **out, struct error *err)
{
    int i = 0, code;
    PCRE2_SIZE where;
    while (n && i < PRE_COUNT &&
           !(strlen(pres[i].name) == n && memcmp(pres[i].name, pre, n) == 0))
        i++;
    if (i == PRE_COUNT)
        return error_set(err, -ENOTSUP, "tokenizer.ggml.pre \"%.*s\" is not known",
                         (int)(n < 100 ? n : 100), pre);
    struct words *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, -ENOMEM, "out of memory");
    w->pre = &pres[i];
    for (int k = 0; w->pre->steps[k].kind; k++) {
        const char *pattern = w->pre->steps[k].pattern;
        if (!pattern)
            continue;
        w->codes[k] = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, 0, &code, &where,
                                    NULL);
        if (!w->codes[k]) {
            words_free(w);
            return error_set(err, -ENOMEM, "out of memory"); /* the patterns are valid */
        }
        pcre2_jit_compile(w->codes[k], PCRE2_JIT_COMPLETE); /* or it is interpreted */
    }
    *out = w;
    return 0;
}

void words_free(struct words *w)
{
    for (int i = 0; w && i < STEPS_MAX; i++)
        pcre2_code_free(w->codes[i]);
    free(w);
}

unsigned words_flags(const struct words *w) { return w->pre->flags; }

/* ---- characters ---- */

/* The length of the character at the start of n bytes, or 0: more is one than utf8_next would let
 * pass, surrogates and overlong forms, too. */
static unsigned next_char(const uint8_t *s, size_t n, uint32_t *code)
{
    unsigned length = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (length > n || s[0] >= 0xf8)
        return 0;
    *code = length == 1 ? s[0] : s[0] & (0x7fu >> length);
    for (unsigned i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (s[i] & 0x3f);
    }
    return *code <= 0x10ffff ? length : 0;
}

/* A text on its way through the steps. Words end at characters here. */
struct cutter {
    const uint8_t *text; /* valid */
    size_t chars;
    uint8_t *classes, *view; /* a byte for each character; view: with a step's ranges */
    uint32_t *ends, *next;   /* of the words so far, and of those that the step makes */
    size_t count, next_count;
};

/* Fills in the text and the classes of its characters. */
static void read_text(const char *text, size_t n, struct cutter *c, uint8_t *out)
{
    const uint8_t *s = (const uint8_t *)text, *end = s + n;
    c->text = out;
    while (s < end) {
        uint32_t code = *s;
        if (code < 0x80) {
            *out++ = *s++;
            c->classes[c->chars++] = (uint8_t)code;
            continue;
        }
        unsigned length = next_char(s, (size_t)(end - s), &code);
        s += length ? length : 1;
        code = length ? code : 0xfffd;
        enum char_class class = char_class(code);
        out += utf8proc_encode_char((utf8proc_int32_t)code, out);
        c->classes[c->chars++] = code < 0x80           ? (uint8_t)code
                                 : class == CHAR_SPACE ? VERTICAL_TAB
                                                       : (uint8_t)(CLASS + class);
    }
}

static void view_ranges(struct cutter *c, const struct range *ranges)
{
    const uint8_t *s = c->text;
    for (size_t i = 0; i < c->chars; i++) {
        uint32_t code = 0;
        s += next_char(s, 4, &code);
        c->view[i] = c->classes[i];
        for (const struct range *r = ranges; c->classes[i] >= 0x80 && r->last; r++)
            if (code >= r->first && code <= r->last) {
                c->view[i] = RANGE + r->number;
                break;
            }
    }
}

/* ---- steps ---- */

static void add_end(struct cutter *c, size_t end) { c->next[c->next_count++] = (uint32_t)end; }

/* Cuts the word of n characters from `start` on. */
static int cut_matches(struct cutter *c, const uint8_t *view, const pcre2_code *code,
                       pcre2_match_data *data, size_t start, size_t n)
{
    size_t at = 0;
    while (at < n) {
        int found = pcre2_match(code, view + start, n, at, 0, data, NULL);
        if (found == PCRE2_ERROR_JIT_STACKLIMIT)
            found = pcre2_match(code, view + start, n, at, PCRE2_NO_JIT, data, NULL);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0)
            return found == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -ENOTSUP;
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(data);
        if (v[0] > at)
            add_end(c, start + v[0]);
        add_end(c, start + v[1]);
        at = v[1];
    }
    if (at < n)
        add_end(c, start + n);
    return 0;
}

static bool is_number(uint8_t class, enum step_kind kind)
{
    return (class >= '0' && class <= '9') || (kind == DIGITS_ENDS && class == CLASS + CHAR_NUMBER);
}

static void cut_digits(struct cutter *c, enum step_kind kind, size_t start, size_t n)
{
    size_t end = start + n;
    for (size_t first = start, past; first < end; first = past + 1) {
        for (past = first; past < end && is_number(c->classes[past], kind);)
            past++;
        for (size_t at = first + (past - first) % 3; first < past && at <= past; at += 3)
            if (at > start && at < end && (kind == DIGITS_ENDS ? at > first : at < past))
                add_end(c, at);
    }
    add_end(c, end);
}

static int run_step(struct cutter *c, const struct step *step, const pcre2_code *code)
{
    int rc = 0;
    pcre2_match_data *data = NULL;
    const uint8_t *view = step->ranges ? c->view : c->classes;
    if (step->ranges)
        view_ranges(c, step->ranges);
    if (code && !(data = pcre2_match_data_create(1, NULL)))
        return -ENOMEM;
    c->next_count = 0;
    for (size_t i = 0; !rc && i < c->count; i++) {
        size_t start = i ? c->ends[i - 1] : 0;
        if (code)
            rc = cut_matches(c, view, code, data, start, c->ends[i] - start);
        else
            cut_digits(c, step->kind, start, c->ends[i] - start);
    }
    pcre2_match_data_free(data);
    uint32_t *ends = c->ends;
    c->ends = c->next;
    c->count = c->next_count;
    c->next = ends;
    return rc;
}

/* From characters to bytes, in place. */
static void ends_in_bytes(struct cutter *c)
{
    const uint8_t *s = c->text;
    size_t at = 0;
    for (size_t i = 0; i < c->count; i++) {
        for (uint32_t code; at < c->ends[i]; at++)
            s += next_char(s, 4, &code);
        c->ends[i] = (uint32_t)(s - c->text);
    }
}

int words_cut(const struct words *w, const char *text, size_t n, struct word_list *out,
              struct error *err)
{
    *out = (struct word_list){0};
    if (n == 0)
        return 0;
    /* U+FFFD is longer than the byte it stands for; next_char may look 4 bytes ahead */
    uint8_t *copy = n <= WORDS_TEXT_MAX ? calloc(3 * n + 4, 1) : NULL;
    struct cutter c = {.classes = malloc(n), .view = malloc(n),
                       .ends = reallocarray(NULL, n, sizeof *c.ends),
                       .next = reallocarray(NULL, n, sizeof *c.next)};
    int rc = copy && c.classes && c.view && c.ends && c.next ? 0 : -ENOMEM;
    if (!rc) {
        read_text(text, n, &c, copy);
        c.ends[c.count++] = (uint32_t)c.chars;
    }
    for (int i = 0; !rc && w->pre->steps[i].kind; i++)
        rc = run_step(&c, &w->pre->steps[i], w->codes[i]);
    if (!rc)
        ends_in_bytes(&c);
    free(c.classes);
    free(c.view);
    free(c.next);
    *out = (struct word_list){(char *)copy, c.ends, c.count};
    if (rc) {
        word_list_free(out);
        return error_set(err, rc, rc == -ENOMEM ? "out of memory"
                                                : "the text has words that take too long");
    }
    return 0;
}

void word_list_free(struct word_list *l)
{
    free(l->text);
    free(l->ends);
    *l = (struct word_list){0};
}

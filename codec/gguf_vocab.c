/* SPDX-License-Identifier: MIT */
#include "codec/gguf_vocab.h"

#include "codec/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <utf8proc.h>

/* ---- tokens by their text ---- */

/* The slot of a text, or the empty one where it would be. */
static uint32_t *slot(const struct gguf_vocab *v, const char *text, size_t n)
{
    uint64_t hash = hash_bytes(HASH_START, text, n);
    for (uint32_t i = (uint32_t)(hash ^ hash >> 32) & v->mask;; i = (i + 1) & v->mask) {
        const struct vocab_token *t = v->slots[i] ? &v->tokens[v->slots[i] - 1] : NULL;
        if (!t || (t->size == n && memcmp(t->text, text, n) == 0))
            return &v->slots[i];
    }
}

uint32_t gguf_vocab_find(const struct gguf_vocab *v, const char *text, size_t n)
{
    return *slot(v, text, n) - 1; /* 0 - 1 is VOCAB_NONE */
}

static struct vocab_token *find_token(const struct gguf_vocab *v, const char *text)
{
    uint32_t id = gguf_vocab_find(v, text, strlen(text));
    return id == VOCAB_NONE ? NULL : &v->tokens[id];
}

/* ---- what the header says ---- */

static int out_of_memory(struct error *err) { return error_set(err, -ENOMEM, "out of memory"); }

static int invalid(struct error *err, const char *key)
{
    return error_set(err, -EINVAL, "%s is missing or invalid", key);
}

/* An array of one of two types with at least `count` elements; *out is NULL if there is none. */
static int find_array(const struct gguf_header *h, const char *key, enum gguf_type type,
                      enum gguf_type other, uint64_t count, const struct gguf_value **out,
                      struct error *err)
{
    const struct gguf_value *v = *out = gguf_find(h, key);
    bool fits = !v || (v->is_array && (v->type == type || v->type == other) && v->count >= count);
    return fits ? 0 : invalid(err, key);
}

static bool find_flag(const struct gguf_header *h, const char *key, bool otherwise)
{
    double number;
    return gguf_find_number(h, key, &number) ? number != 0 : otherwise;
}

/* An id; `otherwise`, where that is a token, if the key is missing or wrong. */
static uint32_t find_id(const struct gguf_vocab *v, const struct gguf_header *h, const char *key,
                        uint32_t otherwise)
{
    double id;
    if (gguf_find_number(h, key, &id) && id >= 0 && id < v->count)
        return (uint32_t)id;
    return otherwise < v->count ? otherwise : VOCAB_NONE;
}

/* ---- tokens ---- */

static uint8_t flags_of_type(double type)
{
    static const uint8_t flags[] = {0, VOCAB_NORMAL, VOCAB_UNKNOWN, VOCAB_CONTROL, VOCAB_USER, 0,
                                    VOCAB_BYTE};
    return type >= 0 && type < sizeof flags ? flags[(int)type] : 0;
}

/* Orders floats downwards. */
static uint32_t rank_of_score(float score)
{
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~bits & INT32_MAX;
}

static int add_token(struct gguf_vocab *v, struct gguf_string text, struct error *err)
{
    struct vocab_token *t = &v->tokens[v->count];
    if (text.size > INT32_MAX)
        return error_set(err, -EINVAL, "token %" PRIu32 " is too long", v->count);
    *t = (struct vocab_token){text.data, (uint32_t)text.size, 0, VOCAB_NORMAL, false};
    if (!t->size) {
        t->text = arena_printf(&v->arena, "[EMPTY_%" PRIu32 "]", v->count);
        if (!t->text)
            return out_of_memory(err);
        t->size = (uint32_t)strlen(t->text);
    }
    uint32_t *s = slot(v, t->text, t->size);
    if (*s)
        return error_set(err, -EINVAL, "tokens %" PRIu32 " and %" PRIu32 " are the same", *s - 1,
                         v->count);
    *s = ++v->count;
    return 0;
}

static int load_tokens(struct gguf_vocab *v, const struct gguf_header *h, struct error *err)
{
    static const char tokens_key[] = "tokenizer.ggml.tokens";
    const struct gguf_value *tokens, *scores, *types;
    struct gguf_string text;
    double number;
    int rc = find_array(h, tokens_key, GGUF_STRING, GGUF_STRING, 1, &tokens, err);
    if (rc || !tokens || tokens->count > INT32_MAX)
        return rc ? rc : invalid(err, tokens_key);
    rc = find_array(h, "tokenizer.ggml.scores", GGUF_F32, GGUF_I32, tokens->count, &scores, err);
    rc = rc ? rc
            : find_array(h, "tokenizer.ggml.token_type", GGUF_I32, GGUF_I32, tokens->count, &types,
                         err);
    if (rc)
        return rc;
    v->mask = 15;
    while (v->mask < 2 * tokens->count)
        v->mask = 2 * v->mask + 1;
    v->tokens = calloc(tokens->count, sizeof *v->tokens);
    v->slots = calloc((size_t)v->mask + 1, sizeof *v->slots);
    if (!v->tokens || !v->slots)
        return out_of_memory(err);
    struct reader r = reader_make(tokens->data, tokens->size);
    while (!rc && v->count < tokens->count)
        rc = gguf_next_element(&r, GGUF_STRING, &number, &text) ? add_token(v, text, err)
                                                                : invalid(err, tokens_key);
    if (rc)
        return rc;
    struct reader s = scores ? reader_make(scores->data, scores->size) : (struct reader){0};
    struct reader t = types ? reader_make(types->data, types->size) : (struct reader){0};
    for (uint32_t i = 0; i < v->count; i++) {
        if (scores && gguf_next_element(&s, scores->type, &number, &text))
            v->tokens[i].rank = rank_of_score((float)number);
        if (types && gguf_next_element(&t, types->type, &number, &text))
            v->tokens[i].flags = flags_of_type(number);
    }
    return 0;
}

/* "left right": the first space but for one at the start parts them. */
static int load_merges(struct gguf_vocab *v, const struct gguf_header *h, bool optional,
                       struct error *err)
{
    static const char key[] = "tokenizer.ggml.merges";
    const struct gguf_value *merges;
    struct gguf_string text;
    double number;
    int rc = find_array(h, key, GGUF_STRING, GGUF_STRING, 0, &merges, err);
    if (rc || (!merges && !optional))
        return rc ? rc : invalid(err, key);
    uint64_t count = merges ? merges->count : 0;
    if (count > INT32_MAX)
        return invalid(err, key);
    if (bpe_merges_init(&v->merges, count))
        return out_of_memory(err);
    struct reader r = merges ? reader_make(merges->data, merges->size) : (struct reader){0};
    for (uint32_t i = 0; i < count && gguf_next_element(&r, GGUF_STRING, &number, &text); i++) {
        const char *space = text.size > 1 ? memchr(text.data + 1, ' ', text.size - 1) : NULL;
        size_t left = space ? (size_t)(space - text.data) : 0;
        if (space && text.size <= INT32_MAX)
            bpe_merges_add(&v->merges, text.data, (uint32_t)left, space + 1,
                           (uint32_t)(text.size - left - 1), i);
    }
    return 0;
}

/* ---- tokens that are known by their text ---- */

/* Texts that end a generation, whatever type the file gives them. */
static const char *const end_texts[] = {
    "<|eot_id|>",    "<|im_end|>",        "<|end|>",      "<|return|>",
    "<|call|>",      "<|flush|>",         "<|calls|>",    "<end_of_turn>",
    "<|endoftext|>", "</s>",              "<|eom_id|>",   "<EOT>",
    "_<EOT>",        "[EOT]",             "[EOS]",        "<|end_of_text|>",
    "<end_of_utterance>", "<eos>",        "<turn|>",      "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
};

/* Marks for filling in the middle: where the file does not name one, the first of these texts that
 * is a token is it. (llama.cpp takes any, should there be several.) */
static const struct {
    const char *key, *old_key; /* the last that is there counts */
    bool ends;
    const char *texts[8];
} fill_marks[] = {
    {"tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id", false,
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
      "<|code_prefix|>", "<|prefix|>"}},
    {"tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id", false,
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
      "<|code_suffix|>", "<|suffix|>"}},
    {"tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id", false,
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
      "<|code_middle|>", "<|middle|>"}},
    {"tokenizer.ggml.fim_pad_token_id", NULL, true,
     {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
    {"tokenizer.ggml.fim_rep_token_id", NULL, true,
     {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
    {"tokenizer.ggml.fim_sep_token_id", NULL, true, {"<|file_sep|>"}},
};

static void mark_fills(struct gguf_vocab *v, const struct gguf_header *h)
{
    for (size_t i = 0; i < sizeof fill_marks / sizeof *fill_marks; i++) {
        uint32_t id = find_id(v, h, fill_marks[i].key, VOCAB_NONE);
        if (fill_marks[i].old_key)
            id = find_id(v, h, fill_marks[i].old_key, id);
        struct vocab_token *t = id == VOCAB_NONE ? NULL : &v->tokens[id];
        for (int k = 0; !t && k < 8 && fill_marks[i].texts[k]; k++)
            if ((t = find_token(v, fill_marks[i].texts[k])))
                t->flags |= VOCAB_CONTROL;
        if (t && fill_marks[i].ends)
            t->end = true;
    }
}

static bool ends(const struct gguf_vocab *v, const char *text)
{
    const struct vocab_token *t = find_token(v, text);
    return t && t->end;
}

static void mark_ends(struct gguf_vocab *v, const struct gguf_header *h)
{
    static const char *const always_shown[] = {"<|channel|>", "<|message|>", "<|start|>",
                                               "<|constrain|>"};
    struct vocab_token *t;
    for (size_t i = 0; i < sizeof end_texts / sizeof *end_texts; i++)
        if ((t = find_token(v, end_texts[i]))) {
            t->end = true;
            t->flags |= VOCAB_CONTROL;
        }
    for (size_t i = 0; i < sizeof always_shown / sizeof *always_shown; i++)
        if ((t = find_token(v, always_shown[i])))
            t->flags = VOCAB_USER;
    const uint32_t named[] = {v->eos, find_id(v, h, "tokenizer.ggml.eot_token_id", VOCAB_NONE),
                              find_id(v, h, "tokenizer.ggml.eom_token_id", VOCAB_NONE)};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (named[i] != VOCAB_NONE)
            v->tokens[named[i]].end = true;
    /* two texts that mean something else in certain company */
    bool call = ends(v, "<|call|>") || ends(v, "<|calls|>");
    if (call && (ends(v, "<|return|>") || ends(v, "<|flush|>")) && ends(v, "<|end|>")) {
        t = find_token(v, "<|end|>");
        t->end = false;
        t->flags = VOCAB_USER;
    }
    if ((ends(v, "<|tool_response>") || ends(v, "<|plamo:eos|>")) && ends(v, "</s>")) {
        t = find_token(v, "</s>");
        t->end = false;
        t->flags = VOCAB_NORMAL;
    }
}

static bool contains(struct gguf_string s, const char *word)
{
    return memmem(s.data, s.size, word, strlen(word));
}

static void set_strip(struct gguf_vocab *v, const char *text, uint8_t flag, bool on)
{
    struct vocab_token *t = find_token(v, text);
    if (t)
        t->flags = on ? t->flags | flag : t->flags & (uint8_t)~flag;
}

/* Which tokens take white space along is in no file: it follows from names. */
static int mark_strips(struct gguf_vocab *v, const struct gguf_header *h, struct error *err)
{
    struct gguf_string pre = {"", 0}, arch = {"", 0}, name = {"", 0};
    gguf_find_text(h, "tokenizer.ggml.pre", &pre);
    gguf_find_text(h, "general.architecture", &arch);
    gguf_find_text(h, "general.name", &name);
    char *lower = arena_strndup(&v->arena, name.data, name.size);
    if (!lower)
        return out_of_memory(err);
    for (size_t i = 0; i < name.size; i++)
        if (lower[i] >= 'A' && lower[i] <= 'Z')
            lower[i] += 'a' - 'A';
    name.data = lower;
    if (contains(pre, "jina-v2-de") || contains(pre, "jina-v2-es") ||
        contains(pre, "jina-v2-code") || contains(arch, "nomic-bert-moe") ||
        contains(arch, "jina-bert-v3")) {
        set_strip(v, "<mask>", VOCAB_STRIP_LEFT, true);
    } else if (contains(name, "phi-3") || contains(name, "phi3")) {
        for (uint32_t i = 0; i < v->special_count; i++)
            v->tokens[v->special[i]].flags |= VOCAB_STRIP_RIGHT;
        set_strip(v, "</s>", VOCAB_STRIP_RIGHT, true);
        set_strip(v, "<unk>", VOCAB_STRIP_RIGHT, false);
        set_strip(v, "<s>", VOCAB_STRIP_RIGHT, false);
        set_strip(v, "<|endoftext|>", VOCAB_STRIP_RIGHT, false);
    } else if (contains(name, "modern-bert")) {
        set_strip(v, "[MASK]", VOCAB_STRIP_LEFT, true);
    }
    return 0;
}

static int compare_text(const struct vocab_token *a, const struct vocab_token *b)
{
    int order = memcmp(a->text, b->text, a->size < b->size ? a->size : b->size);
    return order ? order : (a->size > b->size) - (a->size < b->size);
}

static int longest_first(const void *a, const void *b, void *vocab)
{
    const struct gguf_vocab *v = vocab;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint32_t m = v->tokens[x].size, n = v->tokens[y].size;
    return m != n ? (m < n) - (m > n) : (x > y) - (x < y);
}

static int by_text(const void *a, const void *b, void *vocab)
{
    const struct gguf_vocab *v = vocab;
    return compare_text(&v->tokens[v->special[*(const uint32_t *)a]],
                        &v->tokens[v->special[*(const uint32_t *)b]]);
}

static int list_special(struct gguf_vocab *v, struct error *err)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < v->count; i++)
        count += (v->tokens[i].flags & VOCAB_SPECIAL) != 0;
    v->special = reallocarray(NULL, count + 1, sizeof *v->special);
    v->special_by_text = reallocarray(NULL, count + 1, sizeof *v->special_by_text);
    if (!v->special || !v->special_by_text)
        return out_of_memory(err);
    for (uint32_t i = 0; i < v->count; i++)
        if (v->tokens[i].flags & VOCAB_SPECIAL) {
            v->special_by_text[v->special_count] = v->special_count;
            v->special[v->special_count++] = i;
        }
    qsort_r(v->special, count, sizeof *v->special, longest_first, v);
    qsort_r(v->special_by_text, count, sizeof *v->special_by_text, by_text, v);
    return 0;
}

/* <0xNN> where tokens are UTF-8, and the byte itself in the byte alphabet or for want of that. */
static void list_bytes(struct gguf_vocab *v)
{
    bool raw = v->spm || (words_flags(v->words) & WORDS_RAW);
    for (int i = 0; i < 256; i++) {
        char name[8];
        uint8_t byte = (uint8_t)i;
        snprintf(name, sizeof name, "<0x%02X>", byte);
        v->bytes[i] = raw ? gguf_vocab_find(v, name, 6) : VOCAB_NONE;
        if (!raw || (v->spm && v->bytes[i] == VOCAB_NONE))
            v->bytes[i] = gguf_vocab_find(v, (char *)&byte, 1);
        if (v->spm && v->bytes[i] == VOCAB_NONE)
            v->bytes[i] = v->unknown;
    }
}

/* ---- loading ---- */

enum { BPE_BOS = 11 }; /* and EOS, if the file does not name them */

static int load_model(struct gguf_vocab *v, const struct gguf_header *h, struct error *err)
{
    static const char model_key[] = "tokenizer.ggml.model";
    struct gguf_string model, pre = {"", 0};
    if (!gguf_find_text(h, model_key, &model))
        return invalid(err, model_key);
    gguf_find_text(h, "tokenizer.ggml.pre", &pre);
    v->spm = v->add_bos = v->space_prefix = gguf_string_is(model, "llama");
    v->bos = v->spm ? 1 : BPE_BOS;
    v->eos = v->spm ? 2 : BPE_BOS;
    v->unknown = v->spm ? 0 : VOCAB_NONE;
    if (v->spm)
        return 0;
    if (gguf_string_is(model, "gemma4")) {
        pre = (struct gguf_string){"gemma4", 6};
        v->bos = v->eos = VOCAB_NONE;
    } else if (!gguf_string_is(model, "gpt2")) {
        return error_set(err, -ENOTSUP, "%s \"%.*s\" is not supported", model_key,
                         (int)(model.size < 100 ? model.size : 100), model.data);
    }
    int rc = words_new(pre.data, pre.size, &v->words, err);
    if (rc)
        return rc;
    v->add_bos = words_flags(v->words) & WORDS_BOS;
    if (words_flags(v->words) & WORDS_NO_BOS)
        v->bos = VOCAB_NONE;
    return load_merges(v, h, gguf_string_is(pre, "kimi-k2"), err);
}

static int load(struct gguf_vocab *v, const struct gguf_header *h, struct error *err)
{
    int rc = load_model(v, h, err);
    rc = rc ? rc : load_tokens(v, h, err);
    if (rc)
        return rc;
    v->bos = find_id(v, h, "tokenizer.ggml.bos_token_id", v->bos);
    v->eos = find_id(v, h, "tokenizer.ggml.eos_token_id", v->eos);
    v->unknown = find_id(v, h, "tokenizer.ggml.unknown_token_id", v->unknown);
    v->add_bos = find_flag(h, "tokenizer.ggml.add_bos_token", v->add_bos);
    v->add_eos = find_flag(h, "tokenizer.ggml.add_eos_token", false);
    v->space_prefix = find_flag(h, "tokenizer.ggml.add_space_prefix", v->space_prefix);
    if (v->words && (words_flags(v->words) & WORDS_LINES))
        v->add_bos = true; /* whatever Gemma's files say */
    mark_fills(v, h);
    mark_ends(v, h);
    rc = list_special(v, err);
    rc = rc ? rc : mark_strips(v, h, err);
    list_bytes(v);
    return rc;
}

int gguf_vocab_load(const struct gguf_header *h, struct gguf_vocab *v, struct error *err)
{
    *v = (struct gguf_vocab){0};
    int rc = load(v, h, err);
    if (rc)
        gguf_vocab_free(v);
    return rc;
}

void gguf_vocab_free(struct gguf_vocab *v)
{
    free(v->tokens);
    free(v->slots);
    free(v->special);
    free(v->special_by_text);
    words_free(v->words);
    bpe_merges_free(&v->merges);
    arena_free(&v->arena);
    *v = (struct gguf_vocab){0};
}

/* ---- ids to bytes ---- */

/* With spaces in place of U+2581. */
static void add_unescaped(const struct vocab_token *t, struct buffer *out)
{
    static const char mark[] = "\xe2\x96\x81";
    const char *s = t->text, *end = s + t->size, *at;
    while ((at = memmem(s, (size_t)(end - s), mark, 3))) {
        buffer_add(out, s, (size_t)(at - s));
        buffer_add(out, " ", 1);
        s = at + 3;
    }
    buffer_add(out, s, (size_t)(end - s));
}

/* From the byte alphabet. A character that is not in it is shown as llama.cpp shows it. */
static void add_bytes(const struct vocab_token *t, struct buffer *out)
{
    const uint8_t *s = (const uint8_t *)t->text, *end = s + t->size;
    while (s < end) {
        uint32_t code;
        unsigned bad, n = utf8_next(s, (size_t)(end - s), &code, &bad);
        int byte = n ? bpe_char_byte(code) : -1;
        if (byte >= 0) {
            buffer_add(out, &(uint8_t){(uint8_t)byte}, 1);
        } else {
            utf8proc_uint8_t utf8[4];
            char hex[3];
            utf8proc_ssize_t size = utf8proc_encode_char(n ? (utf8proc_int32_t)code : 0xfffd, utf8);
            buffer_add(out, "[UNK_BYTE_0x", 12);
            for (utf8proc_ssize_t i = 0; i < size; i++) {
                snprintf(hex, sizeof hex, "%02x", utf8[i]);
                buffer_add(out, hex, 2);
            }
            buffer_add(out, t->text, t->size);
            buffer_add(out, "]", 1);
        }
        s += n ? n : 1;
    }
}

/* Of "<0xNN>". */
static uint8_t byte_value(const struct vocab_token *t)
{
    char digits[3] = "";
    if (t->size > 3)
        memcpy(digits, t->text + 3, t->size > 4 ? 2 : 1);
    return (uint8_t)strtol(digits, NULL, 16);
}

void gguf_vocab_decode(const struct gguf_vocab *v, uint32_t id, bool special, struct buffer *out)
{
    const struct vocab_token *t = id < v->count ? &v->tokens[id] : NULL;
    if (!t || (!special && (t->flags & (VOCAB_UNKNOWN | VOCAB_CONTROL))))
        return;
    if (t->flags & VOCAB_SPECIAL)
        buffer_add(out, t->text, t->size);
    else if (t->flags & VOCAB_BYTE)
        buffer_add(out, &(uint8_t){byte_value(t)}, 1);
    else if (t->flags & VOCAB_NORMAL && (v->spm || words_flags(v->words) & WORDS_ESCAPED))
        add_unescaped(t, out);
    else if (t->flags & VOCAB_NORMAL)
        add_bytes(t, out);
}

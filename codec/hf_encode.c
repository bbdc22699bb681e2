/* SPDX-License-Identifier: MIT */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "codec/hf_encode.h"

#include "codec/arena.h"
#include "codec/bpe.h"
#include "codec/utf8.h"

#include <errno.h>
#include <pcre2.h>
#include <utf8proc.h>

enum {
    PATTERN_MAX = 4096, /* bytes of a regular expression */
    PATTERN_COUNT = 16, /* of the regular expressions that a text goes through */
    MATCH_LIMIT = 2000, /* steps of one match */
    AROUND_MAX = 1000,  /* tokens that the post_processor adds */
};

/* A run of text: what is between added tokens, and what the pre_tokenizer cuts it into. */
struct piece {
    const char *text;
    size_t size;
};

struct pieces {
    struct piece *items;
    size_t count, capacity;
    bool mapped; /* to the byte alphabet */
};

/* A span of a piece that a pattern matches, or one between matches. */
struct span {
    size_t start, end;
    bool match;
};

struct spans {
    struct span *items;
    size_t count, capacity;
};

struct encoder {
    const json_t *tokenizer, *model;
    const struct hf_vocab *vocab;
    const struct hf_token **added; /* the added tokens of the vocabulary */
    size_t added_count;
    size_t patterns; /* that the text between two added tokens went through */
    size_t around;   /* tokens that the post_processor added */
    struct bpe_merges merges;
    struct bpe_symbols symbols;
    struct arena arena;
    struct token_ids *out;
    struct error *err;
};

static const char *text_at(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static int out_of_memory(struct encoder *e) { return error_set(e->err, -ENOMEM, "out of memory"); }

static int unknown(struct encoder *e, const char *what, const char *name)
{
    return error_set(e->err, -ENOTSUP, "%s \"%.100s\" is not known", what, name);
}

/* Room for one more item of a growing list. */
static bool grow(void *items, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return true;
    size_t grown = *capacity ? 2 * *capacity : 32;
    void *p = reallocarray(*(void **)items, grown, size);
    if (!p)
        return false;
    *(void **)items = p;
    *capacity = grown;
    return true;
}

static int add_piece(struct encoder *e, struct pieces *p, const char *text, size_t size)
{
    if (size == 0)
        return 0;
    if (!grow(&p->items, p->count, &p->capacity, sizeof *p->items))
        return out_of_memory(e);
    p->items[p->count++] = (struct piece){text, size};
    return 0;
}

static int add_span(struct encoder *e, struct spans *s, size_t start, size_t end, bool match)
{
    if (start == end)
        return 0;
    if (!grow(&s->items, s->count, &s->capacity, sizeof *s->items))
        return out_of_memory(e);
    s->items[s->count++] = (struct span){start, end, match};
    return 0;
}

static int add_id(struct encoder *e, uint32_t id)
{
    return token_ids_add(e->out, id) ? out_of_memory(e) : 0;
}

/* ---- characters ---- */

/* The character at an offset of valid text, and its length. */
static uint32_t char_at(const char *text, size_t size, size_t at, unsigned *length)
{
    uint32_t code = 0;
    unsigned bad;
    *length = utf8_next((const uint8_t *)text + at, size - at, &code, &bad);
    if (!*length)
        *length = bad;
    return code;
}

static uint32_t char_before(const char *text, size_t at)
{
    unsigned length;
    size_t start = at;
    do
        start--;
    while (start > 0 && ((uint8_t)text[start] & 0xc0) == 0x80);
    return char_at(text, at, start, &length);
}

static bool is_number(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

static bool is_punctuation(uint32_t code)
{
    if (code < 0x80)
        return code > ' ' && code < 0x7f && !(code >= '0' && code <= '9') &&
               !((code | 0x20) >= 'a' && (code | 0x20) <= 'z');
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

/* \w: letters, letters in circles and squares, marks, digits, joiners. */
static bool is_word(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) ||
           c == UTF8PROC_CATEGORY_PC || code == 0x200c || code == 0x200d ||
           (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
           (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
}

static bool is_space(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return (code >= '\t' && code <= '\r') || code == 0x85 ||
           (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_ZP);
}

/* ---- splitting ---- */

static int spans_by_class(struct encoder *e, const struct piece *p, bool (*is)(uint32_t),
                          struct spans *out)
{
    size_t gap = 0;
    unsigned length;
    for (size_t at = 0; at < p->size; at += length) {
        if (!is(char_at(p->text, p->size, at, &length)))
            continue;
        int rc = add_span(e, out, gap, at, false);
        rc = rc ? rc : add_span(e, out, at, at + length, true);
        if (rc)
            return rc;
        gap = at + length;
    }
    return add_span(e, out, gap, p->size, false);
}

static int spans_by_text(struct encoder *e, const struct piece *p, const char *pattern,
                         struct spans *out)
{
    size_t gap = 0, n = strlen(pattern);
    for (size_t at = 0; n && at + n <= p->size;) {
        if (memcmp(p->text + at, pattern, n) != 0) {
            at++;
            continue;
        }
        int rc = add_span(e, out, gap, at, false);
        rc = rc ? rc : add_span(e, out, at, at + n, true);
        if (rc)
            return rc;
        gap = at += n;
    }
    return add_span(e, out, gap, p->size, false);
}

/* Matches one after the other; an empty match is none. */
static int spans_by_regex(struct encoder *e, const struct piece *p, const pcre2_code *code,
                          pcre2_match_context *context, struct spans *out)
{
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    if (!data)
        return out_of_memory(e);
    size_t gap = 0, at = 0;
    int rc = 0;
    while (!rc && at < p->size) {
        int found = pcre2_match(code, (PCRE2_SPTR)p->text, p->size, at,
                                PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK, data, context);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(data);
        if (found < 0 || v[0] < at || v[1] <= v[0]) {
            rc = error_set(e->err, -ENOTSUP, "a regular expression of the pre_tokenizer takes too "
                                             "long");
            break;
        }
        rc = add_span(e, out, gap, v[0], false);
        rc = rc ? rc : add_span(e, out, v[0], v[1], true);
        gap = at = v[1];
    }
    pcre2_match_data_free(data);
    return rc ? rc : add_span(e, out, gap, p->size, false);
}

enum behavior { REMOVED, ISOLATED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT };

static int get_behavior(struct encoder *e, const char *name, enum behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "Contiguous", "MergedWithPrevious",
                                        "MergedWithNext"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum behavior)i;
            return 0;
        }
    return unknown(e, "the split behavior", name);
}

/* Whether span i and the one behind it become one piece. */
static bool joins_next(const struct spans *s, size_t i, enum behavior behavior)
{
    bool here = s->items[i].match, next = s->items[i + 1].match;
    switch (behavior) {
    case CONTIGUOUS: return here == next;
    case MERGED_WITH_PREVIOUS: return !here && next;
    case MERGED_WITH_NEXT: return here && !next;
    default: return false;
    }
}

static int pieces_of(struct encoder *e, const struct piece *p, const struct spans *s,
                     enum behavior behavior, struct pieces *out)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < s->count; i++) {
        size_t start = s->items[i].start;
        if (behavior == REMOVED && s->items[i].match)
            continue;
        while (i + 1 < s->count && joins_next(s, i, behavior))
            i++;
        rc = add_piece(e, out, p->text + start, s->items[i].end - start);
    }
    return rc;
}

/* How one step cuts a piece: by a class of characters, a text or a regular expression. */
struct splitter {
    bool (*is)(uint32_t);
    const char *text;
    pcre2_code *regex;
    pcre2_match_context *context;
    enum behavior behavior;
    bool invert;
};

static int split(struct encoder *e, const struct splitter *by, const struct pieces *in,
                 struct pieces *out)
{
    int rc = 0;
    struct spans spans = {0};
    for (size_t i = 0; !rc && i < in->count; i++) {
        const struct piece *p = &in->items[i];
        spans.count = 0;
        rc = by->is      ? spans_by_class(e, p, by->is, &spans)
             : by->regex ? spans_by_regex(e, p, by->regex, by->context, &spans)
                         : spans_by_text(e, p, by->text, &spans);
        for (size_t k = 0; by->invert && k < spans.count; k++)
            spans.items[k].match = !spans.items[k].match;
        rc = rc ? rc : pieces_of(e, p, &spans, by->behavior, out);
    }
    free(spans.items);
    return rc;
}

/* Oniguruma, for which the patterns are written, reads BLOOM's as a class within a class, and lets
 * $ stand at the end of every line. */
static const char *for_pcre2(const char *pattern)
{
    return strcmp(pattern, " ?[^(\\s|[.,!?…。，、।۔،])]+") == 0 ? " ?[^\\s(|.,!?…。，、।۔،)]+"
                                                               : pattern;
}

static int split_by_regex(struct encoder *e, const char *pattern, struct splitter *by,
                          const struct pieces *in, struct pieces *out)
{
    int code;
    PCRE2_SIZE where;
    if (strlen(pattern) > PATTERN_MAX || e->patterns++ == PATTERN_COUNT)
        return error_set(e->err, -ENOTSUP, "the pre_tokenizer has a regular expression that is too "
                                           "long, or too many of them");
    /* groups that capture make every step slow, and are of no use here */
    by->regex = pcre2_compile((PCRE2_SPTR)for_pcre2(pattern), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C |
                                  PCRE2_NO_AUTO_CAPTURE,
                              &code, &where, NULL);
    if (!by->regex)
        return unknown(e, "the regular expression", pattern);
    by->context = pcre2_match_context_create(NULL);
    if (by->context)
        pcre2_set_match_limit(by->context, MATCH_LIMIT);
    int rc = by->context ? split(e, by, in, out) : out_of_memory(e);
    pcre2_match_context_free(by->context);
    pcre2_code_free(by->regex);
    return rc;
}

/* ---- the byte alphabet ---- */

/* Once only: every time could double the text. */
static int map_bytes(struct encoder *e, const struct pieces *in, struct pieces *out)
{
    if (out->mapped)
        return unknown(e, "a second pre_tokenizer", "ByteLevel");
    out->mapped = true;
    for (size_t i = 0; i < in->count; i++) {
        const struct piece *p = &in->items[i];
        char *mapped = arena_alloc(&e->arena, 2 * p->size + 1), *end = mapped;
        if (!mapped)
            return out_of_memory(e);
        for (size_t k = 0; k < p->size; k++)
            end += utf8proc_encode_char((utf8proc_int32_t)bpe_byte_char((uint8_t)p->text[k]),
                                        (utf8proc_uint8_t *)end);
        int rc = add_piece(e, out, mapped, (size_t)(end - mapped));
        if (rc)
            return rc;
    }
    return 0;
}

static int prefix_spaces(struct encoder *e, struct pieces *p)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->items[i].text[0] == ' ')
            continue;
        char *text = arena_alloc(&e->arena, p->items[i].size + 1);
        if (!text)
            return out_of_memory(e);
        text[0] = ' ';
        memcpy(text + 1, p->items[i].text, p->items[i].size);
        p->items[i] = (struct piece){text, p->items[i].size + 1};
    }
    return 0;
}

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int byte_level(struct encoder *e, const json_t *step, struct pieces *in, struct pieces *out)
{
    int rc = json_is_true(json_object_get(step, "add_prefix_space")) ? prefix_spaces(e, in) : 0;
    if (rc || json_is_false(json_object_get(step, "use_regex")))
        return rc ? rc : map_bytes(e, in, out);
    struct splitter by = {.behavior = ISOLATED};
    struct pieces cut = {0};
    rc = split_by_regex(e, gpt2_pattern, &by, in, &cut);
    rc = rc ? rc : map_bytes(e, &cut, out);
    free(cut.items);
    return rc;
}

/* ---- the pre_tokenizer ---- */

static int pre_tokenize(struct encoder *e, const json_t *step, struct pieces *pieces);

static int one_step(struct encoder *e, const json_t *step, const char *type, struct pieces *in,
                    struct pieces *out)
{
    struct splitter by = {.invert = json_is_true(json_object_get(step, "invert"))};
    if (strcmp(type, "ByteLevel") == 0)
        return byte_level(e, step, in, out);
    if (strcmp(type, "Digits") == 0) {
        by = (struct splitter){
            .is = is_number,
            .behavior = json_is_true(json_object_get(step, "individual_digits")) ? ISOLATED
                                                                                 : CONTIGUOUS};
        return split(e, &by, in, out);
    }
    bool punctuation = strcmp(type, "Punctuation") == 0;
    if (!punctuation && strcmp(type, "Split") != 0)
        return unknown(e, "the pre_tokenizer", type);
    int rc = get_behavior(e, text_at(step, "behavior"), &by.behavior);
    if (rc)
        return rc;
    const json_t *pattern = json_object_get(step, "pattern");
    if (punctuation)
        by.is = is_punctuation;
    else if (json_object_get(pattern, "Regex"))
        return split_by_regex(e, text_at(pattern, "Regex"), &by, in, out);
    else
        by.text = text_at(pattern, "String");
    return split(e, &by, in, out);
}

static int pre_tokenize(struct encoder *e, const json_t *step, struct pieces *pieces)
{
    const char *type = text_at(step, "type");
    int rc = 0;
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        json_t *inner;
        json_array_foreach(json_object_get(step, "pretokenizers"), i, inner)
            if ((rc = pre_tokenize(e, inner, pieces)))
                break;
        return rc;
    }
    if (!step || json_is_null(step))
        return 0;
    struct pieces out = {.mapped = pieces->mapped};
    rc = one_step(e, step, type, pieces, &out);
    free(pieces->items);
    *pieces = out;
    return rc;
}

/* ---- the normalizer ---- */

static int normalize(struct encoder *e, const json_t *normalizer, struct piece *p)
{
    static const struct {
        const char *type;
        int options;
    } forms[] = {
        {"NFC", UTF8PROC_COMPOSE},
        {"NFD", UTF8PROC_DECOMPOSE},
        {"NFKC", UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
        {"NFKD", UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    };
    const char *type = text_at(normalizer, "type");
    if (!normalizer || json_is_null(normalizer))
        return 0;
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        json_t *inner;
        json_array_foreach(json_object_get(normalizer, "normalizers"), i, inner)
        {
            int rc = normalize(e, inner, p);
            if (rc)
                return rc;
        }
        return 0;
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(type, forms[i].type) != 0)
            continue;
        utf8proc_uint8_t *text;
        utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)p->text,
                                          (utf8proc_ssize_t)p->size, &text,
                                          (utf8proc_option_t)(UTF8PROC_STABLE | forms[i].options));
        if (n < 0)
            return error_set(e->err, -EINVAL, "normalizer %s: %s", type, utf8proc_errmsg(n));
        char *copy = arena_strndup(&e->arena, (char *)text, (size_t)n);
        free(text);
        if (!copy)
            return out_of_memory(e);
        *p = (struct piece){copy, (size_t)n};
        return 0;
    }
    return unknown(e, "the normalizer", type);
}

/* ---- the model ---- */

static int add_token(struct encoder *e, const char *text, size_t size)
{
    char *name = arena_strndup(&e->arena, text, size);
    if (!name)
        return out_of_memory(e);
    const json_t *vocab = json_object_get(e->model, "vocab");
    const json_t *id = json_object_get(vocab, name);
    if (!id)
        id = json_object_get(vocab, text_at(e->model, "unk_token"));
    return id ? add_id(e, (uint32_t)json_integer_value(id)) : 0;
}

static int encode_piece(struct encoder *e, const struct piece *p)
{
    if (json_is_true(json_object_get(e->model, "ignore_merges"))) {
        char *name = arena_strndup(&e->arena, p->text, p->size);
        if (!name)
            return out_of_memory(e);
        if (json_object_get(json_object_get(e->model, "vocab"), name))
            return add_token(e, p->text, p->size);
    }
    struct bpe_symbols *s = &e->symbols;
    int rc = p->size > UINT32_MAX ? -ENOMEM
                                  : bpe_join(s, bpe_merges_rank, &e->merges, p->text,
                                             (uint32_t)p->size);
    if (rc)
        return out_of_memory(e);
    for (size_t i = 0; !rc && i < s->count; i++) {
        uint32_t start = i ? s->ends[i - 1] : 0;
        rc = add_token(e, p->text + start, s->ends[i] - start);
    }
    return rc;
}

/* "left right", or ["left", "right"] */
static int load_merges(struct encoder *e)
{
    const json_t *merges = json_object_get(e->model, "merges");
    size_t i;
    json_t *merge;
    if (bpe_merges_init(&e->merges, json_array_size(merges)))
        return out_of_memory(e);
    json_array_foreach(merges, i, merge)
    {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        const char *text = json_string_value(merge), *space = text ? strchr(text, ' ') : NULL;
        if (space)
            bpe_merges_add(&e->merges, text, (uint32_t)(space - text), space + 1,
                           (uint32_t)strlen(space + 1), (uint32_t)i);
        else if (json_is_string(left) && json_is_string(right))
            bpe_merges_add(&e->merges, json_string_value(left),
                           (uint32_t)json_string_length(left), json_string_value(right),
                           (uint32_t)json_string_length(right), (uint32_t)i);
        else
            return error_set(e->err, -EINVAL, "merge %zu is invalid", i);
    }
    return 0;
}

static int check_model(struct encoder *e)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (strcmp(text_at(e->model, "type"), "BPE") != 0)
        return unknown(e, "the model", text_at(e->model, "type"));
    for (size_t i = 0; i < 2; i++)
        if (*text_at(e->model, affixes[i]))
            return unknown(e, affixes[i], text_at(e->model, affixes[i]));
    return 0;
}

/* ---- added tokens ---- */

static int gather_added(struct encoder *e)
{
    const struct hf_vocab *v = e->vocab;
    e->added = arena_array(&e->arena, v->count + 1, sizeof *e->added);
    if (!e->added)
        return out_of_memory(e);
    for (size_t id = 0; id < v->count; id++)
        if (v->tokens[id].added && *v->tokens[id].text)
            e->added[e->added_count++] = &v->tokens[id];
    return 0;
}

/* The longest added token that starts at an offset; NULL if none does. */
static const struct hf_token *added_at(const struct encoder *e, bool normalized,
                                       const struct piece *p, size_t at, size_t *length)
{
    const struct hf_token *found = NULL;
    *length = 0;
    for (size_t i = 0; i < e->added_count; i++) {
        const struct hf_token *t = e->added[i];
        if (t->normalized != normalized || t->text[0] != p->text[at])
            continue;
        size_t n = strlen(t->text);
        if (n <= *length || n > p->size - at || memcmp(p->text + at, t->text, n) != 0)
            continue;
        *length = n;
        found = t;
    }
    return found;
}

/* Whether a span has a letter or its like beside it. */
static bool is_within_word(const struct piece *p, size_t start, size_t end)
{
    unsigned length;
    return (start && is_word(char_before(p->text, start))) ||
           (end < p->size && is_word(char_at(p->text, p->size, end, &length)));
}

/* Moves the ends of a span over white space, as its token asks for; not below floor. */
static void strip(const struct piece *p, const struct hf_token *t, size_t floor, size_t *start,
                  size_t *end)
{
    unsigned length;
    if (t->lstrip && *start < floor)
        *start = floor;
    while (t->lstrip && *start > floor && is_space(char_before(p->text, *start)))
        do
            --*start;
        while (*start > floor && ((uint8_t)p->text[*start] & 0xc0) == 0x80);
    while (t->rstrip && *end < p->size && is_space(char_at(p->text, p->size, *end, &length)))
        *end += length;
}

static int encode_plain(struct encoder *e, struct piece p, bool normalized);

/* Cuts the added tokens of one kind out of a run of text and encodes what is between them. A token
 * is looked for behind the one found before, even where that has taken the white space there; what
 * is left of it may be nothing. */
static int encode_run(struct encoder *e, struct piece p, bool normalized)
{
    size_t gap = 0, at = 0, length;
    int rc = 0;
    while (!rc && at < p.size) {
        const struct hf_token *t = added_at(e, normalized, &p, at, &length);
        size_t start = at, end = at + length;
        at = t ? end : at + 1;
        if (!t || (t->single_word && is_within_word(&p, start, end)))
            continue;
        strip(&p, t, gap, &start, &end);
        if (gap < start)
            rc = encode_plain(e, (struct piece){p.text + gap, start - gap}, normalized);
        if (!rc && start < end)
            rc = add_id(e, (uint32_t)(t - e->vocab->tokens));
        gap = end;
    }
    return rc ? rc : encode_plain(e, (struct piece){p.text + gap, p.size - gap}, normalized);
}

/* Text without added tokens of one kind: those matched in the raw text are followed by those
 * matched in the normalized one, and these by the model. */
static int encode_plain(struct encoder *e, struct piece p, bool normalized)
{
    if (p.size == 0)
        return 0;
    if (!normalized) {
        int rc = normalize(e, json_object_get(e->tokenizer, "normalizer"), &p);
        return rc ? rc : encode_run(e, p, true);
    }
    struct pieces pieces = {0};
    e->patterns = 0;
    int rc = add_piece(e, &pieces, p.text, p.size);
    rc = rc ? rc : pre_tokenize(e, json_object_get(e->tokenizer, "pre_tokenizer"), &pieces);
    for (size_t i = 0; !rc && i < pieces.count; i++)
        rc = encode_piece(e, &pieces.items[i]);
    free(pieces.items);
    return rc;
}

/* ---- the post_processor ---- */

/* Puts ids in front of what is there, or behind it. */
static int put_around(struct encoder *e, const json_t *ids, bool front)
{
    size_t i, at = 0;
    json_t *id;
    json_array_foreach(ids, i, id)
    {
        if (e->around++ == AROUND_MAX)
            return error_set(e->err, -ENOTSUP, "the post_processor adds too many tokens");
        int rc = add_id(e, 0);
        if (rc)
            return rc;
        struct token_ids *out = e->out;
        size_t where = front ? at++ : out->count - 1;
        memmove(out->ids + where + 1, out->ids + where,
                (out->count - 1 - where) * sizeof *out->ids);
        out->ids[where] = (uint32_t)json_integer_value(id);
    }
    return 0;
}

/* A template for one text: tokens, $A, tokens. */
static int apply_template(struct encoder *e, const json_t *p)
{
    const json_t *items = json_object_get(p, "single"),
                 *tokens = json_object_get(p, "special_tokens");
    size_t count = json_array_size(items), middle = 0;
    while (middle < count && !json_object_get(json_array_get(items, middle), "Sequence"))
        middle++;
    int rc = 0;
    for (size_t i = middle; !rc && i-- > 0;) {
        const json_t *token = json_object_get(json_array_get(items, i), "SpecialToken");
        rc = put_around(e, json_object_get(json_object_get(tokens, text_at(token, "id")), "ids"),
                        true);
    }
    for (size_t i = middle + 1; !rc && i < count; i++) {
        const json_t *token = json_object_get(json_array_get(items, i), "SpecialToken");
        if (!token)
            return unknown(e, "the template of", "post_processor");
        rc = put_around(e, json_object_get(json_object_get(tokens, text_at(token, "id")), "ids"),
                        false);
    }
    return rc;
}

/* ["text", id] */
static int put_pair(struct encoder *e, const json_t *pair, bool front)
{
    json_t *ids = json_pack("[O]", json_array_get(pair, 1));
    int rc = ids ? put_around(e, ids, front) : out_of_memory(e);
    json_decref(ids);
    return rc;
}

static int post_process(struct encoder *e, const json_t *p)
{
    const char *type = text_at(p, "type");
    int rc = 0;
    if (!p || json_is_null(p) || strcmp(type, "ByteLevel") == 0)
        return 0;
    if (strcmp(type, "TemplateProcessing") == 0)
        return apply_template(e, p);
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        json_t *inner;
        json_array_foreach(json_object_get(p, "processors"), i, inner)
            if ((rc = post_process(e, inner)))
                break;
        return rc;
    }
    if (strcmp(type, "RobertaProcessing") != 0 && strcmp(type, "BertProcessing") != 0)
        return unknown(e, "the post_processor", type);
    rc = put_pair(e, json_object_get(p, "cls"), true);
    return rc ? rc : put_pair(e, json_object_get(p, "sep"), false);
}

int hf_encode(const json_t *tokenizer, const struct hf_vocab *v, const char *text, size_t n,
              struct token_ids *out, struct error *err)
{
    struct encoder e = {.tokenizer = tokenizer,
                        .model = json_object_get(tokenizer, "model"),
                        .vocab = v,
                        .out = out,
                        .err = err};
    *out = (struct token_ids){0};
    int rc = check_model(&e);
    rc = rc ? rc : load_merges(&e);
    rc = rc ? rc : gather_added(&e);
    if (!rc && v->wraps && v->wrap[0] >= 0)
        rc = add_id(&e, (uint32_t)v->wrap[0]);
    rc = rc ? rc : encode_run(&e, (struct piece){text, n}, false);
    if (!rc && v->wraps && v->wrap[1] >= 0)
        rc = add_id(&e, (uint32_t)v->wrap[1]);
    if (!rc && !v->wraps)
        rc = post_process(&e, json_object_get(tokenizer, "post_processor"));
    bpe_merges_free(&e.merges);
    bpe_symbols_free(&e.symbols);
    arena_free(&e.arena);
    if (rc) {
        free(out->ids);
        *out = (struct token_ids){0};
    }
    return rc;
}

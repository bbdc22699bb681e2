/* SPDX-License-Identifier: MIT */
#include "codec/gguf_encode.h"

#include <errno.h>

/* A text on its way to ids: runs of it that are still text, and special tokens between them. */
struct part {
    size_t start, size;
    uint32_t id; /* VOCAB_NONE: text */
    size_t next; /* 0: none, for the first part is nobody's next */
};

struct encoder {
    const struct gguf_vocab *vocab;
    const char *text;
    struct part *parts;
    size_t count, capacity;
    struct bpe_symbols symbols;
    struct buffer escaped, word; /* reused */
    struct token_ids *out;
    struct error *err;
};

static int out_of_memory(struct encoder *e) { return error_set(e->err, -ENOMEM, "out of memory"); }

static int add_id(struct encoder *e, uint32_t id)
{
    return token_ids_add(e->out, id) ? out_of_memory(e) : 0;
}

/* ---- special tokens ---- */

/* Adds a part behind part `after`, whose successor it takes over. */
static int add_part(struct encoder *e, size_t after, size_t start, size_t size, uint32_t id)
{
    if (e->count == e->capacity) {
        size_t grown = e->capacity ? 2 * e->capacity : 16;
        struct part *parts = reallocarray(e->parts, grown, sizeof *parts);
        if (!parts)
            return out_of_memory(e);
        e->parts = parts;
        e->capacity = grown;
    }
    e->parts[e->count] = (struct part){start, size, id, e->count ? e->parts[after].next : 0};
    if (e->count)
        e->parts[after].next = e->count;
    e->count++;
    return 0;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Cuts a token out of a part of text wherever it stands. What is left of the part is what lies in
 * front of the first one, maybe nothing. */
static int cut_out(struct encoder *e, size_t part, uint32_t id)
{
    const struct vocab_token *t = &e->vocab->tokens[id];
    size_t start = e->parts[part].start, end = start + e->parts[part].size;
    const char *found;
    while ((found = memmem(e->text + start, end - start, t->text, t->size))) {
        size_t at = (size_t)(found - e->text), left = at;
        while (t->flags & VOCAB_STRIP_LEFT && left > start && is_space(e->text[left - 1]))
            left--;
        e->parts[part].size = left - start;
        size_t behind = at + t->size;
        while (t->flags & VOCAB_STRIP_RIGHT && behind < end && is_space(e->text[behind]))
            behind++;
        int rc = add_part(e, part, at, t->size, id);
        part = e->count - 1;
        rc = rc ? rc : add_part(e, part, behind, end - behind, VOCAB_NONE);
        if (rc)
            return rc;
        part = e->count - 1;
        start = behind;
    }
    return 0;
}

/* The special tokens that go on with a byte: those of [*low, *high) whose text has it at a depth
 * up to which they are the same. */
static void narrow(const struct gguf_vocab *v, uint32_t depth, uint8_t byte, uint32_t *low,
                   uint32_t *high)
{
    for (int bound = 0; bound < 2; bound++) {
        uint32_t from = *low, to = *high; /* the first that is >= byte, then > byte */
        while (from < to) {
            uint32_t middle = from + (to - from) / 2;
            uint8_t b = (uint8_t)v->tokens[v->special[v->special_by_text[middle]]].text[depth];
            if (b < byte + bound)
                from = middle + 1;
            else
                to = middle;
        }
        *(bound ? high : low) = from;
    }
}

/* Finds out which special tokens the text has: few have any, and there may be thousands. */
static void mark_present(const struct encoder *e, size_t n, bool *present)
{
    const struct gguf_vocab *v = e->vocab;
    uint32_t starts[257]; /* the special tokens by their first byte */
    for (int byte = 0; byte < 257; byte++) {
        uint32_t low = byte ? starts[byte - 1] : 0, high = v->special_count;
        if (byte < 256)
            narrow(v, 0, (uint8_t)byte, &low, &high);
        starts[byte] = byte < 256 ? low : v->special_count;
    }
    for (size_t at = 0; at < n; at++) {
        uint8_t byte = (uint8_t)e->text[at];
        uint32_t low = starts[byte], high = starts[byte + 1];
        for (uint32_t depth = 1; low < high; depth++) {
            if (v->tokens[v->special[v->special_by_text[low]]].size == depth)
                present[v->special_by_text[low++]] = true;
            if (at + depth == n)
                break;
            narrow(v, depth, (uint8_t)e->text[at + depth], &low, &high);
        }
    }
}

static int cut_out_special(struct encoder *e, size_t n, bool parse)
{
    const struct gguf_vocab *v = e->vocab;
    int rc = add_part(e, 0, 0, n, VOCAB_NONE);
    bool *present = rc || !v->special_count ? NULL : calloc(v->special_count, sizeof *present);
    if (rc || !v->special_count)
        return rc;
    if (!present)
        return out_of_memory(e);
    mark_present(e, n, present);
    for (uint32_t i = 0; !rc && i < v->special_count; i++) {
        uint32_t id = v->special[i];
        if (!present[i] || (!parse && v->tokens[id].flags & (VOCAB_CONTROL | VOCAB_UNKNOWN)))
            continue;
        size_t part = 0, next;
        do {
            next = e->parts[part].next; /* parts that come into being hold no more of this token */
            if (e->parts[part].id == VOCAB_NONE)
                rc = cut_out(e, part, id);
            part = next;
        } while (!rc && next);
    }
    free(present);
    return rc;
}

/* ---- text ---- */

/* Adds the tokens of the joined symbols of a text, and bytes where there is no token. */
static int add_symbols(struct encoder *e, const char *text)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < e->symbols.count; i++) {
        uint32_t start = i ? e->symbols.ends[i - 1] : 0, end = e->symbols.ends[i];
        uint32_t id = gguf_vocab_find(e->vocab, text + start, end - start);
        if (id != VOCAB_NONE)
            rc = add_id(e, id);
        for (uint32_t k = start; !rc && id == VOCAB_NONE && k < end; k++)
            if (e->vocab->bytes[(uint8_t)text[k]] != VOCAB_NONE)
                rc = add_id(e, e->vocab->bytes[(uint8_t)text[k]]);
    }
    return rc;
}

static int join(struct encoder *e, bpe_rank *rank, const void *context, const char *text, size_t n)
{
    if (bpe_join(&e->symbols, rank, context, text, (uint32_t)n))
        return out_of_memory(e);
    return add_symbols(e, text);
}

/* The text with U+2581 in place of spaces, and in front of it. */
static int escape(struct encoder *e, const struct part *p, bool prefix)
{
    static const char mark[] = "\xe2\x96\x81";
    const char *s = e->text + p->start, *end = s + p->size, *space;
    struct buffer *out = &e->escaped;
    out->size = 0;
    if (prefix)
        buffer_add(out, mark, 3);
    while ((space = memchr(s, ' ', (size_t)(end - s)))) {
        buffer_add(out, s, (size_t)(space - s));
        buffer_add(out, mark, 3);
        s = space + 1;
    }
    buffer_add(out, s, (size_t)(end - s));
    return out->failed ? out_of_memory(e) : 0;
}

/* Two symbols of an SPM text become one if that is a token, the one of the highest score first. */
static bool token_rank(const void *vocab, const char *pair, uint32_t left, uint32_t size,
                       uint32_t *rank)
{
    const struct gguf_vocab *v = vocab;
    uint32_t id = gguf_vocab_find(v, pair, size);
    (void)left;
    if (id == VOCAB_NONE)
        return false;
    *rank = v->tokens[id].rank;
    return true;
}

/* In the byte alphabet. */
static int spell(struct encoder *e, const char *text, size_t n)
{
    struct buffer *out = &e->word;
    out->size = 0;
    uint8_t *p = buffer_extend(out, 2 * n), *start = p;
    if (!p)
        return out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        uint32_t code = bpe_byte_char((uint8_t)text[i]);
        if (code >= 0x80)
            *p++ = (uint8_t)(0xc0 | code >> 6);
        *p++ = (uint8_t)(code < 0x80 ? code : 0x80 | (code & 0x3f));
    }
    out->size = (size_t)(p - start);
    return 0;
}

static int encode_word(struct encoder *e, const char *text, size_t n)
{
    const struct gguf_vocab *v = e->vocab;
    unsigned flags = words_flags(v->words);
    bool whole = flags & WORDS_WHOLE || (flags & WORDS_LINES && text[0] == '\n');
    if (!(flags & WORDS_RAW)) {
        int rc = spell(e, text, n);
        if (rc)
            return rc;
        text = (char *)e->word.data;
        n = e->word.size;
    }
    uint32_t id = whole ? gguf_vocab_find(v, text, n) : VOCAB_NONE;
    return id != VOCAB_NONE ? add_id(e, id) : join(e, bpe_merges_rank, &v->merges, text, n);
}

static int encode_text(struct encoder *e, const struct part *p, bool prefix)
{
    const struct gguf_vocab *v = e->vocab;
    const char *text = e->text + p->start;
    size_t n = p->size;
    if (v->spm || words_flags(v->words) & WORDS_ESCAPED) {
        int rc = escape(e, p, prefix);
        if (rc)
            return rc;
        text = (char *)e->escaped.data;
        n = e->escaped.size;
    }
    if (v->spm)
        return join(e, token_rank, v, text, n);
    struct word_list words;
    int rc = words_cut(v->words, text, n, &words, e->err);
    for (size_t i = 0; !rc && i < words.count; i++) {
        uint32_t start = i ? words.ends[i - 1] : 0;
        rc = encode_word(e, words.text + start, words.ends[i] - start);
    }
    word_list_free(&words);
    return rc;
}

/* A space goes in front of an SPM text, and of what follows a special token. */
static int encode_parts(struct encoder *e)
{
    bool prefix = e->vocab->spm && e->vocab->space_prefix, behind_special = true;
    size_t i = 0;
    do {
        const struct part *p = &e->parts[i];
        int rc = 0;
        if (p->id != VOCAB_NONE) {
            rc = add_id(e, p->id);
            behind_special = true;
        } else if (p->size) {
            rc = encode_text(e, p, prefix && behind_special);
            behind_special = false;
        }
        if (rc)
            return rc;
        i = p->next;
    } while (i);
    return 0;
}

static int add_around(struct encoder *e, bool wanted, uint32_t id, const char *name)
{
    if (!wanted)
        return 0;
    if (id == VOCAB_NONE)
        return error_set(e->err, -EINVAL, "the vocabulary adds %s, but has none", name);
    return add_id(e, id);
}

int gguf_encode(const struct gguf_vocab *v, const char *text, size_t n, unsigned flags,
                struct token_ids *out, struct error *err)
{
    struct encoder e = {.vocab = v, .text = text, .out = out, .err = err};
    bool add = flags & ENCODE_ADD;
    *out = (struct token_ids){0};
    if (n > ENCODE_TEXT_MAX)
        return error_set(err, -EFBIG, "the text is too long");
    int rc = add_around(&e, add && v->add_bos, v->bos, "BOS");
    if (!rc && n)
        rc = cut_out_special(&e, n, flags & ENCODE_PARSE);
    if (!rc && n)
        rc = encode_parts(&e);
    rc = rc ? rc : add_around(&e, add && v->add_eos, v->eos, "EOS");
    free(e.parts);
    bpe_symbols_free(&e.symbols);
    buffer_free(&e.escaped);
    buffer_free(&e.word);
    if (rc) {
        free(out->ids);
        *out = (struct token_ids){0};
    }
    return rc;
}

/* SPDX-License-Identifier: MIT */
#include "codec/hf_tokenizer.h"

#include "codec/pretokenizer.h"
#include "codec/sentencepiece.h"
#include "codec/utf8.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct vocab {
    struct gguf_string *tokens;
    int32_t *types;
    float *scores; /* NULL: none */
    uint32_t count;
    uint32_t *slots, mask; /* ids + 1 by hash of the text; 0: free */
};

/* ---- reading ---- */

static int out_of_memory(struct error *err)
{
    return error_set(err, -ENOMEM, "out of memory");
}

static const struct gguf_value *find_array(const struct gguf_header *h, const char *key,
                                           enum gguf_type type)
{
    const struct gguf_value *v = gguf_find(h, key);
    return v && v->is_array && v->type == type && v->count < UINT32_MAX / 8 ? v : NULL;
}

static uint64_t hash(struct gguf_string s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < s.size; i++)
        h = (h ^ (uint8_t)s.data[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

static bool equal(struct gguf_string a, struct gguf_string b)
{
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* The slot of a text, or the free one where it would be. */
static uint32_t *slot(const struct vocab *v, struct gguf_string s)
{
    uint32_t i = (uint32_t)hash(s) & v->mask;
    while (v->slots[i] && !equal(v->tokens[v->slots[i] - 1], s))
        i = (i + 1) & v->mask;
    return &v->slots[i];
}

static int index_tokens(struct vocab *v, struct error *err)
{
    uint32_t size = 16;
    while (size < 2 * v->count)
        size *= 2;
    v->mask = size - 1;
    v->slots = calloc(size, sizeof *v->slots);
    if (!v->slots)
        return out_of_memory(err);
    for (uint32_t id = 0; id < v->count; id++) {
        uint32_t *s = slot(v, v->tokens[id]);
        if (!*s)
            *s = id + 1;
    }
    return 0;
}

static void vocab_free(struct vocab *v)
{
    free(v->tokens);
    free(v->types);
    free(v->scores);
    free(v->slots);
}

static int vocab_load(const struct gguf_header *h, bool scored, struct vocab *v, struct error *err)
{
    const struct gguf_value *tokens = find_array(h, "tokenizer.ggml.tokens", GGUF_STRING),
                            *types = find_array(h, "tokenizer.ggml.token_type", GGUF_I32),
                            *scores = find_array(h, "tokenizer.ggml.scores", GGUF_F32);
    *v = (struct vocab){0};
    if (!tokens || !tokens->count || !types || types->count != tokens->count ||
        (scored && (!scores || scores->count != tokens->count)))
        return error_set(err, -EINVAL, "tokenizer.ggml: tokens, their types or scores are missing");
    v->count = (uint32_t)tokens->count;
    v->tokens = calloc(v->count, sizeof *v->tokens);
    v->types = calloc(v->count, sizeof *v->types);
    v->scores = scored ? calloc(v->count, sizeof *v->scores) : NULL;
    if (!v->tokens || !v->types || (scored && !v->scores))
        return out_of_memory(err);
    struct reader r = reader_make(tokens->data, tokens->size);
    double number;
    for (uint32_t id = 0; id < v->count; id++)
        gguf_next_element(&r, GGUF_STRING, &number, &v->tokens[id]);
    memcpy(v->types, types->data, types->size);
    if (scored)
        memcpy(v->scores, scores->data, scores->size);
    return index_tokens(v, err);
}

/* A special token by its role ("bos"); false where the file has none. */
static bool special(const struct gguf_header *h, const struct vocab *v, const char *role,
                    struct gguf_string *text, uint32_t *id)
{
    char key[64];
    double number;
    snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", role);
    if (!gguf_find_number(h, key, &number) || number < 0 || number >= v->count)
        return false;
    *id = (uint32_t)number;
    *text = v->tokens[*id];
    return true;
}

static bool flag(const struct gguf_header *h, const char *key, bool otherwise)
{
    double number;
    return gguf_find_number(h, key, &number) ? number != 0 : otherwise;
}

/* ---- what all models share ---- */

static json_t *json_text(struct gguf_string s)
{
    return json_stringn(s.data, s.size);
}

/* token -> id, without the fillers for ids that no token has. */
static json_t *vocab_json(const struct vocab *v)
{
    json_t *vocab = json_object();
    for (uint32_t id = 0; id < v->count; id++) {
        struct gguf_string s = v->tokens[id];
        if (v->types[id] != PIECE_UNUSED &&
            json_object_setn_new(vocab, s.data, s.size, json_integer(id))) {
            json_decref(vocab);
            return NULL; /* not UTF-8, or no memory */
        }
    }
    return vocab;
}

static json_t *added_json(const struct vocab *v)
{
    json_t *added = json_array();
    for (uint32_t id = 0; id < v->count; id++) {
        bool control = v->types[id] == PIECE_CONTROL || v->types[id] == PIECE_UNKNOWN;
        if (!control && v->types[id] != PIECE_USER_DEFINED)
            continue;
        json_array_append_new(added, json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id",
                                               (json_int_t)id, "content", json_text(v->tokens[id]),
                                               "single_word", 0, "lstrip", 0, "rstrip", 0,
                                               "normalized", 0, "special", control));
    }
    return added;
}

static json_t *special_item(struct gguf_string text)
{
    return json_pack("{s:{s:o, s:i}}", "SpecialToken", "id", json_text(text), "type_id", 0);
}

static json_t *sequence_item(const char *id, int type)
{
    return json_pack("{s:{s:s, s:i}}", "Sequence", "id", id, "type_id", type);
}

/* bos and eos around each text, as far as they are wanted. */
static json_t *template_json(const struct gguf_header *h, const struct vocab *v, bool bos_default)
{
    struct gguf_string bos = {0}, eos = {0};
    uint32_t bos_id = 0, eos_id = 0;
    bool with_bos =
        flag(h, "tokenizer.ggml.add_bos_token", bos_default) && special(h, v, "bos", &bos, &bos_id);
    bool with_eos =
        flag(h, "tokenizer.ggml.add_eos_token", false) && special(h, v, "eos", &eos, &eos_id);
    if (!with_bos && !with_eos)
        return json_null();
    json_t *single = json_array(), *pair = json_array(), *tokens = json_object();
    for (int part = 0; part < 2; part++) {
        json_t *items[] = {single, pair};
        for (int i = part; i < 2; i++) {
            if (with_bos)
                json_array_append_new(items[i], special_item(bos));
            json_array_append_new(items[i], sequence_item(part ? "B" : "A", part));
            if (with_eos)
                json_array_append_new(items[i], special_item(eos));
        }
    }
    for (int k = 0; k < 2; k++) {
        struct gguf_string text = k ? eos : bos;
        if (k ? with_eos : with_bos)
            json_object_setn_new(tokens, text.data, text.size,
                                 json_pack("{s:o, s:[i], s:[o]}", "id", json_text(text), "ids",
                                           (int)(k ? eos_id : bos_id), "tokens", json_text(text)));
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     pair, "special_tokens", tokens);
}

/* ---- byte-level BPE ---- */

static json_t *given_merges(const struct gguf_header *h)
{
    const struct gguf_value *v = find_array(h, "tokenizer.ggml.merges", GGUF_STRING);
    json_t *merges = json_array();
    struct gguf_string s;
    double number;
    struct reader r = v ? reader_make(v->data, v->size) : reader_make(NULL, 0);
    for (uint64_t i = 0; v && i < v->count; i++)
        if (!gguf_next_element(&r, GGUF_STRING, &number, &s) ||
            json_array_append_new(merges, json_text(s))) {
            json_decref(merges);
            return NULL;
        }
    return merges;
}

static int byte_level(const struct gguf_header *h, const struct vocab *v, json_t *root,
                      struct error *err)
{
    struct gguf_string pre;
    json_t *steps;
    const char *normalizer;
    bool whole;
    if (!gguf_find_text(h, "tokenizer.ggml.pre", &pre))
        return error_set(err, -EINVAL, "tokenizer.ggml.pre is missing");
    int rc = pretokenizer_steps(pre.data, pre.size, &steps, &normalizer, &whole, err);
    if (rc)
        return rc;
    json_object_set_new(root, "normalizer",
                        normalizer ? json_pack("{s:s}", "type", normalizer) : json_null());
    json_object_set_new(root, "pre_tokenizer", steps);
    json_object_set_new(root, "post_processor", template_json(h, v, false));
    json_object_set_new(root, "decoder",
                        json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                                  1, "trim_offsets", 1, "use_regex", 1));
    return json_object_set_new(root, "model",
                               json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}",
                                         "type", "BPE", "dropout", "unk_token",
                                         "continuing_subword_prefix", "end_of_word_suffix",
                                         "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", whole,
                                         "vocab", vocab_json(v), "merges", given_merges(h)));
}

/* ---- SentencePiece ---- */

/* A way to put a token together from two others. */
struct merge {
    uint32_t left, right;
    float score; /* of the whole */
    uint32_t left_chars, right_chars;
};

struct merges {
    struct merge *items;
    size_t count, capacity;
};

static int add_merge(struct merges *m, struct merge merge)
{
    if (m->count == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 1024;
        struct merge *items = reallocarray(m->items, capacity, sizeof *items);
        if (!items)
            return -ENOMEM;
        m->items = items;
        m->capacity = capacity;
    }
    m->items[m->count++] = merge;
    return 0;
}

static uint32_t count_chars(const char *s, size_t n)
{
    uint32_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((uint8_t)s[i] & 0xc0) != 0x80;
    return chars;
}

static int add_splits(const struct vocab *v, uint32_t id, struct merges *out)
{
    struct gguf_string s = v->tokens[id];
    uint32_t chars = count_chars(s.data, s.size), left_chars = 0;
    for (size_t at = 1; at < s.size; at++) {
        if (((uint8_t)s.data[at] & 0xc0) == 0x80)
            continue;
        left_chars++;
        uint32_t left = *slot(v, (struct gguf_string){s.data, at});
        uint32_t right = *slot(v, (struct gguf_string){s.data + at, s.size - at});
        if (left && right &&
            add_merge(out, (struct merge){left - 1, right - 1, v->scores[id], left_chars,
                                          chars - left_chars}))
            return -ENOMEM;
    }
    return 0;
}

/* Better wholes first, of equally good ones those with longer parts. */
static int by_rank(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars)
        return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars)
        return x->right_chars > y->right_chars ? -1 : 1;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

/* SentencePiece joins the two neighbours whose whole has the best score: the order of all that could
 * be joined is a list of merges. */
static json_t *merges_of_scores(const struct vocab *v)
{
    struct merges all = {0};
    int rc = 0;
    for (uint32_t id = 0; !rc && id < v->count; id++)
        if (v->types[id] == PIECE_NORMAL)
            rc = add_splits(v, id, &all);
    if (all.count)
        qsort(all.items, all.count, sizeof *all.items, by_rank);
    json_t *merges = rc ? NULL : json_array();
    for (size_t i = 0; merges && i < all.count; i++)
        json_array_append_new(merges, json_pack("[o, o]", json_text(v->tokens[all.items[i].left]),
                                                json_text(v->tokens[all.items[i].right])));
    free(all.items);
    return merges;
}

static const char space_mark[] = "\xe2\x96\x81";

static json_t *replace_step(const char *from, const char *to)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content",
                     to);
}

static int sentencepiece(const struct gguf_header *h, const struct vocab *v, json_t *root)
{
    bool prefix = flag(h, "tokenizer.ggml.add_space_prefix", true);
    struct gguf_string unknown = {0};
    uint32_t id;
    bool has_unknown = special(h, v, "unknown", &unknown, &id);
    json_t *normalizers = json_array(), *decoders = json_array();
    if (prefix)
        json_array_append_new(normalizers,
                              json_pack("{s:s, s:s}", "type", "Prepend", "prepend", space_mark));
    json_array_append_new(normalizers, replace_step(" ", space_mark));
    json_array_append_new(decoders, replace_step(space_mark, " "));
    json_array_append_new(decoders, json_pack("{s:s}", "type", "ByteFallback"));
    json_array_append_new(decoders, json_pack("{s:s}", "type", "Fuse"));
    if (prefix)
        json_array_append_new(decoders, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip",
                                                  "content", " ", "start", 1, "stop", 0));
    json_object_set_new(root, "normalizer",
                        json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", normalizers));
    json_object_set_new(root, "pre_tokenizer", json_null());
    json_object_set_new(root, "post_processor", template_json(h, v, true));
    json_object_set_new(root, "decoder",
                        json_pack("{s:s, s:o}", "type", "Sequence", "decoders", decoders));
    return json_object_set_new(
        root, "model",
        json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", has_unknown ? json_text(unknown) : json_null(),
                  "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 1, "byte_fallback",
                  1, "ignore_merges", 0, "vocab", vocab_json(v), "merges", merges_of_scores(v)));
}

/* ---- the files ---- */

/* Whether the model is SentencePiece's; -ENOTSUP for others than the two. */
static int model_kind(const struct gguf_header *h, bool *scored, struct error *err)
{
    struct gguf_string model = {"", 0};
    gguf_find_text(h, "tokenizer.ggml.model", &model);
    *scored = gguf_string_is(model, "llama");
    if (*scored || gguf_string_is(model, "gpt2"))
        return 0;
    return error_set(err, -ENOTSUP, "tokenizer.ggml.model \"%.*s\" is not known",
                     (int)(model.size < 60 ? model.size : 60), model.data);
}

int hf_tokenizer_json(const struct gguf_header *h, char **out, struct error *err)
{
    struct vocab v = {0};
    bool scored;
    json_t *root = json_object();
    *out = NULL;
    int rc = model_kind(h, &scored, err);
    rc = rc ? rc : vocab_load(h, scored, &v, err);
    if (!rc) {
        json_object_set_new(root, "version", json_string("1.0"));
        json_object_set_new(root, "truncation", json_null());
        json_object_set_new(root, "padding", json_null());
        json_object_set_new(root, "added_tokens", added_json(&v));
        rc = scored ? sentencepiece(h, &v, root) : byte_level(h, &v, root, err);
        if (rc == -1)
            rc = error_set(err, -EINVAL, "tokenizer.ggml: a token or merge is not UTF-8");
    }
    if (!rc && !(*out = json_dumps(root, JSON_COMPACT)))
        rc = out_of_memory(err);
    json_decref(root);
    vocab_free(&v);
    return rc;
}

int hf_tokenizer_config(const struct gguf_header *h, char **out, struct error *err)
{
    static const struct {
        const char *role, *name;
    } roles[] = {
        {"bos",     "bos_token"},
        {"eos",     "eos_token"},
        {"unknown", "unk_token"},
        {"padding", "pad_token"},
    };
    struct vocab v = {0};
    bool scored;
    struct gguf_string text;
    uint32_t id;
    *out = NULL;
    int rc = model_kind(h, &scored, err);
    rc = rc ? rc : vocab_load(h, scored, &v, err);
    json_t *root = json_object();
    json_object_set_new(root, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(root, "clean_up_tokenization_spaces", json_false());
    json_object_set_new(root, "model_input_names",
                        json_pack("[s, s]", "input_ids", "attention_mask"));
    for (size_t i = 0; !rc && i < sizeof roles / sizeof *roles; i++)
        if (special(h, &v, roles[i].role, &text, &id))
            json_object_set_new(root, roles[i].name, json_text(text));
    if (gguf_find_text(h, "tokenizer.chat_template", &text))
        json_object_set_new(root, "chat_template", json_text(text));
    if (!rc && !(*out = json_dumps(root, JSON_INDENT(2))))
        rc = out_of_memory(err);
    json_decref(root);
    vocab_free(&v);
    return rc;
}

/* SPDX-License-Identifier: MIT */
#include "codec/tokenizer.h"

#include "codec/hf_vocab.h"
#include "codec/pretokenizer.h"
#include "codec/pretokenizer_hash.h"
#include "codec/sentencepiece.h"
#include "codec/special_tokens.h"
#include "codec/utf8.h"

#include <errno.h>
#include <stdio.h>

/* The files of a tokenizer, parsed. */
struct sources {
    json_t *tokenizer, *tokenizer_config, *special_tokens_map;
};

static int load_json(const struct model_files *files, const char *name, json_t **out,
                     struct error *err)
{
    struct blob file;
    *out = NULL;
    int rc = files->get(files->context, name, &file, err);
    if (rc || !file.data)
        return rc;
    rc = json_parse(file, out, err);
    return rc ? error_prefix(err, rc, "%s", name) : 0;
}

static void sources_free(struct sources *s)
{
    json_decref(s->tokenizer);
    json_decref(s->tokenizer_config);
    json_decref(s->special_tokens_map);
}

/* ---- tokens, scores and types while they are gathered ---- */

struct token {
    const char *text;
    size_t size;
    float score;
    int32_t type;
};

struct vocab {
    struct token *tokens;
    size_t count;
    struct arena arena; /* texts that are in none of the files */
};

static void vocab_free(struct vocab *v)
{
    free(v->tokens);
    arena_free(&v->arena);
}

static int vocab_alloc(struct vocab *v, size_t count, struct error *err)
{
    *v = (struct vocab){.tokens = reallocarray(NULL, count, sizeof *v->tokens), .count = count};
    return v->tokens ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* An id without a token. */
static int set_padding(struct vocab *v, size_t id, float score, struct error *err)
{
    char *text = arena_printf(&v->arena, "[PAD%zu]", id);
    if (!text)
        return error_set(err, -ENOMEM, "out of memory");
    v->tokens[id] = (struct token){text, strlen(text), score, PIECE_UNUSED};
    return 0;
}

static void put_vocab(const struct vocab *v, bool scores, struct gguf_keys *keys)
{
    gguf_put_array(keys, "tokenizer.ggml.tokens", GGUF_STRING, v->count);
    for (size_t i = 0; i < v->count; i++)
        gguf_add_string(&keys->bytes, v->tokens[i].text, v->tokens[i].size);
    if (scores) {
        gguf_put_array(keys, "tokenizer.ggml.scores", GGUF_F32, v->count);
        for (size_t i = 0; i < v->count; i++)
            buffer_add(&keys->bytes, &v->tokens[i].score, sizeof v->tokens[i].score);
    }
    gguf_put_array(keys, "tokenizer.ggml.token_type", GGUF_I32, v->count);
    for (size_t i = 0; i < v->count; i++)
        buffer_add(&keys->bytes, &v->tokens[i].type, sizeof v->tokens[i].type);
}

/* ---- texts ---- */

static bool starts_and_ends(const char *s, const char *head, const char *tail)
{
    size_t n = strlen(s), h = strlen(head), t = strlen(tail);
    return n >= h && n >= t && memcmp(s, head, h) == 0 && memcmp(s + n - t, tail, t) == 0;
}

/* Tokens that are control tokens although their model does not mark them so. */
static bool looks_special(const char *s)
{
    static const char *const known[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(s, known[i]) == 0)
            return true;
    return starts_and_ends(s, "<|", "|>") || starts_and_ends(s, "<｜", "｜>") ||
           starts_and_ends(s, "<unused", ">");
}

static int replace_all(struct arena *arena, const char **text, const char *what, const char *by)
{
    const char *at = strstr(*text, what);
    if (!at)
        return 0;
    size_t n = strlen(*text), w = strlen(what), b = strlen(by);
    char *out = arena_alloc(arena, n / w * b + n + 1);
    if (!out)
        return -ENOMEM;
    char *end = out;
    for (const char *s = *text; *s;) {
        if (s == at) {
            end = mempcpy(end, by, b);
            s += w;
            at = strstr(s, what);
        } else {
            *end++ = *s++;
        }
    }
    *text = out;
    return 0;
}

/* User-defined tokens hold SentencePiece's U+2581 as the space that it stands for. */
static int spaces(struct arena *arena, const char **text)
{
    return replace_all(arena, text, "\xe2\x96\x81", " ");
}

/* The byte that a character of the byte-level alphabet stands for, or -1: printable Latin-1 stands
 * for itself, the other 68 bytes follow in order from U+0100. */
static int alphabet_byte(uint32_t code)
{
    if ((code >= '!' && code <= '~') || (code >= 0xa1 && code <= 0xac) ||
        (code >= 0xae && code <= 0xff))
        return (int)code;
    if (code < 0x100 || code >= 0x100 + 68)
        return -1;
    code -= 0x100;
    return code < 33 ? (int)code : code < 67 ? (int)code - 33 + 127 : 0xad;
}

/* What a byte-level decoder makes of a token's text: the bytes that its characters stand for, read
 * as UTF-8 with U+FFFD for what is none; the text itself if a character stands for no byte. */
static int byte_level_decode(struct arena *arena, const char **text)
{
    size_t n = strlen(*text);
    uint8_t *bytes = arena_alloc(arena, n + 1);
    if (!bytes)
        return -ENOMEM;
    size_t count = 0;
    uint32_t code;
    unsigned bad;
    for (size_t i = 0; i < n;) {
        unsigned length = utf8_next((const uint8_t *)*text + i, n - i, &code, &bad);
        int byte = length ? alphabet_byte(code) : -1;
        if (byte < 0)
            return 0;
        bytes[count++] = (uint8_t)byte;
        i += length;
    }
    char *out = arena_alloc(arena, 3 * count + 1), *end = out;
    if (!out)
        return -ENOMEM;
    for (size_t i = 0; i < count;) {
        unsigned length = utf8_next(bytes + i, count - i, &code, &bad);
        end = mempcpy(end, length ? (char *)bytes + i : "\xef\xbf\xbd", length ? length : 3);
        i += length ? length : bad;
    }
    *text = out;
    return 0;
}

static bool has_byte_level(const json_t *decoder)
{
    const char *type = json_string_value(json_object_get(decoder, "type"));
    if (type && strcmp(type, "ByteLevel") == 0)
        return true;
    size_t i;
    json_t *member;
    json_array_foreach(json_object_get(decoder, "decoders"), i, member)
        if (has_byte_level(member))
            return true;
    return false;
}

/* An added token that is matched before normalization is written as the tokenizer would print it:
 * decoded, and with the clean-up that the tokenizer asks for. */
static int decode_added(struct arena *arena, const struct sources *s, const char **text)
{
    static const char *const clean_up[][2] = {
        {" .", "."},   {" ?", "?"},    {" !", "!"},     {" ,", ","},     {" ' ", "'"},
        {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    int rc = 0;
    if (has_byte_level(json_object_get(s->tokenizer, "decoder")))
        rc = byte_level_decode(arena, text);
    if (json_is_true(json_object_get(s->tokenizer_config, "clean_up_tokenization_spaces")))
        for (size_t i = 0; !rc && i < sizeof clean_up / sizeof *clean_up; i++)
            rc = replace_all(arena, text, clean_up[i][0], clean_up[i][1]);
    return rc;
}

/* ---- SentencePiece ---- */

/* A token that a file beside the model puts at an id; ids beyond the vocabulary are ignored. */
static int override(struct vocab *v, json_int_t id, const char *text, int32_t type,
                    struct error *err)
{
    if (id < 0)
        return error_set(err, -EINVAL, "token \"%.100s\" has a negative id", text);
    if ((uint64_t)id < v->count)
        v->tokens[id] = (struct token){text, strlen(text), -1000, type};
    return 0;
}

/* added_tokens.json: text -> id. */
static int override_added(struct vocab *v, const json_t *added, struct error *err)
{
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)added, text, id)
    {
        if (!json_is_integer(id))
            return error_set(err, -EINVAL, "the id of token \"%.100s\" is invalid", text);
        int rc = override(v, json_integer_value(id), text, PIECE_USER_DEFINED, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* A token as an object of tokenizer_config.json or tokenizer.json. `plain`: it is taken as it is,
 * as Phi-3's are; otherwise what looks special is, and the rest gets its spaces back. */
static int override_token(struct vocab *v, json_int_t id, const json_t *token, bool plain,
                          struct error *err)
{
    const char *text = json_string_value(json_object_get(token, "content"));
    if (!text)
        return error_set(err, -EINVAL, "added token %" JSON_INTEGER_FORMAT " is invalid", id);
    bool control = json_is_true(json_object_get(token, "special")) ||
                   (!plain && looks_special(text));
    if (!control && !plain && spaces(&v->arena, &text))
        return error_set(err, -ENOMEM, "out of memory");
    return override(v, id, text, control ? PIECE_CONTROL : PIECE_USER_DEFINED, err);
}

/* added_tokens_decoder of tokenizer_config.json: id -> token. */
static int override_decoder(struct vocab *v, const json_t *decoder, bool plain, struct error *err)
{
    const char *number;
    json_t *token;
    json_object_foreach((json_t *)decoder, number, token)
    {
        char *end;
        long id = strtol(number, &end, 10);
        if (!*number || *end)
            return error_set(err, -EINVAL, "added token \"%.20s\" is invalid", number);
        int rc = override_token(v, id, token, plain, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* added_tokens of tokenizer.json, a list. */
static int override_list(struct vocab *v, const json_t *tokens, struct error *err)
{
    size_t i;
    json_t *token;
    json_array_foreach(tokens, i, token)
    {
        const json_t *id = json_object_get(token, "id");
        if (!json_is_integer(id))
            return error_set(err, -EINVAL, "added token %zu is invalid", i);
        int rc = override_token(v, json_integer_value(id), token, true, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int sentencepiece_vocab(struct vocab *v, const struct piece *pieces, size_t piece_count,
                               size_t vocab_size, struct error *err)
{
    int rc = vocab_alloc(v, vocab_size, err);
    for (size_t id = 0; !rc && id < vocab_size; id++) {
        if (id >= piece_count) {
            rc = set_padding(v, id, -10000, err);
            continue;
        }
        const struct piece *p = &pieces[id];
        int32_t type = p->type == PIECE_USER_DEFINED ? PIECE_NORMAL : p->type;
        v->tokens[id] = (struct token){p->text, p->size, p->score, type};
    }
    return rc;
}

static int put_llama_model(const struct vocab *v, const struct sources *s,
                           const struct special_tokens_options *options,
                           const struct config *config, const struct model_files *files,
                           struct gguf_keys *keys, struct error *err)
{
    gguf_put_string(keys, "tokenizer.ggml.model", "llama");
    gguf_put_string(keys, "tokenizer.ggml.pre", "default");
    put_vocab(v, true, keys);
    struct special_tokens_options own = *options;
    own.vocab = v->count;
    return special_tokens_put_keys(&own, s->tokenizer, s->tokenizer_config, config, files, keys,
                                   err);
}

/* The config's vocab_size, or the model's where the config has none. */
static int vocab_size_of(const struct config *config, size_t otherwise, uint32_t *out,
                         struct error *err)
{
    const json_t *given = json_object_get(config->full, "vocab_size");
    *out = (uint32_t)otherwise;
    if (!given || json_is_null(given))
        return 0;
    int rc = config_u32(config, "vocab_size", out, err);
    if (!rc && *out > VOCAB_MAX)
        rc = error_set(err, -EINVAL, "vocab_size %u is implausible", *out);
    return rc ? error_prefix(err, rc, "config.json") : 0;
}

/* What the files beside tokenizer.model say about its tokens. */
static int override_tokens(struct vocab *v, const json_t *added, const struct sources *s,
                           bool phi3, struct error *err)
{
    int rc = override_added(v, added, err);
    if (rc)
        return error_prefix(err, rc, "added_tokens.json");
    rc = override_decoder(v, json_object_get(s->tokenizer_config, "added_tokens_decoder"), phi3,
                          err);
    if (rc)
        return error_prefix(err, rc, "tokenizer_config.json");
    rc = phi3 ? override_list(v, json_object_get(s->tokenizer, "added_tokens"), err) : 0;
    return rc ? error_prefix(err, rc, "tokenizer.json") : 0;
}

static int put_sentencepiece(const struct arch *arch, struct blob model, const struct sources *s,
                             const struct special_tokens_options *options,
                             const struct config *config, const struct model_files *files,
                             struct gguf_keys *keys, struct error *err)
{
    struct piece *pieces = NULL;
    size_t piece_count;
    struct vocab v = {0};
    json_t *added = NULL;
    uint32_t vocab_size;
    int rc = sentencepiece_parse(model, &pieces, &piece_count, err);
    if (rc)
        return error_prefix(err, rc, "tokenizer.model");
    rc = vocab_size_of(config, piece_count, &vocab_size, err);
    rc = rc ? rc : sentencepiece_vocab(&v, pieces, piece_count, vocab_size, err);
    rc = rc ? rc : load_json(files, "added_tokens.json", &added, err);
    rc = rc ? rc : override_tokens(&v, added, s, arch->vocab == VOCAB_PHI3, err);
    rc = rc ? rc : put_llama_model(&v, s, options, config, files, keys, err);
    if (!rc && arch->vocab == VOCAB_SENTENCEPIECE)
        gguf_put_bool(keys, "tokenizer.ggml.add_space_prefix", false);
    json_decref(added);
    vocab_free(&v);
    free(pieces);
    return rc;
}

/* ---- a llama-style tokenizer.json ---- */

/* BPE with byte fallback and a decoder made of steps: a SentencePiece model in another guise. */
static bool is_llama_style(const json_t *tokenizer)
{
    const json_t *model = json_object_get(tokenizer, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    const char *decoder =
        json_string_value(json_object_get(json_object_get(tokenizer, "decoder"), "type"));
    return type && strcmp(type, "BPE") == 0 &&
           json_is_true(json_object_get(model, "byte_fallback")) && decoder &&
           strcmp(decoder, "Sequence") == 0;
}

/* <0x0A> */
static bool is_byte_token(const char *s)
{
    return strlen(s) == 6 && memcmp(s, "<0x", 3) == 0 &&
           strspn(s + 3, "0123456789abcdefABCDEF") == 2 && s[5] == '>';
}

static int put_llama_style(const struct sources *s, const struct special_tokens_options *options,
                           const struct config *config, const struct model_files *files,
                           struct gguf_keys *keys, struct error *err)
{
    struct hf_vocab hf;
    struct vocab v = {0};
    const char *model_type = json_string_value(json_object_get(config->raw, "model_type"));
    int rc = hf_vocab_load(s->tokenizer, s->tokenizer_config, s->special_tokens_map, model_type,
                           &hf, err);
    rc = rc ? rc : vocab_alloc(&v, hf.count, err);
    for (size_t id = 0; !rc && id < hf.count; id++) {
        const struct hf_token *t = &hf.tokens[id];
        if (!t->text) {
            rc = error_set(err, -EINVAL, "tokenizer.json: there is no token %zu", id);
            break;
        }
        bool base = id < hf.base;
        int32_t type = base && is_byte_token(t->text) ? PIECE_BYTE
                       : t->attribute                 ? PIECE_CONTROL
                       : base                         ? PIECE_NORMAL
                                                      : PIECE_USER_DEFINED;
        v.tokens[id] = (struct token){t->text, strlen(t->text), -1000, type};
    }
    rc = rc ? rc : put_llama_model(&v, s, options, config, files, keys, err);
    vocab_free(&v);
    hf_vocab_free(&hf);
    return rc;
}

/* ---- byte-level BPE ---- */

static int bpe_token(struct vocab *v, size_t id, const struct hf_token *t, const struct sources *s,
                     struct error *err)
{
    const char *text = t->text;
    int32_t type = PIECE_NORMAL;
    int rc = 0;
    if (t->added) {
        if (!t->normalized)
            rc = decode_added(&v->arena, s, &text);
        type = t->special || looks_special(text) ? PIECE_CONTROL : PIECE_USER_DEFINED;
        if (!rc && type == PIECE_USER_DEFINED)
            rc = spaces(&v->arena, &text);
    }
    if (rc)
        return error_set(err, rc, "out of memory");
    v->tokens[id] = (struct token){text, strlen(text), 0, type};
    return 0;
}

static int bpe_vocab(struct vocab *v, const struct hf_vocab *hf, const struct sources *s,
                     const struct config *config, struct error *err)
{
    uint32_t vocab_size;
    int rc = vocab_size_of(config, hf->count, &vocab_size, err);
    if (rc)
        return rc;
    if (vocab_size < hf->count)
        return error_set(err, -EINVAL,
                         "config.json: vocab_size %u is too small for the tokenizer's %zu tokens",
                         vocab_size, hf->count);
    rc = vocab_alloc(v, vocab_size, err);
    for (size_t id = 0; !rc && id < vocab_size; id++)
        rc = id < hf->count && hf->tokens[id].text ? bpe_token(v, id, &hf->tokens[id], s, err)
                                                   : set_padding(v, id, 0, err);
    return rc;
}

/* tokenizer.ggml.pre: what upstream's hash says. Where that is unknown, upstream gives up; here the
 * chain of the pre_tokenizer's steps tells a name, which may be that of a relative. */
static int find_pre(const struct hf_vocab *hf, const struct sources *s,
                    const struct model_files *files, const char **pre, struct error *err)
{
    char sentence[256];
    int rc = pretokenizer_hash_name(s->tokenizer, hf, pre, err);
    if (rc || *pre)
        return rc;
    rc = pretokenizer_name(s->tokenizer, hf->count, pre, err);
    if (rc || !files->warn)
        return rc;
    snprintf(sentence, sizeof sentence,
             "tokenizer.json: llama.cpp does not know this tokenizer; tokenizer.ggml.pre = \"%s\" "
             "is a guess from its pre_tokenizer",
             *pre);
    files->warn(files->context, sentence);
    return 0;
}

static int put_bpe(const struct sources *s, const struct special_tokens_options *options,
                   const struct config *config, const struct model_files *files,
                   struct gguf_keys *keys, struct error *err)
{
    const char *type = json_string_value(
        json_object_get(json_object_get(s->tokenizer, "model"), "type"));
    if (!type || strcmp(type, "BPE") != 0)
        return error_set(err, -ENOTSUP, "tokenizer.json: a tokenizer of type %.50s is not known",
                         type ? type : "(none)");
    struct hf_vocab hf;
    struct vocab v = {0};
    const char *pre;
    const char *model_type = json_string_value(json_object_get(config->raw, "model_type"));
    int rc = hf_vocab_load(s->tokenizer, s->tokenizer_config, s->special_tokens_map, model_type,
                           &hf, err);
    if (rc)
        return rc;
    rc = bpe_vocab(&v, &hf, s, config, err);
    if (!rc) {
        rc = find_pre(&hf, s, files, &pre, err);
        rc = rc ? error_prefix(err, rc, "tokenizer.json") : 0;
    }
    if (!rc) {
        gguf_put_string(keys, "tokenizer.ggml.model", "gpt2");
        gguf_put_string(keys, "tokenizer.ggml.pre", pre);
        put_vocab(&v, false, keys);
        struct special_tokens_options own = *options;
        own.merges = true;
        rc = special_tokens_put_keys(&own, s->tokenizer, s->tokenizer_config, config, files, keys,
                                     err);
    }
    vocab_free(&v);
    hf_vocab_free(&hf);
    return rc;
}

/* ---- which path ---- */

static bool is_byte_level_phi(const struct sources *s)
{
    const char *name =
        json_string_value(json_object_get(s->tokenizer_config, "tokenizer_class"));
    return name && strcmp(name, "GPT2Tokenizer") == 0;
}

static int put_keys(const struct arch *arch, const struct config *config,
                    const struct model_files *files, const struct sources *s,
                    struct gguf_keys *keys, struct error *err)
{
    struct special_tokens_options options = {0};
    if (arch->vocab == VOCAB_LLAMA) {
        const json_t *prefix = json_object_get(s->tokenizer_config, "add_prefix_space");
        if (prefix && !json_is_null(prefix))
            gguf_put_bool(keys, "tokenizer.ggml.add_space_prefix", json_is_true(prefix));
        json_int_t size = json_integer_value(json_object_get(config->full, "vocab_size"));
        options.codellama = size == 32016;
        options.never_bos = size == 49152;
    }
    struct blob model = {0};
    bool bpe_only = arch->vocab == VOCAB_BPE || (arch->vocab == VOCAB_PHI3 && is_byte_level_phi(s));
    int rc = bpe_only ? 0 : files->get(files->context, "tokenizer.model", &model, err);
    if (rc)
        return rc;
    if (model.data)
        return put_sentencepiece(arch, model, s, &options, config, files, keys, err);
    if (!bpe_only && (arch->vocab == VOCAB_SENTENCEPIECE || arch->vocab == VOCAB_PHI3))
        return error_set(err, -ENOENT, "tokenizer.model is missing");
    if (!s->tokenizer)
        return error_set(err, -ENOENT, "tokenizer.json is missing%s",
                         bpe_only ? "" : ", and so is tokenizer.model");
    if (arch->vocab == VOCAB_LLAMA && is_llama_style(s->tokenizer))
        return put_llama_style(s, &options, config, files, keys, err);
    return put_bpe(s, &options, config, files, keys, err);
}

int tokenizer_put_keys(const struct arch *arch, const struct config *config,
                       const struct model_files *files, struct gguf_keys *keys, struct error *err)
{
    struct sources s = {0};
    int rc = load_json(files, "tokenizer.json", &s.tokenizer, err);
    rc = rc ? rc : load_json(files, "tokenizer_config.json", &s.tokenizer_config, err);
    rc = rc ? rc : load_json(files, "special_tokens_map.json", &s.special_tokens_map, err);
    rc = rc ? rc : put_keys(arch, config, files, &s, keys, err);
    sources_free(&s);
    return rc;
}

/* SPDX-License-Identifier: MIT */
#include "codec/special_tokens.h"

#include "codec/utf8.h"

#include <errno.h>
#include <stdio.h>

/* The kinds of special tokens. The first seven are always looked for; a template whose last token
 * is not the eos token adds eot, or eom if there is an eot. */
enum kind { BOS, EOS, UNK, SEP, PAD, CLS, MASK, EOT, EOM, KIND_COUNT };

/* "seperator" is upstream's spelling. Nothing is written for cls, and flags only for three. */
static const struct {
    const char *name, *id_key, *flag_key;
} kinds[KIND_COUNT] = {
    [BOS] = {"bos", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"},
    [EOS] = {"eos", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token"},
    [UNK] = {"unk", "tokenizer.ggml.unknown_token_id", NULL},
    [SEP] = {"sep", "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.add_sep_token"},
    [PAD] = {"pad", "tokenizer.ggml.padding_token_id", NULL},
    [CLS] = {"cls", NULL, NULL},
    [MASK] = {"mask", "tokenizer.ggml.mask_token_id", NULL},
    [EOT] = {"eot", "tokenizer.ggml.eot_token_id", NULL},
    [EOM] = {"eom", "tokenizer.ggml.eom_token_id", NULL},
};

/* A small map that remembers the order in which keys came in. */
struct found {
    enum kind kind;
    json_int_t value;
};

struct special {
    struct found ids[KIND_COUNT], flags[KIND_COUNT];
    size_t id_count, flag_count;
    bool eot, eom; /* those kinds are looked for */
    /* token texts; borrowed from tokenizer_config or tokenizer.json, of any JSON type */
    json_t *config; /* tokenizer_config, NULL where absent or empty */
    const json_t *bos, *eos, *cls, *sep;
    uint64_t vocab;
};

static struct found *find(struct found *map, size_t count, enum kind kind)
{
    for (size_t i = 0; i < count; i++)
        if (map[i].kind == kind)
            return &map[i];
    return NULL;
}

static bool wanted(const struct special *s, enum kind k)
{
    return k < EOT || (k == EOT ? s->eot : s->eom);
}

static void set_flag(struct special *s, enum kind kind, bool value, bool only_if_unset)
{
    struct found *f = find(s->flags, s->flag_count, kind);
    if (!f)
        s->flags[s->flag_count++] = (struct found){kind, value};
    else if (!only_if_unset)
        f->value = value;
}

static int set_id(struct special *s, enum kind kind, const json_t *id, struct error *err)
{
    if (!json_is_integer(id))
        return 0;
    json_int_t value = json_integer_value(id);
    if (value < 0 || value > UINT32_MAX)
        return error_set(err, -EINVAL, "%s_token_id %" JSON_INTEGER_FORMAT " is out of range",
                         kinds[kind].name, value);
    if ((s->vocab && (uint64_t)value >= s->vocab) || find(s->ids, s->id_count, kind))
        return 0;
    s->ids[s->id_count++] = (struct found){kind, value};
    return 0;
}

/* ---- tokenizer.json: the post-processor ---- */

/* What Python calls true. */
static bool truthy(const json_t *v)
{
    return v && !json_is_null(v) && !json_is_false(v) &&
           !(json_is_string(v) && json_string_length(v) == 0) &&
           !(json_is_object(v) && json_object_size(v) == 0) &&
           !(json_is_array(v) && json_array_size(v) == 0) &&
           !(json_is_number(v) && json_number_value(v) == 0);
}

/* A token given as an object is never equal to the text in a template. */
static bool same_text(const json_t *a, const json_t *b)
{
    return json_is_string(a) && json_is_string(b) &&
           strcmp(json_string_value(a), json_string_value(b)) == 0;
}

static const json_t *special_id(const json_t *template_item)
{
    const json_t *id =
        json_object_get(json_object_get(template_item, "SpecialToken"), "id");
    return truthy(id) ? id : NULL;
}

static int config_set(struct special *s, const char *key, const json_t *value, struct error *err)
{
    if (json_object_set(s->config, key, (json_t *)value))
        return error_set(err, -ENOMEM, "out of memory");
    return 0;
}

static int leading_token(struct special *s, const json_t *first, struct error *err)
{
    int rc = 0;
    if (!s->config) {
        s->bos = first;
    } else if (!same_text(first, s->bos) && !same_text(first, s->cls)) {
        if (!truthy(s->bos)) {
            s->bos = first;
            rc = config_set(s, "bos_token", first, err);
        }
        if (!rc && !truthy(s->cls)) {
            s->cls = first;
            rc = config_set(s, "cls_token", first, err);
        }
    }
    set_flag(s, BOS, same_text(first, s->bos) || same_text(first, s->cls), false);
    return rc;
}

static int trailing_token(struct special *s, const json_t *last, struct error *err)
{
    int rc = 0;
    if (s->config && !same_text(last, s->eos)) {
        const json_t *old = s->eos ? s->eos : json_null();
        if (!s->eot) {
            s->eot = true;
            rc = config_set(s, "eot_token", old, err);
        } else if (!s->eom) {
            s->eom = true;
            rc = config_set(s, "eom_token", old, err);
        }
        rc = rc ? rc : config_set(s, "eos_token", last, err);
    }
    s->eos = last;
    set_flag(s, EOS, true, false);
    return rc;
}

/* pair: A, one or two separators, B, once the tokens that frame it are off. */
static int template_pair(struct special *s, const json_t *pair, const json_t *first,
                         const json_t *last, struct error *err)
{
    size_t begin = 0, end = json_array_size(pair);
    if (end == 0)
        return 0;
    if (last && same_text(special_id(json_array_get(pair, end - 1)), last))
        end--;
    if (first && same_text(special_id(json_array_get(pair, 0)), first))
        begin++;
    if (end <= begin)
        return 0;
    const char *a = json_string_value(json_object_get(
        json_object_get(json_array_get(pair, begin), "Sequence"), "id"));
    const char *b = json_string_value(json_object_get(
        json_object_get(json_array_get(pair, end - 1), "Sequence"), "id"));
    if (!a || !b || strcmp(a, "A") != 0 || strcmp(b, "B") != 0 || end - begin <= 2)
        return 0;
    size_t middle = end - begin - 2;
    const json_t *sep = special_id(json_array_get(pair, begin + 1));
    bool add = sep && (same_text(sep, s->sep) || same_text(sep, s->eos)) && !last;
    if (middle == 2) {
        sep = special_id(json_array_get(pair, begin + 2));
        add |= sep && (same_text(sep, s->sep) || same_text(sep, s->eos));
    }
    set_flag(s, SEP, add, false);
    if (!add || truthy(s->sep) || !s->config)
        return 0;
    s->sep = NULL; /* it may go away with the entry that is replaced; it was as good as none */
    return config_set(s, "sep_token", s->eos ? s->eos : json_null(), err);
}

static int template_processing(struct special *s, const json_t *processor, struct error *err)
{
    const json_t *single = json_object_get(processor, "single");
    const json_t *first = NULL, *last = NULL;
    size_t n = json_array_size(single);
    int rc = 0;
    if (n > 1) {
        first = special_id(json_array_get(single, 0));
        if (first)
            rc = leading_token(s, first, err);
        last = rc ? NULL : special_id(json_array_get(single, n - 1));
        if (last)
            rc = trailing_token(s, last, err);
    }
    return rc ? rc : template_pair(s, json_object_get(processor, "pair"), first, last, err);
}

static int roberta_processing(struct special *s, const json_t *processor, struct error *err)
{
    set_flag(s, BOS, true, false);
    set_flag(s, EOS, true, false);
    set_flag(s, SEP, true, false);
    int rc = 0;
    if (!truthy(s->cls) && s->config) {
        const json_t *cls = json_array_get(json_object_get(processor, "cls"), 0);
        s->cls = cls ? cls : s->bos;
        rc = config_set(s, "cls_token", s->cls ? s->cls : json_null(), err);
    }
    if (!rc && !truthy(s->sep) && s->config) {
        const json_t *sep = json_array_get(json_object_get(processor, "sep"), 0);
        s->sep = sep ? sep : s->eos;
        rc = config_set(s, "sep_token", s->sep ? s->sep : json_null(), err);
    }
    return rc;
}

static int post_processor(struct special *s, const json_t *processor, struct error *err)
{
    const char *type = json_string_value(json_object_get(processor, "type"));
    if (!type)
        return 0;
    if (strcmp(type, "ByteLevel") == 0) {
        set_flag(s, BOS, false, true);
        set_flag(s, EOS, false, true);
        return 0;
    }
    if (strcmp(type, "RobertaProcessing") == 0)
        return roberta_processing(s, processor, err);
    if (strcmp(type, "TemplateProcessing") == 0)
        return template_processing(s, processor, err);
    return 0;
}

static int read_post_processor(struct special *s, const json_t *tokenizer, struct error *err)
{
    s->bos = json_object_get(s->config, "bos_token");
    s->eos = json_object_get(s->config, "eos_token");
    s->cls = json_object_get(s->config, "cls_token");
    s->sep = json_object_get(s->config, "sep_token");
    int rc = 0;
    if (!truthy(s->bos) && truthy(s->cls) && s->config) {
        s->bos = s->cls;
        rc = config_set(s, "bos_token", s->cls, err);
    }
    if (!rc && !truthy(s->eos) && truthy(s->sep) && s->config) {
        s->eos = s->sep;
        rc = config_set(s, "eos_token", s->sep, err);
    }
    const json_t *processor = json_object_get(tokenizer, "post_processor");
    const json_t *members = json_object_get(processor, "processors");
    if (rc || !processor)
        return rc;
    if (!members)
        return post_processor(s, processor, err);
    size_t i;
    json_t *member;
    json_array_foreach(members, i, member)
    {
        rc = post_processor(s, member, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- tokenizer_config.json and config.json ---- */

static const json_t *added_token_id(const json_t *tokenizer, const char *text)
{
    size_t i;
    json_t *token;
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, token)
    {
        const char *content = json_string_value(json_object_get(token, "content"));
        if (content && strcmp(content, text) == 0)
            return json_object_get(token, "id");
    }
    return NULL;
}

static int read_tokenizer_config(struct special *s, const json_t *tokenizer, struct error *err)
{
    for (int k = 0; k < KIND_COUNT; k++) {
        if (!wanted(s, (enum kind)k))
            continue;
        char key[32];
        snprintf(key, sizeof key, "add_%s_token", kinds[k].name);
        const json_t *flag = json_object_get(s->config, key);
        if (json_is_boolean(flag))
            set_flag(s, (enum kind)k, json_is_true(flag), true);
        snprintf(key, sizeof key, "%s_token", kinds[k].name);
        const json_t *entry = json_object_get(s->config, key);
        const json_t *text = json_is_object(entry) ? json_object_get(entry, "content") : entry;
        if (!json_is_string(text))
            continue;
        int rc =
            set_id(s, (enum kind)k, added_token_id(tokenizer, json_string_value(text)), err);
        if (rc)
            return rc;
    }
    return 0;
}

static int read_config(struct special *s, const struct config *config, struct error *err)
{
    for (int k = 0; k < KIND_COUNT; k++) {
        if (!wanted(s, (enum kind)k))
            continue;
        char key[32];
        snprintf(key, sizeof key, "%s_token_id", kinds[k].name);
        const json_t *id = json_object_get(config->raw, key);
        if (!id || json_is_null(id))
            id = json_object_get(json_object_get(config->raw, "text_config"), key);
        int rc = set_id(s, (enum kind)k, id, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- merges ---- */

/* A pair's part: spaces inside it are spelled as the byte alphabet spells them, U+0120. */
static void add_part(struct buffer *b, const char *s)
{
    for (; *s; s++) {
        if (*s == ' ')
            buffer_add(b, "\xc4\xa0", 2);
        else
            buffer_add(b, s, 1);
    }
}

static int add_merge(struct buffer *b, const json_t *merge)
{
    if (json_is_string(merge)) {
        gguf_add_string(b, json_string_value(merge), json_string_length(merge));
        return 0;
    }
    const char *left = json_string_value(json_array_get(merge, 0));
    const char *right = json_string_value(json_array_get(merge, 1));
    if (json_array_size(merge) != 2 || !left || !right)
        return -EINVAL;
    size_t at = b->size;
    buffer_add_u64(b, 0);
    add_part(b, left);
    buffer_add(b, " ", 1);
    add_part(b, right);
    if (!b->failed) {
        uint64_t n = b->size - at - sizeof n;
        memcpy(b->data + at, &n, sizeof n);
    }
    return 0;
}

static int put_merges(const json_t *merges, struct gguf_keys *keys, struct error *err)
{
    gguf_put_array(keys, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(merges));
    size_t i;
    json_t *merge;
    json_array_foreach(merges, i, merge)
        if (add_merge(&keys->bytes, merge))
            return error_set(err, -EINVAL, "tokenizer.json: merge %zu is invalid", i);
    return 0;
}

/* The next line, without its end; false at the end of the text. */
static bool next_line(struct reader *r, struct blob *line)
{
    if (!reader_left(r))
        return false;
    const uint8_t *start = r->pos, *newline = memchr(start, '\n', reader_left(r));
    r->pos = newline ? newline + 1 : r->end;
    *line = (struct blob){start, (size_t)((newline ? newline : r->end) - start)};
    return true;
}

static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* The next word of a line. */
static bool next_word(struct blob *line, struct blob *word)
{
    const uint8_t *p = line->data, *end = p + line->size;
    while (p < end && is_space(*p))
        p++;
    const uint8_t *start = p;
    while (p < end && !is_space(*p))
        p++;
    *word = (struct blob){start, (size_t)(p - start)};
    *line = (struct blob){p, (size_t)(end - p)};
    return word->size > 0;
}

/* merges.txt: two words a line, other lines are passed over, as is a first line that begins "#". */
static int put_merges_txt(const struct model_files *files, struct gguf_keys *keys,
                          struct error *err)
{
    struct blob file, line, left, right, more;
    int rc = files->get(files->context, "merges.txt", &file, err);
    if (rc || !file.data)
        return rc;
    struct buffer merges = {0};
    uint64_t count = 0;
    struct reader r = reader_make(file.data, file.size);
    for (bool first = true; next_line(&r, &line); first = false) {
        if (first && line.size && *(const char *)line.data == '#')
            continue;
        if (!next_word(&line, &left) || !next_word(&line, &right) || next_word(&line, &more))
            continue;
        buffer_add_u64(&merges, left.size + 1 + right.size);
        buffer_add(&merges, left.data, left.size);
        buffer_add(&merges, " ", 1);
        buffer_add(&merges, right.data, right.size);
        count++;
    }
    if (merges.failed) {
        rc = error_set(err, -ENOMEM, "out of memory");
    } else if (count) {
        gguf_put_array(keys, "tokenizer.ggml.merges", GGUF_STRING, count);
        buffer_add(&keys->bytes, merges.data, merges.size);
    }
    buffer_free(&merges);
    return rc;
}

/* ---- chat template ---- */

/* Whether a list of strings has this one. */
static bool has_string(const struct buffer *list, const char *text)
{
    struct reader r = reader_make(list->data, list->size);
    struct gguf_string s;
    double number;
    while (gguf_next_element(&r, GGUF_STRING, &number, &s))
        if (gguf_string_is(s, text))
            return true;
    return false;
}

/* Named templates first, then their names, then the one that is called default. */
static int put_templates(const json_t *templates, struct gguf_keys *keys, struct error *err)
{
    if (json_is_string(templates)) {
        gguf_put_string(keys, "tokenizer.chat_template", json_string_value(templates));
        return 0;
    }
    struct buffer names = {0};
    uint64_t count = 0;
    const char *fallback = NULL;
    size_t i;
    json_t *choice;
    json_array_foreach(templates, i, choice)
    {
        const char *name = json_string_value(json_object_get(choice, "name"));
        const char *text = json_string_value(json_object_get(choice, "template"));
        if (!name || !*name || !text)
            continue;
        char key[256];
        int n = snprintf(key, sizeof key, "tokenizer.chat_template.%s", name);
        if (n < 0 || (size_t)n >= sizeof key) {
            buffer_free(&names);
            return error_set(err, -EINVAL, "the name of chat template %zu is too long", i);
        }
        char *own = key + strlen("tokenizer.chat_template.");
        for (char *c = own; *c; c++)
            if (!((*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z')))
                *c = '_';
        if (strcmp(own, "default") == 0) {
            fallback = text;
            continue;
        }
        if (has_string(&names, own)) {
            buffer_free(&names);
            return error_set(err, -ENOTSUP, "two chat templates would be called %s", own);
        }
        gguf_put_string(keys, key, text);
        gguf_add_string(&names, own, strlen(own));
        count++;
    }
    if (count) {
        gguf_put_array(keys, "tokenizer.chat_templates", GGUF_STRING, count);
        buffer_add(&keys->bytes, names.data, names.size);
    }
    int rc = names.failed ? error_set(err, -ENOMEM, "out of memory") : 0;
    buffer_free(&names);
    if (fallback)
        gguf_put_string(keys, "tokenizer.chat_template", fallback);
    return rc;
}

/* A text file as Python reads it: every line ends in \n. */
static int put_template_text(struct blob file, struct gguf_keys *keys, struct error *err)
{
    if (memchr(file.data, 0, file.size) || !utf8_valid(file.data, file.size))
        return error_set(err, -EINVAL, "chat_template.jinja: not a UTF-8 text");
    struct buffer text = {0};
    const char *s = file.data, *end = s + file.size;
    for (; s < end; s++) {
        if (*s != '\r')
            buffer_add(&text, s, 1);
        else if (s + 1 == end || s[1] != '\n')
            buffer_add(&text, "\n", 1);
    }
    if (!text.failed)
        gguf_put_string_n(keys, "tokenizer.chat_template", (char *)text.data, text.size);
    int rc = text.failed ? error_set(err, -ENOMEM, "out of memory") : 0;
    buffer_free(&text);
    return rc;
}

/* The template of tokenizer_config.json goes before chat_template.jinja, that before
 * chat_template.json. Without a tokenizer_config.json there is none. */
static int put_chat_template(const struct special *s, const struct model_files *files,
                             struct gguf_keys *keys, struct error *err)
{
    struct blob file;
    json_t *parsed = NULL;
    if (!s->config)
        return 0;
    const json_t *own = json_object_get(s->config, "chat_template");
    if (own)
        return json_is_string(own) || json_is_array(own) ? put_templates(own, keys, err) : 0;
    int rc = files->get(files->context, "chat_template.jinja", &file, err);
    if (rc || file.data)
        return rc ? rc : put_template_text(file, keys, err);
    rc = files->get(files->context, "chat_template.json", &file, err);
    if (rc || !file.data)
        return rc;
    rc = json_parse(file, &parsed, err);
    if (rc)
        return error_prefix(err, rc, "chat_template.json");
    own = json_object_get(parsed, "chat_template");
    if (json_is_string(own) || json_is_array(own))
        rc = put_templates(own, keys, err);
    json_decref(parsed);
    return rc;
}

/* ---- normalizer ---- */

static void read_normalizer(const json_t *normalizer, const json_t **lowercase,
                            const json_t **strip_accents)
{
    const char *type = json_string_value(json_object_get(normalizer, "type"));
    if (!type)
        return;
    if (strcmp(type, "Lowercase") == 0) {
        *lowercase = json_true();
    } else if (strcmp(type, "StripAccents") == 0) {
        *strip_accents = json_true();
    } else if (strcmp(type, "BertNormalizer") == 0) {
        const json_t *v = json_object_get(normalizer, "lowercase");
        *lowercase = v ? v : *lowercase;
        v = json_object_get(normalizer, "strip_accents");
        *strip_accents = v ? v : *strip_accents;
    } else if (strcmp(type, "Sequence") == 0) {
        size_t i;
        json_t *member;
        json_array_foreach(json_object_get(normalizer, "normalizers"), i, member)
            read_normalizer(member, lowercase, strip_accents);
    }
}

static void put_normalizer(const json_t *tokenizer, struct gguf_keys *keys)
{
    const json_t *lowercase = NULL, *strip_accents = NULL;
    read_normalizer(json_object_get(tokenizer, "normalizer"), &lowercase, &strip_accents);
    if (json_is_boolean(lowercase))
        gguf_put_bool(keys, "tokenizer.ggml.normalizer.lowercase", json_is_true(lowercase));
    if (json_is_boolean(strip_accents))
        gguf_put_bool(keys, "tokenizer.ggml.normalizer.strip_accents",
                      json_is_true(strip_accents));
}

/* ---- all of it ---- */

static void put_tokens(const struct special *s, const struct special_tokens_options *options,
                       struct gguf_keys *keys)
{
    for (size_t i = 0; i < s->id_count; i++)
        if (kinds[s->ids[i].kind].id_key)
            gguf_put_u32(keys, kinds[s->ids[i].kind].id_key, (uint32_t)s->ids[i].value);
    for (size_t i = 0; i < s->flag_count; i++) {
        enum kind k = s->flags[i].kind;
        bool value = s->flags[i].value && !(k == BOS && options->never_bos);
        if (kinds[k].flag_key)
            gguf_put_bool(keys, kinds[k].flag_key, value);
    }
}

int special_tokens_put_keys(const struct special_tokens_options *options, const json_t *tokenizer,
                            json_t *tokenizer_config, const struct config *config,
                            const struct model_files *files, struct gguf_keys *keys,
                            struct error *err)
{
    struct special s = {.vocab = options->vocab};
    if (json_object_size(tokenizer_config))
        s.config = tokenizer_config;
    int rc = tokenizer ? read_post_processor(&s, tokenizer, err) : 0;
    rc = rc || !s.config ? rc : read_tokenizer_config(&s, tokenizer, err);
    rc = rc ? error_prefix(err, rc, "tokenizer_config.json") : 0;
    if (!rc) {
        rc = read_config(&s, config, err);
        rc = rc ? error_prefix(err, rc, "config.json") : 0;
    }
    if (!rc && options->merges) {
        const json_t *merges = json_object_get(json_object_get(tokenizer, "model"), "merges");
        rc = json_array_size(merges) ? put_merges(merges, keys, err)
                                     : put_merges_txt(files, keys, err);
    }
    if (rc)
        return rc;
    put_tokens(&s, options, keys);
    rc = put_chat_template(&s, files, keys, err);
    if (rc)
        return rc;
    put_normalizer(tokenizer, keys);
    if (options->codellama && !find(s.ids, s.id_count, EOT))
        gguf_put_u32(keys, "tokenizer.ggml.eot_token_id", 32010);
    if (options->never_bos && !find(s.flags, s.flag_count, BOS))
        gguf_put_bool(keys, "tokenizer.ggml.add_bos_token", false);
    return 0;
}

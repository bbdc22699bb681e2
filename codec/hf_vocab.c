/* SPDX-License-Identifier: MIT */
#include "codec/hf_vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The attributes that hold special tokens, in the order in which missing ones are appended. */
static const char *const attributes[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};
enum { ATTRIBUTE_COUNT = sizeof attributes / sizeof *attributes };

/* What a tokenizer class sets where tokenizer_config.json says nothing; chosen by the class's name
 * or, where no class is named, by the model's type. */
static const struct {
    const char *class_name, *model_types[2];
    const char *defaults[ATTRIBUTE_COUNT];
} classes[] = {
    {"LlamaTokenizer", {"llama", "mistral"}, {"<s>", "</s>", "<unk>"}},
    {"Qwen2Tokenizer", {"qwen2", NULL}, {NULL, "<|endoftext|>", "<|endoftext|>", NULL,
                                         "<|endoftext|>"}},
    {"GPT2Tokenizer", {NULL, NULL}, {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>"}},
};

/* index: text -> id. A token that was replaced is not found under its old text. */
static int64_t find_text(const struct hf_vocab *v, const json_t *index, const char *text)
{
    const json_t *id = json_object_get(index, text);
    json_int_t i = json_integer_value(id);
    return id && strcmp(v->tokens[i].text, text) == 0 ? i : -1;
}

static int index_token(const struct hf_vocab *v, json_t *index, size_t id)
{
    return json_object_set_new_nocheck(index, v->tokens[id].text, json_integer((json_int_t)id));
}

/* Adds the texts that are not there yet; of tokens with one text the first counts. */
static int index_tokens(const struct hf_vocab *v, json_t *index)
{
    for (size_t id = 0; id < v->count; id++)
        if (v->tokens[id].text && find_text(v, index, v->tokens[id].text) < 0 &&
            index_token(v, index, id))
            return -ENOMEM;
    return 0;
}

static int get_id(const json_t *id, size_t *out)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= VOCAB_MAX)
        return -EINVAL;
    *out = (size_t)json_integer_value(id);
    return 0;
}

/* The token with this id, which is below VOCAB_MAX; count grows to hold it. */
static struct hf_token *token_at(struct hf_vocab *v, size_t *capacity, size_t id)
{
    if (id >= *capacity) {
        size_t grown = *capacity * 2 > id + 1 ? *capacity * 2 : id + 1;
        struct hf_token *tokens = reallocarray(v->tokens, grown, sizeof *tokens);
        if (!tokens)
            return NULL;
        memset(tokens + *capacity, 0, (grown - *capacity) * sizeof *tokens);
        v->tokens = tokens;
        *capacity = grown;
    }
    if (id >= v->count)
        v->count = id + 1;
    return &v->tokens[id];
}

static int load_base(struct hf_vocab *v, size_t *capacity, const json_t *vocab, struct error *err)
{
    const char *text;
    json_t *value;
    size_t id;
    json_object_foreach((json_t *)vocab, text, value)
    {
        if (get_id(value, &id))
            return error_set(err, -EINVAL, "the id of token \"%.100s\" is invalid", text);
        struct hf_token *t = token_at(v, capacity, id);
        if (!t)
            return error_set(err, -ENOMEM, "out of memory");
        t->text = text;
    }
    v->base = json_object_size(vocab);
    return 0;
}

static int load_added(struct hf_vocab *v, size_t *capacity, const json_t *added, struct error *err)
{
    size_t i, id;
    json_t *token;
    json_array_foreach(added, i, token)
    {
        const char *text = json_string_value(json_object_get(token, "content"));
        if (!text || get_id(json_object_get(token, "id"), &id))
            return error_set(err, -EINVAL, "added token %zu is invalid", i);
        struct hf_token *t = token_at(v, capacity, id);
        if (!t)
            return error_set(err, -ENOMEM, "out of memory");
        *t = (struct hf_token){
            .text = text,
            .added = true,
            .special = json_is_true(json_object_get(token, "special")),
            .normalized = json_is_true(json_object_get(token, "normalized")),
            .single_word = json_is_true(json_object_get(token, "single_word")),
            .lstrip = json_is_true(json_object_get(token, "lstrip")),
            .rstrip = json_is_true(json_object_get(token, "rstrip")),
        };
    }
    return 0;
}

/* A token is given by its text or by an object with its content. */
static const char *token_text(const json_t *token)
{
    return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

/* Adds a token that tokenizer_config.json names: known texts keep their ids, new ones get the
 * next id after all others. */
static int append(struct hf_vocab *v, size_t *capacity, json_t *index, const char *text,
                  bool special, bool normalized, struct error *err)
{
    int64_t id = find_text(v, index, text);
    if (id >= 0 && v->tokens[id].added)
        return 0;
    if (id < 0)
        id = (int64_t)v->count;
    struct hf_token *t = id < VOCAB_MAX ? token_at(v, capacity, (size_t)id) : NULL;
    if (!t)
        return error_set(err, -ENOMEM, "too many tokens");
    *t = (struct hf_token){
        .text = text, .added = true, .special = special, .normalized = normalized};
    return index_token(v, index, (size_t)id) ? error_set(err, -ENOMEM, "out of memory") : 0;
}

static int by_number(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    size_t n = strlen(x), m = strlen(y);
    return n != m ? (n < m ? -1 : 1) : strcmp(x, y);
}

/* added_tokens_decoder: id -> token, in the order of ids. */
static int append_decoder(struct hf_vocab *v, size_t *capacity, json_t *index,
                          const json_t *decoder, struct error *err)
{
    size_t n = json_object_size(decoder), count = 0;
    const char **ids = n ? reallocarray(NULL, n, sizeof *ids) : NULL;
    if (n && !ids)
        return error_set(err, -ENOMEM, "out of memory");
    const char *id;
    json_t *token;
    json_object_foreach((json_t *)decoder, id, token)
        ids[count++] = id;
    if (count)
        qsort(ids, count, sizeof *ids, by_number);
    int rc = 0;
    for (size_t i = 0; !rc && i < count; i++) {
        token = json_object_get(decoder, ids[i]);
        const char *text = token_text(token);
        bool special = json_is_true(json_object_get(token, "special"));
        const json_t *normalized = json_object_get(token, "normalized");
        rc = text ? append(v, capacity, index, text, special,
                           normalized ? json_is_true(normalized) : !special, err)
                  : error_set(err, -EINVAL, "added token %.20s has no content", ids[i]);
    }
    free(ids);
    return rc;
}

static const char *const *class_defaults(const json_t *tokenizer_config, const char *model_type)
{
    const char *name = json_string_value(json_object_get(tokenizer_config, "tokenizer_class"));
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        size_t n = strlen(classes[i].class_name);
        if (name) {
            if (strncmp(name, classes[i].class_name, n) == 0 &&
                (name[n] == '\0' || strcmp(name + n, "Fast") == 0))
                return classes[i].defaults;
            continue;
        }
        for (int k = 0; model_type && k < 2; k++)
            if (classes[i].model_types[k] && strcmp(model_type, classes[i].model_types[k]) == 0)
                return classes[i].defaults;
    }
    static const char *const none[ATTRIBUTE_COUNT];
    return none;
}

static int append_special(struct hf_vocab *v, size_t *capacity, json_t *index, const char *text,
                          struct error *err)
{
    int rc = append(v, capacity, index, text, true, false, err);
    int64_t id = rc ? -1 : find_text(v, index, text);
    if (id >= 0)
        v->tokens[id].attribute = true;
    return rc;
}

static int append_attributes(struct hf_vocab *v, size_t *capacity, json_t *index,
                             const json_t *config, const json_t *map, const char *model_type,
                             struct error *err)
{
    /* special_tokens_map.json counts only beside configs from before added_tokens_decoder. */
    if (json_object_get(config, "added_tokens_decoder"))
        map = NULL;
    const char *const *defaults = class_defaults(config, model_type);
    for (int i = 0; i < ATTRIBUTE_COUNT; i++) {
        const json_t *token = json_object_get(map, attributes[i]);
        if (!token)
            token = json_object_get(config, attributes[i]);
        const char *text = token ? token_text(token) : defaults[i];
        int rc = text && *text ? append_special(v, capacity, index, text, err) : 0;
        if (rc)
            return rc;
    }
    const json_t *const lists[] = {json_object_get(config, "additional_special_tokens"),
                                   json_object_get(map, "additional_special_tokens")};
    for (int l = 0; l < 2; l++) {
        size_t i;
        json_t *token;
        json_array_foreach(lists[l], i, token)
        {
            const char *text = token_text(token);
            int rc = text && *text ? append_special(v, capacity, index, text, err) : 0;
            if (rc)
                return rc;
        }
    }
    return 0;
}

int hf_vocab_load(const json_t *tokenizer, const json_t *tokenizer_config,
                  const json_t *special_tokens_map, const char *model_type, struct hf_vocab *v,
                  struct error *err)
{
    *v = (struct hf_vocab){0};
    size_t capacity = 0;
    const json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab");
    if (!json_object_size(vocab))
        return error_set(err, -EINVAL, "tokenizer.json: model.vocab is missing");
    json_t *index = json_object();
    int rc = index ? load_base(v, &capacity, vocab, err) : error_set(err, -ENOMEM, "out of memory");
    if (!rc && index_tokens(v, index))
        rc = error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : load_added(v, &capacity, json_object_get(tokenizer, "added_tokens"), err);
    if (!rc && index_tokens(v, index))
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc) {
        error_prefix(err, rc, "tokenizer.json");
    } else {
        rc = append_decoder(v, &capacity, index,
                            json_object_get(tokenizer_config, "added_tokens_decoder"), err);
        rc = rc ? rc
                : append_attributes(v, &capacity, index, tokenizer_config, special_tokens_map,
                                    model_type, err);
        if (rc)
            error_prefix(err, rc, "tokenizer_config.json");
    }
    json_decref(index);
    if (rc)
        hf_vocab_free(v);
    return rc;
}

void hf_vocab_free(struct hf_vocab *v)
{
    free(v->tokens);
    *v = (struct hf_vocab){0};
}

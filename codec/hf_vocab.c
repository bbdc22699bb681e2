/* SPDX-License-Identifier: MIT */
#include "codec/hf_vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The attributes that hold special tokens, in the order in which missing ones are appended. */
static const char *const attributes[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};
enum { ATTRIBUTE_COUNT = sizeof attributes / sizeof *attributes };

/* Whether a class puts tokens around a text itself, and which if the config does not say. */
enum wrap { WRAP_NEVER, WRAP_PLAIN, WRAP_BOS };

/* What a tokenizer class sets where tokenizer_config.json says nothing; chosen by the class's name
 * or, where no class is named, by the model's type. */
static const struct class {
    const char *class_name, *model_types[6];
    const char *defaults[ATTRIBUTE_COUNT];
    enum wrap wrap;
} classes[] = {
    {"LlamaTokenizer",
     {"llama", "mistral", "mixtral", "phi3"},
     {"<s>", "</s>", "<unk>"},
     WRAP_BOS},
    {"CodeLlamaTokenizer", {NULL}, {"<s>", "</s>", "<unk>"}, WRAP_BOS},
    {"GemmaTokenizer",
     {"gemma2", "gemma3", "gemma3_text"},
     {"<bos>", "<eos>", "<unk>", NULL, "<pad>"},
     WRAP_BOS},
    {"CohereTokenizer", {NULL}, {"<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<UNK>"}, WRAP_BOS},
    {"GPTNeoXTokenizer",
     {"olmo2"},
     {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>"},
     WRAP_PLAIN},
    {"GPT2Tokenizer",
     {"granite", "olmo3"},
     {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>"},
     WRAP_NEVER},
    {"Qwen2Tokenizer",
     {"qwen2", "qwen3", "qwen3_moe"},
     {NULL, "<|endoftext|>", "<|endoftext|>", NULL, "<|endoftext|>"},
     WRAP_NEVER},
};

/* Finds ids by text: the model's own vocabulary tells those of its tokens, a second object those of
 * the others. A token that was replaced is not found under its old text. */
struct index {
    const json_t *base;
    json_t *others;
};

static int64_t find_text(const struct hf_vocab *v, const struct index *index, const char *text)
{
    const json_t *const maps[] = {index->base, index->others};
    for (int i = 0; i < 2; i++) {
        const json_t *id = json_object_get(maps[i], text);
        if (id && strcmp(v->tokens[json_integer_value(id)].text, text) == 0)
            return json_integer_value(id);
    }
    return -1;
}

/* Of tokens with one text the first counts. */
static int index_token(const struct hf_vocab *v, const struct index *index, size_t id)
{
    const char *text = v->tokens[id].text;
    return find_text(v, index, text) >= 0
               ? 0
               : json_object_set_new_nocheck(index->others, text, json_integer((json_int_t)id));
}

/* The tokens that were added to the model's. */
static int index_added(const struct hf_vocab *v, const struct index *index)
{
    for (size_t id = 0; id < v->count; id++)
        if (v->tokens[id].added && index_token(v, index, id))
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
static int append(struct hf_vocab *v, size_t *capacity, const struct index *index,
                  const char *text, bool special, bool normalized, struct error *err)
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
static int append_decoder(struct hf_vocab *v, size_t *capacity, const struct index *index,
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

static const struct class *find_class(const json_t *tokenizer_config, const char *model_type)
{
    static const struct class none;
    const char *name = json_string_value(json_object_get(tokenizer_config, "tokenizer_class"));
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        size_t n = strlen(classes[i].class_name);
        if (name) {
            if (strncmp(name, classes[i].class_name, n) == 0 &&
                (name[n] == '\0' || strcmp(name + n, "Fast") == 0))
                return &classes[i];
            continue;
        }
        for (const char *const *type = classes[i].model_types; model_type && *type; type++)
            if (strcmp(model_type, *type) == 0)
                return &classes[i];
    }
    return &none;
}

/* The text of a special token: special_tokens_map.json counts only beside configs from before
 * added_tokens_decoder. NULL for none. */
static const char *attribute_text(const json_t *config, const json_t *map, int attribute,
                                  const struct class *c)
{
    const json_t *token = NULL;
    if (!json_object_get(config, "added_tokens_decoder"))
        token = json_object_get(map, attributes[attribute]);
    if (!token)
        token = json_object_get(config, attributes[attribute]);
    const char *text = token ? token_text(token) : c->defaults[attribute];
    return text && *text ? text : NULL;
}

static int append_special(struct hf_vocab *v, size_t *capacity, const struct index *index,
                          const char *text, struct error *err)
{
    int rc = append(v, capacity, index, text, true, false, err);
    int64_t id = rc ? -1 : find_text(v, index, text);
    if (id >= 0)
        v->tokens[id].attribute = true;
    return rc;
}

static int append_attributes(struct hf_vocab *v, size_t *capacity, const struct index *index,
                             const json_t *config, const json_t *map, const struct class *c,
                             struct error *err)
{
    for (int i = 0; i < ATTRIBUTE_COUNT; i++) {
        const char *text = attribute_text(config, map, i, c);
        int rc = text ? append_special(v, capacity, index, text, err) : 0;
        if (rc)
            return rc;
    }
    if (json_object_get(config, "added_tokens_decoder"))
        map = NULL;
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

/* add_bos_token and add_eos_token; a flag that is absent is the class's. */
static void set_wrap(struct hf_vocab *v, const struct index *index, const json_t *config,
                     const json_t *map, const struct class *c)
{
    static const char *const flags[2] = {"add_bos_token", "add_eos_token"};
    v->wraps = c->wrap != WRAP_NEVER;
    for (int i = 0; i < 2; i++) { /* as the first two attributes */
        const json_t *flag = json_object_get(config, flags[i]);
        bool add = flag ? json_is_true(flag) : i == 0 && c->wrap == WRAP_BOS;
        const char *text = add ? attribute_text(config, map, i, c) : NULL;
        v->wrap[i] = text ? find_text(v, index, text) : -1;
    }
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
    struct index index = {vocab, json_object()};
    int rc = index.others ? load_base(v, &capacity, vocab, err)
                          : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : load_added(v, &capacity, json_object_get(tokenizer, "added_tokens"), err);
    if (!rc && index_added(v, &index))
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc) {
        error_prefix(err, rc, "tokenizer.json");
    } else {
        const struct class *c = find_class(tokenizer_config, model_type);
        rc = append_decoder(v, &capacity, &index,
                            json_object_get(tokenizer_config, "added_tokens_decoder"), err);
        rc = rc ? rc
                : append_attributes(v, &capacity, &index, tokenizer_config, special_tokens_map, c,
                                    err);
        if (rc)
            error_prefix(err, rc, "tokenizer_config.json");
        else
            set_wrap(v, &index, tokenizer_config, special_tokens_map, c);
    }
    json_decref(index.others);
    if (rc)
        hf_vocab_free(v);
    return rc;
}

void hf_vocab_free(struct hf_vocab *v)
{
    free(v->tokens);
    *v = (struct hf_vocab){0};
}

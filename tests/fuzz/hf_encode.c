/* SPDX-License-Identifier: MIT
 *
 * A tokenizer.json, and a tokenizer_config.json, each after a line "--- NAME": a text of all kinds
 * is encoded.
 */
#include "codec/hf_encode.h"
#include "codec/pretokenizer_hash.h"
#include "tests/fuzz/fuzz.h"

static const char text[] = "Hello, world's 12345 tests!\r\n\n   we'll <s>see</s> \t<|x|> caf\xc3\xa9 "
                           "e\xcc\x81 \xef\xac\x81 \xe4\xb8\xad\xe6\x96\x87 "
                           "\xd0\x9f\xd1\x80\xd0\xb8 \xf0\x9f\x98\x80\xe2\x80\x8d [1.5] A\xc2\xa0"
                           "B\xe2\x96\x81 \xd9\xa3 aaaaaaaaaaaaaaaaaaaaaaaa";

static void encode(const json_t *tokenizer, const struct hf_vocab *v)
{
    struct error err;
    struct token_ids ids;
    if (hf_encode(tokenizer, v, text, sizeof text - 1, &ids, &err))
        return;
    use_bytes(ids.ids, ids.count * sizeof *ids.ids);
    free(ids.ids);
}

static void use_vocab(const json_t *tokenizer, const struct hf_vocab *v)
{
    struct error err;
    const char *name;
    for (size_t id = 0; id < v->count; id++)
        if (v->tokens[id].text)
            use_text(v->tokens[id].text);
    encode(tokenizer, v);
    struct hf_vocab other = *v; /* with and without a class that wraps texts */
    other.wraps = !v->wraps;
    encode(tokenizer, &other);
    if (pretokenizer_hash_name(tokenizer, v, &name, &err) == 0 && name)
        use_text(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct files files;
    struct hf_vocab v;
    files_split(data, size, &files);
    json_t *tokenizer = files_json(&files, "tokenizer.json");
    json_t *config = files_json(&files, "tokenizer_config.json");
    if (tokenizer && hf_vocab_load(tokenizer, config, NULL, "llama", &v, &err) == 0) {
        use_vocab(tokenizer, &v);
        hf_vocab_free(&v);
    }
    json_decref(tokenizer);
    json_decref(config);
    files_free(&files);
    return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * The last part of the tokenizer keys: merges, ids of special tokens, add_*_token flags, chat
 * template, normalizer flags. They are gathered from tokenizer.json, tokenizer_config.json,
 * config.json and the chat template files; the first source that names a token wins, and the
 * order in which they were found is the order of the keys (gguf-py, vocab.py: SpecialVocab).
 */
#ifndef CODEC_SPECIAL_TOKENS_H
#define CODEC_SPECIAL_TOKENS_H

#include "codec/config.h"
#include "codec/gguf.h"
#include "codec/model.h"

struct special_tokens_options {
    bool merges;     /* write tokenizer.ggml.merges */
    uint64_t vocab;  /* ids from here on are skipped; 0: no limit */
    bool never_bos;  /* add_bos_token is false whatever was found */
    bool codellama;  /* eot_token_id = 32010 */
};

/* tokenizer: the parsed tokenizer.json or NULL. tokenizer_config: the parsed
 * tokenizer_config.json or NULL; it is changed. */
int special_tokens_put_keys(const struct special_tokens_options *options, const json_t *tokenizer,
                            json_t *tokenizer_config, const struct config *config,
                            const struct model_files *files, struct gguf_keys *keys,
                            struct error *err);

#endif

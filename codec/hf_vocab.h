/* SPDX-License-Identifier: MIT
 *
 * The vocabulary that transformers makes of a tokenizer.json: the model's own tokens, the added
 * ones, and those special tokens that only tokenizer_config.json (or the tokenizer's class) names,
 * which get new ids at the end.
 */
#ifndef CODEC_HF_VOCAB_H
#define CODEC_HF_VOCAB_H

#include "codec/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* No real vocabulary comes near; a number above this is a damaged file. */
enum { VOCAB_MAX = 1 << 20 };

struct hf_token {
    const char *text;  /* NULL: no token has this id */
    bool added;        /* by the tokenizer rather than by its model */
    bool special;      /* an added token marked as special */
    bool normalized;   /* an added token that is looked for after normalization */
    bool single_word;  /* an added token that is none within a word */
    bool lstrip, rstrip; /* an added token that takes the white space beside it along */
    bool attribute;    /* bos, eos, ... of the tokenizer, or one of its additional special tokens */
};

struct hf_vocab {
    struct hf_token *tokens; /* by id */
    size_t count;            /* the highest id + 1 */
    size_t base;             /* tokens of the model alone */
    bool wraps;              /* the tokenizer's class puts tokens of its own around a text, in place
                                of what tokenizer.json says: */
    int64_t wrap[2];         /* the ids of a bos and an eos token, -1 for none */
};

/* tokenizer_config and special_tokens_map may be NULL. The texts are borrowed from all three. */
int hf_vocab_load(const json_t *tokenizer, const json_t *tokenizer_config,
                  const json_t *special_tokens_map, const char *model_type, struct hf_vocab *v,
                  struct error *err);
void hf_vocab_free(struct hf_vocab *v);

#endif

/* SPDX-License-Identifier: MIT
 *
 * tokenizer.ggml.pre: the name under which llama.cpp knows how a byte-level tokenizer splits text
 * before merging. It is told from the pre_tokenizer of tokenizer.json: the chain of its steps is
 * looked up in a table. Several names share a chain; vocabulary size, normalizer and the habit of
 * prepending a BOS token decide between them.
 */
#ifndef CODEC_PRETOKENIZER_H
#define CODEC_PRETOKENIZER_H

#include "codec/error.h"

#include <jansson.h>

/* tokenizer: the parsed tokenizer.json; vocab_size: its tokens with the added ones. *name becomes
 * a constant string. -ENOTSUP if no row of the table has the chain, which the sentence shows. */
int pretokenizer_name(const json_t *tokenizer, size_t vocab_size, const char **name,
                      struct error *err);

#endif

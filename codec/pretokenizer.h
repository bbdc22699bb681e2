/* SPDX-License-Identifier: MIT
 *
 * tokenizer.ggml.pre of tokenizers whose hash is not known (pretokenizer_hash.h): the chain of steps
 * of their pre_tokenizer is looked up in a table. Several names share a chain; vocabulary size,
 * normalizer and the habit of prepending a BOS token decide between them. A guess: there may be
 * relatives with the same chain and another name.
 */
#ifndef CODEC_PRETOKENIZER_H
#define CODEC_PRETOKENIZER_H

#include "codec/error.h"

#include <jansson.h>
#include <stdbool.h>

/* tokenizer: the parsed tokenizer.json; vocab_size: its tokens with the added ones. *name becomes
 * a constant string. -ENOTSUP if no row of the table has the chain, which the sentence shows. */
int pretokenizer_name(const json_t *tokenizer, size_t vocab_size, const char **name,
                      struct error *err);

/* The way back, for a tokenizer.ggml.pre of n bytes: *steps becomes a pre_tokenizer, *normalizer its
 * normalizer's type or NULL, *whole whether pieces that are tokens are taken whole (ignore_merges).
 * -ENOTSUP for names that are not known. */
int pretokenizer_steps(const char *pre, size_t n, json_t **steps, const char **normalizer,
                       bool *whole, struct error *err);

#endif

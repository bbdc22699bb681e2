/* SPDX-License-Identifier: MIT
 *
 * The tokenizer of a GGUF file as Hugging Face's files: tokenizer.json and tokenizer_config.json. A
 * GGUF holds tokens, their types, and either merges (byte-level BPE) or scores (SentencePiece), from
 * which the merges follow; what splits text is known by name only.
 */
#ifndef CODEC_HF_TOKENIZER_H
#define CODEC_HF_TOKENIZER_H

#include "codec/gguf.h"

/* Texts to be freed, or an error: -ENOTSUP for models and pre-tokenizers that are not known, -EINVAL
 * where the keys contradict each other. */
int hf_tokenizer_json(const struct gguf_header *h, char **out, struct error *err);
int hf_tokenizer_config(const struct gguf_header *h, char **out, struct error *err);

#endif

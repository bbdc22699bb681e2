/* SPDX-License-Identifier: MIT
 *
 * Encodes text as a tokenizer.json says, the way Hugging Face's tokenizers do: added tokens are
 * cut out of the text, the rest is normalized, split by the pre_tokenizer, mapped to the byte
 * alphabet and joined by BPE; the post_processor puts special tokens around it.
 *
 * What is known: normalizers NFC, NFD, NFKC, NFKD and sequences of them; pre_tokenizers Split,
 * ByteLevel (once), Digits, Punctuation and sequences; BPE models; post_processors
 * TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel and sequences. Everything else
 * is refused by name, and so is what would take long: the work is bounded whatever the file says.
 */
#ifndef CODEC_HF_ENCODE_H
#define CODEC_HF_ENCODE_H

#include "codec/error.h"
#include "codec/hf_vocab.h"
#include "codec/token_ids.h"

#include <jansson.h>

/* Encodes n bytes of valid UTF-8. v: the tokenizer's vocabulary. -ENOTSUP with what is not known.
 * Free out->ids. */
int hf_encode(const json_t *tokenizer, const struct hf_vocab *v, const char *text, size_t n,
              struct token_ids *out, struct error *err);

#endif

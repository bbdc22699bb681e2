/* SPDX-License-Identifier: MIT
 *
 * tokenizer.ggml.pre as upstream finds it: a fixed text is encoded, and the hash of its token ids
 * is looked up. The hash tells vocabularies more than splitting rules apart; what it does not know,
 * upstream refuses.
 */
#ifndef CODEC_PRETOKENIZER_HASH_H
#define CODEC_PRETOKENIZER_HASH_H

#include "codec/hf_vocab.h"

/* *name becomes a constant string, or NULL where the hash is unknown or the tokenizer is of a kind
 * that cannot be run here. Fails only on damaged files and for want of memory. */
int pretokenizer_hash_name(const json_t *tokenizer, const struct hf_vocab *v, const char **name,
                           struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The vocabulary of a checkpoint as tokenizer.* keys. Three paths, of which the architecture says
 * which are tried, in the converter's order: a SentencePiece model (tokenizer.model); a
 * tokenizer.json that is one in disguise (BPE with byte fallback); byte-level BPE (tokenizer.json).
 */
#ifndef CODEC_TOKENIZER_H
#define CODEC_TOKENIZER_H

#include "codec/model.h"

/* Appends all tokenizer keys. -ENOTSUP where the tokenizer is of a kind that is not known, -EINVAL
 * where its files are damaged; the sentence begins with the file's name. */
int tokenizer_put_keys(const struct arch *arch, const struct config *config,
                       const struct model_files *files, struct gguf_keys *keys, struct error *err);

#endif

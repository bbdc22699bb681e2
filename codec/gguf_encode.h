/* SPDX-License-Identifier: MIT
 *
 * Text to token ids by the vocabulary of a GGUF file, as llama.cpp does it.
 */
#ifndef CODEC_GGUF_ENCODE_H
#define CODEC_GGUF_ENCODE_H

#include "codec/gguf_vocab.h"
#include "codec/token_ids.h"

enum encode_flag {
    ENCODE_ADD = 1,   /* BOS and EOS around the text, where the vocabulary wants them */
    ENCODE_PARSE = 2, /* the texts of control tokens become these tokens */
};

enum { ENCODE_TEXT_MAX = 1 << 28 };

/* Encodes n bytes, whatever they are. Free out->ids. -EFBIG above ENCODE_TEXT_MAX, -EINVAL
 * where BOS or EOS is wanted and there is none, -ENOTSUP for words that take too long. */
int gguf_encode(const struct gguf_vocab *v, const char *text, size_t n, unsigned flags,
                struct token_ids *out, struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The vocabulary of a GGUF file, as llama.cpp takes it: which tokens there are, which of them are
 * special, and what bytes they stand for. SentencePiece models ("llama") and byte-pair ones
 * ("gpt2", "gemma4").
 */
#ifndef CODEC_GGUF_VOCAB_H
#define CODEC_GGUF_VOCAB_H

#include "codec/arena.h"
#include "codec/bpe.h"
#include "codec/gguf.h"
#include "codec/gguf_words.h"

enum { VOCAB_NONE = UINT32_MAX }; /* in place of an id */

enum vocab_flag {
    VOCAB_NORMAL = 1,
    VOCAB_UNKNOWN = 2,
    VOCAB_CONTROL = 4, /* beside another, too: a normal token that looks like one */
    VOCAB_USER = 8,    /* found in any text, before all else */
    VOCAB_BYTE = 16,
    VOCAB_STRIP_LEFT = 32, /* takes the white space around it along */
    VOCAB_STRIP_RIGHT = 64,
    VOCAB_SPECIAL = VOCAB_UNKNOWN | VOCAB_CONTROL | VOCAB_USER,
};

struct vocab_token {
    const char *text; /* not terminated */
    uint32_t size;
    uint32_t rank; /* SPM: the lower, the higher the score */
    uint8_t flags;
    bool end; /* nothing is generated after it */
};

struct gguf_vocab {
    struct vocab_token *tokens;
    uint32_t count;
    uint32_t *slots, mask; /* the tokens by their text: open addressing, id + 1 */
    bool spm;              /* scores and a space in front; otherwise merges and words */
    struct words *words;   /* NULL for SPM */
    struct bpe_merges merges;
    uint32_t bos, eos, unknown; /* ids, or VOCAB_NONE */
    bool add_bos, add_eos, space_prefix;
    uint32_t *special;         /* ids, the longest texts first */
    uint32_t *special_by_text; /* their places in `special`, in the order of their bytes */
    uint32_t special_count;
    uint32_t bytes[256]; /* what stands for a byte that no token covers, or VOCAB_NONE */
    struct arena arena;
};

/* Reads the vocabulary out of a header, whose bytes must live as long. -EINVAL and -ENOTSUP with
 * the key in the sentence. */
int gguf_vocab_load(const struct gguf_header *h, struct gguf_vocab *v, struct error *err);
void gguf_vocab_free(struct gguf_vocab *v);

/* The token of a text, or VOCAB_NONE. */
uint32_t gguf_vocab_find(const struct gguf_vocab *v, const char *text, size_t n);

/* Appends the bytes of a token: what a text that was encoded consists of, or will once the next
 * tokens are there, for a character may be cut in two. special: control tokens are written out;
 * otherwise they are nothing. An id that is not in the vocabulary is nothing, too. */
void gguf_vocab_decode(const struct gguf_vocab *v, uint32_t id, bool special, struct buffer *out);

#endif

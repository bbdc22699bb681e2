/* SPDX-License-Identifier: MIT
 *
 * What a text is cut into before BPE, by the name in tokenizer.ggml.pre. The rules are llama.cpp's,
 * which differ from those in the tokenizer.json of the same model: nothing is normalized, letters
 * have no case beyond ASCII, and a step's regular expression sees a character outside of ASCII as
 * its class (char_class.h) only.
 */
#ifndef CODEC_GGUF_WORDS_H
#define CODEC_GGUF_WORDS_H

#include "codec/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What follows from a name beside how text is cut. */
enum words_flag {
    WORDS_WHOLE = 1,    /* a word that is a token is taken whole, whatever the merges say */
    WORDS_BOS = 2,      /* BOS goes in front if the file does not say otherwise */
    WORDS_NO_BOS = 4,   /* there is no BOS if the file does not name one */
    WORDS_RAW = 8,      /* tokens are UTF-8, not the byte alphabet; missing bytes are <0xNN> */
    WORDS_ESCAPED = 16, /* spaces are U+2581 in tokens */
    WORDS_LINES = 32,   /* newlines that are a token are taken whole */
};

/* A rule, ready for use. It is only read by words_cut. */
struct words;

/* pre: n bytes, none for a file without the key. -ENOTSUP with a name that is not known. */
int words_new(const char *pre, size_t n, struct words **out, struct error *err);
void words_free(struct words *w);
unsigned words_flags(const struct words *w);

/* Zero-initialise; free with word_list_free. */
struct word_list {
    char *text;     /* as it was, with U+FFFD in place of bytes that are no UTF-8 */
    uint32_t *ends; /* where each word ends in it */
    size_t count;
};

enum { WORDS_TEXT_MAX = 1 << 30 };

/* Cuts n <= WORDS_TEXT_MAX bytes. */
int words_cut(const struct words *w, const char *text, size_t n, struct word_list *out,
              struct error *err);
void word_list_free(struct word_list *l);

#endif

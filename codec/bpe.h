/* SPDX-License-Identifier: MIT
 *
 * Byte-pair encoding of one piece of text: neighbours are joined in the order of their merges'
 * ranks, the leftmost first, until no merge applies (Sennrich et al., arXiv:1508.07909). Symbols
 * stay spans of the piece, so a pair is a run of bytes and the place where it is split.
 */
#ifndef CODEC_BPE_H
#define CODEC_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The merges by their text. Zero-initialise; free with bpe_merges_free. */
struct bpe_merges {
    struct bpe_merge *slots; /* open addressing; empty where left == NULL */
    size_t count, mask;
};

struct bpe_merge {
    const char *left, *right; /* borrowed */
    uint32_t left_size, right_size, rank;
};

/* Makes room for `count` merges. -ENOMEM. */
int bpe_merges_init(struct bpe_merges *m, size_t count);
void bpe_merges_free(struct bpe_merges *m);

/* Adds a merge; of two with the same parts the first counts. No more than init was told. */
void bpe_merges_add(struct bpe_merges *m, const char *left, uint32_t left_size, const char *right,
                    uint32_t right_size, uint32_t rank);

/* Joins the symbols of a piece of valid UTF-8. ends has room for n offsets: where each symbol of
 * the result ends. Returns their number. Time grows with the square of n. */
size_t bpe_join(const struct bpe_merges *m, const char *piece, size_t n, uint32_t *ends);

/* The alphabet of byte-level vocabularies: every byte as one character. Printable Latin-1 stands
 * for itself, the other 68 bytes follow in order from U+0100. */
uint32_t bpe_byte_char(uint8_t byte);

/* The byte that such a character stands for, or -1. */
int bpe_char_byte(uint32_t code);

#endif

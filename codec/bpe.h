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

/* ---- merges by their text ---- */

/* Zero-initialise; free with bpe_merges_free. */
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

/* As bpe_rank; merges: struct bpe_merges. */
bool bpe_merges_rank(const void *merges, const char *pair, uint32_t left, uint32_t size,
                     uint32_t *rank);

/* ---- joining ---- */

/* Whether the two symbols that a pair of `size` bytes consists of, the first of `left` bytes, may
 * be joined, and when: low ranks go first. */
typedef bool bpe_rank(const void *context, const char *pair, uint32_t left, uint32_t size,
                      uint32_t *rank);

/* The symbols of a piece, and what joining needs; used for one piece after the other.
 * Zero-initialise; free with bpe_symbols_free. */
struct bpe_symbols {
    uint32_t *ends; /* where each symbol of the last piece ends */
    size_t count;
    struct bpe_symbol *all;
    struct bpe_pair *heap;
    size_t heap_count, capacity; /* of all and ends; the heap has room for three times as many */
};

/* Joins the symbols of a piece of n bytes, which are its characters at first: each as long as its
 * first byte says, at most up to the end. In time n log n. -ENOMEM. */
int bpe_join(struct bpe_symbols *s, bpe_rank *rank, const void *context, const char *piece,
             uint32_t n);
void bpe_symbols_free(struct bpe_symbols *s);

/* ---- the byte alphabet ---- */

/* The alphabet of byte-level vocabularies: every byte as one character. Printable Latin-1 stands
 * for itself, the other 68 bytes follow in order from U+0100. */
uint32_t bpe_byte_char(uint8_t byte);

/* The byte that such a character stands for, or -1. */
int bpe_char_byte(uint32_t code);

#endif

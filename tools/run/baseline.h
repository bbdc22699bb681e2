/* SPDX-License-Identifier: MIT
 *
 * A baseline: what one model expected behind each token of a text, so that another can be compared
 * with it. The bytes are those that `llama-perplexity --kl-divergence-base` writes and reads;
 * everything is little-endian:
 *
 *   8 bytes     "_logits_"
 *   u32         context: tokens in a chunk
 *   u32         vocabulary: ids that there are
 *   u32         chunks
 *   u32 each    the ids of the text, chunk after chunk; not the BOS that stands in place of a chunk's
 *               first token when it is run
 *   rows        of each chunk those of its tokens context / 2 to context - 2, counted from 0:
 *     f32         scale
 *     f32         least
 *     u16 each    codes, one for each id: ln p = least + scale * code
 *     u16         nothing, where the vocabulary is odd
 *
 * What is less probable than e^-16 times the most probable is stored as that.
 *
 * A file is a stranger's: nothing in it is used before it was checked, and it must be exactly as
 * long as its head says.
 */
#ifndef TOOLS_RUN_BASELINE_H
#define TOOLS_RUN_BASELINE_H

#include "codec/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BASELINE_HEAD = 20,       /* bytes in front of the ids */
    BASELINE_CONTEXT_MIN = 3, /* a shorter chunk has no row */
    BASELINE_CONTEXT_MAX = 1 << 20,
};

struct baseline {
    uint32_t context, vocab, chunks;
    uint32_t rows;              /* of a chunk */
    size_t row_size;            /* bytes */
    uint64_t rows_offset, size; /* where the first row is, and the end of the file */
};

/* Fills in what follows from the first three. False where that is no file that there can be. */
bool baseline_lay_out(struct baseline *b);

/* The head, which `size` bytes of data begin with, of a file of file_size bytes. -EINVAL. */
int baseline_parse(const void *data, size_t size, uint64_t file_size, struct baseline *b,
                   struct error *err);

/* Writes the BASELINE_HEAD bytes. */
void baseline_put_head(const struct baseline *b, void *out);

/* A row that was found to be one: all ln p are what logarithms of probabilities can be. */
struct baseline_row {
    float scale, least;
    const uint8_t *codes; /* u16 at any address; see baseline_ln */
};

/* -EINVAL */
int baseline_row_parse(const void *data, size_t size, uint32_t vocab, struct baseline_row *row,
                       struct error *err);

/* ln p of an id. */
float baseline_ln(const struct baseline_row *row, uint32_t id);

/* Packs finite logits into row_size bytes. */
void baseline_row_pack(const struct baseline *b, const float *logits, void *out);

#endif

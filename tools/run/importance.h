/* SPDX-License-Identifier: MIT
 *
 * How much each column of a model's matrices matters: the sum of the squares of what it was
 * multiplied with, and of how many tokens. llama-imatrix collects the same, and the file is in its
 * format (codec/imatrix.h). Of experts only the tokens count that chose them.
 */
#ifndef TOOLS_RUN_IMPORTANCE_H
#define TOOLS_RUN_IMPORTANCE_H

#include "codec/bytes.h"
#include "codec/error.h"
#include "tools/run/inputs.h"

struct importance {
    const struct facts *facts; /* not owned */
    struct sums {
        double *squares;  /* [part][cols]; NULL: there is no such input */
        uint64_t *tokens; /* [part] */
    } * sums;             /* [layer][INPUT_COUNT] */
};

/* What it takes in memory. */
uint64_t importance_bytes(const struct facts *f);

/* -ENOMEM */
int importance_new(struct importance *m, const struct facts *f, struct error *err);
void importance_free(struct importance *m);

/* Adds the inputs x [tokens][cols] of a layer, as an observer sees them. */
void importance_add(struct importance *m, uint32_t layer, enum layer_input input, uint32_t part,
                    const float *x, uint32_t tokens);

/* The weights [cols] that encoders get of it, as codec/imatrix.h reads them from the file. */
void importance_weights(const struct importance *m, uint32_t layer, enum layer_input input,
                        uint32_t part, float *out);

/* What it was collected from. */
struct importance_origin {
    const char *dataset;
    uint32_t chunks, chunk_size;
};

/* The bytes of the file, to be freed. -EIO where a sum is not finite, -ENOMEM. */
int importance_encode(const struct importance *m, const struct importance_origin *from,
                      struct buffer *out, struct error *err);

#endif

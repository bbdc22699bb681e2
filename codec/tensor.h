/* SPDX-License-Identifier: MIT
 *
 * A tensor as a container declares it: name, element type, shape, and where its bytes lie.
 */
#ifndef CODEC_TENSOR_H
#define CODEC_TENSOR_H

#include "codec/arena.h"
#include "codec/dtype.h"

struct derived;

struct tensor {
    const char *name;           /* in the arena of its list; UTF-8 without NUL */
    const struct dtype *dtype;
    const uint64_t *shape;      /* ndim extents, slowest first */
    uint32_t ndim;
    uint32_t file;              /* which file of the checkpoint */
    uint64_t elements;          /* product of shape; 1 for a scalar */
    uint64_t offset, size;      /* bytes in that file */
    const struct derived *derived; /* what it follows from, being in no file (derived.h); or NULL */
};

struct tensor_list {
    struct tensor *items;
    size_t count, capacity;
    struct arena arena; /* names and shapes */
};

/* A new zeroed tensor at the end, or NULL. */
struct tensor *tensor_list_add(struct tensor_list *list);

void tensor_list_free(struct tensor_list *list);

#endif

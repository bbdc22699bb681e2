/* SPDX-License-Identifier: MIT
 *
 * Checkpoints that torch.save wrote: a zip archive with `NAME/data.pkl`, a pickle of a dictionary
 * of tensors, and one member `NAME/data/KEY` per storage.
 *
 * A pickle is a program. The machine here knows the few instructions that a dictionary of tensors
 * needs, and of all Python only the names that rebuild a tensor; whatever else a pickle names is
 * refused by name, and nothing is ever called.
 */
#ifndef CODEC_TORCH_H
#define CODEC_TORCH_H

#include "codec/arena.h"
#include "codec/dtype.h"
#include "codec/error.h"

#include <stddef.h>
#include <stdint.h>

enum { TORCH_PICKLE_MAX = 64 << 20 };

/* A tensor as the pickle declares it: a contiguous piece of a storage. */
struct torch_tensor {
    const char *name, *storage; /* storage: the member is NAME/data/<storage> */
    const struct dtype *dtype;
    const uint64_t *shape; /* ndim extents, slowest first */
    uint32_t ndim;
    uint64_t elements;
    uint64_t first; /* its first element in the storage */
};

struct torch_pickle {
    struct torch_tensor *tensors; /* in the dictionary's order */
    size_t count;
    struct arena arena;
};

/* Runs the pickle. -EINVAL where it is no pickle, with the byte; -ENOTSUP where it is none of a
 * dictionary of contiguous tensors, with what it names instead. Free with torch_pickle_free. */
int torch_pickle_parse(const uint8_t *data, size_t size, struct torch_pickle *out,
                       struct error *err);
void torch_pickle_free(struct torch_pickle *p);

#endif

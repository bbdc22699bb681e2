/* SPDX-License-Identifier: MIT
 *
 * A GGUF file that is to be run: its keys, its vocabulary, and its tensors in the backend's memory,
 * packed as they are.
 */
#ifndef TOOLS_RUN_WEIGHTS_H
#define TOOLS_RUN_WEIGHTS_H

#include "codec/gguf_vocab.h"
#include "fs/container.h"
#include "kernels/backend.h"

struct weights {
    struct backend *backend; /* not owned */
    struct source_set *set;
    struct source *file;
    struct stats stats;
    struct container_gguf gguf;
    struct gguf_vocab vocab;
    struct tensor_list tensors;
    void **memory;         /* by tensor */
    struct row_run *runs;  /* likewise: all rows in one piece */
    uint64_t bytes;        /* of all tensors */
    struct arena arena;    /* vectors, as floats */
};

/* Opens a file and loads all of it. -errno with a sentence that begins with the path. */
int weights_open(struct weights *w, const char *path, struct backend *backend, struct error *err);
void weights_close(struct weights *w);

/* A matrix by name; of a tensor of three dimensions, number `part` of its matrices. -ENOENT where
 * there is none, and then *out is zeroed. */
int weights_matrix(struct weights *w, const char *name, uint32_t part, struct matrix *out,
                   struct error *err);

/* A vector of n floats by name, NULL where there is none. -EINVAL where it has another length. */
int weights_vector(struct weights *w, const char *name, uint64_t n, const float **out,
                   struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * A weight file as a list of tensors: opens what the parsers of codec/ need to see, which is the
 * header and never the data.
 */
#ifndef FS_CONTAINER_H
#define FS_CONTAINER_H

#include "codec/gguf.h"
#include "codec/tensor.h"
#include "daemon/source.h"

enum container_kind { CONTAINER_SAFETENSORS, CONTAINER_GGUF, CONTAINER_TORCH, CONTAINER_NONE };

/* By the file's name; CONTAINER_NONE for what holds no weights. */
enum container_kind container_kind(const char *name);

/* Appends the file's tensors to the list, with `file` as their file number. The sentence of an
 * error begins with the path. */
int container_list(struct source *s, enum container_kind kind, uint32_t file,
                   struct tensor_list *list, struct error *err);

/* The header of a GGUF file, and the bytes that it points into. */
struct container_gguf {
    struct gguf_header header;
    uint8_t *bytes;
};

int container_read_gguf(struct source *s, struct container_gguf *out, struct error *err);
void container_free_gguf(struct container_gguf *g);

/* As container_list, for a header that has been read. */
int container_list_gguf(struct source *s, const struct container_gguf *g, uint32_t file,
                        struct tensor_list *list, struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The safetensors container: eight bytes of header length, a JSON header, and the tensors' bytes.
 * The reader is as strict as the format's own library: offsets must lie end to end from 0 to the
 * end of the file, sizes must follow from dtype and shape, names must be unique. Anything else is
 * refused with the tensor's name.
 */
#ifndef CODEC_SAFETENSORS_H
#define CODEC_SAFETENSORS_H

#include "codec/bytes.h"
#include "codec/error.h"
#include "codec/tensor.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum { SAFETENSORS_PREFIX = 8, SAFETENSORS_HEADER_MAX = 100000000 };

/* From the file's first bytes (`available` of them, at most 8 are looked at) and its size: the
 * length of the JSON header that starts at byte 8. -EINVAL if no header can have that length. */
int safetensors_header_size(const uint8_t *start, size_t available, uint64_t file_size,
                            uint64_t *header_size, struct error *err);

/* Parses the JSON header and appends its tensors, in order of their offsets, to the list; each
 * gets `file` as its file number and offsets from the start of the file. file_size is the whole
 * file's. On error (-EINVAL, -ENOMEM) the list may hold some of the file's tensors already. */
int safetensors_parse(const char *json, size_t size, uint64_t file_size, uint32_t file,
                      struct tensor_list *list, struct error *err);

/* ---- writing: the header of a file whose tensors lie end to end in the order they are added ---- */

struct safetensors_writer {
    json_t *header;
    uint64_t end; /* of the data so far */
};

int safetensors_begin(struct safetensors_writer *w, struct error *err);
/* Adds to the metadata. */
int safetensors_note(struct safetensors_writer *w, const char *key, const char *text,
                     struct error *err);
/* dtype: the format's name for it. size: of its bytes. */
int safetensors_add(struct safetensors_writer *w, const char *name, const char *dtype,
                    const uint64_t *shape, uint32_t ndim, uint64_t size, struct error *err);
/* Appends length, header, and spaces to a multiple of 8 bytes, and ends the writer. out == NULL:
 * ends it only. -ENOMEM. */
int safetensors_end(struct safetensors_writer *w, struct buffer *out, struct error *err);

/* ---- the index ---- */

/* model.safetensors.index.json: which shards there are, and which tensors they should hold. */
struct safetensors_index {
    const char **shards; /* sorted, each once; plain relative paths without ".." */
    size_t shard_count;
    const char **tensors; /* sorted */
    size_t tensor_count;
    struct arena arena;
};

/* -EINVAL where the file is no such index, or names a path outside its folder. */
int safetensors_index_parse(const char *json, size_t size, struct safetensors_index *index,
                            struct error *err);
void safetensors_index_free(struct safetensors_index *index);

#endif

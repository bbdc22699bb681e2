/* SPDX-License-Identifier: MIT
 *
 * Whole models as virtual GGUF files. The keys that all recipes share, vocabulary included, are
 * made once per checkpoint and, where they are large, kept in the cache (which may be NULL); what a
 * recipe adds is small.
 */
#ifndef FS_GGUF_FILE_H
#define FS_GGUF_FILE_H

#include "daemon/cache.h"
#include "fs/checkpoint.h"

/* Whether a checkpoint has a file by a recipe. */
bool gguf_file_offered(const struct checkpoint *c, const struct recipe *recipe);

/* The file of a mapped checkpoint by a recipe. One reference is the caller's; the checkpoint keeps
 * another until gguf_file_forget. -errno with a sentence that begins with the model's name. */
int gguf_file_get(struct checkpoint *c, struct cache *cache, const struct recipe *recipe,
                  struct image **out, struct error *err);

/* Its size; makes the image only if the size is not known yet. */
int gguf_file_size(struct checkpoint *c, struct cache *cache, const struct recipe *recipe,
                   uint64_t *size, struct error *err);

/* The bytes of tensor data alone, which need no vocabulary: the size less the header. */
int gguf_file_data_size(struct checkpoint *c, const struct recipe *recipe, uint64_t *size,
                        struct error *err);

/* Drops keys and images; they are made again when somebody asks. */
void gguf_file_forget(struct checkpoint *c);

#endif

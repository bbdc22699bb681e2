/* SPDX-License-Identifier: MIT
 *
 * An adapter as a file of its own beside the merged model's: what llama.cpp takes as --lora
 * (codec/lora_gguf.h).
 */
#ifndef FS_LORA_FILE_H
#define FS_LORA_FILE_H

#include "fs/checkpoint.h"

/* What the file has in the place of a recipe's name. */
extern const char lora_file_kind[];

/* Of a checkpoint that was merged and mapped: what the file has in it, or in c->lora_problem why
 * there is none. Of others there is neither. */
void lora_file_map(struct checkpoint *c);

static inline bool lora_file_offered(const struct checkpoint *c)
{
    return c->lora.count > 0;
}

/* As gguf_file_get, gguf_file_size and gguf_file_forget. */
int lora_file_get(struct checkpoint *c, struct image **out, struct error *err);
int lora_file_size(struct checkpoint *c, uint64_t *size, struct error *err);
void lora_file_forget(struct checkpoint *c);

#endif

/* SPDX-License-Identifier: MIT
 *
 * A checkpoint that is an adapter (codec/lora.h) becomes a model of its own: its base's, with what the
 * adapter adds. Its base is another model of the store, or of the machine. Of its own files those go
 * along that a base has, too, such as a tokenizer; what is missing is the base's.
 */
#ifndef FS_ADAPTER_H
#define FS_ADAPTER_H

#include "fs/checkpoint.h"

/* Whether a folder of the store is an adapter. */
bool adapter_is(const struct beneath *root, const char *path);

/* Of a checkpoint whose own files and tensors were loaded, and that is an adapter: finds the base and
 * merges. Where it cannot, all stays as it is. -ENOENT where there is no base, else as lora_parse and
 * lora_merge, with a sentence. */
int adapter_merge(struct checkpoint *c, const struct checkpoint_options *options,
                  struct error *err);

/* Whether its base, if it is an adapter, is what it was, or as little there as it was. */
bool adapter_is_current(const struct checkpoint *c);

/* Lets go of the base. */
void adapter_forget(struct checkpoint *c);

/* A file that the model is made of, by its name in a model's folder: its own or its base's; *owner has
 * it. NULL if there is none. */
const struct checkpoint_file *adapter_find_file(const struct checkpoint *c, const char *name,
                                                const struct checkpoint **owner);

#endif

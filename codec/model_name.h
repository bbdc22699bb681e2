/* SPDX-License-Identifier: MIT
 *
 * What a model's name tells about it: "Llama-3.1-8B-Instruct" is the finetune "Instruct" of the
 * base "Llama-3.1" in size "8B". The rules are those by which llama.cpp's converter fills the
 * general.* keys of a model without a model card (gguf-py, metadata.py), quirks included.
 */
#ifndef CODEC_MODEL_NAME_H
#define CODEC_MODEL_NAME_H

#include "codec/arena.h"

#include <stdint.h>

/* NULL: not known. Strings live in the arena they were made in. */
struct model_name {
    const char *name, *organization, *basename, *finetune, *version, *size_label;
};

/* Takes an id ("org/name" or "name") apart. parameters: the model's element count, against which
 * size labels are checked; 0: unknown; less: an adapter adds to about so many. Returns 0 or -ENOMEM. */
int model_name_parse(const char *id, int64_t parameters, struct arena *arena,
                     struct model_name *out);

/* Fills the fields of `into` that are still NULL. */
void model_name_merge(struct model_name *into, const struct model_name *from);

/* A count as a label: "2.7M", "15B". */
char *model_name_size_label(uint64_t parameters, struct arena *arena);

#endif

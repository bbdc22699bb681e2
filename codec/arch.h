/* SPDX-License-Identifier: MIT
 *
 * The architectures that can be mapped to GGUF, one table row each: which class of config.json it
 * is, how its tensors are called, what happens to their rows, which vocabulary paths are tried.
 */
#ifndef CODEC_ARCH_H
#define CODEC_ARCH_H

#include <stdbool.h>
#include <stddef.h>

/* "%" stands for the layer number. Suffixes .weight and .bias are carried over. */
struct arch_name {
    const char *hf, *gguf;
};

struct arch {
    const char *gguf;                /* general.architecture */
    const char *const *classes;      /* config.json architectures[0], NULL-terminated */
    const struct arch_name *tensors; /* terminated by hf == NULL */
    bool rope_rows;       /* rows of q and k are interleaved; llama3's factors become a tensor */
    bool llama_vocab;     /* llama-style tokenizer.json is tried before byte-level BPE, and
                             add_space_prefix is written */
    bool vocab_size_key;  /* vocab_size and rope.dimension_count are written */
    bool pooling;         /* sentence-transformers' pooling is looked for */
    bool large_needs_gqa; /* 80 layers make a "70B" only with grouped heads */
};

/* NULL if none has that class. */
const struct arch *arch_by_class(const char *class_name);

/* The GGUF name of a checkpoint's tensor, into out (size bytes). The layer must be below layers.
 * Returns false where the name is not known. */
bool arch_tensor_name(const struct arch *a, const char *hf, unsigned layers, char *out,
                      size_t size);

/* Tensors that no GGUF has: buffers that older checkpoints saved along. */
bool arch_drops_tensor(const char *hf);

#endif

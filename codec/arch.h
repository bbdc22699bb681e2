/* SPDX-License-Identifier: MIT
 *
 * The architectures that can be mapped to GGUF, one table row each: which class of config.json it
 * is, how its tensors are called, what happens to their rows, which keys it has, where its
 * vocabulary comes from.
 */
#ifndef CODEC_ARCH_H
#define CODEC_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "%" stands for the layer's number, "#" for the expert's, in hf only: the experts of a layer
 * become one tensor. Suffixes .weight and .bias are carried over. */
struct arch_name {
    const char *hf, *gguf;
};

/* Which <arch>.* keys there are: the common ones, those and some more, or a sequence of its own. */
enum arch_keys {
    KEYS_COMMON,
    KEYS_GEMMA2,
    KEYS_GEMMA3,
    KEYS_GRANITE,
    KEYS_OLMO2,
    KEYS_PHI3,
    KEYS_QWEN3MOE,
};

/* Where the vocabulary comes from; the first that is there. */
enum arch_vocab {
    VOCAB_ANY,           /* tokenizer.model, byte-level BPE */
    VOCAB_BPE,           /* byte-level BPE */
    VOCAB_LLAMA,         /* tokenizer.model, llama-style tokenizer.json, byte-level BPE */
    VOCAB_SENTENCEPIECE, /* tokenizer.model; texts get no leading space */
    VOCAB_PHI3,          /* tokenizer.model with rules of its own, byte-level BPE if the class of
                            the tokenizer says so */
};

/* When 80 layers make a "70B", whose values get more bits. */
enum arch_large { LARGE_NEVER, LARGE_WITH_GQA, LARGE_ALWAYS };

struct arch {
    const char *gguf;                /* general.architecture */
    const char *const *classes;      /* of config.json, NULL-terminated */
    const struct arch_name *tensors; /* looked up before the common names; NULL: none */
    enum arch_keys keys;
    enum arch_vocab vocab;
    enum arch_large large;
    bool rope_rows;      /* rows of q and k are interleaved; llama3's factors become a tensor */
    bool rope_factors;   /* longrope's factors become tensors */
    bool vocab_size_key; /* vocab_size and rope.dimension_count are written */
    bool pooling;        /* sentence-transformers' pooling is looked for */
    bool no_head_dim;    /* head_dim of the config is passed over */
    bool norm_plus_1;    /* norms are stored as their distance from 1 */
    bool drops_head;     /* lm_head is the embedding again */
    bool cuts_embedding; /* rows beyond the vocabulary are left out */
};

/* NULL if none has that class. */
const struct arch *arch_by_class(const char *class_name);

/* The GGUF name of a checkpoint's tensor, into out (size bytes). The layer must be below layers.
 * *expert becomes the number of the expert that the tensor belongs to, or -1. Returns false where
 * the name is not known. */
bool arch_tensor_name(const struct arch *a, const char *hf, uint32_t layers, char *out,
                      size_t size, int64_t *expert);

/* Tensors that the GGUF does not have: buffers that older checkpoints saved along, whatever sees or
 * hears in a multimodal model. */
bool arch_drops_tensor(const struct arch *a, const char *hf);

/* The way back. By general.architecture; NULL if none has it. */
const struct arch *arch_by_gguf(const char *name, size_t size);

/* The checkpoint's name of a GGUF tensor, into out. Where it holds the matrices of all experts,
 * *experts is true, and the name is that of expert number `expert`. False where the name is not
 * known. */
bool arch_hf_name(const struct arch *a, const char *gguf, uint32_t expert, char *out, size_t size,
                  bool *experts);

#endif

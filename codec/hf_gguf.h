/* SPDX-License-Identifier: MIT
 *
 * A GGUF file as a model of Hugging Face's: the mapping of model.h backwards. Names are mapped back,
 * rows of RoPE un-permuted, norms brought back to their distance from 1, stacks of experts taken
 * apart; config.json follows from the keys.
 */
#ifndef CODEC_HF_GGUF_H
#define CODEC_HF_GGUF_H

#include "codec/gguf.h"
#include "codec/hf_model.h"

/* Reads all elements of a small tensor as floats. 0 or an error. */
struct hf_values {
    int (*read)(void *context, const struct tensor *t, float *out, struct error *err);
    void *context;
};

/* The model refers to the tensors. -ENOTSUP where the architecture or a tensor is not known, or
 * where the keys say something that config.json cannot; -EINVAL where they contradict themselves. */
int hf_model_of_gguf(const struct gguf_header *h, const struct tensor_list *tensors,
                     const struct hf_values *values, struct hf_model *m, struct error *err);

#endif

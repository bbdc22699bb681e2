/* SPDX-License-Identifier: MIT
 *
 * Checkpoints whose linear layers are stored packed by bitsandbytes, GPTQ, AWQ or compressed-tensors.
 * config.json says so in quantization_config, and several tensors stand for a weight then. Here they
 * become one again, which is derived from them (derived.h), and the rest of the program sees floats.
 */
#ifndef CODEC_PACKED_H
#define CODEC_PACKED_H

#include "codec/config.h"
#include "codec/tensor.h"

/* The first n bytes of a tensor, which has so many. */
struct packed_reader {
    int (*read)(void *context, const struct tensor *t, void *out, size_t n, struct error *err);
    void *context;
};

/* Puts derived tensors in the place of what they are packed in. The list is sorted by name, and stays
 * so; the config loses its quantization_config. Another config, or a method that is none of these, is
 * left alone. -ENOTSUP for a variant that is not known, -EINVAL where parts are missing or contradict
 * each other, or an error of the reader: then both are as they were, and the sentence names tensor and
 * cause. */
int packed_find(struct config *config, struct tensor_list *list, const struct packed_reader *r,
                struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * A GGUF file as the source of others: its tensors as a list, the model that recipes see, and its
 * metadata as llama-quantize hands it on.
 */
#ifndef CODEC_GGUF_MODEL_H
#define CODEC_GGUF_MODEL_H

#include "codec/gguf.h"
#include "codec/model.h"

/* Appends the file's tensors to the list, with `file` as their file number. -EINVAL where they do
 * not lie end to end in the file, or names and extents are invalid; -ENOTSUP for types that ggml
 * does not have. */
int gguf_list_tensors(const struct gguf_header *h, uint64_t file_size, uint32_t file,
                      struct tensor_list *list, struct error *err);

/* Maps the tensors of a file, or of all files of a split one; h: the (first) file's header. The
 * model refers to the tensors. -ENOTSUP, with what stands in the way: a tensor whose type cannot be
 * decoded, or, unless requantize, one that is quantized already; an architecture that llama-quantize
 * has mixes of its own for. */
int gguf_model_map(const struct gguf_header *h, const struct tensor_list *tensors, bool requantize,
                   struct model *m, struct error *err);

/* Copies the keys that llama-quantize hands on, in order. imatrix: its own quantize.imatrix.* keys
 * will follow, so that the file's go. -ENOTSUP for strings with a NUL in them, which upstream
 * would cut. */
int gguf_model_put_keys(const struct gguf_header *h, bool imatrix, struct gguf_keys *keys,
                        struct error *err);

#endif

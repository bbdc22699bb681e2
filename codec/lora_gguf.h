/* SPDX-License-Identifier: MIT
 *
 * An adapter as llama.cpp loads it beside a model (--lora), with the tensors that llama.cpp's
 * converter makes, in its order: A and B of each weight, the rows of B where the rows of the weight
 * are. llama.cpp scales by one alpha and the rank of each tensor alone, so what else a scale follows
 * from (alpha_pattern, use_rslora) is in B here; the converter passes it over.
 */
#ifndef CODEC_LORA_GGUF_H
#define CODEC_LORA_GGUF_H

#include "codec/lora.h"
#include "codec/model.h"

struct lora_gguf_tensor {
    char name[GGUF_NAME_MAX + 1];
    uint32_t ndim;
    uint64_t ne[2];
    struct view view;
    const struct format *format;
};

struct lora_gguf {
    struct lora_gguf_tensor *tensors;
    size_t count;
    double alpha;
    int64_t parameters; /* as for model_put_adapter_keys */
    bool folded;        /* B has more in it than in the adapter */
    struct arena arena;
};

/* Of merged tensors (lora_merge), mapped as m, which are to outlive this. alpha: of the adapter's
 * config. -ENOTSUP with what llama.cpp has no place for. Free with lora_gguf_free. */
int lora_gguf_map(double alpha, const struct model *m, const struct tensor_list *merged,
                  uint32_t first_file, struct lora_gguf *out, struct error *err);
void lora_gguf_free(struct lora_gguf *l);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Adapters as PEFT stores them (LoRA, rsLoRA, DoRA; ranks that differ by layer, as PRILoRA's), merged
 * onto a base: for a weight W of out x in, with B of out x r and A of r x in,
 *
 *     W' = W + s * (B A)      s = alpha / r, with rsLoRA alpha / sqrt(r); r and alpha are the layer's
 *
 * rounded once to the base's type, as merge_and_unload does: the same bytes, on a processor, for ranks
 * up to 128. Of an embedding, and where fan_in_fan_out says so, (B A) is transposed; of an embedding
 * s * (B A) is rounded, too. With DoRA each row is W + s * (B A) at the length that the adapter has
 * for it.
 */
#ifndef CODEC_LORA_H
#define CODEC_LORA_H

#include "codec/bytes.h"
#include "codec/derived.h"

#include <jansson.h>

/* adapter_config.json. */
struct lora {
    json_t *raw;
    const char *base; /* base_model_name_or_path, in raw */
    double alpha;
    uint64_t rank;
    bool rslora, dora, fan_in_fan_out;
};

/* -EINVAL, or -ENOTSUP with what it is of this that is not supported. Free with lora_free. */
int lora_parse(struct blob file, struct lora *l, struct error *err);
void lora_free(struct lora *l);

/* The tensors of the merged model, sorted by name; they refer to those of base and adapter, both sorted
 * by name. The file numbers of the adapter's are raised by first_file. onto_nf4: what is added to is
 * the base as NF4 would have it, which the adapter was trained on (QLoRA), but for embedding and
 * output. -ENOTSUP or -EINVAL with the
 * tensor's name: one that is in only one of the two, or whose shapes or ranks contradict each other. */
int lora_merge(const struct lora *l, const struct tensor_list *base,
               const struct tensor_list *adapter, uint32_t first_file, bool onto_nf4,
               struct tensor_list *out, struct error *err);

extern const struct derived_method lora_method;

/* A or B by itself, its one part, times number; LORA_TRANSPOSED: turned. Also of a tensor that nothing
 * is added to. */
extern const struct derived_method lora_factor_method;

/* The parts of a tensor that an adapter adds to. */
static inline const struct tensor *lora_a(const struct derived *d)
{
    return d->parts[d->part_count - 3];
}

static inline const struct tensor *lora_b(const struct derived *d)
{
    return d->parts[d->part_count - 2];
}

enum {
    LORA_TRANSPOSED = 1, /* (B A) is */
    LORA_DORA = 2,
    LORA_ONTO_NF4 = 4,
    LORA_ROUNDED = 8, /* s * (B A) is, by itself, before it is added */
};

#endif

/* SPDX-License-Identifier: MIT
 *
 * A checkpoint's config.json as the converter sees it: through transformers' AutoConfig, which
 * fills what a file leaves out with the defaults of its model type (4.57.6). Special tokens and
 * names are read from the raw file instead.
 */
#ifndef CODEC_CONFIG_H
#define CODEC_CONFIG_H

#include "codec/bytes.h"
#include "codec/error.h"

#include <jansson.h>

struct config {
    json_t *raw;  /* the file */
    json_t *full; /* with the class's defaults, the text_config of a multimodal one laid over the
                     rest; the rope entries stay as the file has them */
};

/* Parses a config.json. -EINVAL with the place, or -ENOMEM. Free with config_free. */
int config_parse(struct blob file, struct config *c, struct error *err);
void config_free(struct config *c);

/* The first of the NULL-terminated names that is present, even as null; NULL if none is. */
const json_t *config_first(const json_t *object, const char *const *names);

/* A required positive integer of the full config that fits 32 bits. */
int config_u32(const struct config *c, const char *name, uint32_t *out, struct error *err);

/* The width of an attention head: head_dim, else hidden_size / num_attention_heads. */
int config_head_dim(const struct config *c, uint32_t *out, struct error *err);

/* hidden_size / num_attention_heads, whatever head_dim says. */
int config_hidden_per_head(const struct config *c, uint32_t *out, struct error *err);

/* The class that the language model is of (architectures[0]); NULL if not said. */
const char *config_architecture(const struct config *c);

/* The rope entries in one object, as the converter gathers them: rope_parameters or rope_scaling,
 * with what is missing taken from the top level. Entries per layer type are objects of their own,
 * full_attention and sliding_attention. A new reference, or NULL when memory is out. */
json_t *config_rope(const struct config *c);

/* Of these the entries that hold for layers with full attention; borrowed. */
const json_t *config_rope_full(const json_t *rope);

/* Parses JSON text of a file, as lenient as the converter about duplicate keys. */
int json_parse(struct blob file, json_t **out, struct error *err);

#endif

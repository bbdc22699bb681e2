/* SPDX-License-Identifier: MIT
 *
 * A model as the folder that transformers loads: the names, shapes and row order of Hugging Face's
 * checkpoints, all floats of one type, and the config.json that says so.
 */
#ifndef CODEC_HF_MODEL_H
#define CODEC_HF_MODEL_H

#include "codec/bytes.h"
#include "codec/config.h"
#include "codec/view.h"

/* The types that folders are offered in. */
struct hf_form {
    const char *name;       /* of the folder: "bf16" */
    enum format_id format;
    const char *torch_type; /* what config.json calls it: "bfloat16" */
};

enum { HF_FORM_COUNT = 3 };
extern const struct hf_form hf_forms[HF_FORM_COUNT];

struct hf_tensor {
    const char *name;
    const uint64_t *shape; /* ndim extents, slowest first */
    uint32_t ndim;
    struct view view;
    bool kept; /* no float: in the type that it is stored in */
};

struct hf_model {
    struct hf_tensor *tensors; /* those of the widest elements first, then by name */
    size_t count;
    json_t *config; /* config.json, but for the type */
    struct arena arena;
};

/* A checkpoint of Hugging Face's as it is, its scales applied. It refers to the tensors. -ENOTSUP
 * for weights that mean nothing without scales which are not found. Free with hf_model_free. */
int hf_model_of_checkpoint(const struct config *config, const struct tensor_list *tensors,
                           struct hf_model *m, struct error *err);
void hf_model_free(struct hf_model *m);

/* Puts the tensors in order, for whoever makes a model. */
void hf_model_sort(struct hf_model *m);

/* config.json for a form, to be freed; NULL when memory is out. */
char *hf_model_config(const struct hf_model *m, const struct hf_form *form);

/* The start of model.safetensors for a form: length, header, padding to 8 bytes. The tensors' bytes
 * follow in order, end to end. */
int hf_model_put_header(const struct hf_model *m, const struct hf_form *form, struct buffer *out,
                        struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * A model as the folder that transformers loads: the names, shapes and row order of Hugging Face's
 * checkpoints, all floats of one type, linear layers quantized or not, and the config.json that says
 * so.
 */
#ifndef CODEC_HF_MODEL_H
#define CODEC_HF_MODEL_H

#include "codec/bytes.h"
#include "codec/config.h"
#include "codec/view.h"

struct hf_method;
struct model_tensor;
struct repack;

/* Which models keep the type that their linear layers have, if that is one for all. */
enum hf_keeps { HF_KEEPS_NONE, HF_KEEPS_HALVES, HF_KEEPS_FLOATS };

/* What folders are offered as. */
struct hf_form {
    const char *name;               /* of the folder: "bf16" */
    enum format_id format;          /* of all floats that are not quantized */
    const struct hf_method *method; /* of quantizing linear layers (hf_quant.h); NULL: none */
    const char *packed;             /* the format that these are repacked from */
    enum hf_keeps keeps;            /* models whose floats are of their own type instead */
    bool scaled;                    /* by AWQ's scales, which a calibration has (awq/scales.h) */
};

enum { HF_FORM_COUNT = 17 };
extern const struct hf_form hf_forms[HF_FORM_COUNT];

struct hf_tensor {
    const char *name;
    const uint64_t *shape; /* ndim extents, slowest first */
    uint32_t ndim;
    struct view view;
    bool kept;   /* no float: in the type that it is stored in */
    bool linear; /* the weight of a linear layer; found by hf_model_mark_linear, as is */
    const struct model_tensor *mapped; /* what it becomes in GGUF; NULL: nothing */
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

/* The form as this model has it, whose linear layers are marked: its format is that of the model's own
 * type where that is kept. */
struct hf_form hf_form_of_model(const struct hf_form *form, const struct hf_model *m);

/* Puts the tensors in order, for whoever makes a model. */
void hf_model_sort(struct hf_model *m);

/* config.json for a form, to be freed; NULL when memory is out. */
char *hf_model_config(const struct hf_model *m, const struct hf_form *form);

/* A tensor of model.safetensors: one of the model's, or one that stands for it in a layout. */
struct hf_part {
    const struct hf_tensor *tensor;
    const struct repack *repack; /* NULL: the tensor itself */
    uint32_t width;              /* of a repacked one, bytes of an element */
    uint64_t size;               /* bytes */
};

/* What model.safetensors of a form holds, end to end: every element at a multiple of its size, and
 * what is repacked from the same bytes side by side, but for narrow elements in such a number that
 * others would be out of line behind them. These are at the end. */
struct hf_layout {
    struct hf_part *parts;
    size_t count;
    uint64_t size; /* bytes of all */
};

/* It refers to the model. -EINVAL where a tensor is too large. Free with hf_layout_free. */
int hf_layout_make(const struct hf_model *m, const struct hf_form *form, struct hf_layout *out,
                   struct error *err);
void hf_layout_free(struct hf_layout *l);

/* The start of model.safetensors: length, header, padding to 8 bytes. The parts follow. */
int hf_layout_put_header(const struct hf_layout *l, const struct hf_form *form, struct buffer *out,
                         struct error *err);

#endif

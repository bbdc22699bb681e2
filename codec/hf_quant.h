/* SPDX-License-Identifier: MIT
 *
 * The methods by which linear layers of a folder for transformers are quantized: of which matrices, in
 * which layout (repack.h), and what config.json says of it. What a loader could not take is refused
 * by name before anything is made.
 */
#ifndef CODEC_HF_QUANT_H
#define CODEC_HF_QUANT_H

#include "codec/hf_model.h"
#include "codec/model.h"
#include "codec/repack.h"

/* A row of a table, one for each method. */
struct hf_method {
    const char *name;         /* "gptq": what its folders are told from others by */
    const char *quant_method; /* in config.json */
    bool one;                 /* there is one folder, called so; else they are called NAME-...,
                                 those that are only rounded also rtn-NAME-... */
    const struct repack *repacks; /* that stand for a weight, the widest elements first and the last
                                     of an odd size where any is */
    uint32_t count;
    bool bias;  /* a layer may have one */
    bool whole; /* every linear layer must be quantized, or none is */
    /* NULL where matrices of that shape can be quantized, else why not. */
    const char *(*refuses)(uint64_t rows, uint64_t cols);
    /* Adds what config.json's quantization_config has beside the method's name. -ENOMEM. */
    int (*describe)(const struct hf_model *m, const struct hf_form *form, json_t *out);
};

enum { HF_SPQR, HF_GPTQ, HF_NF4, HF_NF4_DQ, HF_INT8, HF_W4, HF_W8, HF_AWQ, HF_METHOD_COUNT };
extern const struct hf_method hf_methods[HF_METHOD_COUNT];

/* The format that a form's layouts are repacked from, which may depend on the type of its floats. NULL
 * for a form without a method. */
const struct format *hf_form_packed(const struct hf_form *form);

/* 0 where the form can be made of a model; -ENOTSUP with the tensor's name and the cause. A form
 * without a method can be made of any. */
int hf_form_check(const struct hf_form *form, const struct model *m, struct error *err);

/* Finds what the model is mapped to, which must outlive hf, and marks what is a linear layer by it. */
void hf_model_mark_linear(struct hf_model *hf, const struct model *m);

/* Whether a tensor is quantized in a form; and of one that is, what is repacked, columns in their
 * order, and how many bytes of its name are the layer's, with the dot at their end. */
bool hf_form_quantizes(const struct hf_form *form, const struct hf_tensor *t);
struct repack_matrix hf_form_matrix(const struct hf_form *form, const struct hf_tensor *t);
int hf_layer_name(const struct hf_tensor *t);

/* Adds quantization_config for a form with a method. -ENOMEM. */
int hf_quant_put_config(const struct hf_model *m, const struct hf_form *form, json_t *config);

#endif

/* SPDX-License-Identifier: MIT
 *
 * hf/<form>/: a model as the folder that transformers loads. config.json and model.safetensors are
 * made; the tokenizer's and other small files are a checkpoint's own, and made, too, for a GGUF file.
 * Quantized layers are repacked from the tiles that tensors/ has, too.
 */
#ifndef FS_HF_FILE_H
#define FS_HF_FILE_H

#include "codec/hf_model.h"
#include "fs/checkpoint.h"

/* Whether the model has such folders at all. */
bool hf_offered(const struct checkpoint *c);

/* 0 where a model that has folders has that one; else -ENOTSUP with the reason. */
int hf_form_offered(const struct checkpoint *c, const struct hf_form *form, struct error *err);

/* The form of tensors/ that it is shown with: what layers are repacked from, else its floats. */
unsigned hf_form_shown_as(const struct hf_form *form);

/* What the quantized layers were calibrated with: "none", the digest of AWQ's scales, or NULL where there are none or each has a
 * digest of its own. */
const char *hf_form_calibration(const struct checkpoint *c, const struct hf_form *form);

/* The name of file `item` (from 0 on) of such a folder; NULL behind the last, "" for an item that
 * stands for none. */
const char *hf_file_name(const struct checkpoint *c, uint32_t item);

/* Its size, and what is in it. -errno with a sentence. */
int hf_file_size(struct checkpoint *c, const struct hf_form *form, uint32_t item, uint64_t *size,
                 struct error *err);
int hf_file_get(struct checkpoint *c, const struct hf_form *form, uint32_t item, struct image **out,
                struct error *err);

/* Drops what was made for these files and is kept. */
void hf_file_forget(struct checkpoint *c);

#endif

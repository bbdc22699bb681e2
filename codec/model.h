/* SPDX-License-Identifier: MIT
 *
 * A checkpoint mapped to GGUF: which tensors the file has, in which order, where their rows come
 * from; and its metadata, key by key as converter and llama-quantize write it.
 *
 * The mapping needs config.json and the tensors' names and shapes only, so it is cheap; the
 * metadata reads the tokenizer and is made when somebody opens a file.
 */
#ifndef CODEC_MODEL_H
#define CODEC_MODEL_H

#include "codec/arch.h"
#include "codec/config.h"
#include "codec/gguf.h"
#include "codec/recipe.h"
#include "codec/view.h"

struct model_tensor {
    char name[GGUF_NAME_MAX + 1];
    uint32_t ndim; /* without trailing extents of 1 */
    uint64_t ne[GGUF_DIMS_MAX];
    struct view view;            /* view.tensor == NULL: the values are `generated` */
    const float *generated;      /* ne[0] values, in the model's arena */
    const struct format *stored; /* its type in the converter's output, which it keeps where the
                                    recipe does not touch it */
};

struct model {
    const struct arch *arch;
    struct recipe_facts facts;
    struct model_tensor *tensors; /* in the order of llama-quantize: layer, then name */
    size_t count;
    uint64_t parameters; /* elements of all tensors */
    struct arena arena;
};

/* The files of a checkpoint that metadata is made from, by name relative to its folder. */
struct model_files {
    /* *out: the file's bytes, valid as long as the keys are being made; data NULL if there is no
     * such file. Returns 0 or an error. */
    int (*get)(void *context, const char *name, struct blob *out, struct error *err);
    /* Takes a sentence about something that had to be guessed; NULL: nobody listens. */
    void (*warn)(void *context, const char *sentence);
    void *context;
};

/* Maps a checkpoint. The model refers to the config and to the tensors, which must outlive it.
 * -ENOTSUP where the architecture, a tensor's name or its type is not known, -EINVAL where the
 * checkpoint contradicts itself; the sentence says which. Free with model_free. */
int model_map(const struct config *config, const struct tensor_list *tensors, struct model *m,
              struct error *err);
void model_free(struct model *m);

/* What recipes need to know of a model, from its config. */
int model_read_facts(const struct arch *arch, const struct config *c, struct recipe_facts *f,
                     struct error *err);

/* Puts the tensors into the order of llama-quantize, and counts the parameters. -EINVAL where two
 * have one name, or where there are none. */
int model_sort(struct model *m, struct error *err);

/* Appends the keys general.*, <arch>.* and tokenizer.* up to where llama-quantize's own begin.
 * folder: the name of the checkpoint's folder. Errors name the file that they come from. */
int model_put_keys(const struct model *m, const struct config *config, const char *folder,
                   const struct model_files *files, struct gguf_keys *keys, struct error *err);

/* Those of an adapter of a model, as a file of its own; folder and files are the adapter's.
 * parameters: less than 0, as for model_name_parse. */
int model_put_adapter_keys(const struct model *m, int64_t parameters, float alpha,
                           const char *folder, const struct model_files *files,
                           struct gguf_keys *keys, struct error *err);

#endif

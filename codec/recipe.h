/* SPDX-License-Identifier: MIT
 *
 * A recipe says which format each tensor of a model gets: llama-quantize's file types with their
 * mixes. The choice is a pure function of tensor names, their order and shapes, and a few facts
 * about the model (llama.cpp 0c1e5709, llama-quant.cpp).
 */
#ifndef CODEC_RECIPE_H
#define CODEC_RECIPE_H

#include "codec/format.h"

/* When a tensor deviates from its recipe's default format. i counts the tensors of its kind in
 * file order, n the layers. */
enum recipe_when {
    WHEN_NEVER,
    WHEN_ALWAYS,
    WHEN_GQA_4,          /* at least 4 query heads share a key head */
    WHEN_FIRST_2,        /* i < 2 */
    WHEN_FIRST_4,        /* i < 4 */
    WHEN_FIRST_8TH,      /* i < n / 8 */
    WHEN_FIRST_16TH,     /* i < n / 16 */
    WHEN_MORE_BITS,      /* the first and last eighth and every third layer between */
    WHEN_IMATRIX_8TH,    /* an importance matrix is given, i < n / 8 */
    WHEN_NO_IMATRIX_8TH, /* none is given, i < n / 8 */
};

struct recipe_rule {
    enum recipe_when when;
    enum format_id then, otherwise;
};

struct recipe {
    const char *name;          /* "Q4_K_M" */
    uint32_t ftype;            /* general.file_type */
    enum format_id base;       /* the default format */
    enum format_id output;     /* of output.weight, or of the embedding that stands in for it */
    struct recipe_rule attn_v, ffn_down, attn_output; /* WHEN_NEVER: the default format */
    enum format_id attn_output_8; /* attn_output of models with 8 experts, in place of the rule */
    const struct format *matrices; /* of all that is quantized but embedding and output; NULL: as
                                      above */
    bool guided; /* K-quants are guided ones (guided.h): needs a calibration, which has an importance
                    matrix, too */
};

enum {
    RECIPE_LLAMA_COUNT = 18, /* those of llama-quantize, which are the first */
    RECIPE_COUNT = 28
};
extern const struct recipe recipes[RECIPE_COUNT];

/* By name, any case; NULL if there is none. */
const struct recipe *recipe_by_name(const char *name);

/* What the choice needs to know of a tensor and of the model. */
struct recipe_tensor {
    const char *name;
    uint32_t ndim; /* without trailing extents of 1 */
    uint64_t cols; /* the fastest extent */
};

struct recipe_facts {
    uint32_t layers, heads, kv_heads;
    uint32_t experts; /* 0: dense */
    bool large; /* llama.cpp calls it a 70B: values get more bits */
    bool imatrix;
};

/* out[i] becomes tensor i's format, or NULL where it keeps the type it has. Tensors must stand in
 * file order. */
void recipe_assign(const struct recipe *r, const struct recipe_facts *facts,
                   const struct recipe_tensor *tensors, size_t count, const struct format **out);

#endif

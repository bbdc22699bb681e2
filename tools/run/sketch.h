/* SPDX-License-Identifier: MIT
 *
 * A model that is not here, told from its config.json alone: its sizes, and the matrices that its
 * GGUF file would have, in the file's order.
 */
#ifndef TOOLS_RUN_SKETCH_H
#define TOOLS_RUN_SKETCH_H

#include "codec/arch.h"
#include "codec/bytes.h"
#include "codec/recipe.h"
#include "tools/run/model.h"

struct sketch_tensor {
    char name[40];
    uint32_t layer; /* the output's is the one behind the last */
    uint64_t rows, cols;
    uint32_t experts; /* so many matrices behind each other; 0: it is none of experts' */
};

struct sketch {
    const struct arch *arch;
    struct facts facts; /* the sizes alone */
    struct recipe_facts recipe_facts;
    struct sketch_tensor *tensors;
    size_t count;
    bool tied; /* the output is the embedding again */
};

/* From a config.json of an architecture that run/model.h knows, which is for the caller to check.
 * -ENOTSUP where no class is named that the mapping knows, -EINVAL with the key and the cause. Free
 * with sketch_free. */
int sketch_parse(struct blob file, struct sketch *s, struct error *err);
void sketch_free(struct sketch *s);

/* How the matrices are packed: all by a recipe; or, with bits above 0, those of layers in rows of
 * so many bits a weight, whatever format that is. */
struct packing {
    const struct recipe *recipe;
    double bits;
};

/* Fills `packed`, which has room for all tensors: those of a pass, in its order; behind them the
 * embedding, of which a pass reads single rows, where it is not the output too. Matrices of experts
 * stand for all of them. -ENOMEM. */
int sketch_pack(const struct sketch *s, struct packing p, struct weight *packed, struct error *err);

#endif

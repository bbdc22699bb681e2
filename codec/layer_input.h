/* SPDX-License-Identifier: MIT
 *
 * What the matrices of a layer are multiplied with. Some share an input, and so all that is learnt
 * of it.
 */
#ifndef CODEC_LAYER_INPUT_H
#define CODEC_LAYER_INPUT_H

#include <stdbool.h>
#include <stdint.h>

enum layer_input { INPUT_QKV, INPUT_O, INPUT_ROUTER, INPUT_GATE_UP, INPUT_DOWN, INPUT_COUNT };

enum { INPUT_MATRICES_MAX = 3 };

/* Names of an input and of the matrices that it goes into, as they stand in "blk.0.NAME.weight". */
struct input_names {
    const char *input, *matrices[INPUT_MATRICES_MAX]; /* NULL behind the last */
    bool experts; /* each expert has an input of its own, and matrices are called NAME_exps */
};

extern const struct input_names input_names[INPUT_COUNT];

/* An input of a layer: that of an expert, or of all. */
struct layer_input_id {
    uint32_t layer;
    enum layer_input input;
    bool experts;
};

/* The input of a matrix, or of those of a stack of experts, by its name in GGUF. False for what is
 * none of those above. */
bool layer_input_of(const char *tensor, struct layer_input_id *out);

#endif

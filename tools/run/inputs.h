/* SPDX-License-Identifier: MIT
 *
 * What the matrices of a layer are multiplied with. Some share an input, and so all that is learnt
 * of it.
 */
#ifndef TOOLS_RUN_INPUTS_H
#define TOOLS_RUN_INPUTS_H

#include "tools/run/facts.h"

enum layer_input { INPUT_QKV, INPUT_O, INPUT_ROUTER, INPUT_GATE_UP, INPUT_DOWN, INPUT_COUNT };

enum { INPUT_MATRICES_MAX = 3 };

/* Names of an input and of the matrices that it goes into, as they stand in "blk.0.NAME.weight". */
struct input_names {
    const char *input, *matrices[INPUT_MATRICES_MAX]; /* NULL behind the last */
    bool experts; /* each expert has an input of its own, and matrices are called NAME_exps */
};

extern const struct input_names input_names[INPUT_COUNT];

/* Columns of an input. */
uint64_t input_cols(const struct facts *f, enum layer_input input);

/* How many inputs of the kind a layer has: one for each expert, 1, or 0 for a router that is not
 * there. */
uint32_t input_parts(const struct facts *f, enum layer_input input);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The inputs of a layer's matrices, in a model of some sizes.
 */
#ifndef TOOLS_RUN_INPUTS_H
#define TOOLS_RUN_INPUTS_H

#include "codec/layer_input.h"
#include "tools/run/facts.h"

/* Columns of an input. */
uint64_t input_cols(const struct facts *f, enum layer_input input);

/* How many inputs of the kind a layer has: one for each expert, 1, or 0 for a router that is not
 * there. */
uint32_t input_parts(const struct facts *f, enum layer_input input);

#endif

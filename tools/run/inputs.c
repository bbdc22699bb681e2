/* SPDX-License-Identifier: MIT */
#include "tools/run/inputs.h"

uint64_t input_cols(const struct facts *f, enum layer_input input)
{
    if (input == INPUT_O)
        return (uint64_t)f->heads * f->head_dim;
    return input == INPUT_DOWN ? f->ffn : f->width;
}

uint32_t input_parts(const struct facts *f, enum layer_input input)
{
    if (input == INPUT_ROUTER)
        return f->experts > 0;
    return input_names[input].experts && f->experts ? f->experts : 1;
}

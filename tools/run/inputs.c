/* SPDX-License-Identifier: MIT */
#include "tools/run/inputs.h"

const struct input_names input_names[INPUT_COUNT] = {
    [INPUT_QKV] = {"attn_qkv",     {"attn_q", "attn_k", "attn_v"}, false},
    [INPUT_O] = {"attn_output",  {"attn_output"},                false},
    [INPUT_ROUTER] = {"ffn_gate_inp", {"ffn_gate_inp"},               false},
    [INPUT_GATE_UP] = {"ffn_gate_up",  {"ffn_gate", "ffn_up"},         true },
    [INPUT_DOWN] = {"ffn_down",     {"ffn_down"},                   true },
};

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

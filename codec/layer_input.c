/* SPDX-License-Identifier: MIT */
#include "codec/layer_input.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const struct input_names input_names[INPUT_COUNT] = {
    [INPUT_QKV] = {"attn_qkv",     {"attn_q", "attn_k", "attn_v"}, false},
    [INPUT_O] = {"attn_output",  {"attn_output"},                false},
    [INPUT_ROUTER] = {"ffn_gate_inp", {"ffn_gate_inp"},               false},
    [INPUT_GATE_UP] = {"ffn_gate_up",  {"ffn_gate", "ffn_up"},         true },
    [INPUT_DOWN] = {"ffn_down",     {"ffn_down"},                   true },
};

static bool goes_into(const struct input_names *names, const char *matrix)
{
    for (int i = 0; i < INPUT_MATRICES_MAX && names->matrices[i]; i++)
        if (strcmp(names->matrices[i], matrix) == 0)
            return true;
    return false;
}

bool layer_input_of(const char *tensor, uint32_t *layer, enum layer_input *input)
{
    char matrix[32];
    int end = 0;
    if (sscanf(tensor, "blk.%" SCNu32 ".%31[a-z_].weight%n", layer, matrix, &end) != 2 ||
        end == 0 || tensor[end])
        return false;
    for (int i = 0; i < INPUT_COUNT; i++)
        if (goes_into(&input_names[i], matrix)) {
            *input = (enum layer_input)i;
            return true;
        }
    return false;
}

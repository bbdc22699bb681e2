/* SPDX-License-Identifier: MIT */
#include "codec/layer_input.h"

#include "codec/affix.h"

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

static bool goes_into(const struct input_names *names, const char *matrix, size_t size)
{
    for (int i = 0; i < INPUT_MATRICES_MAX && names->matrices[i]; i++)
        if (strlen(names->matrices[i]) == size && memcmp(names->matrices[i], matrix, size) == 0)
            return true;
    return false;
}

bool layer_input_of(const char *tensor, struct layer_input_id *out)
{
    static const char stacked[] = "_exps";
    char matrix[32];
    int end = 0;
    if (sscanf(tensor, "blk.%" SCNu32 ".%31[a-z_].weight%n", &out->layer, matrix, &end) != 2 ||
        end == 0 || tensor[end])
        return false;
    out->experts = ends_with(matrix, stacked);
    size_t size = strlen(matrix) - (out->experts ? strlen(stacked) : 0);
    for (int i = 0; i < INPUT_COUNT; i++)
        if (goes_into(&input_names[i], matrix, size) && (input_names[i].experts || !out->experts)) {
            out->input = (enum layer_input)i;
            return true;
        }
    return false;
}

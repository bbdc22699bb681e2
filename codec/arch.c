/* SPDX-License-Identifier: MIT */
#include "codec/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct arch_name llama_names[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"model.layers.%.input_layernorm", "blk.%.attn_norm"},
    {"model.layers.%.self_attn.q_proj", "blk.%.attn_q"},
    {"model.layers.%.self_attn.k_proj", "blk.%.attn_k"},
    {"model.layers.%.self_attn.v_proj", "blk.%.attn_v"},
    {"model.layers.%.self_attn.o_proj", "blk.%.attn_output"},
    {"model.layers.%.post_attention_layernorm", "blk.%.ffn_norm"},
    {"model.layers.%.mlp.gate_proj", "blk.%.ffn_gate"},
    {"model.layers.%.mlp.up_proj", "blk.%.ffn_up"},
    {"model.layers.%.mlp.down_proj", "blk.%.ffn_down"},
    {NULL, NULL},
};

static const char *const llama_classes[] = {"LlamaForCausalLM", "LLaMAForCausalLM",
                                            "MistralForCausalLM", NULL};
static const char *const qwen2_classes[] = {"Qwen2ForCausalLM", NULL};

static const struct arch archs[] = {
    {.gguf = "llama",
     .classes = llama_classes,
     .tensors = llama_names,
     .rope_rows = true,
     .llama_vocab = true,
     .vocab_size_key = true,
     .large_needs_gqa = true},
    {.gguf = "qwen2", .classes = qwen2_classes, .tensors = llama_names, .pooling = true},
};

const struct arch *arch_by_class(const char *class_name)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        for (const char *const *c = archs[i].classes; *c; c++)
            if (strcmp(*c, class_name) == 0)
                return &archs[i];
    return NULL;
}

/* Matches s against a pattern with at most one "%"; the number ends up in *layer, digits and all
 * that it was written with must be those of a plain decimal. */
static bool match(const char *pattern, const char *s, size_t n, unsigned long *layer)
{
    const char *percent = strchr(pattern, '%');
    if (!percent)
        return strlen(pattern) == n && memcmp(pattern, s, n) == 0;
    size_t before = (size_t)(percent - pattern), after = strlen(percent + 1);
    if (n <= before + after || memcmp(pattern, s, before) != 0 ||
        memcmp(percent + 1, s + n - after, after) != 0)
        return false;
    const char *digits = s + before;
    size_t count = n - before - after;
    if (strspn(digits, "0123456789") != count || count > 9 || (count > 1 && *digits == '0'))
        return false;
    *layer = strtoul(digits, NULL, 10);
    return true;
}

bool arch_tensor_name(const struct arch *a, const char *hf, unsigned layers, char *out, size_t size)
{
    static const char *const suffixes[] = {".weight", ".bias"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t n = strlen(hf), tail = strlen(suffixes[i]);
        if (n < tail || strcmp(hf + n - tail, suffixes[i]) != 0)
            continue;
        for (const struct arch_name *name = a->tensors; name->hf; name++) {
            unsigned long layer = 0;
            if (!match(name->hf, hf, n - tail, &layer))
                continue;
            const char *percent = strchr(name->gguf, '%');
            if (!percent)
                return snprintf(out, size, "%s%s", name->gguf, suffixes[i]) < (int)size;
            return layer < layers &&
                   snprintf(out, size, "%.*s%lu%s%s", (int)(percent - name->gguf), name->gguf,
                            layer, percent + 1, suffixes[i]) < (int)size;
        }
    }
    return false;
}

bool arch_drops_tensor(const char *hf)
{
    static const char *const endings[] = {".attention.masked_bias", ".attention.bias",
                                          ".rotary_emb.inv_freq"};
    size_t n = strlen(hf);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t tail = strlen(endings[i]);
        if (n >= tail && strcmp(hf + n - tail, endings[i]) == 0)
            return true;
    }
    return false;
}

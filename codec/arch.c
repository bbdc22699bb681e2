/* SPDX-License-Identifier: MIT */
#include "codec/arch.h"

#include "codec/affix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER "model.layers.%."

static const struct arch_name common_names[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {LAYER "input_layernorm", "blk.%.attn_norm"},
    {LAYER "self_attn.q_proj", "blk.%.attn_q"},
    {LAYER "self_attn.k_proj", "blk.%.attn_k"},
    {LAYER "self_attn.v_proj", "blk.%.attn_v"},
    {LAYER "self_attn.o_proj", "blk.%.attn_output"},
    {LAYER "post_attention_layernorm", "blk.%.ffn_norm"},
    {LAYER "mlp.gate_proj", "blk.%.ffn_gate"},
    {LAYER "mlp.up_proj", "blk.%.ffn_up"},
    {LAYER "mlp.down_proj", "blk.%.ffn_down"},
    {NULL, NULL},
};

static const struct arch_name mixtral_names[] = {
    {LAYER "block_sparse_moe.gate", "blk.%.ffn_gate_inp"},
    {LAYER "block_sparse_moe.experts.#.w1", "blk.%.ffn_gate_exps"},
    {LAYER "block_sparse_moe.experts.#.w2", "blk.%.ffn_down_exps"},
    {LAYER "block_sparse_moe.experts.#.w3", "blk.%.ffn_up_exps"},
    {NULL, NULL},
};

static const struct arch_name qwen3_names[] = {
    {LAYER "self_attn.q_norm", "blk.%.attn_q_norm"},
    {LAYER "self_attn.k_norm", "blk.%.attn_k_norm"},
    {NULL, NULL},
};

static const struct arch_name qwen3moe_names[] = {
    {LAYER "self_attn.q_norm", "blk.%.attn_q_norm"},
    {LAYER "self_attn.k_norm", "blk.%.attn_k_norm"},
    {LAYER "mlp.gate", "blk.%.ffn_gate_inp"},
    {LAYER "mlp.experts.#.gate_proj", "blk.%.ffn_gate_exps"},
    {LAYER "mlp.experts.#.up_proj", "blk.%.ffn_up_exps"},
    {LAYER "mlp.experts.#.down_proj", "blk.%.ffn_down_exps"},
    {NULL, NULL},
};

/* A norm before and one behind each half of a layer. */
static const struct arch_name gemma_names[] = {
    {LAYER "self_attn.q_norm", "blk.%.attn_q_norm"},
    {LAYER "self_attn.k_norm", "blk.%.attn_k_norm"},
    {LAYER "post_attention_layernorm", "blk.%.post_attention_norm"},
    {LAYER "pre_feedforward_layernorm", "blk.%.ffn_norm"},
    {LAYER "post_feedforward_layernorm", "blk.%.post_ffw_norm"},
    {NULL, NULL},
};

static const struct arch_name olmo2_names[] = {
    {LAYER "self_attn.q_norm", "blk.%.attn_q_norm"},
    {LAYER "self_attn.k_norm", "blk.%.attn_k_norm"},
    {LAYER "post_attention_layernorm", "blk.%.post_attention_norm"},
    {LAYER "post_feedforward_layernorm", "blk.%.post_ffw_norm"},
    {NULL, NULL},
};

/* What other architectures have apart stays in one piece. */
static const struct arch_name phi3_names[] = {
    {LAYER "self_attn.qkv_proj", "blk.%.attn_qkv"},
    {LAYER "mlp.gate_up_proj", "blk.%.ffn_up"},
    {NULL, NULL},
};

static const char *const llama_classes[] = {"LlamaForCausalLM", "LLaMAForCausalLM",
                                            "MistralForCausalLM", "MixtralForCausalLM", NULL};
static const char *const qwen2_classes[] = {"Qwen2ForCausalLM", NULL};
static const char *const qwen3_classes[] = {"Qwen3ForCausalLM", NULL};
static const char *const qwen3moe_classes[] = {"Qwen3MoeForCausalLM", NULL};
static const char *const gemma2_classes[] = {"Gemma2ForCausalLM", NULL};
static const char *const gemma3_classes[] = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration",
                                             NULL};
static const char *const phi3_classes[] = {"Phi3ForCausalLM", NULL};
static const char *const smollm3_classes[] = {"SmolLM3ForCausalLM", NULL};
static const char *const olmo2_classes[] = {"Olmo2ForCausalLM", "Olmo3ForCausalLM", NULL};
static const char *const granite_classes[] = {"GraniteForCausalLM", NULL};

static const struct arch archs[] = {
    {.gguf = "llama",
     .classes = llama_classes,
     .tensors = mixtral_names,
     .vocab = VOCAB_LLAMA,
     .large = LARGE_WITH_GQA,
     .rope_rows = true,
     .vocab_size_key = true},
    {.gguf = "qwen2", .classes = qwen2_classes, .large = LARGE_ALWAYS, .pooling = true},
    {.gguf = "qwen3", .classes = qwen3_classes, .tensors = qwen3_names, .pooling = true},
    {.gguf = "qwen3moe",
     .classes = qwen3moe_classes,
     .tensors = qwen3moe_names,
     .keys = KEYS_QWEN3MOE,
     .vocab = VOCAB_BPE},
    {.gguf = "gemma2",
     .classes = gemma2_classes,
     .tensors = gemma_names,
     .keys = KEYS_GEMMA2,
     .vocab = VOCAB_SENTENCEPIECE,
     .norm_plus_1 = true,
     .drops_head = true},
    {.gguf = "gemma3",
     .classes = gemma3_classes,
     .tensors = gemma_names,
     .keys = KEYS_GEMMA3,
     .vocab = VOCAB_SENTENCEPIECE,
     .norm_plus_1 = true,
     .cuts_embedding = true},
    {.gguf = "phi3",
     .classes = phi3_classes,
     .tensors = phi3_names,
     .keys = KEYS_PHI3,
     .vocab = VOCAB_PHI3,
     .rope_factors = true},
    {.gguf = "smollm3",
     .classes = smollm3_classes,
     .vocab = VOCAB_LLAMA,
     .rope_rows = true,
     .vocab_size_key = true},
    {.gguf = "olmo2",
     .classes = olmo2_classes,
     .tensors = olmo2_names,
     .keys = KEYS_OLMO2,
     .vocab = VOCAB_BPE},
    {.gguf = "granite",
     .classes = granite_classes,
     .keys = KEYS_GRANITE,
     .vocab = VOCAB_LLAMA,
     .rope_rows = true,
     .vocab_size_key = true,
     .no_head_dim = true},
};

const struct arch *arch_by_class(const char *class_name)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        for (const char *const *c = archs[i].classes; *c; c++)
            if (strcmp(*c, class_name) == 0)
                return &archs[i];
    return NULL;
}

/* A plain decimal, as str() would write it; the digits read, 0 where there is none. */
static size_t number(const char *s, const char *end, long *out)
{
    size_t n = strspn(s, "0123456789");
    if (n == 0 || n > 9 || s + n > end || (n > 1 && *s == '0'))
        return 0;
    *out = strtol(s, NULL, 10);
    return n;
}

static bool match(const char *pattern, const char *s, const char *end, long *layer, long *expert)
{
    for (; *pattern; pattern++) {
        if (*pattern == '%' || *pattern == '#') {
            size_t n = number(s, end, *pattern == '%' ? layer : expert);
            if (n == 0)
                return false;
            s += n;
        } else if (s == end || *s++ != *pattern) {
            return false;
        }
    }
    return s == end;
}

static const struct arch_name *find_name(const struct arch_name *names, const char *s,
                                         const char *end, long *layer, long *expert)
{
    for (; names && names->hf; names++) {
        *layer = *expert = -1;
        if (match(names->hf, s, end, layer, expert))
            return names;
    }
    return NULL;
}

/* Multimodal models keep the language model under a name of its own, which the converter cuts out
 * wherever it stands. */
static bool plain_name(const char *hf, char *out, size_t size)
{
    static const char *const wrappers[] = {"text_model.", "language_model."};
    if (strlen(hf) >= size)
        return false;
    strcpy(out, hf);
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers; i++)
        for (char *at; (at = strstr(out, wrappers[i]));)
            memmove(at, at + strlen(wrappers[i]), strlen(at + strlen(wrappers[i])) + 1);
    return true;
}

bool arch_tensor_name(const struct arch *a, const char *hf, uint32_t layers, char *out,
                      size_t size, int64_t *expert)
{
    static const char *const suffixes[] = {".weight", ".bias"};
    char plain[256];
    long layer, e;
    if (!plain_name(hf, plain, sizeof plain))
        return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (!ends_with(plain, suffixes[i]))
            continue;
        const char *end = plain + strlen(plain) - strlen(suffixes[i]);
        const struct arch_name *name = find_name(a->tensors, plain, end, &layer, &e);
        if (!name)
            name = find_name(common_names, plain, end, &layer, &e);
        if (!name || (layer >= 0 && (uint32_t)layer >= layers))
            return false;
        *expert = e;
        const char *percent = strchr(name->gguf, '%');
        int n = percent ? snprintf(out, size, "%.*s%ld%s%s", (int)(percent - name->gguf),
                                   name->gguf, layer, percent + 1, suffixes[i])
                        : snprintf(out, size, "%s%s", name->gguf, suffixes[i]);
        return n < (int)size;
    }
    return false;
}

bool arch_drops_tensor(const struct arch *a, const char *hf)
{
    static const char *const endings[] = {".attention.masked_bias", ".attention.bias",
                                          ".rotary_emb.inv_freq"};
    static const char *const beginnings[] = {
        "mlp",     "vit.",       "vpm.",           "siglip2.",          "conformer.",
        "merger.", "resampler.", "sound_encoder.", "sound_projection.", "speech_embeddings.",
    };
    static const char *const parts[] = {
        "visual.",       "vision.",       "audio.",         "talker.",
        "vision_",       "audio_",        "token2wav.",     "code2wav.",
        "projector.",    "pre_mm_projector_norm",           "image_newline",
        "view_seperator", "patch_embed",  "patch_merger.",  "patch_merge_mlp.",
        "model.connector.",
    };
    if (a->drops_head && strcmp(hf, "lm_head.weight") == 0)
        return true;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(hf, endings[i]))
            return true;
    for (size_t i = 0; i < sizeof beginnings / sizeof *beginnings; i++)
        if (strncmp(hf, beginnings[i], strlen(beginnings[i])) == 0)
            return true;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(hf, parts[i]))
            return true;
    return false;
}

/* ---- the way back ---- */

const struct arch *arch_by_gguf(const char *name, size_t size)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strlen(archs[i].gguf) == size && memcmp(archs[i].gguf, name, size) == 0)
            return &archs[i];
    return NULL;
}

/* A name of the table with its numbers filled in. False where it does not fit. */
static bool fill_in(const char *pattern, long layer, uint32_t expert, const char *tail, char *out,
                    size_t size)
{
    size_t n = 0;
    for (; *pattern && n + 12 < size; pattern++) {
        if (*pattern == '%')
            n += (size_t)sprintf(out + n, "%ld", layer);
        else if (*pattern == '#')
            n += (size_t)sprintf(out + n, "%u", (unsigned)expert);
        else
            out[n++] = *pattern;
    }
    return !*pattern && snprintf(out + n, size - n, "%s", tail) < (int)(size - n);
}

bool arch_hf_name(const struct arch *a, const char *gguf, uint32_t expert, char *out, size_t size,
                  bool *experts)
{
    const struct arch_name *const tables[] = {a->tensors, common_names};
    const char *dot = strrchr(gguf, '.');
    for (int t = 0; dot && t < 2; t++)
        for (const struct arch_name *name = tables[t]; name && name->hf; name++) {
            long layer = -1, none = -1;
            if (!match(name->gguf, gguf, dot, &layer, &none))
                continue;
            *experts = strchr(name->hf, '#') != NULL;
            return fill_in(name->hf, layer, expert, dot, out, size);
        }
    return false;
}

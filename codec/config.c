/* SPDX-License-Identifier: MIT */
#include "codec/config.h"

#include <errno.h>

/* What AutoConfig fills in, by model_type. Types that are not listed get nothing: the converter,
 * too, falls back to the plain file for types that transformers does not know. */
static const struct class {
    const char *model_type;
    bool kv_heads_follow;  /* num_key_value_heads may be null: as many as there are query heads */
    bool head_dim_follows; /* so may head_dim: hidden_size / num_attention_heads */
    struct {
        const char *name;
        json_int_t value;
    } integers[12];
    struct {
        const char *name;
        double value;
    } reals[8];
} classes[] = {
    {"llama",
     .kv_heads_follow = true,
     .head_dim_follows = true,
     .integers = {{"max_position_embeddings", 2048}, {"hidden_size", 4096},
                  {"intermediate_size", 11008}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"vocab_size", 32000}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 10000}}},
    {"mistral",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 131072}, {"hidden_size", 4096},
                  {"intermediate_size", 14336}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"num_key_value_heads", 8}, {"vocab_size", 32000}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 10000}}},
    {"mixtral",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 131072}, {"hidden_size", 4096},
                  {"intermediate_size", 14336}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"num_key_value_heads", 8},
                  {"num_local_experts", 8}, {"num_experts_per_tok", 2}, {"vocab_size", 32000}},
     .reals = {{"rms_norm_eps", 1e-5}, {"rope_theta", 1000000}}},
    {"qwen2",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 32768}, {"hidden_size", 4096},
                  {"intermediate_size", 22016}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"num_key_value_heads", 32},
                  {"vocab_size", 151936}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 10000}}},
    {"qwen3",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 32768}, {"hidden_size", 4096},
                  {"intermediate_size", 22016}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"num_key_value_heads", 32}, {"head_dim", 128},
                  {"vocab_size", 151936}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 10000}}},
    {"qwen3_moe",
     .integers = {{"max_position_embeddings", 32768}, {"hidden_size", 2048},
                  {"intermediate_size", 6144}, {"moe_intermediate_size", 768},
                  {"num_hidden_layers", 24}, {"num_attention_heads", 32},
                  {"num_key_value_heads", 4}, {"num_experts", 128}, {"num_experts_per_tok", 8},
                  {"vocab_size", 151936}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 10000}}},
    {"gemma2",
     .integers = {{"max_position_embeddings", 8192}, {"hidden_size", 2304},
                  {"intermediate_size", 9216}, {"num_hidden_layers", 26},
                  {"num_attention_heads", 8}, {"num_key_value_heads", 4}, {"head_dim", 256},
                  {"sliding_window", 4096}, {"vocab_size", 256000}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 10000}, {"attn_logit_softcapping", 50},
               {"final_logit_softcapping", 30}}},
    {"gemma3_text",
     .integers = {{"max_position_embeddings", 131072}, {"hidden_size", 2304},
                  {"intermediate_size", 9216}, {"num_hidden_layers", 26},
                  {"num_attention_heads", 8}, {"num_key_value_heads", 4}, {"head_dim", 256},
                  {"sliding_window", 4096}, {"vocab_size", 262208}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 1000000}, {"rope_local_base_freq", 10000}}},
    {"phi3",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 4096}, {"original_max_position_embeddings", 4096},
                  {"hidden_size", 3072}, {"intermediate_size", 8192}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"vocab_size", 32064}},
     .reals = {{"rms_norm_eps", 1e-5}, {"rope_theta", 10000}, {"partial_rotary_factor", 1}}},
    {"smollm3",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 32768}, {"hidden_size", 2048},
                  {"intermediate_size", 11008}, {"num_hidden_layers", 36},
                  {"num_attention_heads", 16}, {"num_key_value_heads", 4},
                  {"vocab_size", 128256}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 2000000}}},
    {"olmo2",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 2048}, {"hidden_size", 4096},
                  {"intermediate_size", 11008}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"vocab_size", 50304}},
     .reals = {{"rms_norm_eps", 1e-5}, {"rope_theta", 10000}}},
    {"olmo3",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 2048}, {"hidden_size", 4096},
                  {"intermediate_size", 11008}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"sliding_window", 4096}, {"vocab_size", 50304}},
     .reals = {{"rms_norm_eps", 1e-5}, {"rope_theta", 10000}}},
    {"granite",
     .kv_heads_follow = true,
     .integers = {{"max_position_embeddings", 2048}, {"hidden_size", 4096},
                  {"intermediate_size", 11008}, {"num_hidden_layers", 32},
                  {"num_attention_heads", 32}, {"vocab_size", 32000}},
     .reals = {{"rms_norm_eps", 1e-6}, {"rope_theta", 10000}, {"embedding_multiplier", 1},
               {"logits_scaling", 1}, {"residual_multiplier", 1}, {"attention_multiplier", 1}}},
};

int json_parse(struct blob file, json_t **out, struct error *err)
{
    json_error_t e;
    *out = json_loadb(file.data, file.size, 0, &e);
    if (!*out)
        return error_set(err, -EINVAL, "line %d, column %d: %s", e.line, e.column, e.text);
    return 0;
}

static bool missing(const json_t *object, const char *name)
{
    const json_t *v = json_object_get(object, name);
    return !v || json_is_null(v);
}

static int set_missing(json_t *object, const char *name, json_t *value)
{
    if (json_object_get(object, name)) {
        json_decref(value);
        return 0;
    }
    return json_object_set_new(object, name, value);
}

/* Null stands for a default only where the class says so. */
static int follow(json_t *full, const struct class *c)
{
    json_int_t heads = json_integer_value(json_object_get(full, "num_attention_heads"));
    json_int_t hidden = json_integer_value(json_object_get(full, "hidden_size"));
    int rc = 0;
    if (c->kv_heads_follow && missing(full, "num_key_value_heads"))
        rc = json_object_set(full, "num_key_value_heads",
                             json_object_get(full, "num_attention_heads"));
    if (!rc && c->head_dim_follows && missing(full, "head_dim") && heads > 0)
        rc = json_object_set_new(full, "head_dim", json_integer(hidden / heads));
    return rc;
}

static int fill_defaults(json_t *full, struct error *err)
{
    const char *type = json_string_value(json_object_get(full, "model_type"));
    const struct class *c = NULL;
    for (size_t i = 0; type && i < sizeof classes / sizeof *classes; i++)
        if (strcmp(type, classes[i].model_type) == 0)
            c = &classes[i];
    int rc = 0;
    for (size_t i = 0; c && !rc && c->integers[i].name; i++)
        rc = set_missing(full, c->integers[i].name, json_integer(c->integers[i].value));
    for (size_t i = 0; c && !rc && c->reals[i].name; i++)
        rc = set_missing(full, c->reals[i].name, json_real(c->reals[i].value));
    if (c && !rc)
        rc = follow(full, c);
    return rc ? error_set(err, -ENOMEM, "out of memory") : 0;
}

/* The raw config with its class's defaults; the language model's own config in a multimodal one is
 * laid over it. */
static json_t *full_config(const json_t *raw, struct error *err)
{
    const json_t *text = json_object_get(raw, "text_config");
    json_t *full = json_copy((json_t *)raw);
    json_t *inner = json_is_object(text) ? json_copy((json_t *)text) : NULL;
    int rc = full && (inner || !json_is_object(text)) ? fill_defaults(full, err)
                                                     : error_set(err, -ENOMEM, "out of memory");
    if (!rc && inner) {
        rc = fill_defaults(inner, err);
        if (!rc && json_object_update(full, inner))
            rc = error_set(err, -ENOMEM, "out of memory");
    }
    json_decref(inner);
    if (!rc)
        return full;
    json_decref(full);
    return NULL;
}

int config_parse(struct blob file, struct config *c, struct error *err)
{
    *c = (struct config){0};
    int rc = json_parse(file, &c->raw, err);
    if (rc)
        return rc;
    if (!json_is_object(c->raw)) {
        config_free(c);
        return error_set(err, -EINVAL, "not a JSON object");
    }
    c->full = full_config(c->raw, err);
    if (c->full)
        return 0;
    config_free(c);
    return -ENOMEM;
}

void config_free(struct config *c)
{
    json_decref(c->raw);
    json_decref(c->full);
    *c = (struct config){0};
}

const json_t *config_first(const json_t *object, const char *const *names)
{
    for (; *names; names++) {
        const json_t *v = json_object_get(object, *names);
        if (v)
            return v;
    }
    return NULL;
}

int config_u32(const struct config *c, const char *name, uint32_t *out, struct error *err)
{
    const json_t *v = json_object_get(c->full, name);
    if (!v)
        return error_set(err, -EINVAL, "%s is missing", name);
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n <= 0 || n > UINT32_MAX)
        return error_set(err, -EINVAL, "%s is not a positive integer", name);
    *out = (uint32_t)n;
    return 0;
}

int config_hidden_per_head(const struct config *c, uint32_t *out, struct error *err)
{
    uint32_t hidden, heads;
    int rc = config_u32(c, "hidden_size", &hidden, err);
    rc = rc ? rc : config_u32(c, "num_attention_heads", &heads, err);
    if (!rc && hidden < heads)
        rc = error_set(err, -EINVAL, "hidden_size is smaller than num_attention_heads");
    if (!rc)
        *out = hidden / heads;
    return rc;
}

int config_head_dim(const struct config *c, uint32_t *out, struct error *err)
{
    return missing(c->full, "head_dim") ? config_hidden_per_head(c, out, err)
                                        : config_u32(c, "head_dim", out, err);
}

const char *config_architecture(const struct config *c)
{
    const json_t *text = json_object_get(c->raw, "text_config");
    const json_t *own = json_object_get(text, "architectures");
    if (!own || json_is_null(own))
        own = json_object_get(c->raw, "architectures");
    return json_string_value(json_array_get(own, 0));
}

/* Copies the first of the names that the config has, and that is not null, under the name `as`,
 * unless the object has it. */
static int inherit(json_t *rope, const char *as, const json_t *config, const char *const *names)
{
    const json_t *v = config_first(config, names);
    if (!v || json_is_null(v) || json_object_get(rope, as))
        return 0;
    return json_object_set(rope, as, (json_t *)v);
}

json_t *config_rope(const struct config *c)
{
    static const char *const theta[] = {"global_rope_theta", "rope_global_theta",
                                        "rope_theta_global", "rope_theta",
                                        "rotary_emb_base",   NULL};
    static const char *const local[] = {"local_rope_theta", "rope_local_theta",
                                        "rope_theta_local", "swa_rope_theta",
                                        "rope_local_base_freq", NULL};
    static const char *const partial[] = {"partial_rotary_factor", "rope_pct", "rope_percent",
                                          NULL};
    static const char *const original[] = {"original_max_position_embeddings", NULL};
    static const char *const type[] = {"type", NULL};
    const json_t *from = json_object_get(c->full, "rope_parameters");
    if (!from)
        from = json_object_get(c->full, "rope_scaling");
    json_t *rope = json_is_object(from) ? json_copy((json_t *)from) : json_object();
    if (json_object_get(rope, "full_attention") || json_object_get(rope, "sliding_attention"))
        return rope;
    json_t *sliding = json_object();
    if (!sliding || inherit(sliding, "rope_theta", c->full, local) ||
        (json_object_size(sliding) && json_object_set(rope, "sliding_attention", sliding)) ||
        inherit(rope, "rope_theta", c->full, theta) || inherit(rope, "rope_type", rope, type) ||
        inherit(rope, "partial_rotary_factor", c->full, partial) ||
        inherit(rope, original[0], c->full, original)) {
        json_decref(rope);
        rope = NULL;
    }
    json_decref(sliding);
    return rope;
}

const json_t *config_rope_full(const json_t *rope)
{
    const json_t *full = json_object_get(rope, "full_attention");
    return json_is_object(full) ? full : rope;
}

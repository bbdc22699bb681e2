/* SPDX-License-Identifier: MIT
 *
 * The metadata keys of a model, in the converter's order: general.*, then <arch>.*, then the
 * tokenizer's. A table where the converter copies a field of the config, a function where it
 * decides something.
 */
#include "codec/model.h"

#include "codec/model_card.h"
#include "codec/model_name.h"
#include "codec/rope.h"
#include "codec/tokenizer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <strings.h>

/* ---- values ---- */

/* Puts a JSON value as the type that the converter would; what it could not write is an error. */
static int put_json(struct gguf_keys *keys, const char *key, enum gguf_type type, const json_t *v,
                    struct error *err)
{
    if (type == GGUF_STRING && json_is_string(v)) {
        gguf_put_string(keys, key, json_string_value(v));
    } else if (type == GGUF_F32 && json_is_number(v)) {
        gguf_put_f32(keys, key, (float)json_number_value(v));
    } else if (type == GGUF_U32 && json_is_integer(v) && json_integer_value(v) >= 0 &&
               json_integer_value(v) <= UINT32_MAX) {
        gguf_put_u32(keys, key, (uint32_t)json_integer_value(v));
    } else if (type == GGUF_I32 && json_is_integer(v) && json_integer_value(v) >= INT32_MIN &&
               json_integer_value(v) <= INT32_MAX) {
        gguf_put_i32(keys, key, (int32_t)json_integer_value(v));
    } else {
        return error_set(err, -EINVAL, "the value for %s is not a %s", key, gguf_type_name(type));
    }
    return 0;
}

/* A key whose value is the first of some fields that is present, if that is not null. */
struct field_key {
    const char *key;
    enum gguf_type type;
    const char *fields[7];
};

static int put_fields(struct gguf_keys *keys, const char *prefix, const json_t *object,
                      const struct field_key *table, size_t count, bool zeros, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *v = config_first(object, table[i].fields);
        if (!v || json_is_null(v) || (!zeros && json_is_number(v) && json_number_value(v) == 0))
            continue;
        char key[128];
        snprintf(key, sizeof key, "%s.%s", prefix, table[i].key);
        int rc = put_json(keys, key, table[i].type, v, err);
        if (rc)
            return rc;
    }
    return 0;
}

#define PUT_FIELDS(keys, prefix, object, table, err)                                               \
    put_fields(keys, prefix, object, table, sizeof table / sizeof *table, true, err)

/* The same, but a field that is 0 is passed over. */
#define PUT_NONZERO_FIELDS(keys, prefix, object, table, err)                                       \
    put_fields(keys, prefix, object, table, sizeof table / sizeof *table, false, err)

/* ---- general.* ---- */

static const struct field_key sampling_keys[] = {
    {"sequence", GGUF_STRING, {"sequence"}},
    {"top_k", GGUF_I32, {"top_k"}},
    {"top_p", GGUF_F32, {"top_p"}},
    {"min_p", GGUF_F32, {"min_p"}},
    {"xtc_probability", GGUF_F32, {"xtc_probability"}},
    {"xtc_threshold", GGUF_F32, {"xtc_threshold"}},
    {"temp", GGUF_F32, {"temperature"}},
    {"penalty_last_n", GGUF_I32, {"penalty_last_n"}},
    {"penalty_repeat", GGUF_F32, {"penalty_repeat", "repetition_penalty"}},
    {"mirostat", GGUF_I32, {"mirostat"}},
    {"mirostat_tau", GGUF_F32, {"mirostat_tau"}},
    {"mirostat_eta", GGUF_F32, {"mirostat_eta"}},
};

/* A generation_config.json that cannot be read is ignored, as by the converter. */
static int put_sampling_keys(const struct model_files *files, struct gguf_keys *keys,
                             struct error *err)
{
    struct blob file;
    int rc = files->get(files->context, "generation_config.json", &file, err);
    json_t *generation = NULL;
    if (rc || !file.data || json_parse(file, &generation, NULL))
        return rc;
    rc = PUT_FIELDS(keys, "general.sampling", generation, sampling_keys, err);
    json_decref(generation);
    return rc ? error_prefix(err, rc, "generation_config.json") : 0;
}

static void put_if(struct gguf_keys *keys, const char *key, const char *value)
{
    if (value && *value)
        gguf_put_string(keys, key, value);
}

/* Of a model with experts: their number, and what a model with one of them would have. */
static const char *size_label(const struct model *m, struct arena *arena)
{
    uint64_t experts = 0, one = 0;
    for (size_t i = 0; i < m->count; i++) {
        const uint64_t *ne = m->tensors[i].ne;
        bool stacked = strstr(m->tensors[i].name, "_exps.") != NULL;
        one += ne[0] * ne[1] * (stacked ? 1 : ne[2] * ne[3]);
        experts = stacked ? ne[2] : experts;
    }
    const char *label = model_name_size_label(one, arena);
    return label && experts ? arena_printf(arena, "%" PRIu64 "x%s", experts, label) : label;
}

/* What the names of a model, or of an adapter, are taken from. */
struct name_source {
    const struct model *model;
    int64_t parameters; /* as for model_name_parse */
    const json_t *card, *config; /* NULL: there is none */
    const char *folder;
};

/* What is told by the model card, else by the name in the config, unless that is some path, else by
 * the name of the folder. The size of an adapter is not told by counting. */
static int find_name(const struct name_source *s, struct arena *arena, struct model_name *name)
{
    struct model_name from;
    *name = (struct model_name){0};
    model_card_name(s->card, name);
    const char *id = json_string_value(json_object_get(s->config, "_name_or_path"));
    const char *slash = id ? strchr(id, '/') : NULL;
    if (id && !(slash && strchr(slash + 1, '/'))) {
        if (model_name_parse(id, s->parameters, arena, &from))
            return -ENOMEM;
        model_name_merge(name, &from);
    }
    if (model_name_parse(s->folder, s->parameters, arena, &from))
        return -ENOMEM;
    model_name_merge(name, &from);
    if (!name->size_label && s->parameters >= 0) {
        name->size_label = size_label(s->model, arena);
        return name->size_label ? 0 : -ENOMEM;
    }
    return 0;
}

static int put_name_keys(const struct name_source *s, struct gguf_keys *keys, struct error *err)
{
    struct arena arena = {0};
    struct model_name name;
    int rc = find_name(s, &arena, &name);
    if (!rc) {
        put_if(keys, "general.name", name.name);
        model_card_put_author(s->card, keys);
        put_if(keys, "general.version", name.version);
        put_if(keys, "general.organization", name.organization);
        put_if(keys, "general.finetune", name.finetune);
        put_if(keys, "general.basename", name.basename);
        model_card_put_description(s->card, keys);
        put_if(keys, "general.size_label", name.size_label);
        rc = model_card_put_rest(s->card, s->parameters, keys);
    }
    arena_free(&arena);
    return rc ? error_set(err, rc, "out of memory") : 0;
}

/* Whether a text, of any case, names one of Qwen3's rerankers. */
static bool names_reranker(const char *s, size_t n, const char *mark)
{
    static const char *const names[] = {"qwen3-reranker", "qwen3-vl-reranker"};
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            size_t before = strlen(mark), length = before + strlen(names[k]);
            if (n - i >= length && strncmp(s + i, mark, before) == 0 &&
                strncasecmp(s + i + before, names[k], length - before) == 0)
                return true;
        }
    return false;
}

/* The converter makes other tensors of a Qwen3 that ranks, which it knows by name or title. */
static int refuse_reranker(const struct model *m, const struct config *c, const char *folder,
                           const struct model_files *files, struct error *err)
{
    struct blob readme;
    const char *hints[] = {folder, json_string_value(json_object_get(c->full, "_name_or_path")),
                           json_string_value(json_object_get(c->full, "model_type"))};
    if (strcmp(m->arch->gguf, "qwen3") != 0)
        return 0;
    int rc = files->get(files->context, "README.md", &readme, err);
    bool found = !rc && readme.data && names_reranker(readme.data, readme.size, "# ");
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++)
        found |= hints[i] && names_reranker(hints[i], strlen(hints[i]), "");
    return found ? error_set(err, -ENOTSUP, "Qwen3 models that rank are not known") : rc;
}

/* A card that cannot be read is passed over; the converter would give up. */
static int load_card(const struct model_files *files, json_t **card, struct error *err)
{
    struct blob readme;
    *card = NULL;
    int rc = files->get(files->context, "README.md", &readme, err);
    if (rc || !readme.data)
        return rc;
    rc = model_card_parse(readme, card, err);
    if (rc != -EINVAL)
        return rc;
    error_prefix(err, rc, "the model card is passed over: README.md");
    if (files->warn)
        files->warn(files->context, err->text);
    return 0;
}

/* ---- <arch>.* ---- */

static const struct field_key size_keys[] = {
    {"context_length", GGUF_U32,
     {"max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length",
      "model_max_length"}},
    {"embedding_length", GGUF_U32, {"hidden_size", "n_embd", "dim"}},
    {"feed_forward_length", GGUF_U32,
     {"prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner",
      "hidden_dim"}},
    {"attention.head_count", GGUF_U32, {"num_attention_heads", "n_head", "n_heads"}},
    {"attention.head_count_kv", GGUF_U32, {"num_key_value_heads", "n_kv_heads"}},
};

static const struct field_key yarn_keys[] = {
    {"rope.scaling.original_context_length", GGUF_U32, {"original_max_position_embeddings"}},
    {"rope.scaling.yarn_ext_factor", GGUF_F32, {"extrapolation_factor"}},
    {"rope.scaling.yarn_attn_factor", GGUF_F32, {"attention_factor", "attn_factor"}},
    {"rope.scaling.yarn_beta_fast", GGUF_F32, {"beta_fast"}},
    {"rope.scaling.yarn_beta_slow", GGUF_F32, {"beta_slow"}},
};

static const struct field_key rope_keys[] = {
    {"rope.freq_base", GGUF_F32, {"rope_theta"}},
};

static const struct field_key rope_swa_keys[] = {
    {"rope.freq_base_swa", GGUF_F32, {"rope_theta"}},
};

static const struct field_key expert_keys[] = {
    {"expert_count", GGUF_U32, {"num_local_experts", "num_experts"}},
    {"expert_used_count", GGUF_U32,
     {"num_experts_per_tok", "num_experts_per_token", "top_k_experts"}},
    {"expert_group_count", GGUF_U32, {"n_group"}},
    {"expert_group_used_count", GGUF_U32, {"topk_group"}},
};

static const struct field_key norm_keys[] = {
    {"attention.layer_norm_rms_epsilon", GGUF_F32, {"rms_norm_eps", "norm_eps"}},
    {"attention.layer_norm_epsilon", GGUF_F32,
     {"layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"}},
};

static const struct field_key head_keys[] = {
    {"attention.key_length", GGUF_U32, {"head_dim"}},
    {"attention.value_length", GGUF_U32, {"head_dim"}},
};

/* What some architectures write behind the common keys. */

static const struct field_key granite_keys[] = {
    {"attention.scale", GGUF_F32, {"attention_multiplier"}},
    {"embedding_scale", GGUF_F32, {"embedding_multiplier"}},
    {"residual_scale", GGUF_F32, {"residual_multiplier"}},
    {"logit_scale", GGUF_F32, {"logits_scaling"}},
};

static const struct field_key qwen3moe_keys[] = {
    {"expert_feed_forward_length", GGUF_U32, {"moe_intermediate_size"}},
    {"expert_shared_feed_forward_length", GGUF_U32, {"shared_expert_intermediate_size"}},
};

static const struct field_key gemma3_keys[] = {
    {"final_logit_softcapping", GGUF_F32, {"final_logit_softcapping"}},
};

static const struct field_key window_keys[] = {
    {"attention.sliding_window", GGUF_U32, {"sliding_window"}},
};

/* And what others write in their place. */

static const struct field_key gemma2_keys[] = {
    {"context_length", GGUF_U32, {"max_position_embeddings"}},
    {"embedding_length", GGUF_U32, {"hidden_size"}},
    {"block_count", GGUF_U32, {"num_hidden_layers"}},
    {"feed_forward_length", GGUF_U32, {"intermediate_size"}},
    {"attention.head_count", GGUF_U32, {"num_attention_heads"}},
    {"attention.head_count_kv", GGUF_U32, {"num_key_value_heads"}},
    {"attention.layer_norm_rms_epsilon", GGUF_F32, {"rms_norm_eps"}},
    {"attention.key_length", GGUF_U32, {"head_dim"}},
    {"attention.value_length", GGUF_U32, {"head_dim"}},
    {"attn_logit_softcapping", GGUF_F32, {"attn_logit_softcapping"}},
    {"final_logit_softcapping", GGUF_F32, {"final_logit_softcapping"}},
    {"attention.sliding_window", GGUF_U32, {"sliding_window"}},
};

static const struct field_key phi3_context_keys[] = {
    {"context_length", GGUF_U32, {"n_positions", "max_position_embeddings"}},
};

static const struct field_key phi3_rope_keys[] = {
    {"rope.scaling.original_context_length", GGUF_U32, {"original_max_position_embeddings"}},
};

static const struct field_key phi3_size_keys[] = {
    {"embedding_length", GGUF_U32, {"hidden_size", "n_embd"}},
    {"feed_forward_length", GGUF_U32, {"intermediate_size"}},
    {"block_count", GGUF_U32, {"num_hidden_layers"}},
    {"attention.head_count", GGUF_U32, {"num_attention_heads", "n_head"}},
    {"attention.head_count_kv", GGUF_U32, {"num_key_value_heads", "n_head_kv"}},
    {"attention.layer_norm_rms_epsilon", GGUF_F32, {"rms_norm_eps"}},
};

static int put_scaling_keys(const char *arch, const json_t *rope, struct gguf_keys *keys,
                            struct error *err)
{
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    const json_t *factor = json_object_get(rope, "factor");
    bool scaled = factor && !json_is_null(factor);
    bool yarn = type && strcmp(type, "yarn") == 0 && scaled;
    char key[64];
    int rc = 0;
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    if (yarn || (type && strcmp(type, "linear") == 0 && scaled)) {
        gguf_put_string(keys, key, type);
        snprintf(key, sizeof key, "%s.rope.scaling.factor", arch);
        rc = put_json(keys, key, GGUF_F32, factor, err);
        if (!rc && yarn && !json_object_get(rope, "original_max_position_embeddings"))
            rc = error_set(err, -EINVAL, "yarn needs original_max_position_embeddings");
        if (!rc && yarn)
            rc = PUT_FIELDS(keys, arch, rope, yarn_keys, err);
    } else if (type && (strcmp(type, "su") == 0 || strcmp(type, "longrope") == 0)) {
        gguf_put_string(keys, key, "longrope");
    }
    return rc;
}

static int put_rope_keys(const char *arch, const json_t *rope, struct gguf_keys *keys,
                         struct error *err)
{
    const json_t *full = config_rope_full(rope);
    int rc = put_scaling_keys(arch, full, keys, err);
    rc = rc ? rc : PUT_FIELDS(keys, arch, full, rope_keys, err);
    return rc ? rc
              : PUT_FIELDS(keys, arch, json_object_get(rope, "sliding_attention"), rope_swa_keys,
                           err);
}

/* sentence-transformers' pooling, which makes an embedding model of it. */
static int put_pooling_key(const char *arch, const struct model_files *files,
                           struct gguf_keys *keys, struct error *err)
{
    static const struct {
        const char *flag, *mode;
        uint32_t id;
    } modes[] = {
        {"pooling_mode_mean_tokens", "mean", 1},
        {"pooling_mode_cls_token", "cls", 2},
        {"pooling_mode_lasttoken", "lasttoken", 3},
    };
    struct blob file;
    json_t *modules = NULL, *pooling = NULL;
    char path[512] = "", key[64];
    int rc = files->get(files->context, "modules.json", &file, err);
    if (rc || !file.data)
        return rc;
    rc = json_parse(file, &modules, err);
    if (rc)
        return error_prefix(err, rc, "modules.json");
    size_t i;
    json_t *module;
    json_array_foreach(modules, i, module)
    {
        const char *type = json_string_value(json_object_get(module, "type"));
        const char *where = json_string_value(json_object_get(module, "path"));
        size_t n = type ? strlen(type) : 0;
        if (n >= 7 && strcmp(type + n - 7, "Pooling") == 0 && where) {
            snprintf(path, sizeof path, "%s/config.json", where);
            break;
        }
    }
    json_decref(modules);
    if (!*path)
        return 0;
    rc = files->get(files->context, path, &file, err);
    if (!rc && !file.data)
        rc = error_set(err, -ENOENT, "the file is missing");
    if (!rc)
        rc = json_parse(file, &pooling, err);
    if (rc)
        return error_prefix(err, rc, "%.100s", path);
    snprintf(key, sizeof key, "%s.pooling_type", arch);
    const char *mode = json_string_value(json_object_get(pooling, "pooling_mode"));
    rc = error_set(err, -ENOTSUP, "%.100s: the pooling mode is not known", path);
    for (i = 0; rc && i < sizeof modes / sizeof *modes; i++)
        if (json_is_true(json_object_get(pooling, modes[i].flag))) {
            gguf_put_u32(keys, key, modes[i].id);
            rc = 0;
        }
    for (i = 0; rc && mode && i < sizeof modes / sizeof *modes; i++)
        if (strcmp(mode, modes[i].mode) == 0) {
            gguf_put_u32(keys, key, modes[i].id);
            rc = 0;
        }
    json_decref(pooling);
    return rc;
}

/* vocab_size and rope.dimension_count */
static int put_vocab_size_keys(const struct arch *arch, const struct config *c,
                               struct gguf_keys *keys, struct error *err)
{
    uint32_t vocab, dim;
    char key[64];
    int rc = config_u32(c, "vocab_size", &vocab, err);
    if (!rc)
        rc = arch->no_head_dim ? config_hidden_per_head(c, &dim, err)
                               : config_head_dim(c, &dim, err);
    if (rc)
        return rc;
    snprintf(key, sizeof key, "%s.vocab_size", arch->gguf);
    gguf_put_u32(keys, key, vocab);
    snprintf(key, sizeof key, "%s.rope.dimension_count", arch->gguf);
    gguf_put_u32(keys, key, dim);
    return 0;
}

static int put_common_keys(const struct model *m, const struct config *c, const json_t *rope,
                           struct gguf_keys *keys, struct error *err)
{
    const char *arch = m->arch->gguf;
    char key[64];
    snprintf(key, sizeof key, "%s.block_count", arch);
    gguf_put_u32(keys, key, m->facts.layers);
    int rc = PUT_FIELDS(keys, arch, c->full, size_keys, err);
    if (!rc && json_is_false(json_object_get(c->full, "is_causal"))) {
        snprintf(key, sizeof key, "%s.attention.causal", arch);
        gguf_put_bool(keys, key, false);
    }
    rc = rc ? rc : put_rope_keys(arch, rope, keys, err);
    rc = rc ? rc : PUT_FIELDS(keys, arch, c->full, norm_keys, err);
    rc = rc ? rc : PUT_FIELDS(keys, arch, c->full, expert_keys, err);
    if (!rc && !m->arch->no_head_dim)
        rc = PUT_FIELDS(keys, arch, c->full, head_keys, err);
    return rc;
}

/* The factor of attention comes before everything else: the converter sets it when it makes the
 * tensors of factors. */
static int put_attn_factor(const struct model *m, const struct config *c, struct gguf_keys *keys,
                           struct error *err)
{
    double factor;
    char key[64];
    bool factors = false;
    for (size_t i = 0; i < m->count; i++)
        factors |= strcmp(m->tensors[i].name, "rope_factors_long.weight") == 0;
    int rc = factors ? rope_attn_factor(c, &factor, err) : 0;
    if (rc || !factors)
        return rc ? error_prefix(err, rc, "config.json") : 0;
    snprintf(key, sizeof key, "%s.rope.scaling.attn_factor", m->arch->gguf);
    gguf_put_f32(keys, key, (float)factor);
    return 0;
}

static int put_phi3_keys(const struct model *m, const struct config *c, const json_t *rope,
                         struct gguf_keys *keys, struct error *err)
{
    const char *arch = m->arch->gguf;
    uint32_t dim;
    char key[64];
    int rc = PUT_FIELDS(keys, arch, c->full, phi3_context_keys, err);
    rc = rc ? rc : PUT_FIELDS(keys, arch, rope, phi3_rope_keys, err);
    rc = rc ? rc : PUT_FIELDS(keys, arch, c->full, phi3_size_keys, err);
    rc = rc ? rc : rope_dimensions(c, &dim, err);
    if (rc)
        return rc;
    snprintf(key, sizeof key, "%s.rope.dimension_count", arch);
    gguf_put_u32(keys, key, dim);
    rc = PUT_FIELDS(keys, arch, config_rope_full(rope), rope_keys, err);
    const json_t *window = json_object_get(c->full, "sliding_window");
    if (rc || (window && !json_is_null(window)))
        return rc ? rc : PUT_FIELDS(keys, arch, c->full, window_keys, err);
    snprintf(key, sizeof key, "%s.attention.sliding_window", arch);
    gguf_put_u32(keys, key, 0); /* tells phi-4 from phi-3 */
    return 0;
}

/* Which layers look through a window: those that the config says, or three of four. */
static int put_window_pattern(const struct model *m, const struct config *c,
                              struct gguf_keys *keys, struct error *err)
{
    const json_t *types = json_object_get(c->full, "layer_types");
    char key[64];
    if (!json_object_get(c->full, "sliding_window"))
        return 0;
    if (json_is_null(types))
        types = NULL;
    if (types && json_array_size(types) != m->facts.layers)
        return error_set(err, -EINVAL, "there are %zu layer_types for %" PRIu32 " layers",
                         json_array_size(types), m->facts.layers);
    int rc = PUT_FIELDS(keys, m->arch->gguf, c->full, window_keys, err);
    snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", m->arch->gguf);
    gguf_put_array(keys, key, GGUF_BOOL, m->facts.layers);
    for (uint32_t i = 0; i < m->facts.layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        uint8_t window = types ? type && strcmp(type, "sliding_attention") == 0 : (i + 1) % 4 != 0;
        buffer_add(&keys->bytes, &window, sizeof window);
    }
    return rc;
}

/* Behind the common keys and what follows from flags of the architecture. */
static int put_more_keys(const struct model *m, const struct config *c, struct gguf_keys *keys,
                         struct error *err)
{
    const char *arch = m->arch->gguf;
    switch (m->arch->keys) {
    case KEYS_GRANITE: return PUT_NONZERO_FIELDS(keys, arch, c->full, granite_keys, err);
    case KEYS_OLMO2: return put_window_pattern(m, c, keys, err);
    case KEYS_QWEN3MOE: return PUT_FIELDS(keys, arch, c->full, qwen3moe_keys, err);
    case KEYS_GEMMA3: {
        int rc = PUT_NONZERO_FIELDS(keys, arch, c->full, gemma3_keys, err);
        const json_t *pattern = json_object_get(c->full, "sliding_window_pattern");
        bool windows = json_integer_value(pattern) != 1;
        return rc || !windows ? rc : PUT_FIELDS(keys, arch, c->full, window_keys, err);
    }
    default: return 0;
    }
}

static int put_config_keys(const struct model *m, const struct config *c, const json_t *rope,
                           struct gguf_keys *keys, struct error *err)
{
    if (m->arch->keys == KEYS_GEMMA2)
        return PUT_FIELDS(keys, m->arch->gguf, c->full, gemma2_keys, err);
    if (m->arch->keys == KEYS_PHI3)
        return put_phi3_keys(m, c, rope, keys, err);
    int rc = put_common_keys(m, c, rope, keys, err);
    if (!rc && m->arch->vocab_size_key)
        rc = put_vocab_size_keys(m->arch, c, keys, err);
    return rc ? rc : put_more_keys(m, c, keys, err);
}

static int put_arch_keys(const struct model *m, const struct config *c,
                         const struct model_files *files, struct gguf_keys *keys,
                         struct error *err)
{
    json_t *rope = config_rope(c);
    if (!rope)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = put_config_keys(m, c, rope, keys, err);
    json_decref(rope);
    if (rc)
        return error_prefix(err, rc, "config.json");
    return m->arch->pooling ? put_pooling_key(m->arch->gguf, files, keys, err) : 0;
}

int model_put_keys(const struct model *m, const struct config *config, const char *folder,
                   const struct model_files *files, struct gguf_keys *keys, struct error *err)
{
    json_t *card = NULL;
    int rc = refuse_reranker(m, config, folder, files, err);
    rc = rc ? rc : load_card(files, &card, err);
    gguf_put_string(keys, "general.architecture", m->arch->gguf);
    rc = rc ? rc : put_attn_factor(m, config, keys, err);
    gguf_put_string(keys, "general.type", "model");
    rc = rc ? rc : put_sampling_keys(files, keys, err);
    struct name_source names = {m, (int64_t)m->parameters, card, config->raw, folder};
    rc = rc ? rc : put_name_keys(&names, keys, err);
    json_decref(card);
    rc = rc ? rc : put_arch_keys(m, config, files, keys, err);
    rc = rc ? rc : tokenizer_put_keys(m->arch, config, files, keys, err);
    if (!rc && keys->bytes.failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    return rc;
}

int model_put_adapter_keys(const struct model *m, int64_t parameters, float alpha,
                           const char *folder, const struct model_files *files,
                           struct gguf_keys *keys, struct error *err)
{
    json_t *card = NULL, *config = NULL;
    struct blob file;
    int rc = load_card(files, &card, err);
    rc = rc ? rc : files->get(files->context, "config.json", &file, err);
    if (!rc && file.data && json_parse(file, &config, NULL))
        config = NULL;
    struct name_source names = {m, parameters, card, config, folder};
    gguf_put_string(keys, "general.architecture", m->arch->gguf);
    gguf_put_string(keys, "general.type", "adapter");
    gguf_put_string(keys, "adapter.type", "lora");
    rc = rc ? rc : put_sampling_keys(files, keys, err);
    rc = rc ? rc : put_name_keys(&names, keys, err);
    gguf_put_f32(keys, "adapter.lora.alpha", alpha);
    json_decref(card);
    json_decref(config);
    if (!rc && keys->bytes.failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    return rc;
}

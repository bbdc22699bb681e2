/* SPDX-License-Identifier: MIT
 *
 * The metadata keys of a model, in the converter's order: general.*, then <arch>.*, then the
 * tokenizer's. A table where the converter copies a field of the config, a function where it
 * decides something.
 */
#include "codec/model.h"

#include "codec/model_name.h"
#include "codec/tokenizer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

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
                      const struct field_key *table, size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *v = config_first(object, table[i].fields);
        if (!v || json_is_null(v))
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
    put_fields(keys, prefix, object, table, sizeof table / sizeof *table, err)

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
    if (value)
        gguf_put_string(keys, key, value);
}

/* The name in the config, unless it is some path, goes before that of the folder. */
static int put_name_keys(const struct model *m, const struct config *c, const char *folder,
                         struct gguf_keys *keys, struct error *err)
{
    struct arena arena = {0};
    struct model_name name = {0}, from;
    int rc = 0;
    const char *id = json_string_value(json_object_get(c->raw, "_name_or_path"));
    const char *slash = id ? strchr(id, '/') : NULL;
    if (id && !(slash && strchr(slash + 1, '/'))) {
        rc = model_name_parse(id, m->parameters, &arena, &from);
        if (!rc)
            model_name_merge(&name, &from);
    }
    if (!rc)
        rc = model_name_parse(folder, m->parameters, &arena, &from);
    if (!rc) {
        model_name_merge(&name, &from);
        if (!name.size_label)
            name.size_label = model_name_size_label(m->parameters, &arena);
        put_if(keys, "general.name", name.name);
        put_if(keys, "general.version", name.version);
        put_if(keys, "general.organization", name.organization);
        put_if(keys, "general.finetune", name.finetune);
        put_if(keys, "general.basename", name.basename);
        put_if(keys, "general.size_label", name.size_label);
    }
    arena_free(&arena);
    return rc ? error_set(err, rc, "out of memory") : 0;
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

static const struct field_key norm_keys[] = {
    {"attention.layer_norm_rms_epsilon", GGUF_F32, {"rms_norm_eps", "norm_eps"}},
    {"attention.layer_norm_epsilon", GGUF_F32,
     {"layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"}},
};

static const struct field_key head_keys[] = {
    {"attention.key_length", GGUF_U32, {"head_dim"}},
    {"attention.value_length", GGUF_U32, {"head_dim"}},
};

static int put_rope_keys(const char *arch, const struct config *c, struct gguf_keys *keys,
                         struct error *err)
{
    json_t *rope = config_rope(c);
    if (!rope)
        return error_set(err, -ENOMEM, "out of memory");
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
    rc = rc ? rc : PUT_FIELDS(keys, arch, rope, rope_keys, err);
    json_decref(rope);
    return rc;
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
static int put_vocab_size_keys(const char *arch, const struct config *c, struct gguf_keys *keys,
                               struct error *err)
{
    uint32_t vocab, dim;
    char key[64];
    int rc = config_u32(c, "vocab_size", &vocab, err);
    rc = rc ? rc : config_head_dim(c, &dim, err);
    if (rc)
        return rc;
    snprintf(key, sizeof key, "%s.vocab_size", arch);
    gguf_put_u32(keys, key, vocab);
    snprintf(key, sizeof key, "%s.rope.dimension_count", arch);
    gguf_put_u32(keys, key, dim);
    return 0;
}

static int put_arch_keys(const struct model *m, const struct config *c,
                         const struct model_files *files, struct gguf_keys *keys,
                         struct error *err)
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
    rc = rc ? rc : put_rope_keys(arch, c, keys, err);
    rc = rc ? rc : PUT_FIELDS(keys, arch, c->full, norm_keys, err);
    rc = rc ? rc : PUT_FIELDS(keys, arch, c->full, head_keys, err);
    if (rc)
        return error_prefix(err, rc, "config.json");
    if (m->arch->pooling)
        rc = put_pooling_key(arch, files, keys, err);
    if (!rc && m->arch->vocab_size_key) {
        rc = put_vocab_size_keys(arch, c, keys, err);
        rc = rc ? error_prefix(err, rc, "config.json") : 0;
    }
    return rc;
}

int model_put_keys(const struct model *m, const struct config *config, const char *folder,
                   const struct model_files *files, struct gguf_keys *keys, struct error *err)
{
    gguf_put_string(keys, "general.architecture", m->arch->gguf);
    gguf_put_string(keys, "general.type", "model");
    int rc = put_sampling_keys(files, keys, err);
    rc = rc ? rc : put_name_keys(m, config, folder, keys, err);
    rc = rc ? rc : put_arch_keys(m, config, files, keys, err);
    rc = rc ? rc : tokenizer_put_keys(m->arch, config, files, keys, err);
    if (!rc && keys->bytes.failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    return rc;
}

/* SPDX-License-Identifier: MIT */
#include "codec/config.h"

#include <errno.h>
#include <inttypes.h>

/* What AutoConfig fills in, by model_type. Types that are not listed get nothing: the converter,
 * too, falls back to the plain file for types that transformers does not know. */
static const struct {
    const char *model_type, *defaults;
} classes[] = {
    {"llama", "{\"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
              " \"hidden_size\": 4096, \"intermediate_size\": 11008, \"num_hidden_layers\": 32,"
              " \"num_attention_heads\": 32, \"vocab_size\": 32000}"},
    {"mistral", "{\"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-6,"
                " \"rope_theta\": 10000.0, \"hidden_size\": 4096, \"intermediate_size\": 14336,"
                " \"num_hidden_layers\": 32, \"num_attention_heads\": 32,"
                " \"num_key_value_heads\": 8, \"vocab_size\": 32000}"},
    {"qwen2", "{\"max_position_embeddings\": 32768, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
              " \"hidden_size\": 4096, \"intermediate_size\": 22016, \"num_hidden_layers\": 32,"
              " \"num_attention_heads\": 32, \"num_key_value_heads\": 32,"
              " \"vocab_size\": 151936}"},
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

static int fill_defaults(json_t *full, struct error *err)
{
    const char *type = json_string_value(json_object_get(full, "model_type"));
    for (size_t i = 0; type && i < sizeof classes / sizeof *classes; i++) {
        if (strcmp(type, classes[i].model_type) != 0)
            continue;
        json_t *defaults = json_loads(classes[i].defaults, 0, NULL);
        int failed = !defaults || json_object_update_missing(full, defaults);
        json_decref(defaults);
        if (failed)
            return error_set(err, -ENOMEM, "out of memory");
        /* Null stands for "as many as there are query heads" here, and only here. */
        if (missing(full, "num_key_value_heads") &&
            json_object_set(full, "num_key_value_heads",
                            json_object_get(full, "num_attention_heads")))
            return error_set(err, -ENOMEM, "out of memory");
        json_int_t heads = json_integer_value(json_object_get(full, "num_attention_heads"));
        if (strcmp(type, "llama") == 0 && missing(full, "head_dim") && heads > 0) {
            json_int_t hidden = json_integer_value(json_object_get(full, "hidden_size"));
            if (json_object_set_new(full, "head_dim", json_integer(hidden / heads)))
                return error_set(err, -ENOMEM, "out of memory");
        }
        return 0;
    }
    return 0;
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
    c->full = json_copy(c->raw);
    rc = c->full ? fill_defaults(c->full, err) : error_set(err, -ENOMEM, "out of memory");
    if (rc)
        config_free(c);
    return rc;
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

int config_head_dim(const struct config *c, uint32_t *out, struct error *err)
{
    if (!missing(c->full, "head_dim"))
        return config_u32(c, "head_dim", out, err);
    uint32_t hidden, heads;
    int rc = config_u32(c, "hidden_size", &hidden, err);
    rc = rc ? rc : config_u32(c, "num_attention_heads", &heads, err);
    if (!rc && hidden < heads)
        rc = error_set(err, -EINVAL, "hidden_size is smaller than num_attention_heads");
    if (!rc)
        *out = hidden / heads;
    return rc;
}

const char *config_architecture(const struct config *c)
{
    return json_string_value(json_array_get(json_object_get(c->raw, "architectures"), 0));
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
    static const char *const partial[] = {"partial_rotary_factor", "rope_pct", "rope_percent",
                                          NULL};
    static const char *const original[] = {"original_max_position_embeddings", NULL};
    static const char *const type[] = {"type", NULL};
    const json_t *from = json_object_get(c->full, "rope_parameters");
    if (!from)
        from = json_object_get(c->full, "rope_scaling");
    const json_t *per_layer_type = json_object_get(from, "full_attention");
    if (json_is_object(per_layer_type))
        return json_copy((json_t *)per_layer_type);
    json_t *rope = json_is_object(from) ? json_copy((json_t *)from) : json_object();
    if (json_object_get(rope, "sliding_attention"))
        return rope;
    if (inherit(rope, "rope_theta", c->full, theta) || inherit(rope, "rope_type", rope, type) ||
        inherit(rope, "partial_rotary_factor", c->full, partial) ||
        inherit(rope, original[0], c->full, original)) {
        json_decref(rope);
        return NULL;
    }
    return rope;
}

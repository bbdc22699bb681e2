/* SPDX-License-Identifier: MIT */
#include "codec/hf_gguf.h"

#include "codec/affix.h"
#include "codec/arch.h"
#include "codec/rope.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what config.json says ---- */

struct field {
    const char *key; /* behind "<arch>." */
    const char *name;
};

static const struct field common_fields[] = {
    {"block_count", "num_hidden_layers"},
    {"context_length", "max_position_embeddings"},
    {"embedding_length", "hidden_size"},
    {"feed_forward_length", "intermediate_size"},
    {"attention.head_count", "num_attention_heads"},
    {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
    {"attention.sliding_window", "sliding_window"},
    {"rope.freq_base", "rope_theta"},
    {"rope.freq_base_swa", "rope_local_base_freq"},
    {"rope.scaling.original_context_length", "original_max_position_embeddings"},
    {"attn_logit_softcapping", "attn_logit_softcapping"},
    {"final_logit_softcapping", "final_logit_softcapping"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"attention.scale", "attention_multiplier"},
    {"embedding_scale", "embedding_multiplier"},
    {"residual_scale", "residual_multiplier"},
    {"logit_scale", "logits_scaling"},
};

/* The class by its model_type, and what its config says that no key does. */
static const struct class {
    const char *arch;
    bool experts, windows; /* windows: a list says which layers look through one */
    const char *class_name, *model_type, *experts_name;
    const char *constants; /* JSON */
} classes[] = {
    {"llama", false, false, "LlamaForCausalLM", "llama", NULL, "{\"hidden_act\": \"silu\"}"},
    {"llama", true, false, "MixtralForCausalLM", "mixtral", "num_local_experts",
     "{\"hidden_act\": \"silu\", \"sliding_window\": null}"},
    {"qwen2", false, false, "Qwen2ForCausalLM", "qwen2", NULL,
     "{\"hidden_act\": \"silu\", \"use_sliding_window\": false}"},
    {"qwen3", false, false, "Qwen3ForCausalLM", "qwen3", NULL,
     "{\"hidden_act\": \"silu\", \"use_sliding_window\": false, \"attention_bias\": false}"},
    {"qwen3moe", true, false, "Qwen3MoeForCausalLM", "qwen3_moe", "num_experts",
     "{\"hidden_act\": \"silu\", \"use_sliding_window\": false, \"attention_bias\": false,"
     " \"norm_topk_prob\": true, \"decoder_sparse_step\": 1, \"mlp_only_layers\": []}"},
    {"gemma2", false, false, "Gemma2ForCausalLM", "gemma2", NULL,
     "{\"hidden_activation\": \"gelu_pytorch_tanh\"}"},
    {"gemma3", false, false, "Gemma3ForCausalLM", "gemma3_text", NULL,
     "{\"hidden_activation\": \"gelu_pytorch_tanh\"}"},
    {"phi3", false, false, "Phi3ForCausalLM", "phi3", NULL, "{\"hidden_act\": \"silu\"}"},
    {"smollm3", false, false, "SmolLM3ForCausalLM", "smollm3", NULL, "{\"hidden_act\": \"silu\"}"},
    {"olmo2", false, false, "Olmo2ForCausalLM", "olmo2", NULL, "{\"hidden_act\": \"silu\"}"},
    {"olmo2", false, true, "Olmo3ForCausalLM", "olmo3", NULL, "{\"hidden_act\": \"silu\"}"},
    {"granite", false, false, "GraniteForCausalLM", "granite", NULL, "{\"hidden_act\": \"silu\"}"},
};

struct source {
    const struct gguf_header *header;
    const struct tensor_list *tensors;
    const struct hf_values *values;
    const struct arch *arch;
    const struct class *class;
    uint32_t experts;
    json_t *config;
    struct error *err;
};

static int out_of_memory(const struct source *s) { return error_set(s->err, -ENOMEM, "out of memory"); }

static bool number_at(const struct source *s, const char *key, double *out)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", s->arch->gguf, key);
    return gguf_find_number(s->header, name, out);
}

/* A 32-bit float as the shortest decimal that is it. */
static json_t *json_float(double v)
{
    char text[32];
    for (int digits = 1; digits < 18; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v)
            break;
    }
    return json_real(strtod(text, NULL));
}

/* A key's number: whole ones stay whole. */
static json_t *json_number(double v)
{
    return v == floor(v) && fabs(v) < 0x1p53 ? json_integer((json_int_t)v) : json_float(v);
}

static const struct tensor *find_tensor(const struct source *s, const char *name)
{
    for (size_t i = 0; i < s->tensors->count; i++)
        if (strcmp(s->tensors->items[i].name, name) == 0)
            return &s->tensors->items[i];
    return NULL;
}

static const struct gguf_value *find_key(const struct source *s, const char *key)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", s->arch->gguf, key);
    return gguf_find(s->header, name);
}

/* The value of a key that has a number v: floats stay floats. Without a sliding window some
 * converters write one of 0; in config.json that is null. */
static json_t *field_value(const struct source *s, const struct field *f, double v)
{
    if (v == 0 && strcmp(f->name, "sliding_window") == 0)
        return json_null();
    return find_key(s, f->key)->type == GGUF_F32 ? json_float(v) : json_number(v);
}

static const struct gguf_value *window_pattern(const struct source *s)
{
    const struct gguf_value *v = find_key(s, "attention.sliding_window_pattern");
    return v && v->is_array && v->type == GGUF_BOOL ? v : NULL;
}

/* A per-layer list of numbers has no place in these classes' configs. */
static int check_scalars(const struct source *s)
{
    size_t n = strlen(s->arch->gguf);
    const struct gguf_value *windows = s->class->windows ? window_pattern(s) : NULL;
    for (size_t i = 0; i < s->header->key_count; i++) {
        const struct gguf_key *k = &s->header->keys[i];
        if (k->value.is_array && &k->value != windows && k->name.size > n + 1 &&
            memcmp(k->name.data, s->arch->gguf, n) == 0 && k->name.data[n] == '.')
            return error_set(s->err, -ENOTSUP, "%.*s differs from layer to layer",
                             (int)(k->name.size < 100 ? k->name.size : 100), k->name.data);
    }
    return 0;
}

static int put_fields(const struct source *s)
{
    double v;
    int rc = check_scalars(s);
    for (size_t i = 0; !rc && i < sizeof common_fields / sizeof *common_fields; i++)
        if (number_at(s, common_fields[i].key, &v) &&
            !json_object_get(s->config, common_fields[i].name) &&
            json_object_set_new(s->config, common_fields[i].name,
                                field_value(s, &common_fields[i], v)))
            rc = error_set(s->err, -EINVAL, "%s.%s is not a finite number", s->arch->gguf,
                           common_fields[i].key);
    if (!rc && s->class->experts)
        json_object_set_new(s->config, s->class->experts_name, json_integer(s->experts));
    return rc;
}

static void put_layer_types(const struct source *s)
{
    const struct gguf_value *windows = s->class->windows ? window_pattern(s) : NULL;
    json_t *types = windows ? json_array() : NULL;
    for (uint64_t i = 0; windows && i < windows->count; i++)
        json_array_append_new(
            types, json_string(windows->data[i] ? "sliding_attention" : "full_attention"));
    if (types)
        json_object_set_new(s->config, "layer_types", types);
}

/* ---- rope ---- */

static int read_factors(const struct source *s, const char *name, json_t **out, uint64_t *count,
                        float **values)
{
    const struct tensor *t = find_tensor(s, name);
    *out = NULL;
    *values = NULL;
    *count = t ? t->elements : 0;
    if (!t)
        return 0;
    if (t->elements > 1 << 16)
        return error_set(s->err, -EINVAL, "tensor \"%s\" is too large", name);
    *values = malloc((size_t)t->elements * sizeof **values + 1);
    int rc = *values ? s->values->read(s->values->context, t, *values, s->err) : out_of_memory(s);
    *out = rc ? NULL : json_array();
    for (uint64_t i = 0; !rc && i < t->elements; i++)
        json_array_append_new(*out, json_number((*values)[i]));
    return rc;
}

static int put_long_factors(const struct source *s)
{
    static const char *const names[2][2] = {{"rope_factors_long.weight", "long_factor"},
                                            {"rope_factors_short.weight", "short_factor"}};
    json_t *scaling = json_pack("{s:s}", "type", "longrope");
    int rc = 0;
    bool any = false;
    for (int i = 0; !rc && i < 2; i++) {
        json_t *factors;
        uint64_t count;
        float *values;
        rc = read_factors(s, names[i][0], &factors, &count, &values);
        free(values);
        any |= factors != NULL;
        if (factors)
            json_object_set_new(scaling, names[i][1], factors);
    }
    if (!rc && any)
        rc = json_object_set(s->config, "rope_scaling", scaling) ? out_of_memory(s) : 0;
    json_decref(scaling);
    return rc;
}

/* The factors are all that a GGUF has of Llama 3's scaling. The last is `factor`; the others prove
 * that the rest is as in every model so far. */
static int put_llama3(const struct source *s)
{
    json_t *list;
    uint64_t count;
    float *values;
    struct arena arena = {0};
    struct rope_factors expected = {0};
    int rc = read_factors(s, "rope_freqs.weight", &list, &count, &values);
    json_decref(list);
    if (rc || !count) {
        free(values);
        return rc;
    }
    json_t *scaling = json_pack("{s:s, s:o, s:f, s:f, s:i}", "rope_type", "llama3", "factor",
                                json_float(values[count - 1]), "low_freq_factor", 1.0,
                                "high_freq_factor", 4.0, "original_max_position_embeddings", 8192);
    if (json_object_set_new(s->config, "rope_scaling", scaling))
        rc = out_of_memory(s);
    struct config config = {.raw = s->config, .full = s->config};
    rc = rc ? rc : rope_llama3_factors(&config, &arena, &expected, s->err);
    if (!rc && (expected.count != count ||
                memcmp(expected.values, values, (size_t)count * sizeof *values) != 0))
        rc = error_set(s->err, -ENOTSUP, "rope_freqs.weight does not belong to a scaling that "
                                         "config.json could name");
    arena_free(&arena);
    free(values);
    return rc;
}

static int put_scaling(const struct source *s)
{
    static const struct field yarn_fields[] = {
        {"rope.scaling.yarn_attn_factor", "attention_factor"},
        {"rope.scaling.yarn_beta_fast", "beta_fast"},
        {"rope.scaling.yarn_beta_slow", "beta_slow"},
        {"rope.scaling.yarn_ext_factor", "extrapolation_factor"},
    };
    char key[128];
    struct gguf_string type;
    double factor, original;
    snprintf(key, sizeof key, "%s.rope.scaling.type", s->arch->gguf);
    if (!gguf_find_text(s->header, key, &type) || gguf_string_is(type, "none") ||
        gguf_string_is(type, "longrope"))
        return 0;
    bool yarn = gguf_string_is(type, "yarn");
    if ((!yarn && !gguf_string_is(type, "linear")) || !number_at(s, "rope.scaling.factor", &factor))
        return error_set(s->err, -ENOTSUP, "%s \"%.*s\" is not known", key,
                         (int)(type.size < 60 ? type.size : 60), type.data);
    json_t *scaling = json_pack("{s:s, s:o}", "rope_type", yarn ? "yarn" : "linear", "factor",
                                json_float(factor));
    if (yarn && number_at(s, "rope.scaling.original_context_length", &original))
        json_object_set_new(scaling, "original_max_position_embeddings", json_number(original));
    for (size_t i = 0; yarn && i < sizeof yarn_fields / sizeof *yarn_fields; i++)
        if (number_at(s, yarn_fields[i].key, &factor))
            json_object_set_new(scaling, yarn_fields[i].name, json_float(factor));
    return json_object_set_new(s->config, "rope_scaling", scaling) ? out_of_memory(s) : 0;
}

static int put_rope(const struct source *s)
{
    int rc = put_scaling(s);
    if (!rc && s->arch->rope_rows)
        rc = put_llama3(s);
    if (!rc && s->arch->rope_factors)
        rc = put_long_factors(s);
    double dimensions, heads, width;
    if (!rc && s->arch->rope_factors && number_at(s, "rope.dimension_count", &dimensions) &&
        number_at(s, "attention.head_count", &heads) && number_at(s, "embedding_length", &width) &&
        dimensions * heads < width)
        json_object_set_new(s->config, "partial_rotary_factor", json_number(dimensions * heads / width));
    return rc;
}

/* ---- the rest of the config ---- */

/* Gemma scales queries by the width of a head, its largest models by that of the embedding's share;
 * no key says so. */
static void put_query_scale(const struct source *s)
{
    double layers = 0, heads = 1, width = 0, head = 0;
    if (!s->arch->norm_plus_1)
        return;
    number_at(s, "block_count", &layers);
    number_at(s, "attention.head_count", &heads);
    number_at(s, "embedding_length", &width);
    number_at(s, "attention.key_length", &head);
    bool large = layers == (strcmp(s->arch->gguf, "gemma2") == 0 ? 46 : 62);
    json_object_set_new(s->config, "query_pre_attn_scalar",
                        json_number(large && heads > 0 ? width / heads : head));
}

static int put_vocabulary(const struct source *s)
{
    static const struct field ids[] = {{"bos", "bos_token_id"}, {"eos", "eos_token_id"},
                                       {"padding", "pad_token_id"}};
    const struct tensor *embedding = find_tensor(s, "token_embd.weight");
    double id;
    if (!embedding || embedding->ndim != 2)
        return error_set(s->err, -EINVAL, "token_embd.weight is missing");
    json_object_set_new(s->config, "vocab_size", json_integer((json_int_t)embedding->shape[0]));
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ids[i].key);
        if (gguf_find_number(s->header, key, &id))
            json_object_set_new(s->config, ids[i].name, json_integer((json_int_t)id));
    }
    return 0;
}

static int make_config(struct source *s)
{
    json_t *constants = json_loads(s->class->constants, 0, NULL);
    s->config = json_pack("{s:[s], s:s}", "architectures", s->class->class_name, "model_type",
                          s->class->model_type);
    if (!s->config || !constants || json_object_update(s->config, constants)) {
        json_decref(constants);
        return out_of_memory(s);
    }
    json_decref(constants);
    int rc = put_fields(s);
    rc = rc ? rc : put_rope(s);
    rc = rc ? rc : put_vocabulary(s);
    if (rc)
        return rc;
    put_query_scale(s);
    put_layer_types(s);
    json_object_set_new(s->config, "tie_word_embeddings",
                        json_boolean(!find_tensor(s, "output.weight")));
    if (strcmp(s->arch->gguf, "llama") == 0 || strcmp(s->arch->gguf, "granite") == 0) {
        json_object_set_new(s->config, "attention_bias",
                            json_boolean(find_tensor(s, "blk.0.attn_q.bias") != NULL));
        json_object_set_new(s->config, "mlp_bias",
                            json_boolean(find_tensor(s, "blk.0.ffn_up.bias") != NULL));
    }
    return 0;
}

/* ---- tensors ---- */

/* Tensors that stand for a part of the config. */
static bool is_config(const char *name)
{
    return strcmp(name, "rope_freqs.weight") == 0 || strncmp(name, "rope_factors_", 13) == 0;
}

static int set_rope_rows(const struct source *s, struct hf_tensor *t)
{
    double heads = 0;
    if (ends_with(t->name, "q_proj.weight") || ends_with(t->name, "q_proj.bias"))
        number_at(s, "attention.head_count", &heads);
    else if (ends_with(t->name, "k_proj.weight") || ends_with(t->name, "k_proj.bias"))
        if (!number_at(s, "attention.head_count_kv", &heads))
            number_at(s, "attention.head_count", &heads);
    if (heads == 0)
        return 0;
    if (t->ndim == 1) {
        t->view.rows = t->view.cols;
        t->view.cols = 1;
    }
    if (heads < 0 || heads > UINT32_MAX || t->view.rows % (2 * (uint64_t)heads))
        return error_set(s->err, -EINVAL, "tensor \"%s\": its rows do not fit %g heads",
                         t->view.tensor->name, heads);
    t->view.order = ROWS_TO_HALVES;
    t->view.heads = (uint32_t)heads;
    return 0;
}

/* One tensor, or matrix `expert` of one that has those of all experts. */
static int add_tensor(const struct source *s, struct hf_model *m, const struct tensor *from,
                      uint32_t expert, bool *experts)
{
    char name[256];
    struct hf_tensor *t = &m->tensors[m->count];
    if (!arch_hf_name(s->arch, from->name, expert, name, sizeof name, experts))
        return error_set(s->err, -ENOTSUP, "tensor \"%s\" has no name in Hugging Face's %s",
                         from->name, s->class->class_name);
    if (!from->dtype->widen)
        return error_set(s->err, -ENOTSUP, "tensor \"%s\" is stored as %s, which cannot be decoded",
                         from->name, from->dtype->name);
    *t = (struct hf_tensor){.name = arena_strdup(&m->arena, name),
                            .shape = from->shape,
                            .ndim = from->ndim,
                            .view = view_make(from)};
    if (!t->name)
        return out_of_memory(s);
    if (*experts) {
        if (from->ndim != 3 || from->shape[0] != s->experts)
            return error_set(s->err, -EINVAL, "tensor \"%s\" is not that of %" PRIu32 " experts",
                             from->name, s->experts);
        t->shape = from->shape + 1;
        t->ndim = 2;
        t->view.rows = from->shape[1];
        t->view.first_row = expert * from->shape[1];
    }
    if (s->arch->norm_plus_1 && ends_with(name, "norm.weight"))
        t->view.add = -1;
    m->count++;
    return s->arch->rope_rows ? set_rope_rows(s, t) : 0;
}

static int add_tensors(const struct source *s, struct hf_model *m)
{
    size_t most = s->tensors->count;
    for (size_t i = 0; i < s->tensors->count; i++)
        if (s->tensors->items[i].ndim == 3)
            most += s->experts;
    m->tensors = arena_array(&m->arena, most + 1, sizeof *m->tensors);
    if (!m->tensors)
        return out_of_memory(s);
    for (size_t i = 0; i < s->tensors->count; i++) {
        const struct tensor *from = &s->tensors->items[i];
        bool experts = false;
        if (is_config(from->name))
            continue;
        int rc = add_tensor(s, m, from, 0, &experts);
        for (uint32_t e = 1; !rc && experts && e < s->experts; e++)
            rc = add_tensor(s, m, from, e, &experts);
        if (rc)
            return rc;
    }
    hf_model_sort(m);
    return 0;
}

/* ---- the whole ---- */

static int find_class(struct source *s)
{
    struct gguf_string name = {"", 0};
    double experts = 0;
    gguf_find_text(s->header, "general.architecture", &name);
    s->arch = arch_by_gguf(name.data, name.size);
    if (s->arch) {
        number_at(s, "expert_count", &experts);
        s->experts = experts > 0 && experts <= 4096 ? (uint32_t)experts : 0;
    }
    for (size_t i = 0; s->arch && i < sizeof classes / sizeof *classes; i++)
        if (strcmp(classes[i].arch, s->arch->gguf) == 0 && classes[i].experts == (s->experts > 0) &&
            classes[i].windows == (window_pattern(s) != NULL))
            s->class = &classes[i];
    if (s->class)
        return 0;
    return error_set(s->err, -ENOTSUP, "architecture \"%.*s\" has no class of transformers here",
                     (int)(name.size < 60 ? name.size : 60), name.data);
}

int hf_model_of_gguf(const struct gguf_header *h, const struct tensor_list *tensors,
                     const struct hf_values *values, struct hf_model *m, struct error *err)
{
    struct source s = {.header = h, .tensors = tensors, .values = values, .err = err};
    *m = (struct hf_model){0};
    int rc = find_class(&s);
    rc = rc ? rc : make_config(&s);
    m->config = s.config;
    rc = rc ? rc : add_tensors(&s, m);
    if (rc)
        hf_model_free(m);
    return rc;
}

/* SPDX-License-Identifier: MIT */
#include "codec/lora.h"

#include "codec/affix.h"
#include "codec/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { PATTERN_MAX = 1024, MATCH_LIMIT = 100000, RANK_MAX = 1 << 16 };

/* ---- the config ---- */

/* Whether a key is there and says anything. */
static bool is_set(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return v && !json_is_null(v) && !json_is_false(v) &&
           !(json_is_array(v) && json_array_size(v) == 0) &&
           !(json_is_object(v) && json_object_size(v) == 0);
}

static int check_supported(const json_t *config, struct error *err)
{
    static const char *const unsupported[] = {
        "layer_replication",       "target_parameters", "use_qalora", "trainable_token_indices",
        "alora_invocation_tokens", "megatron_config",   "lora_bias",  "arrow_config",
        "kasa_config",             "use_bdlora",        "bd_config"};
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    if (!type || strcmp(type, "LORA") != 0)
        return error_set(err, -ENOTSUP, "peft_type: adapters of type %s cannot be merged",
                         type ? type : "(none)");
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (is_set(config, unsupported[i]))
            return error_set(err, -ENOTSUP, "adapters with %s cannot be merged", unsupported[i]);
    return 0;
}

static int read_rank(const json_t *v, const char *key, uint64_t *out, struct error *err)
{
    json_int_t rank = json_integer_value(v);
    if (rank < 1 || rank > RANK_MAX)
        return error_set(err, -EINVAL, "%s: no rank", key);
    *out = (uint64_t)rank;
    return 0;
}

static int read_alpha(const json_t *v, const char *key, double *out, struct error *err)
{
    *out = json_number_value(v);
    return json_is_number(v) && isfinite(*out) ? 0 : error_set(err, -EINVAL, "%s: no number", key);
}

int lora_parse(struct blob file, struct lora *l, struct error *err)
{
    *l = (struct lora){0};
    int rc = json_parse(file, &l->raw, err);
    if (!rc && !json_is_object(l->raw))
        rc = error_set(err, -EINVAL, "it is no object");
    rc = rc ? rc : check_supported(l->raw, err);
    if (rc) {
        lora_free(l);
        return rc;
    }
    const json_t *rank = json_object_get(l->raw, "r"), *alpha = json_object_get(l->raw, "lora_alpha");
    l->rank = l->alpha = 8; /* what PEFT has where nothing is said */
    l->base = json_string_value(json_object_get(l->raw, "base_model_name_or_path"));
    l->rslora = json_is_true(json_object_get(l->raw, "use_rslora"));
    l->dora = json_is_true(json_object_get(l->raw, "use_dora"));
    l->fan_in_fan_out = json_is_true(json_object_get(l->raw, "fan_in_fan_out"));
    rc = rank ? read_rank(rank, "r", &l->rank, err) : 0;
    if (!rc && alpha)
        rc = read_alpha(alpha, "lora_alpha", &l->alpha, err);
    if (rc)
        lora_free(l);
    return rc;
}

void lora_free(struct lora *l)
{
    json_decref(l->raw);
    *l = (struct lora){0};
}

/* ---- ranks and alphas of layers ---- */

/* Whether PEFT applies an entry of rank_pattern or alpha_pattern to a module. */
static int matches(const char *key, const char *module, bool *out, struct error *err)
{
    char pattern[PATTERN_MAX];
    int code, n = snprintf(pattern, sizeof pattern, "(?:.*\\.)?(?:%s)$", key);
    PCRE2_SIZE where;
    if (n < 0 || (size_t)n >= sizeof pattern)
        return error_set(err, -ENOTSUP, "a pattern of layers is too long");
    pcre2_code *regex = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, 0, &code, &where,
                                      NULL);
    if (!regex)
        return error_set(err, -EINVAL, "\"%s\" is no pattern of layers", key);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    int found = PCRE2_ERROR_NOMEMORY;
    if (data && context) {
        pcre2_set_match_limit(context, MATCH_LIMIT);
        found = pcre2_match(regex, (PCRE2_SPTR)module, strlen(module), 0, PCRE2_ANCHORED, data,
                            context);
    }
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    pcre2_code_free(regex);
    *out = found >= 0;
    return found >= 0 || found == PCRE2_ERROR_NOMATCH
               ? 0
               : error_set(err, -ENOTSUP, "the pattern of layers \"%s\" takes too long", key);
}

/* The first entry that applies; NULL where none does. */
static int find_entry(const struct lora *l, const char *patterns, const char *module,
                      const json_t **out, struct error *err)
{
    const char *key;
    json_t *value;
    *out = NULL;
    json_object_foreach(json_object_get(l->raw, patterns), key, value)
    {
        bool applies;
        int rc = matches(key, module, &applies, err);
        if (rc)
            return error_prefix(err, rc, "%s", patterns);
        if (applies) {
            *out = value;
            return 0;
        }
    }
    return 0;
}

/* What is said of a layer: its rank, and s. */
static int scale_of(const struct lora *l, const char *module, uint64_t *rank, float *scale,
                    struct error *err)
{
    const json_t *of_rank, *of_alpha;
    double alpha = l->alpha;
    *rank = l->rank;
    int rc = find_entry(l, "rank_pattern", module, &of_rank, err);
    if (!rc && of_rank)
        rc = read_rank(of_rank, "rank_pattern", rank, err);
    rc = rc ? rc : find_entry(l, "alpha_pattern", module, &of_alpha, err);
    if (!rc && of_alpha)
        rc = read_alpha(of_alpha, "alpha_pattern", &alpha, err);
    if (!rc)
        *scale = (float)(alpha / (l->rslora ? sqrt((double)*rank) : (double)*rank));
    return rc;
}

/* ---- merging ---- */

static const char prefix[] = "base_model.model.";

struct merge {
    const struct lora *lora;
    const struct tensor_list *adapter;
    bool *used; /* of the adapter's tensors */
    uint32_t first_file;
    bool onto_nf4;
    struct tensor_list *out;
    struct error *err;
};

/* The adapter's tensor "base_model.model.<stem><suffix>", as one of the merged model's files. */
static const struct tensor *take(struct merge *m, const char *stem, int stem_size,
                                 const char *suffix)
{
    size_t low = 0, high = m->adapter->count;
    char *name = arena_printf(&m->out->arena, "%s%.*s%s", prefix, stem_size, stem, suffix);
    while (name && low < high) {
        size_t middle = (low + high) / 2;
        const struct tensor *t = &m->adapter->items[middle];
        int order = strcmp(name, t->name);
        if (order == 0) {
            struct tensor *copy = arena_alloc(&m->out->arena, sizeof *copy);
            m->used[middle] = true;
            if (copy) {
                *copy = *t;
                copy->file += m->first_file;
            }
            return copy;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static int refuse(struct merge *m, const struct tensor *t, int code, const char *why)
{
    return error_set(m->err, code, "tensor \"%s\": %s", t->name, why);
}

static bool is_float(const struct tensor *t)
{
    return t->dtype->format && t->dtype->format->plain_float;
}

static bool has_shape(const struct tensor *t, uint64_t rows, uint64_t cols)
{
    return t->ndim == 2 && t->shape[0] == rows && t->shape[1] == cols && is_float(t);
}

/* Whether what was trained as a whole can take a tensor's place. */
static int check_saved(struct merge *m, const struct tensor *base, const struct tensor *saved)
{
    bool alike = saved->ndim == base->ndim && is_float(saved);
    for (uint32_t i = 0; alike && i < base->ndim; i++)
        alike = saved->shape[i] == base->shape[i];
    return alike ? 0 : refuse(m, base, -EINVAL, "the adapter has it in another shape");
}

/* out is W, and becomes W'. A and B are there; magnitude may be NULL. */
static int derive(struct merge *m, const struct tensor *w, const struct tensor *a,
                  const struct tensor *b, const struct tensor *magnitude, const char *module,
                  bool embedding, struct tensor *out)
{
    bool transposed = embedding || m->lora->fan_in_fan_out;
    bool nf4 = m->onto_nf4 && !embedding && !ends_with(module, "lm_head");
    uint64_t rank = a->ndim == 2 ? a->shape[0] : 0, said;
    struct derived *d = arena_alloc(&m->out->arena, sizeof *d);
    uint32_t parts = w->derived ? w->derived->part_count : 1;
    if (!d)
        return error_set(m->err, -ENOMEM, "out of memory");
    if (w->derived && m->onto_nf4)
        return refuse(m, w, -ENOTSUP, "it is packed already, and not as NF4 of its own weights");
    if (w->ndim != 2 || !is_float(w) || parts + 3 > DERIVED_PARTS)
        return refuse(m, w, -ENOTSUP, "what is stored so cannot be added to");
    uint64_t rows = w->shape[0], cols = w->shape[1];
    *d = (struct derived){.method = &lora_method,
                          .base = w->derived,
                          .type = w->dtype,
                          .rows = rows,
                          .cols = cols,
                          .across = true, /* all rows need the same of the adapter */
                          .variant = (transposed ? LORA_TRANSPOSED : 0) |
                                     (embedding ? LORA_ROUNDED : 0) |
                                     (magnitude ? LORA_DORA : 0) |
                                     (nf4 ? LORA_ONTO_NF4 : 0)};
    if (!has_shape(a, rank, transposed ? rows : cols) ||
        !has_shape(b, transposed ? cols : rows, rank))
        return refuse(m, w, -EINVAL, "the adapter's A and B do not fit it");
    if (magnitude && (transposed || magnitude->elements != rows || !is_float(magnitude)))
        return refuse(m, w, -EINVAL, "the adapter's magnitudes do not fit it");
    int rc = scale_of(m->lora, module, &said, &d->number, m->err);
    if (!rc && said != rank)
        rc = error_set(m->err, -EINVAL,
                       "tensor \"%s\": its rank is %" PRIu64 " by the config, and %" PRIu64 " by A",
                       w->name, said, rank);
    if (rc)
        return rc;
    d->rank = rank;
    if (w->derived)
        memcpy(d->parts, w->derived->parts, sizeof d->parts);
    else
        d->parts[0] = w;
    d->parts[parts++] = a;
    d->parts[parts++] = b;
    d->parts[parts++] = magnitude;
    d->part_count = parts;
    out->derived = d;
    return 0;
}

/* What the adapter has for a weight; out: so far the base's, or what the adapter has in its place. */
static int merge_weight(struct merge *m, const char *name, struct tensor *out)
{
    int stem = (int)(strlen(name) - strlen(".weight"));
    const char *module = arena_strndup(&m->out->arena, name, (size_t)stem);
    const struct tensor *own = take(m, name, stem, ".base_layer.weight");
    const struct tensor *a = take(m, name, stem, ".lora_A.weight");
    const struct tensor *b = take(m, name, stem, ".lora_B.weight");
    const struct tensor *magnitude = take(m, name, stem, ".lora_magnitude_vector");
    bool embedding = !a && !b;
    if (embedding) {
        a = take(m, name, stem, ".lora_embedding_A");
        b = take(m, name, stem, ".lora_embedding_B");
    }
    if (!module)
        return error_set(m->err, -ENOMEM, "out of memory");
    if (own && check_saved(m, out, own))
        return -EINVAL;
    if (own) { /* saved where an embedding is trained, for it may have grown */
        *out = *own;
        out->name = name;
    }
    if (!a != !b || (!a && magnitude))
        return refuse(m, out, -EINVAL, "the adapter has only some of A, B and magnitudes for it");
    if (!a)
        return 0;
    if (m->lora->dora != (magnitude != NULL))
        return refuse(m, out, -EINVAL, "the adapter's magnitudes are not where use_dora says");
    struct tensor *w = arena_alloc(&m->out->arena, sizeof *w);
    if (!w)
        return error_set(m->err, -ENOMEM, "out of memory");
    *w = *out;
    return derive(m, w, a, b, magnitude, module, embedding, out);
}

static int merge_one(struct merge *m, const struct tensor *base)
{
    struct tensor *out = tensor_list_add(m->out);
    int size = (int)strlen(base->name);
    const struct tensor *saved = take(m, base->name, size, "");
    if (!saved && ends_with(base->name, ".bias")) /* of a layer that is added to */
        saved = take(m, base->name, size - (int)strlen(".bias"), ".base_layer.bias");
    if (!out)
        return error_set(m->err, -ENOMEM, "out of memory");
    if (saved && check_saved(m, base, saved))
        return -EINVAL;
    *out = saved ? *saved : *base; /* what was trained as a whole takes its place */
    out->name = base->name;
    return !saved && ends_with(base->name, ".weight") ? merge_weight(m, base->name, out) : 0;
}

/* A tensor as it is, derived. */
static int derive_plainly(struct merge *m, struct tensor *t)
{
    struct derived *d = arena_alloc(&m->out->arena, sizeof *d);
    struct tensor *stored = arena_alloc(&m->out->arena, sizeof *stored);
    if (!d || !stored)
        return error_set(m->err, -ENOMEM, "out of memory");
    *stored = *t;
    *d = (struct derived){.method = &lora_factor_method,
                          .parts = {stored},
                          .part_count = 1,
                          .type = t->dtype,
                          .rows = t->shape[0],
                          .cols = t->shape[1],
                          .number = 1};
    t->derived = d;
    return 0;
}

static bool is_expert(const struct tensor *t)
{
    return t->ndim == 2 && is_float(t) && strstr(t->name, ".experts.");
}

/* Experts become one tensor, of which all parts are derived, or none is. */
static int even_experts(struct merge *m)
{
    bool any = false;
    int rc = 0;
    for (size_t i = 0; i < m->out->count; i++)
        any |= is_expert(&m->out->items[i]) && m->out->items[i].derived;
    for (size_t i = 0; !rc && any && i < m->out->count; i++)
        if (is_expert(&m->out->items[i]) && !m->out->items[i].derived)
            rc = derive_plainly(m, &m->out->items[i]);
    return rc;
}

int lora_merge(const struct lora *l, const struct tensor_list *base,
               const struct tensor_list *adapter, uint32_t first_file, bool onto_nf4,
               struct tensor_list *out, struct error *err)
{
    struct merge m = {l, adapter, calloc(adapter->count + 1, sizeof(bool)), first_file, onto_nf4, out,
                      err};
    int rc = m.used ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < base->count; i++)
        rc = merge_one(&m, &base->items[i]);
    for (size_t i = 0; !rc && i < adapter->count; i++)
        if (!m.used[i])
            rc = error_set(err, -ENOTSUP, "tensor \"%s\": the base has nothing that it is for",
                           adapter->items[i].name);
    rc = rc ? rc : even_experts(&m);
    free(m.used);
    return rc;
}

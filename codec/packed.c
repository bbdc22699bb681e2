/* SPDX-License-Identifier: MIT */
#include "codec/packed.h"

#include "codec/affix.h"
#include "codec/unpack/unpack.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    STATE_MAX = 1 << 12, /* bytes of a quant_state */
    STATE_DIMS = 2,      /* of a weight */
    OTHERS_MAX = 3,
};

struct finder {
    struct config *config;
    const json_t *quantization;
    const char *format; /* in there; NULL: none */
    struct tensor_list *list;
    bool *taken; /* tensors that are parts of a weight */
    const struct packed_reader *reader;
    struct tensor *made; /* as many as the list has, at most */
    size_t count;
};

/* Where a packed weight is being put together. */
struct packed {
    const char *base; /* the name in front of ".weight", not terminated */
    int base_size;
    const struct tensor *parts[DERIVED_PARTS];
};

/* A row of a table, one for each layout. Endings are those behind the layer's name. */
struct layout {
    const char *method, *format; /* quant_method, and format where there are several */
    const struct unpack *unpack;
    const char *anchor;               /* the ending of a tensor that each packed weight has */
    const char *parts[DERIVED_PARTS]; /* in the order of the unpacker */
    const char *others[OTHERS_MAX];   /* of what goes with them and is read here, or by nobody */
    /* What config.json says. */
    int (*configure)(const struct finder *f, struct unpack_settings *s, struct error *err);
    /* What the weight says of itself; NULL: nothing. */
    int (*describe)(const struct finder *f, const struct layout *l, const struct packed *p,
                    struct unpack_settings *s, struct error *err);
};

/* ---- tensors by name ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static const struct tensor *find(const struct finder *f, const struct packed *p, const char *ending)
{
    char name[512];
    struct tensor key = {.name = name};
    if (snprintf(name, sizeof name, "%.*s%s", p->base_size, p->base, ending) >= (int)sizeof name)
        return NULL;
    return bsearch(&key, f->list->items, f->list->count, sizeof key, by_name);
}

static int refuse(const struct packed *p, int code, const char *why, struct error *err)
{
    return error_set(err, code, "tensor \"%.*s.weight\" is packed: %s", p->base_size, p->base, why);
}

static int missing(const struct packed *p, const char *ending, struct error *err)
{
    return error_set(err, -EINVAL, "tensor \"%.*s.weight\" is packed, and \"%.*s%s\" is missing",
                     p->base_size, p->base, p->base_size, p->base, ending);
}

/* ---- quantization_config ---- */

static int unknown(const char *what, const char *value, struct error *err)
{
    return error_set(err, -ENOTSUP, "config.json: quantization_config: %s %.100s is not known",
                     what, value ? value : "(none)");
}

static int read_bits(const json_t *object, const char *name, struct unpack_settings *s,
                     struct error *err)
{
    json_int_t bits = json_integer_value(json_object_get(object, name));
    if (bits < 1 || bits > 8)
        return error_set(err, -ENOTSUP,
                         "config.json: quantization_config: %s is missing or no number from 1 to 8",
                         name);
    s->bits = (uint32_t)bits;
    return 0;
}

/* -1 is one group for all of a row. */
static int read_group(const json_t *object, struct unpack_settings *s, struct error *err)
{
    const json_t *v = json_object_get(object, "group_size");
    json_int_t group = json_integer_value(v);
    if (!json_is_integer(v) || (group < 1 && group != -1))
        return error_set(err, -EINVAL,
                         "config.json: quantization_config: group_size is missing or no number");
    s->group = group > 0 ? (uint64_t)group : 0;
    return 0;
}

static int configure_gptq(const struct finder *f, struct unpack_settings *s, struct error *err)
{
    const json_t *q = f->quantization, *format = json_object_get(q, "checkpoint_format");
    format = format ? format : json_object_get(q, "format");
    const char *name = format && !json_is_null(format) ? json_string_value(format) : "gptq";
    if (!name || (strcmp(name, "gptq") != 0 && strcmp(name, "gptq_v2") != 0))
        return unknown("checkpoint_format", name, err);
    if (json_is_true(json_object_get(q, "is_marlin_format")))
        return unknown("checkpoint_format", "marlin", err);
    s->variant = strcmp(name, "gptq") == 0 ? GPTQ_ZEROS_LESS_1 : GPTQ_ZEROS;
    int rc = read_bits(q, "bits", s, err);
    return rc ? rc : read_group(q, s, err);
}

static int configure_awq(const struct finder *f, struct unpack_settings *s, struct error *err)
{
    const json_t *q = f->quantization, *version = json_object_get(q, "version");
    const char *backend = json_string_value(json_object_get(q, "backend"));
    const char *name = version ? json_string_value(version) : "gemm";
    if (!name || strcasecmp(name, "gemm") != 0)
        return unknown("version", name, err);
    if (backend && strcasecmp(backend, "llm-awq") == 0)
        return unknown("backend", backend, err);
    int rc = read_bits(q, "bits", s, err);
    if (!rc && s->bits != 4)
        rc = error_set(err, -ENOTSUP,
                       "config.json: quantization_config: AWQ of %" PRIu32 " bits is not known",
                       s->bits);
    return rc ? rc : read_group(q, s, err);
}

static int configure_nothing(const struct finder *f, struct unpack_settings *s, struct error *err)
{
    (void)f;
    (void)s;
    (void)err;
    return 0;
}

static bool is_set(const json_t *v)
{
    return v && !json_is_null(v) && !json_is_false(v);
}

/* A list of groups of layers; one is known. */
static int configure_compressed(const struct finder *f, struct unpack_settings *s,
                                struct error *err)
{
    const json_t *groups = json_object_get(f->quantization, "config_groups"), *weights = NULL;
    const json_t *sparsity = json_object_get(f->quantization, "sparsity_config");
    const char *sparse = json_string_value(json_object_get(sparsity, "format")), *name;
    json_t *group;
    json_object_foreach((json_t *)groups, name, group) weights = json_object_get(group, "weights");
    if (json_object_size(groups) != 1)
        return error_set(err, -ENOTSUP,
                         "config.json: quantization_config: there is not exactly one group");
    if (sparse && strcmp(sparse, "dense") != 0)
        return unknown("the sparsity", sparse, err);
    const char *type = json_string_value(json_object_get(weights, "type"));
    const char *strategy = json_string_value(json_object_get(weights, "strategy"));
    if (type && strcmp(type, "int") != 0)
        return unknown("type", type, err);
    if (!strategy || (strcmp(strategy, "group") != 0 && strcmp(strategy, "channel") != 0))
        return unknown("strategy", strategy, err);
    if (is_set(json_object_get(weights, "block_structure")))
        return unknown("strategy", "block", err);
    int rc = read_bits(weights, "num_bits", s, err);
    return rc || strcmp(strategy, "channel") == 0 ? rc : read_group(weights, s, err);
}

/* ---- what weights say of themselves ---- */

static int describe_gptq(const struct finder *f, const struct layout *l, const struct packed *p,
                         struct unpack_settings *s, struct error *err)
{
    (void)l;
    (void)s;
    if (!find(f, p, ".g_idx") && json_is_true(json_object_get(f->quantization, "desc_act")))
        return missing(p, ".g_idx", err);
    return 0;
}

static const struct dtype *dtype_of_torch(const char *name)
{
    static const char *const names[][2] = {
        {"bfloat16", "BF16"},
        {"float16",  "F16" },
        {"float32",  "F32" }
    };
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i][0]) == 0)
            return dtype_by_name(names[i][1]);
    return NULL;
}

/* Greater than 0, and fits 31 bits; else 0. */
static uint32_t small_number(const json_t *v)
{
    json_int_t n = json_integer_value(v);
    return n > 0 && n <= INT32_MAX ? (uint32_t)n : 0;
}

/* A second level of scales is there where it has an offset. */
static int read_nested(const struct packed *p, const json_t *state, struct unpack_settings *s,
                       struct error *err)
{
    const json_t *offset = json_object_get(state, "nested_offset");
    const char *type = json_string_value(json_object_get(state, "nested_dtype"));
    if (!offset)
        return 0;
    s->variant = small_number(json_object_get(state, "nested_blocksize"));
    s->number = (float)json_number_value(offset);
    if (!json_is_number(offset) || !s->variant || !type || strcmp(type, "float32") != 0)
        return refuse(p, -ENOTSUP, "its quant_state has scales of a kind that is not known", err);
    return 0;
}

static int read_state(const struct layout *l, const struct packed *p, const json_t *state,
                      struct unpack_settings *s, struct error *err)
{
    const char *type = json_string_value(json_object_get(state, "quant_type"));
    const json_t *shape = json_object_get(state, "shape");
    json_int_t rows = json_integer_value(json_array_get(shape, 0));
    json_int_t cols = json_integer_value(json_array_get(shape, 1));
    s->type = dtype_of_torch(json_string_value(json_object_get(state, "dtype")));
    s->group = small_number(json_object_get(state, "blocksize"));
    if (!type || strcmp(type, l->unpack->method.name) != 0)
        return refuse(p, -ENOTSUP, "its quant_state is of another type than its name", err);
    if (!s->type)
        return refuse(p, -ENOTSUP, "its quant_state has no dtype that is known", err);
    if (!s->group)
        return refuse(p, -ENOTSUP, "its quant_state has no blocksize", err);
    if (json_array_size(shape) != STATE_DIMS || rows <= 0 || cols <= 0)
        return refuse(p, -ENOTSUP, "its quant_state has no shape of a matrix", err);
    s->rows = (uint64_t)rows;
    s->cols = (uint64_t)cols;
    return read_nested(p, state, s, err);
}

static int describe_4_bit(const struct finder *f, const struct layout *l, const struct packed *p,
                          struct unpack_settings *s, struct error *err)
{
    char text[STATE_MAX];
    json_t *state = NULL;
    const struct tensor *t = find(f, p, l->anchor);
    if (p->parts[0] && strcmp(p->parts[0]->dtype->name, "U8") != 0)
        return refuse(p, -ENOTSUP, "a bnb_4bit_quant_storage other than uint8 is not known", err);
    if (!t || strcmp(t->dtype->name, "U8") != 0 || t->size > sizeof text)
        return refuse(p, -ENOTSUP, "its quant_state is no text, or too long", err);
    int rc = f->reader->read(f->reader->context, t, text, (size_t)t->size, err);
    if (rc)
        return rc;
    if (json_parse((struct blob){text, (size_t)t->size}, &state, NULL))
        return refuse(p, -EINVAL, "its quant_state is no JSON", err);
    rc = read_state(l, p, state, s, err);
    json_decref(state);
    return rc;
}

static int describe_8_bit(const struct finder *f, const struct layout *l, const struct packed *p,
                          struct unpack_settings *s, struct error *err)
{
    (void)l;
    (void)s;
    uint8_t format = 0;
    const struct tensor *t = find(f, p, ".weight_format");
    int rc = t && t->size ? f->reader->read(f->reader->context, t, &format, sizeof format, err) : 0;
    if (!rc && (format || (t && t->size != sizeof format)))
        rc = refuse(p, -ENOTSUP, "its weight_format is not that of rows", err);
    return rc;
}

static int check_order(const struct finder *f, const struct packed *p, struct error *err)
{
    return find(f, p, ".weight_g_idx")
               ? refuse(p, -ENOTSUP, "an order of columns (weight_g_idx) is not known", err)
               : 0;
}

static int describe_bytes(const struct finder *f, const struct layout *l, const struct packed *p,
                          struct unpack_settings *s, struct error *err)
{
    (void)l;
    (void)s;
    return check_order(f, p, err);
}

static int describe_packed(const struct finder *f, const struct layout *l, const struct packed *p,
                           struct unpack_settings *s, struct error *err)
{
    (void)l;
    int64_t shape[STATE_DIMS];
    const struct tensor *t = find(f, p, ".weight_shape");
    if (!t)
        return missing(p, ".weight_shape", err);
    if (strcmp(t->dtype->name, "I64") != 0 || t->size != sizeof shape)
        return refuse(p, -ENOTSUP, "its weight_shape is not that of a matrix", err);
    int rc = f->reader->read(f->reader->context, t, shape, sizeof shape, err);
    if (rc)
        return rc;
    if (shape[0] <= 0 || shape[1] <= 0)
        return refuse(p, -EINVAL, "its weight_shape is not that of a matrix", err);
    s->rows = (uint64_t)shape[0];
    s->cols = (uint64_t)shape[1];
    return check_order(f, p, err);
}

/* ---- the table ---- */

#define STATE ".weight.quant_state.bitsandbytes__"
#define PARTS_4_BIT                                                                                \
    {                                                                                              \
        ".weight", ".weight.absmax", ".weight.quant_map", ".weight.nested_absmax",                 \
            ".weight.nested_quant_map"                                                             \
    }

/* clang-format off */
static const struct layout layouts[] = {
    {"gptq", NULL, &unpack_gptq, ".qweight", {".qweight", ".qzeros", ".scales", ".g_idx"}, {NULL},
     configure_gptq, describe_gptq},
    {"awq", NULL, &unpack_awq, ".qweight", {".qweight", ".qzeros", ".scales"}, {NULL},
     configure_awq, NULL},
    {"bitsandbytes", NULL, &unpack_nf4, STATE "nf4", PARTS_4_BIT, {STATE "nf4"},
     configure_nothing, describe_4_bit},
    {"bitsandbytes", NULL, &unpack_fp4, STATE "fp4", PARTS_4_BIT, {STATE "fp4"},
     configure_nothing, describe_4_bit},
    {"bitsandbytes", NULL, &unpack_int8, ".SCB", {".weight", ".SCB"}, {".weight_format"},
     configure_nothing, describe_8_bit},
    {"compressed-tensors", "pack-quantized", &unpack_pack_quantized, ".weight_packed",
     {".weight_packed", ".weight_scale", ".weight_zero_point"},
     {".weight_shape", ".input_scale", ".input_zero_point"}, configure_compressed, describe_packed},
    {"compressed-tensors", "int-quantized", &unpack_int_quantized, ".weight_scale",
     {".weight", ".weight_scale", ".weight_zero_point"}, {".input_scale", ".input_zero_point"},
     configure_compressed, describe_bytes},
};
/* clang-format on */

enum { LAYOUT_COUNT = sizeof layouts / sizeof *layouts };

static bool applies(const struct layout *l, const struct finder *f)
{
    const char *method = json_string_value(json_object_get(f->quantization, "quant_method"));
    return method && strcmp(method, l->method) == 0 &&
           (!l->format || (f->format && strcmp(f->format, l->format) == 0));
}

/* ---- one weight ---- */

static int take(struct finder *f, const struct packed *p, const struct tensor *t, struct error *err)
{
    bool *taken = &f->taken[t - f->list->items];
    if (*taken)
        return refuse(p, -EINVAL, "its parts belong to two layouts", err);
    *taken = true;
    return 0;
}

static int find_parts(struct finder *f, const struct layout *l, struct packed *p, struct error *err)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && i < l->unpack->part_count; i++) {
        p->parts[i] = find(f, p, l->parts[i]);
        if (!p->parts[i] && !(l->unpack->optional >> i & 1))
            return missing(p, l->parts[i], err);
        rc = p->parts[i] ? take(f, p, p->parts[i], err) : 0;
    }
    for (int i = 0; !rc && i < OTHERS_MAX && l->others[i]; i++) {
        const struct tensor *t = find(f, p, l->others[i]);
        rc = t ? take(f, p, t, err) : 0;
    }
    return rc;
}

/* The parts move out of the list, whose items do not stay where they are. */
static bool keep_parts(struct arena *a, struct derived *d)
{
    for (uint32_t i = 0; i < d->part_count; i++) {
        if (!d->parts[i])
            continue;
        struct tensor *copy = arena_alloc(a, sizeof *copy);
        if (!copy)
            return false;
        *copy = *d->parts[i];
        d->parts[i] = copy;
    }
    return true;
}

static int make_tensor(struct finder *f, const struct packed *p, struct derived *d,
                       struct tensor *out, struct error *err)
{
    struct arena *a = &f->list->arena;
    uint64_t *shape = arena_array(a, 2, sizeof *shape);
    char *name = arena_printf(a, "%.*s.weight", p->base_size, p->base);
    if (!shape || !name || !keep_parts(a, d))
        return error_set(err, -ENOMEM, "out of memory");
    shape[0] = d->rows;
    shape[1] = d->cols;
    *out = (struct tensor){.name = name,
                           .dtype = d->type,
                           .shape = shape,
                           .ndim = 2,
                           .file = d->parts[0]->file,
                           .elements = d->rows * d->cols,
                           .derived = d};
    dtype_bytes(d->type, out->elements, &out->size);
    return 0;
}

static int add_weight(struct finder *f, const struct layout *l, const struct unpack_settings *all,
                      const struct tensor *anchor, struct error *err)
{
    struct unpack_settings s = *all;
    struct packed p = {.base = anchor->name,
                       .base_size = (int)(strlen(anchor->name) - strlen(l->anchor))};
    struct derived *d = arena_alloc(&f->list->arena, sizeof *d);
    if (!d)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = find_parts(f, l, &p, err);
    if (!rc && l->describe)
        rc = l->describe(f, l, &p, &s, err);
    rc = rc ? rc : unpack_make(l->unpack, &s, p.parts, d, err);
    rc = rc ? rc : make_tensor(f, &p, d, &f->made[f->count], err);
    f->count += rc == 0;
    return rc;
}

static int add_weights(struct finder *f, const struct layout *l, struct error *err)
{
    struct unpack_settings s = {0};
    int rc = l->configure(f, &s, err);
    for (size_t i = 0; !rc && i < f->list->count; i++)
        if (ends_with(f->list->items[i].name, l->anchor))
            rc = add_weight(f, l, &s, &f->list->items[i], err);
    return rc;
}

/* ---- all of them ---- */

static bool is_ending(const char *name, const char *ending)
{
    return ending && strcmp(ending, ".weight") != 0 && ends_with(name, ending);
}

/* Whether a tensor is called like a part of a layout's. */
static bool is_part(const struct layout *l, const char *name)
{
    for (int i = 0; i < DERIVED_PARTS; i++)
        if (is_ending(name, l->parts[i]))
            return true;
    for (int i = 0; i < OTHERS_MAX; i++)
        if (is_ending(name, l->others[i]))
            return true;
    return false;
}

static int check_rest(const struct finder *f, struct error *err)
{
    for (size_t i = 0; i < f->list->count; i++)
        for (int k = 0; !f->taken[i] && k < LAYOUT_COUNT; k++)
            if (applies(&layouts[k], f) && is_part(&layouts[k], f->list->items[i].name))
                return error_set(err, -EINVAL,
                                 "tensor \"%s\" is a part of a packed weight that is not there",
                                 f->list->items[i].name);
    return 0;
}

/* What is made, and what is left over, sorted. */
static int merge(struct finder *f, struct error *err)
{
    for (size_t i = 0; i < f->list->count; i++)
        if (!f->taken[i])
            f->made[f->count++] = f->list->items[i];
    qsort(f->made, f->count, sizeof *f->made, by_name);
    for (size_t i = 1; i < f->count; i++)
        if (by_name(&f->made[i - 1], &f->made[i]) == 0)
            return error_set(err, -EINVAL, "tensor \"%s\" is there twice, packed and as it is",
                             f->made[i].name);
    return 0;
}

static void forget_config(struct config *c)
{
    static const char name[] = "quantization_config";
    json_object_del(c->raw, name);
    json_object_del(c->full, name);
    json_object_del(json_object_get(c->raw, "text_config"), name);
}

static int replace(struct finder *f, struct error *err)
{
    bool any = false;
    int rc = 0;
    for (int i = 0; !rc && i < LAYOUT_COUNT; i++) {
        if (!applies(&layouts[i], f))
            continue;
        any = true;
        rc = add_weights(f, &layouts[i], err);
    }
    if (rc || !any)
        return rc;
    if (!f->count)
        return error_set(err, -EINVAL,
                         "config.json: quantization_config says %s, but no tensor is packed so",
                         json_string_value(json_object_get(f->quantization, "quant_method")));
    rc = check_rest(f, err);
    rc = rc ? rc : merge(f, err);
    if (rc)
        return rc;
    free(f->list->items);
    f->list->items = f->made;
    f->list->count = f->list->capacity = f->count;
    f->made = NULL;
    forget_config(f->config);
    return 0;
}

int packed_find(struct config *config, struct tensor_list *list, const struct packed_reader *r,
                struct error *err)
{
    struct finder f = {.config = config, .list = list, .reader = r};
    f.quantization = json_object_get(config->full, "quantization_config");
    f.format = json_string_value(json_object_get(f.quantization, "format"));
    if (!json_is_object(f.quantization))
        return 0;
    f.taken = calloc(list->count + 1, sizeof *f.taken);
    f.made = calloc(list->count + 1, sizeof *f.made);
    int rc = f.taken && f.made ? replace(&f, err) : error_set(err, -ENOMEM, "out of memory");
    free(f.taken);
    free(f.made);
    return rc;
}

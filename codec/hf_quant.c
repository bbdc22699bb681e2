/* SPDX-License-Identifier: MIT */
#include "codec/hf_quant.h"

#include "codec/affix.h"
#include "codec/awq/format.h"
#include "codec/bnb/format.h"
#include "codec/compressed/format.h"
#include "codec/gptq/format.h"
#include "codec/spqr/format.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- which layers ---- */

static bool in_layer(const struct model_tensor *t)
{
    return starts_with(t->name, "blk.");
}

/* transformers keeps the experts of a layer in one piece, which is no linear layer. */
static bool has_experts(const struct model_tensor *t)
{
    return in_layer(t) && strstr(t->name, "_exps.");
}

/* All matrices of a layer are linear layers, and nothing else is but the output. */
static bool is_linear(const struct model_tensor *t)
{
    return in_layer(t) && ends_with(t->name, ".weight") && !has_experts(t) && t->view.tensor &&
           t->view.tensor->ndim == 2;
}

void hf_model_mark_linear(struct hf_model *hf, const struct model *m)
{
    for (size_t i = 0; i < hf->count; i++) {
        struct hf_tensor *t = &hf->tensors[i];
        for (size_t k = 0; !t->mapped && k < m->count; k++)
            if (m->tensors[k].view.tensor == t->view.tensor)
                t->mapped = &m->tensors[k];
        t->linear = t->mapped && is_linear(t->mapped);
    }
}

bool hf_form_quantizes(const struct hf_form *form, const struct hf_tensor *t)
{
    return form->method && t->linear && !form->method->refuses(t->view.rows, t->view.cols);
}

/* ---- what is refused ---- */

static int refuse(const struct model_tensor *t, const char *why, struct error *err)
{
    return error_set(err, -ENOTSUP, "tensor \"%s\": %s", t->view.tensor->name, why);
}

/* The name behind "blk.N.". */
static const char *role_of(const struct model_tensor *t)
{
    return strchr(t->name + strlen("blk."), '.');
}

/* Whether a bias is that of the linear layer which follows it in the order of names. */
static bool is_bias_of(const struct model_tensor *t, const struct model_tensor *next)
{
    size_t n = strlen(t->name) - strlen("bias");
    return ends_with(t->name, ".bias") && strncmp(t->name, next->name, n) == 0 &&
           strcmp(next->name + n, "weight") == 0 && is_linear(next);
}

/* Loaders choose layers by their role, so a role is quantized in all layers or in none. */
static bool role_differs(const struct hf_method *method, const struct model *m,
                         const struct model_tensor *t)
{
    const struct model_tensor *first = m->tensors;
    while (!is_linear(first) || strcmp(role_of(first), role_of(t)) != 0)
        first++;
    return !method->refuses(first->view.rows, first->view.cols) !=
           !method->refuses(t->view.rows, t->view.cols);
}

/* Whether the tensor's name leads to the module of transformers, or will, for a GGUF file. */
static bool names_module(const struct tensor *t)
{
    return starts_with(t->name, "model.layers.") || starts_with(t->name, "blk.");
}

static int check_linear(const struct hf_method *method, const struct model *m,
                        const struct model_tensor *t, struct error *err)
{
    const char *why = method->refuses(t->view.rows, t->view.cols);
    if (!names_module(t->view.tensor))
        return refuse(t, "its module has another name in transformers", err);
    if (why && method->whole)
        return refuse(t, why, err);
    if (role_differs(method, m, t))
        return refuse(t, "its shape allows less, or more, than in another layer", err);
    return 0;
}

static int check_tensors(const struct hf_method *method, const struct model *m, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < m->count; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (has_experts(t))
            rc = refuse(t, "experts are no linear layers in transformers", err);
        else if (is_linear(t))
            rc = check_linear(method, m, t, err);
        else if (!method->bias && i + 1 < m->count && is_bias_of(t, t + 1))
            rc = refuse(t, "the loader knows no biases", err);
    }
    return rc;
}

/* A folder in which nothing is quantized is none. */
static int check_any(const struct hf_method *method, const struct model *m, struct error *err)
{
    const struct model_tensor *refused = NULL;
    for (size_t i = 0; i < m->count; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (!is_linear(t))
            continue;
        if (!method->refuses(t->view.rows, t->view.cols))
            return 0;
        refused = refused ? refused : t;
    }
    return refused ? refuse(refused, method->refuses(refused->view.rows, refused->view.cols), err)
                   : error_set(err, -ENOTSUP, "there are no linear layers");
}

int hf_form_check(const struct hf_form *form, const struct model *m, struct error *err)
{
    if (!form->method)
        return 0;
    int rc = check_tensors(form->method, m, err);
    return rc ? rc : check_any(form->method, m, err);
}

/* ---- SpQR ---- */

/* A kernel has all of its vector in halfs in 48 KiB of shared memory, beside 2 KiB of tables and the
 * offsets of a stripe's rows; the launch of one that does not fit fails without a word. */
enum { SPQR_WIDTH_MAX = ((48 - 2) * 1024 - 128) / 2 };

/* All of SpQR's formats have the same slots. */
static const char *refuse_spqr(uint64_t rows, uint64_t cols)
{
    struct spqr_layout stripes;
    if (!rows || !cols || rows % SPQR_ROWS || cols % SPQR_GROUP)
        return "rows and columns are no multiples of 16, which SpQR's kernel needs";
    if (cols > SPQR_WIDTH_MAX)
        return "rows are too long for the shared memory of SpQR's kernel";
    if (spqr_format_layout(&spqr_formats[0], cols, &stripes, NULL) ||
        rows / SPQR_ROWS > INT32_MAX / stripes.slots)
        return "there are more outliers than SpQR's kernel can count";
    return NULL;
}

/* "<layer>.<name>.shape": the elements of one tensor, all of which have one extent. */
static int put_shape(json_t *shapes, const struct hf_form *form, const struct hf_tensor *t,
                     const struct repack *r)
{
    char *key;
    uint64_t shape[REPACK_DIMS];
    const struct repack_matrix matrix = hf_form_matrix(form, t);
    r->shape(&matrix, shape);
    if (asprintf(&key, "%.*s%s.shape", hf_layer_name(t), t->name, r->name) < 0)
        return -ENOMEM;
    int rc = json_object_set_new(shapes, key, json_integer((json_int_t)shape[0]));
    free(key);
    return rc ? -ENOMEM : 0;
}

/* Every weight that stays is named, that of an output tied to the embedding, which has none in the
 * file, too: loaders look for linear layers in the model, not in the file. */
static int describe_spqr(const struct hf_model *m, const struct hf_form *form, json_t *out)
{
    static const char output[] = "lm_head.weight";
    json_t *kept = json_array(), *shapes = json_object();
    bool has_output = false, failed = !kept || !shapes;
    for (size_t i = 0; !failed && i < m->count; i++) {
        const struct hf_tensor *t = &m->tensors[i];
        has_output |= strcmp(t->name, output) == 0;
        if (!hf_form_quantizes(form, t))
            failed = json_array_append_new(kept, json_string(t->name)) != 0;
        for (uint32_t k = 0; !failed && hf_form_quantizes(form, t) && k < form->method->count; k++)
            failed = put_shape(shapes, form, t, &form->method->repacks[k]) != 0;
    }
    if (!failed && !has_output)
        failed = json_array_append_new(kept, json_string(output)) != 0;
    json_t *all =
        failed ? NULL
               : json_pack("{s:i, s:i, s:i, s:O, s:O}", "bits",
                           (int)hf_form_packed(form)->stripe_bits, "beta1", SPQR_ROWS, "beta2",
                           SPQR_GROUP, "modules_to_not_convert", kept, "shapes", shapes);
    failed = !all || json_object_update(out, all);
    json_decref(all);
    json_decref(kept);
    json_decref(shapes);
    return failed ? -ENOMEM : 0;
}

/* ---- GPTQ ---- */

enum { GPTQ_GROUP = 128, GPTQ_WORD = 32 };

static const char *refuse_gptq(uint64_t rows, uint64_t cols)
{
    if (!cols || cols % GPTQ_GROUP)
        return "its width is no multiple of 128, GPTQ's group";
    if (!rows || rows % GPTQ_WORD)
        return "its rows are no multiple of 32, the codes in GPTQ's words";
    return NULL;
}

static bool in_list(const json_t *list, const char *text)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        if (strcmp(json_string_value(item), text) == 0)
            return true;
    }
    return false;
}

/* "self_attn.q_proj" of "model.layers.0.self_attn.q_proj.weight". */
static void role_name(const struct hf_tensor *t, char *out, size_t size)
{
    const char *role = strchr(t->name + strlen("model.layers."), '.') + 1;
    snprintf(out, size, "%.*s", (int)(strlen(role) - strlen(".weight")), role);
}

/* The roles of linear layers that are quantized, or of those that are not, each once. */
static json_t *list_roles(const struct hf_model *m, const struct hf_form *form, bool quantized)
{
    char role[256];
    json_t *roles = json_array();
    for (size_t i = 0; i < m->count; i++) {
        const struct hf_tensor *t = &m->tensors[i];
        if (!t->linear || hf_form_quantizes(form, t) != quantized)
            continue;
        role_name(t, role, sizeof role);
        if (!in_list(roles, role))
            json_array_append_new(roles, json_string(role));
    }
    return roles;
}

/* Groups are static, so g_idx is j / group whatever the order of columns was. desc_act would make
 * loaders look it up all the same, which costs them time and some of their kernels. */
static int describe_gptq(const struct hf_model *m, const struct hf_form *form, json_t *out)
{
    const struct format *f = hf_form_packed(form);
    json_t *roles = list_roles(m, form, true), *kept = list_roles(m, form, false);
    json_t *all = roles && kept
                      ? json_pack("{s:i, s:i, s:b, s:b, s:s, s:b}", "bits", gptq_bits(f),
                                  "group_size", (int)f->block, "desc_act", 0, "sym", 1,
                                  "checkpoint_format", "gptq", "lm_head", 0)
                      : NULL;
    bool failed = !all || json_object_update(out, all) ||
                  (json_array_size(kept) && json_object_set_new(out, "modules_in_block_to_quantize",
                                                                json_pack("[O]", roles)));
    json_decref(all);
    json_decref(roles);
    json_decref(kept);
    return failed ? -ENOMEM : 0;
}

/* ---- AWQ ---- */

enum { AWQ_WORD = 8 };

static const char *refuse_awq(uint64_t rows, uint64_t cols)
{
    if (!cols || cols % AWQ_GROUP)
        return "its width is no multiple of 128, AWQ's group";
    if (!rows || rows % AWQ_WORD)
        return "its rows are no multiple of 8, the codes in AWQ's words";
    return NULL;
}

/* Loaders leave the output as it is without being told, and what has one of these in its name. */
static int describe_awq(const struct hf_model *m, const struct hf_form *form, json_t *out)
{
    json_t *kept = list_roles(m, form, false);
    json_t *all = kept ? json_pack("{s:i, s:i, s:b, s:s}", "bits", 4, "group_size", AWQ_GROUP,
                                   "zero_point", 1, "version", "gemm")
                       : NULL;
    bool failed = !all || json_object_update(out, all) ||
                  (json_array_size(kept) && json_object_set(out, "modules_to_not_convert", kept));
    json_decref(all);
    json_decref(kept);
    return failed ? -ENOMEM : 0;
}

/* Adds all members to the object, and lets go of them. NULL: memory is out. */
static int merge(json_t *out, json_t *members)
{
    bool failed = !members || json_object_update(out, members);
    json_decref(members);
    return failed ? -ENOMEM : 0;
}

/* ---- bitsandbytes ---- */

/* quant_state, in which both extents are told, has a fixed size; the mount has room for a row. */
enum { EXTENT_MAX = 1000000000, ROW_MAX = 1 << 20 };

static const char *refuse_nf4(uint64_t rows, uint64_t cols)
{
    if (!rows || !cols || rows > EXTENT_MAX || cols > EXTENT_MAX)
        return "its shape is none that quant_state has room for";
    return NULL;
}

static const char *refuse_rows(uint64_t rows, uint64_t cols)
{
    return !rows || !cols ? "it is empty" : cols > ROW_MAX ? "its rows are too long" : NULL;
}

/* Which layers are not quantized the loader knows itself: the output. */
static json_t *bnb_members(bool four)
{
    return json_pack("{s:b, s:b, s:n, s:f, s:b, s:b}", "load_in_4bit", four, "load_in_8bit", !four,
                     "llm_int8_skip_modules", "llm_int8_threshold", 6.0,
                     "llm_int8_enable_fp32_cpu_offload", 0, "llm_int8_has_fp16_weight", 0);
}

static int describe_nf4_with(const struct hf_form *form, bool nested, json_t *out)
{
    int rc = merge(out, bnb_members(true));
    return rc ? rc
              : merge(out, json_pack("{s:s, s:b, s:s, s:s}", "bnb_4bit_quant_type", "nf4",
                                     "bnb_4bit_use_double_quant", nested, "bnb_4bit_compute_dtype",
                                     format_torch_name(&formats[form->format]),
                                     "bnb_4bit_quant_storage", "uint8"));
}

static int describe_nf4(const struct hf_model *m, const struct hf_form *form, json_t *out)
{
    (void)m;
    return describe_nf4_with(form, false, out);
}

static int describe_nf4_dq(const struct hf_model *m, const struct hf_form *form, json_t *out)
{
    (void)m;
    return describe_nf4_with(form, true, out);
}

static int describe_int8(const struct hf_model *m, const struct hf_form *form, json_t *out)
{
    (void)m;
    (void)form;
    return merge(out, bnb_members(false));
}

/* ---- compressed-tensors ---- */

static const char *refuse_groups(uint64_t rows, uint64_t cols)
{
    return !rows || !cols || cols % COMPRESSED_GROUP
               ? "its width is no multiple of 128, the group of w4a16"
               : NULL;
}

/* The modules of linear layers that stay as they are, each by its name. */
static json_t *ignored(const struct hf_model *m, const struct hf_form *form)
{
    json_t *list = json_pack("[s]", "lm_head");
    for (size_t i = 0; list && i < m->count; i++) {
        const struct hf_tensor *t = &m->tensors[i];
        if (!t->linear || hf_form_quantizes(form, t))
            continue;
        size_t n = (size_t)hf_layer_name(t) - 1; /* without the dot */
        if (json_array_append_new(list, json_stringn(t->name, n))) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

/* The layout stands at the group, too: loaders that find none there think of another one. */
static int describe_compressed(const struct hf_model *m, const struct hf_form *form, json_t *out)
{
    const struct format *f = hf_form_packed(form);
    bool rows = f->row_head;
    const char *layout = rows ? "int-quantized" : "pack-quantized";
    json_t *ignore = ignored(m, form);
    json_t *group = rows ? json_null() : json_integer(COMPRESSED_GROUP);
    json_t *weights = json_pack("{s:i, s:s, s:b, s:s, s:o, s:b}", "num_bits", compressed_bits(f),
                                "type", "int", "symmetric", 1, "strategy",
                                rows ? "channel" : "group", "group_size", group, "dynamic", 0);
    json_t *members =
        ignore && weights
            ? json_pack("{s:s, s:s, s:n, s:n, s:O, s:{s:{s:s, s:[s], s:O, s:n, s:n}}}", "format",
                        layout, "quantization_status", "compressed", "kv_cache_scheme",
                        "global_compression_ratio", "ignore", ignore, "config_groups", "group_0",
                        "format", layout, "targets", "Linear", "weights", weights,
                        "input_activations", "output_activations")
            : NULL;
    json_decref(ignore);
    json_decref(weights);
    return merge(out, members);
}

/* ---- the table ---- */

/* clang-format off */
const struct hf_method hf_methods[HF_METHOD_COUNT] = {
    [HF_SPQR]   = {"spqr",     "spqr",               false, spqr_repacks,   SPQR_REPACK_COUNT,   false, true,  refuse_spqr,   describe_spqr},
    [HF_GPTQ]   = {"gptq",     "gptq",               false, gptq_repacks,   GPTQ_REPACK_COUNT,   true,  false, refuse_gptq,   describe_gptq},
    [HF_NF4]    = {"nf4",      "bitsandbytes",       true,  nf4_repacks,    NF4_REPACK_COUNT,    true,  true,  refuse_nf4,    describe_nf4},
    [HF_NF4_DQ] = {"nf4-dq",   "bitsandbytes",       true,  nf4_dq_repacks, NF4_DQ_REPACK_COUNT, true,  true,  refuse_nf4,    describe_nf4_dq},
    [HF_INT8]   = {"int8-bnb", "bitsandbytes",       true,  int8_repacks,   INT8_REPACK_COUNT,   true,  true,  refuse_rows,   describe_int8},
    [HF_W4]     = {"w4a16",    "compressed-tensors", true,  w4_repacks,     W4_REPACK_COUNT,     true,  false, refuse_groups, describe_compressed},
    [HF_W8]     = {"w8a16",    "compressed-tensors", true,  w8_repacks,     W8_REPACK_COUNT,     true,  true,  refuse_rows,   describe_compressed},
    [HF_AWQ]    = {"awq",      "awq",                false, awq_repacks,    AWQ_REPACK_COUNT,    true,  false, refuse_awq,    describe_awq},
};
/* clang-format on */

static const struct format *find(const struct format *list, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    return NULL;
}

const struct format *hf_form_packed(const struct hf_form *form)
{
    if (!form->method)
        return NULL;
    const struct format *f = find(spqr_formats, SPQR_FORMAT_COUNT, form->packed);
    f = f ? f : find(gptq_formats, GPTQ_FORMAT_COUNT, form->packed);
    f = f ? f : find(awq_formats, AWQ_FORMAT_COUNT, form->packed);
    f = f ? f : find(bnb_formats, BNB_FORMAT_COUNT, form->packed);
    f = f ? f : find(compressed_formats, COMPRESSED_FORMAT_COUNT, form->packed);
    return f->type ? compressed_of_type(f, &formats[form->format]) : f;
}

struct repack_matrix hf_form_matrix(const struct hf_form *form, const struct hf_tensor *t)
{
    return (struct repack_matrix){.format = hf_form_packed(form),
                                  .rows = t->view.rows,
                                  .cols = t->view.cols,
                                  .type = form->format};
}

int hf_layer_name(const struct hf_tensor *t)
{
    return (int)(strlen(t->name) - strlen("weight"));
}

int hf_quant_put_config(const struct hf_model *m, const struct hf_form *form, json_t *config)
{
    json_t *quantization = json_pack("{s:s}", "quant_method", form->method->quant_method);
    if (!quantization || form->method->describe(m, form, quantization)) {
        json_decref(quantization);
        return -ENOMEM;
    }
    return json_object_set_new(config, "quantization_config", quantization) ? -ENOMEM : 0;
}

/* SPDX-License-Identifier: MIT */
#include "codec/hf_quant.h"

#include "codec/affix.h"
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
    for (size_t i = 0; i < hf->count; i++)
        for (size_t k = 0; !hf->tensors[i].linear && k < m->count; k++)
            hf->tensors[i].linear = is_linear(&m->tensors[k]) &&
                                    m->tensors[k].view.tensor == hf->tensors[i].view.tensor;
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

/* The roles of quantized layers, each once; *some becomes whether any other layer stays as it is. */
static json_t *quantized_roles(const struct hf_model *m, const struct hf_form *form, bool *some)
{
    char role[256];
    json_t *roles = json_array();
    *some = false;
    for (size_t i = 0; i < m->count; i++) {
        const struct hf_tensor *t = &m->tensors[i];
        bool quantized = hf_form_quantizes(form, t);
        *some |= t->linear && !quantized;
        if (!quantized)
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
    bool some;
    const struct format *f = hf_form_packed(form);
    json_t *roles = quantized_roles(m, form, &some);
    json_t *all = roles ? json_pack("{s:i, s:i, s:b, s:b, s:s, s:b}", "bits", gptq_bits(f),
                                    "group_size", (int)f->block, "desc_act", 0, "sym", 1,
                                    "checkpoint_format", "gptq", "lm_head", 0)
                        : NULL;
    bool failed =
        !all || json_object_update(out, all) ||
        (some && json_object_set_new(out, "modules_in_block_to_quantize", json_pack("[O]", roles)));
    json_decref(all);
    json_decref(roles);
    return failed ? -ENOMEM : 0;
}

/* ---- the table ---- */

const struct hf_method hf_methods[HF_METHOD_COUNT] = {
    [HF_SPQR] = {"spqr", spqr_repacks, SPQR_REPACK_COUNT, false, true,  refuse_spqr, describe_spqr},
    [HF_GPTQ] = {"gptq", gptq_repacks, GPTQ_REPACK_COUNT, true,  false, refuse_gptq, describe_gptq},
};

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
    return f ? f : find(gptq_formats, GPTQ_FORMAT_COUNT, form->packed);
}

struct repack_matrix hf_form_matrix(const struct hf_form *form, const struct hf_tensor *t)
{
    return (struct repack_matrix){hf_form_packed(form), t->view.rows, t->view.cols, NULL};
}

int hf_layer_name(const struct hf_tensor *t)
{
    return (int)(strlen(t->name) - strlen("weight"));
}

int hf_quant_put_config(const struct hf_model *m, const struct hf_form *form, json_t *config)
{
    json_t *quantization = json_pack("{s:s}", "quant_method", form->method->name);
    if (!quantization || form->method->describe(m, form, quantization)) {
        json_decref(quantization);
        return -ENOMEM;
    }
    return json_object_set_new(config, "quantization_config", quantization) ? -ENOMEM : 0;
}

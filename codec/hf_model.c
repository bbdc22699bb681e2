/* SPDX-License-Identifier: MIT */
#include "codec/hf_model.h"

#include "codec/hf_quant.h"
#include "codec/safetensors.h"
#include "codec/scales.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
const struct hf_form hf_forms[HF_FORM_COUNT] = {
    {"bf16",                   FORMAT_BF16, NULL,                   NULL,                 HF_KEEPS_NONE,   false},
    {"f16",                    FORMAT_F16,  NULL,                   NULL,                 HF_KEEPS_NONE,   false},
    {"f32",                    FORMAT_F32,  NULL,                   NULL,                 HF_KEEPS_NONE,   false},
    {"spqr-3bit",              FORMAT_F16,  &hf_methods[HF_SPQR],   "spqr3",              HF_KEEPS_NONE,   false},
    {"gptq-8bit-g128",         FORMAT_F16,  &hf_methods[HF_GPTQ],   "gptq8-g128",         HF_KEEPS_NONE,   false},
    {"gptq-8bit-g128-natural", FORMAT_F16,  &hf_methods[HF_GPTQ],   "gptq8-g128-natural", HF_KEEPS_NONE,   false},
    {"gptq-4bit-g128",         FORMAT_F16,  &hf_methods[HF_GPTQ],   "gptq4-g128",         HF_KEEPS_NONE,   false},
    {"gptq-4bit-g128-natural", FORMAT_F16,  &hf_methods[HF_GPTQ],   "gptq4-g128-natural", HF_KEEPS_NONE,   false},
    {"gptq-3bit-g128",         FORMAT_F16,  &hf_methods[HF_GPTQ],   "gptq3-g128",         HF_KEEPS_NONE,   false},
    {"gptq-3bit-g128-natural", FORMAT_F16,  &hf_methods[HF_GPTQ],   "gptq3-g128-natural", HF_KEEPS_NONE,   false},
    {"nf4",                    FORMAT_BF16, &hf_methods[HF_NF4],    "nf4",                HF_KEEPS_HALVES, false},
    {"nf4-dq",                 FORMAT_BF16, &hf_methods[HF_NF4_DQ], "nf4",                HF_KEEPS_HALVES, false},
    {"int8-bnb",               FORMAT_BF16, &hf_methods[HF_INT8],   "int8",               HF_KEEPS_HALVES, false},
    {"w8a16",                  FORMAT_BF16, &hf_methods[HF_W8],     "w8a16",              HF_KEEPS_FLOATS, false},
    {"w4a16",                  FORMAT_BF16, &hf_methods[HF_W4],     "w4a16-g128",         HF_KEEPS_FLOATS, false},
    {"rtn-awq-4bit-g128",      FORMAT_F16,  &hf_methods[HF_AWQ],    "rtn-awq4-g128",      HF_KEEPS_NONE,   false},
    {"awq-4bit-g128",          FORMAT_F16,  &hf_methods[HF_AWQ],    "rtn-awq4-g128",      HF_KEEPS_NONE,   true},
};
/* clang-format on */

/* The type that all linear layers are stored in; BF16 where they have not one, or one that is not
 * kept. */
struct hf_form hf_form_of_model(const struct hf_form *form, const struct hf_model *m)
{
    const struct format *own = NULL;
    struct hf_form out = *form;
    bool same = true;
    for (size_t i = 0; i < m->count; i++) {
        const struct view *v = &m->tensors[i].view;
        if (!m->tensors[i].linear)
            continue;
        const struct format *stored = view_keeps_values(v) ? v->tensor->dtype->format : NULL;
        same &= stored && (!own || own == stored);
        own = stored;
    }
    bool kept = own == &formats[FORMAT_F16] || own == &formats[FORMAT_BF16]
                    ? form->keeps != HF_KEEPS_NONE
                    : own == &formats[FORMAT_F32] && form->keeps == HF_KEEPS_FLOATS;
    if (same && kept)
        out.format = (enum format_id)(own - formats);
    return out;
}

/* Elements lie at multiples of their size when wide ones come first; floats will have 2 or 4 bytes. */
static int width(const struct hf_tensor *t)
{
    return t->kept ? t->view.tensor->dtype->block_size : 3;
}

static int by_width_and_name(const void *a, const void *b)
{
    const struct hf_tensor *x = a, *y = b;
    return width(x) != width(y) ? width(y) - width(x) : strcmp(x->name, y->name);
}

void hf_model_sort(struct hf_model *m)
{
    if (m->count)
        qsort(m->tensors, m->count, sizeof *m->tensors, by_width_and_name);
}

static int add_checkpoint_tensors(struct hf_model *m, const struct scales *scales,
                                  const struct tensor_list *tensors, struct error *err)
{
    m->tensors = arena_array(&m->arena, tensors->count + 1, sizeof *m->tensors);
    if (!m->tensors)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < tensors->count; i++) {
        const struct tensor *t = &tensors->items[i];
        struct hf_tensor *out = &m->tensors[m->count];
        if (scales_has(scales, t->name))
            continue;
        *out = (struct hf_tensor){.name = t->name,
                                  .shape = t->shape,
                                  .ndim = t->ndim,
                                  .view = view_make(t),
                                  .kept = !t->dtype->widen};
        int rc = scales_apply(scales, tensors, &out->view, &m->arena, err);
        if (rc)
            return rc;
        m->count++;
    }
    hf_model_sort(m);
    return 0;
}

int hf_model_of_checkpoint(const struct config *config, const struct tensor_list *tensors,
                           struct hf_model *m, struct error *err)
{
    *m = (struct hf_model){0};
    struct scales scales;
    int rc = scales_of(config, &scales, err);
    if (rc)
        return error_prefix(err, rc, "config.json");
    rc = add_checkpoint_tensors(m, &scales, tensors, err);
    m->config = rc ? NULL : json_deep_copy(config->raw);
    if (!rc && !m->config)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (!rc && scales.method)
        json_object_del(m->config, "quantization_config");
    if (rc)
        hf_model_free(m);
    return rc;
}

void hf_model_free(struct hf_model *m)
{
    json_decref(m->config);
    arena_free(&m->arena);
    *m = (struct hf_model){0};
}

/* The type stands under one of two names, in a part for the text, too; the older one is read by
 * every version of transformers. */
static int set_type(json_t *config, const char *type, bool add)
{
    static const char *const names[] = {"dtype", "torch_dtype"};
    bool there = false;
    for (int i = 0; i < 2; i++)
        if (json_object_get(config, names[i])) {
            there = true;
            if (json_object_set_new(config, names[i], json_string(type)))
                return -ENOMEM;
        }
    return add && !there ? json_object_set_new(config, "torch_dtype", json_string(type)) : 0;
}

char *hf_model_config(const struct hf_model *m, const struct hf_form *form)
{
    char *text = NULL;
    const char *type = format_torch_name(&formats[form->format]);
    json_t *config = json_deep_copy(m->config), *part = json_object_get(config, "text_config");
    if (config && set_type(config, type, true) == 0 &&
        (!json_is_object(part) || set_type(part, type, false) == 0) &&
        (!form->method || hf_quant_put_config(m, form, config) == 0))
        text = json_dumps(config, JSON_INDENT(2));
    json_decref(config);
    return text;
}

/* ---- what is in the file ---- */

static int add_part(struct hf_layout *l, const struct hf_part *part, struct error *err)
{
    if (__builtin_add_overflow(l->size, part->size, &l->size))
        return error_set(err, -EINVAL, "tensor \"%s\" is too large", part->tensor->name);
    l->parts[l->count++] = *part;
    return 0;
}

static int add_whole(struct hf_layout *l, const struct hf_form *form, const struct hf_tensor *t,
                     struct error *err)
{
    struct hf_part part = {.tensor = t, .size = t->view.tensor->size};
    if (!t->kept && !format_bytes(&formats[form->format], t->view.rows * t->view.cols, &part.size))
        return error_set(err, -EINVAL, "tensor \"%s\" is too large", t->name);
    return add_part(l, &part, err);
}

static struct hf_part repacked(const struct hf_form *form, const struct hf_tensor *t, uint32_t i)
{
    const struct repack *r = &form->method->repacks[i];
    const struct repack_matrix matrix = hf_form_matrix(form, t);
    return (struct hf_part){t, r, repack_width(r, &matrix), repack_size(r, &matrix)};
}

/* Wide tensors begin at multiples of 8 bytes, or of 4 where the last of a method's has that width. */
static bool is_last(const struct hf_part *part)
{
    return part->width < 4 && part->size % 8;
}

/* The last of a method's tensors may be what puts the next one out of line; then it goes first there,
 * and what follows is in line again. */
static int add_repacked(struct hf_layout *l, const struct hf_form *form, const struct hf_tensor *t,
                        struct error *err)
{
    uint32_t n = form->method->count;
    uint32_t first = l->size % repacked(form, t, 0).width ? n - 1 : 0;
    int rc = 0;
    for (uint32_t i = 0; !rc && i < n; i++) {
        struct hf_part part = repacked(form, t, (first + i) % n);
        if (!is_last(&part))
            rc = add_part(l, &part, err);
    }
    return rc;
}

/* What was left out there, of one width. */
static int add_last(struct hf_layout *l, const struct hf_form *form, const struct hf_tensor *t,
                    uint32_t bytes, struct error *err)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && i < form->method->count; i++) {
        struct hf_part part = repacked(form, t, i);
        if (is_last(&part) && part.width == bytes)
            rc = add_part(l, &part, err);
    }
    return rc;
}

/* Bytes of an element in the file. */
static uint32_t width_in(const struct hf_form *form, const struct hf_tensor *t)
{
    return t->kept ? t->view.tensor->dtype->block_size : formats[form->format].block_size;
}

static int add_widths(struct hf_layout *l, const struct hf_model *m, const struct hf_form *form,
                      uint32_t low, uint32_t high, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < m->count; i++) {
        const struct hf_tensor *t = &m->tensors[i];
        uint32_t bytes = width_in(form, t);
        if (!hf_form_quantizes(form, t) && bytes >= low && bytes < high)
            rc = add_whole(l, form, t, err);
    }
    return rc;
}

int hf_layout_make(const struct hf_model *m, const struct hf_form *form, struct hf_layout *out,
                   struct error *err)
{
    size_t each = form->method ? form->method->count : 1;
    *out = (struct hf_layout){.parts = calloc(m->count * each + 1, sizeof *out->parts)};
    int rc = out->parts ? add_widths(out, m, form, 8, UINT32_MAX, err)
                        : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < m->count; i++)
        if (hf_form_quantizes(form, &m->tensors[i]))
            rc = add_repacked(out, form, &m->tensors[i], err);
    for (uint32_t bytes = 4; !rc && bytes; bytes /= 2) {
        rc = add_widths(out, m, form, bytes, bytes == 4 ? 8 : 2 * bytes, err);
        for (size_t i = 0; !rc && i < m->count; i++)
            if (hf_form_quantizes(form, &m->tensors[i]))
                rc = add_last(out, form, &m->tensors[i], bytes, err);
    }
    if (rc)
        hf_layout_free(out);
    return rc;
}

void hf_layout_free(struct hf_layout *l)
{
    free(l->parts);
    *l = (struct hf_layout){0};
}

static int put_repacked(struct safetensors_writer *w, const struct hf_part *part,
                        const struct hf_form *form, struct error *err)
{
    char *name;
    uint64_t shape[REPACK_DIMS];
    const struct hf_tensor *t = part->tensor;
    const struct repack_matrix matrix = hf_form_matrix(form, t);
    part->repack->shape(&matrix, shape);
    if (asprintf(&name, "%.*s%s", hf_layer_name(t), t->name, part->repack->name) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = safetensors_add(w, name, repack_dtype(part->repack, &matrix), shape,
                             part->repack->ndim, part->size, err);
    free(name);
    return rc;
}

int hf_layout_put_header(const struct hf_layout *l, const struct hf_form *form, struct buffer *out,
                         struct error *err)
{
    const char *title = formats[form->format].title;
    struct safetensors_writer w;
    int rc = safetensors_begin(&w, err);
    for (size_t i = 0; !rc && i < l->count; i++) {
        const struct hf_part *part = &l->parts[i];
        const struct hf_tensor *t = part->tensor;
        rc = part->repack
                 ? put_repacked(&w, part, form, err)
                 : safetensors_add(&w, t->name, t->kept ? t->view.tensor->dtype->name : title,
                                   t->shape, t->ndim, part->size, err);
    }
    return safetensors_end(&w, rc ? NULL : out, err) ? -ENOMEM : rc;
}

/* SPDX-License-Identifier: MIT */
#include "codec/hf_model.h"

#include "codec/safetensors.h"
#include "codec/scales.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct hf_form hf_forms[HF_FORM_COUNT] = {
    {"bf16", FORMAT_BF16, "bfloat16"},
    {"f16",  FORMAT_F16,  "float16" },
    {"f32",  FORMAT_F32,  "float32" },
};

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
    json_t *config = json_deep_copy(m->config), *part = json_object_get(config, "text_config");
    if (config && set_type(config, form->torch_type, true) == 0 &&
        (!json_is_object(part) || set_type(part, form->torch_type, false) == 0))
        text = json_dumps(config, JSON_INDENT(2));
    json_decref(config);
    return text;
}

int hf_model_put_header(const struct hf_model *m, const struct hf_form *form, struct buffer *out,
                        struct error *err)
{
    const struct format *format = &formats[form->format];
    struct safetensors_writer w;
    int rc = safetensors_begin(&w, err);
    for (size_t i = 0; !rc && i < m->count; i++) {
        const struct hf_tensor *t = &m->tensors[i];
        const struct tensor *source = t->view.tensor;
        uint64_t size = source->size;
        if (!t->kept && !format_bytes(format, t->view.rows * t->view.cols, &size))
            rc = error_set(err, -EINVAL, "tensor \"%s\" is too large", t->name);
        else
            rc = safetensors_add(&w, t->name, t->kept ? source->dtype->name : format->title,
                                 t->shape, t->ndim, size, err);
    }
    return safetensors_end(&w, rc ? NULL : out, err) ? -ENOMEM : rc;
}

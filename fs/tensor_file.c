/* SPDX-License-Identifier: MIT */
#include "fs/tensor_file.h"

#include "fs/gguf_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What is quantized already can be had as plain floats, as another format only by request. */
static bool fits(const struct checkpoint *c, const struct tensor *t, unsigned form)
{
    if (form == FORM_STORED)
        return true;
    const struct format *f = &formats[form - 1];
    return t->ndim == 2 && t->elements && t->dtype->widen && !t->dtype->scaled &&
           t->dtype->format != f && t->shape[1] % f->block == 0 &&
           (!dtype_is_quantized(t->dtype) || f->plain_float || c->requantize);
}

bool tensor_has_form(const struct checkpoint *c, const struct tensor *t, unsigned form)
{
    return fits(c, t, form) &&
           (form == FORM_STORED || formats[form - 1].plain_float || !c->miscalibrated);
}

const char *tensor_form_name(const struct tensor *t, unsigned form)
{
    return form == FORM_STORED ? t->dtype->lower : formats[form - 1].name;
}

uint64_t tensor_form_size(const struct tensor *t, unsigned form)
{
    uint64_t size = t->size;
    if (form != FORM_STORED && !format_bytes(&formats[form - 1], t->elements, &size))
        size = 0;
    return size;
}

/* The importance of its columns, which GGUF knows by the tensor's other name. */
static int importance_of(const struct checkpoint *c, const struct tensor *t,
                         const float **importance, struct error *err)
{
    *importance = NULL;
    for (size_t i = 0; i < c->model.count; i++)
        if (c->model.tensors[i].view.tensor == t)
            return gguf_importance(c, &c->model.tensors[i], importance, err);
    return 0;
}

int tensor_file_get(const struct checkpoint *c, const struct tensor *t, unsigned form,
                    struct image **out, struct error *err)
{
    struct image *image = image_new();
    if (!image)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = 0;
    if (form == FORM_STORED) {
        image_add_file(image, c->shards[t->file], t->offset, t->size);
    } else {
        struct encoding *e;
        struct view view = view_make(t);
        const float *importance;
        rc = importance_of(c, t, &importance, err);
        if (!rc)
            rc = encoding_new(&formats[form - 1], &view, c->shards, c->calibration, importance, &e,
                              err);
        if (!rc) {
            image_add_tensor(image, e);
            encoding_unref(e);
        }
    }
    if (!rc && image->failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc)
        image_unref(image);
    else
        *out = image;
    return rc;
}

char *tensor_info(const struct checkpoint *c, const struct tensor *t)
{
    json_t *root = json_object(), *shape = json_array(), *forms = json_object();
    for (uint32_t i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    for (unsigned form = 0; form < FORM_COUNT; form++)
        if (fits(c, t, form))
            json_object_set_new(
                forms, tensor_form_name(t, form),
                json_pack("{s:I, s:f}", "bytes", (json_int_t)tensor_form_size(t, form), "bpw",
                          form == FORM_STORED ? dtype_bits(t->dtype) : format_bpw(&formats[form - 1])));
    json_object_set_new(root, "name", json_string(t->name));
    json_object_set_new(root, "dtype", json_string(t->dtype->name));
    json_object_set_new(root, "shape", shape);
    json_object_set_new(root, "elements", json_integer((json_int_t)t->elements));
    const char *path = source_path(c->shards[t->file]);
    size_t skip = *c->path ? strlen(c->path) + 1 : 0;
    json_object_set_new(root, "source",
                        json_pack("{s:s, s:I, s:I}", "file", path + skip, "offset",
                                  (json_int_t)t->offset, "bytes", (json_int_t)t->size));
    for (size_t i = 0; i < c->model.count; i++)
        if (c->model.tensors[i].view.tensor == t)
            json_object_set_new(root, "gguf", json_string(c->model.tensors[i].name));
    json_object_set_new(root, "forms", forms);
    char *text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    size_t n = text ? strlen(text) : 0;
    char *line = text ? realloc(text, n + 2) : NULL;
    if (line)
        strcpy(line + n, "\n");
    else
        free(text);
    return line;
}

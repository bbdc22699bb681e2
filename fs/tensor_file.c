/* SPDX-License-Identifier: MIT */
#include "fs/tensor_file.h"

#include "codec/derived.h"
#include "fs/encoded.h"
#include "fs/guidance.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What a matrix becomes in GGUF, whole or as one of several experts; NULL where it is not there. */
static const struct model_tensor *find_mapped(const struct checkpoint *c, const struct tensor *t,
                                              uint64_t *matrix)
{
    for (size_t i = 0; i < c->model.count; i++) {
        const struct view *v = &c->model.tensors[i].view;
        for (*matrix = 0; *matrix < v->stack_count; ++*matrix)
            if ((v->stack ? v->stack[*matrix] : v->tensor) == t)
                return &c->model.tensors[i];
    }
    return NULL;
}

/* Whether a width is one that the format can pack. */
static bool takes_width(const struct format *f, uint64_t cols)
{
    uint64_t row_size;
    struct spqr_layout layout;
    if (f->stripe_bits)
        return spqr_format_layout(f, cols, &layout, NULL) == 0 && layout.stripe_size <= TILE_MAX;
    return cols % f->block == 0 &&
           ((!f->encode_rows && !f->row_head) ||
            (format_packed_bytes(f, cols, cols, &row_size) && row_size <= TILE_MAX));
}

/* What depends on the type of weights is offered in their own; where they have none of those, in
 * BF16. */
static bool takes_type(const struct format *f, const struct dtype *t)
{
    const struct format *own = t->format && t->format->plain_float ? t->format : &formats[FORMAT_BF16];
    return !f->type || f->type == own;
}

/* A format that is another one where nothing is known of the inputs is offered where something is. */
static bool is_known(const struct checkpoint *c, const struct tensor *t)
{
    uint64_t matrix;
    const struct model_tensor *mapped = find_mapped(c, t, &matrix);
    return mapped && guidance_knows(c, mapped);
}

bool tensor_is_matrix(const struct tensor *t)
{
    return t->ndim == 2 && t->elements && t->dtype->widen && !t->dtype->scaled;
}

/* What is quantized already can be had as plain floats, as another format only by request; what is
 * derived is stored in no form. */
static bool fits(const struct checkpoint *c, const struct tensor *t, unsigned form)
{
    if (form == FORM_STORED)
        return !t->derived;
    const struct format *f = form_format(form);
    return tensor_is_matrix(t) && (t->dtype->format != f || t->derived) &&
           takes_width(f, t->shape[1]) && takes_type(f, t->dtype) &&
           (!tensor_is_quantized(t) || f->plain_float || c->requantize) &&
           (!f->plain || is_known(c, t));
}

bool tensor_has_form(const struct checkpoint *c, const struct tensor *t, unsigned form)
{
    return fits(c, t, form) &&
           (form == FORM_STORED || form_format(form)->plain_float || !c->miscalibrated);
}

const char *tensor_form_name(const struct tensor *t, unsigned form)
{
    return form == FORM_STORED ? t->dtype->lower : form_format(form)->name;
}

uint64_t tensor_form_size(const struct tensor *t, unsigned form)
{
    uint64_t size;
    if (form == FORM_STORED)
        return t->size;
    return matrices_size(form_format(form), 1, t->shape[0], t->shape[1], &size) ? size : 0;
}

bool tensor_form_is_calibrated(unsigned form)
{
    return form != FORM_STORED && form_format(form)->damping > 0;
}

int tensor_importance(const struct checkpoint *c, const struct tensor *t, const float **importance,
                      struct error *err)
{
    uint64_t matrix;
    const struct model_tensor *mapped = find_mapped(c, t, &matrix);
    *importance = NULL;
    int rc = mapped ? guidance_importance(c, mapped, c->factor_folder, importance, err) : 0;
    if (*importance)
        *importance += matrix * mapped->ne[0];
    return rc;
}

int tensor_factor(const struct checkpoint *c, const struct tensor *t, unsigned form,
                  struct factor **out, struct error *err)
{
    uint64_t matrix;
    const struct model_tensor *mapped = find_mapped(c, t, &matrix);
    *out = NULL;
    return mapped ? guidance_factors(c, mapped, matrix, 1, form_format(form), out, err) : 0;
}

static int add_packed(const struct checkpoint *c, const struct tensor *t, unsigned form,
                      struct image *image, struct error *err)
{
    const struct format *f = form_format(form);
    struct view view = view_make(t);
    if (!f) { /* what lies in no file is made in its own type, too */
        struct encoded own = {.view = &view, .format = t->derived->type->format};
        return encoded_add(c, &own, image, err);
    }
    struct encoded what = {.view = &view, .format = f, .own = f->damping > 0};
    what.mapped = find_mapped(c, t, &what.first);
    return encoded_add(c, &what, image, err);
}

int tensor_file_get(const struct checkpoint *c, const struct tensor *t, unsigned form,
                    struct image **out, struct error *err)
{
    struct image *image = image_new();
    if (!image)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = 0;
    if (form == FORM_STORED && !t->derived)
        image_add_file(image, c->shards[t->file], t->offset, t->size);
    else
        rc = add_packed(c, t, form, image, err);
    return image_finish(image, rc, out, err);
}

static json_t *form_info(const struct tensor *t, unsigned form)
{
    uint64_t bytes = tensor_form_size(t, form);
    double bpw = form == FORM_STORED ? dtype_bits(t->dtype) : 8.0 * (double)bytes / (double)t->elements;
    return json_pack("{s:I, s:f}", "bytes", (json_int_t)bytes, "bpw", bpw);
}

/* Where the bytes of a tensor lie; what is not below the model's own folder is named in full. */
static json_t *place_info(const struct checkpoint *c, const struct tensor *t)
{
    const char *path = source_path(c->shards[t->file]);
    size_t n = strlen(c->path);
    bool below = n && strncmp(path, c->path, n) == 0 && path[n] == '/';
    return json_pack("{s:s, s:I, s:I}", "file", below ? path + n + 1 : path, "offset",
                     (json_int_t)t->offset, "bytes", (json_int_t)t->size);
}

/* Of what lies in no file: by what method it follows from which tensors. */
static json_t *derived_info(const struct checkpoint *c, const struct derived *d)
{
    json_t *info = json_pack("{s:s}", "method", d->method->name), *parts = json_array();
    if (d->bits)
        json_object_set_new(info, "bits", json_integer(d->bits));
    if (d->group)
        json_object_set_new(info, "group", json_integer((json_int_t)d->group));
    if (d->rank)
        json_object_set_new(info, "rank", json_integer((json_int_t)d->rank));
    for (uint32_t i = 0; i < d->part_count; i++) {
        if (!d->parts[i])
            continue;
        json_t *part = place_info(c, d->parts[i]);
        json_object_set_new(part, "name", json_string(d->parts[i]->name));
        json_array_append_new(parts, part);
    }
    json_object_set_new(info, "parts", parts);
    return info;
}

char *tensor_info(const struct checkpoint *c, const struct tensor *t)
{
    json_t *root = json_object(), *shape = json_array(), *forms = json_object();
    for (uint32_t i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    for (unsigned form = 0; form < FORM_COUNT; form++)
        if (fits(c, t, form))
            json_object_set_new(forms, tensor_form_name(t, form), form_info(t, form));
    json_object_set_new(root, "name", json_string(t->name));
    json_object_set_new(root, "dtype", json_string(t->dtype->name));
    json_object_set_new(root, "shape", shape);
    json_object_set_new(root, "elements", json_integer((json_int_t)t->elements));
    json_object_set_new(root, "source",
                        t->derived ? derived_info(c, t->derived) : place_info(c, t));
    uint64_t matrix;
    const struct model_tensor *mapped = find_mapped(c, t, &matrix);
    if (mapped)
        json_object_set_new(root, "gguf", json_string(mapped->name));
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

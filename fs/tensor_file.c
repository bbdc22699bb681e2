/* SPDX-License-Identifier: MIT */
#include "fs/tensor_file.h"

#include "codec/layer_input.h"
#include "fs/column_order.h"
#include "fs/gguf_file.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tensor_form_is_spqr(unsigned form) { return form > FORMAT_COUNT; }

const struct format *tensor_form_format(unsigned form)
{
    return form <= FORMAT_COUNT ? &formats[form - 1] : &spqr_formats[form - 1 - FORMAT_COUNT];
}

/* Whether a width is one that the format can pack. */
static bool takes_width(const struct format *f, uint64_t cols)
{
    struct spqr_layout layout;
    return f->stripe_bits
               ? spqr_format_layout(f, cols, &layout, NULL) == 0 && layout.stripe_size <= TILE_MAX
               : cols % f->block == 0;
}

/* What is quantized already can be had as plain floats, as another format only by request. */
static bool fits(const struct checkpoint *c, const struct tensor *t, unsigned form)
{
    if (form == FORM_STORED)
        return true;
    const struct format *f = tensor_form_format(form);
    return t->ndim == 2 && t->elements && t->dtype->widen && !t->dtype->scaled &&
           t->dtype->format != f && takes_width(f, t->shape[1]) &&
           (!dtype_is_quantized(t->dtype) || f->plain_float || c->requantize);
}

bool tensor_has_form(const struct checkpoint *c, const struct tensor *t, unsigned form)
{
    return fits(c, t, form) &&
           (form == FORM_STORED || tensor_form_format(form)->plain_float || !c->miscalibrated);
}

const char *tensor_form_name(const struct tensor *t, unsigned form)
{
    return form == FORM_STORED ? t->dtype->lower : tensor_form_format(form)->name;
}

uint64_t tensor_form_size(const struct tensor *t, unsigned form)
{
    uint64_t size;
    if (form == FORM_STORED)
        return t->size;
    return matrices_size(tensor_form_format(form), 1, t->shape[0], t->shape[1], &size) ? size : 0;
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

/* GGUF's name for a tensor; NULL if it has none there. */
static const char *mapped_name(const struct checkpoint *c, const struct tensor *t)
{
    for (size_t i = 0; i < c->model.count; i++)
        if (c->model.tensors[i].view.tensor == t)
            return c->model.tensors[i].name;
    return NULL;
}

int tensor_factor(const struct checkpoint *c, const struct tensor *t, unsigned form,
                  struct factor **out, struct error *err)
{
    static const char damping[] = "1"; /* which the authors of SpQR take */
    char path[PATH_MAX];
    uint32_t layer;
    enum layer_input input;
    const char *name = mapped_name(c, t);
    *out = NULL;
    if (!tensor_form_is_spqr(form) || !c->factor_folder || !name ||
        !layer_input_of(name, &layer, &input))
        return 0;
    int n = snprintf(path, sizeof path, "%s/blk.%" PRIu32 ".%s.damp%s.factor", c->factor_folder,
                     layer, input_names[input].input, damping);
    if (n < 0 || (size_t)n >= sizeof path)
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", c->factor_folder);
    int rc = factor_open(c->factors, path, t->shape[1], out, err);
    return rc == -ENOENT ? 0 : rc;
}

static int add_packed(const struct checkpoint *c, const struct tensor *t, unsigned form,
                      struct image *image, struct error *err)
{
    const struct format *f = tensor_form_format(form);
    struct encoding *e;
    struct factor *factor;
    struct view view = view_make(t);
    const float *importance;
    int rc = importance_of(c, t, &importance, err);
    rc = rc ? rc : tensor_factor(c, t, form, &factor, err);
    if (rc)
        return rc;
    rc = encoding_new(f, &view, c->shards, c->calibration, importance, &factor, &e, err);
    if (!rc) {
        image_add_tensor(image, e);
        if (f->stripe_bits)
            rc = column_orders_add(image, &e->stripes, &factor, 1, err);
        encoding_unref(e);
    }
    factor_unref(factor);
    return rc;
}

int tensor_file_get(const struct checkpoint *c, const struct tensor *t, unsigned form,
                    struct image **out, struct error *err)
{
    struct image *image = image_new();
    if (!image)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = 0;
    if (form == FORM_STORED)
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

/* SPDX-License-Identifier: MIT */
#include "codec/scales.h"

#include "codec/affix.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How a method's tensors are called. */
static const struct method {
    const char *name;
    const char *weight, *scale; /* a weight's ending, and that of its scale in its place */
    const char *unused[3];      /* endings of what is only for activations */
} methods[] = {
    {"fp8",
     "weight",                       "weight_scale_inv",
     {".activation_scale", "_activation_scale", ".input_scale"}                      },
    {"fp8",                "weight", "qscale_weight",    {".qscale_act", NULL, NULL} },
    {"compressed-tensors", "weight", "weight_scale",     {".input_scale", NULL, NULL}},
};

enum { METHOD_COUNT = sizeof methods / sizeof *methods };

static int read_blocks(const json_t *size, struct scales *out, struct error *err)
{
    if (!size || json_is_null(size))
        return 0;
    json_int_t rows = json_integer_value(json_array_get(size, 0));
    json_int_t cols = json_integer_value(json_array_get(size, 1));
    if (json_array_size(size) != 2 || rows <= 0 || cols <= 0)
        return error_set(err, -ENOTSUP, "quantization_config: blocks of that kind are not known");
    out->block_rows = (uint64_t)rows;
    out->block_cols = (uint64_t)cols;
    return 0;
}

/* compressed-tensors has a list of groups of layers and many formats; one of each is known. */
static int read_compressed(const json_t *quantization, struct scales *out, struct error *err)
{
    const char *format = json_string_value(json_object_get(quantization, "format"));
    const json_t *groups = json_object_get(quantization, "config_groups");
    const json_t *weights = NULL;
    const char *name;
    json_t *group;
    json_object_foreach((json_t *)groups, name, group) weights = json_object_get(group, "weights");
    if (!format ||
        (strcmp(format, "float-quantized") != 0 && strcmp(format, "naive-quantized") != 0))
        return error_set(err, -ENOTSUP, "quantization_config: format %.100s is not known",
                         format ? format : "(none)");
    if (json_object_size(groups) != 1)
        return error_set(err, -ENOTSUP, "quantization_config: there is not exactly one group");
    return read_blocks(json_object_get(weights, "block_structure"), out, err);
}

int scales_of(const struct config *config, struct scales *out, struct error *err)
{
    const json_t *quantization = json_object_get(config->full, "quantization_config");
    *out = (struct scales){0};
    if (!json_is_object(quantization))
        return 0;
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    for (int i = 0; method && i < METHOD_COUNT; i++)
        if (strcmp(method, methods[i].name) == 0)
            out->method = methods[i].name;
    if (!out->method)
        return error_set(err, -ENOTSUP, "quantization_config: method %.100s is not known",
                         method ? method : "(none)");
    if (strcmp(out->method, "compressed-tensors") == 0)
        return read_compressed(quantization, out, err);
    return read_blocks(json_object_get(quantization, "weight_block_size"), out, err);
}

bool scales_has(const struct scales *s, const char *name)
{
    for (int i = 0; s->method && i < METHOD_COUNT; i++) {
        if (strcmp(methods[i].name, s->method) != 0)
            continue;
        if (ends_with(name, methods[i].scale))
            return true;
        for (int k = 0; k < 3; k++)
            if (methods[i].unused[k] && ends_with(name, methods[i].unused[k]))
                return true;
    }
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* The scale of a weight by one method's naming; NULL if there is none. */
static const struct tensor *find(const struct method *m, const struct tensor_list *tensors,
                                 const char *weight)
{
    char name[512];
    struct tensor key = {.name = name};
    if (!ends_with(weight, m->weight) ||
        snprintf(name, sizeof name, "%.*s%s", (int)(strlen(weight) - strlen(m->weight)), weight,
                 m->scale) >= (int)sizeof name)
        return NULL;
    return bsearch(&key, tensors->items, tensors->count, sizeof key, by_name);
}

static int find_scale(const struct scales *s, const struct tensor_list *tensors,
                      const struct tensor *weight, const struct tensor **out, struct error *err)
{
    *out = NULL;
    for (int i = 0; s->method && !*out && i < METHOD_COUNT; i++)
        if (strcmp(methods[i].name, s->method) == 0)
            *out = find(&methods[i], tensors, weight->name);
    if (*out && (*out)->dtype->widen)
        return 0;
    return error_set(err, -ENOTSUP, "tensor \"%s\" is stored as %s, and its scales are not there",
                     weight->name, weight->dtype->name);
}

/* One for each block, row, or for all. rows: of the one tensor that the scales belong to. */
static int set_blocks(const struct scales *s, struct view *view, uint64_t rows, struct error *err)
{
    const struct tensor *scale = view->scale;
    uint64_t cols = view->cols;
    bool blocks = s->block_rows && scale->ndim == 2;
    view->scale_rows = blocks ? s->block_rows : scale->elements == 1 ? rows : 1;
    view->scale_cols = blocks ? s->block_cols : cols;
    uint64_t down = (rows - 1) / view->scale_rows + 1, across = (cols - 1) / view->scale_cols + 1;
    if (scale->elements / down == across && scale->elements % down == 0)
        return 0;
    return error_set(err, -EINVAL,
                     "tensor \"%s\": %" PRIu64 " scales do not fit its %" PRIu64 " x %" PRIu64
                     " weights",
                     view->tensor->name, scale->elements, rows, cols);
}

int scales_apply(const struct scales *s, const struct tensor_list *tensors, struct view *view,
                 struct arena *arena, struct error *err)
{
    if (!view->tensor->dtype->scaled || !view->rows || !view->cols)
        return 0;
    const struct tensor **scales = arena_array(arena, view->stack_count, sizeof *scales);
    int rc = scales ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; !rc && i < view->stack_count; i++) {
        const struct tensor *weight = view->stack ? view->stack[i] : view->tensor;
        rc = find_scale(s, tensors, weight, &scales[i], err);
        if (!rc &&
            (scales[i]->dtype != scales[0]->dtype || scales[i]->elements != scales[0]->elements ||
             scales[i]->ndim != scales[0]->ndim))
            rc = error_set(err, -EINVAL, "tensor \"%s\": its scales are not like the others'",
                           weight->name);
    }
    if (rc)
        return rc;
    view->scale = scales[0];
    view->scales = view->stack ? scales : NULL;
    return set_blocks(s, view, view->rows / view->stack_count, err);
}

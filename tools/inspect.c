/* SPDX-License-Identifier: MIT */
#include "fs/container.h"
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS_SHOWN = 4 }; /* of an array, in text */

/* ---- GGUF ---- */

/* A name or a text out of a header, as something that may be printed. */
static json_t *json_text(struct gguf_string s)
{
    json_t *v = json_stringn(s.data, s.size);
    if (v)
        return v;
    char *hex = malloc(2 * s.size + 3), *end = hex; /* not UTF-8 */
    if (!hex)
        return json_null();
    end += sprintf(end, "0x");
    for (size_t i = 0; i < s.size; i++)
        end += sprintf(end, "%02x", (uint8_t)s.data[i]);
    v = json_string(hex);
    free(hex);
    return v;
}

static json_t *json_element(struct reader *r, enum gguf_type type)
{
    double number;
    struct gguf_string text;
    if (!gguf_next_element(r, type, &number, &text))
        return json_null();
    if (type == GGUF_STRING)
        return json_text(text);
    if (type == GGUF_BOOL)
        return json_boolean(number != 0);
    if (type == GGUF_F32 || type == GGUF_F64)
        return json_real(number) ? json_real(number) : json_null(); /* NaN has no JSON */
    return json_integer((json_int_t)number);
}

/* A value; of an array at most `most` elements. */
static json_t *json_value(const struct gguf_value *v, uint64_t most)
{
    struct reader r = reader_make(v->data, v->size);
    if (!v->is_array)
        return json_element(&r, v->type);
    json_t *list = json_array();
    for (uint64_t i = 0; i < v->count && i < most; i++)
        json_array_append_new(list, json_element(&r, v->type));
    return list;
}

static json_t *gguf_to_json(const struct gguf_header *h, uint64_t most)
{
    json_t *root = json_object(), *keys = json_object(), *tensors = json_array();
    for (size_t i = 0; i < h->key_count; i++) {
        const struct gguf_value *v = &h->keys[i].value;
        json_t *entry = json_object(), *name = json_text(h->keys[i].name);
        json_object_set_new(entry, "type", json_string(gguf_type_name(v->type)));
        if (v->is_array)
            json_object_set_new(entry, "count", json_integer((json_int_t)v->count));
        json_object_set_new(entry, "value", json_value(v, most));
        json_object_set_new(keys, json_string_value(name), entry);
        json_decref(name);
    }
    for (size_t i = 0; i < h->tensor_count; i++) {
        const struct gguf_tensor_info *t = &h->tensors[i];
        const struct dtype *type = dtype_by_ggml_type(t->ggml_type);
        json_t *ne = json_array();
        for (uint32_t d = 0; d < t->ndim; d++)
            json_array_append_new(ne, json_integer((json_int_t)t->ne[d]));
        json_array_append_new(
            tensors, json_pack("{s:o, s:o, s:o, s:I}", "name", json_text(t->name), "type",
                               type ? json_string(type->name)
                                    : json_sprintf("type %" PRIu32, t->ggml_type),
                               "ne", ne, "offset", (json_int_t)t->offset));
    }
    json_object_set_new(root, "format", json_sprintf("GGUF v%" PRIu32, h->version));
    json_object_set_new(root, "alignment", json_integer(h->alignment));
    json_object_set_new(root, "data_offset", json_integer((json_int_t)h->data_offset));
    json_object_set_new(root, "keys", keys);
    json_object_set_new(root, "tensors", tensors);
    return root;
}

static int load_gguf(struct source *file, bool all, json_t **out, struct error *err)
{
    struct container_gguf g;
    int rc = container_read_gguf(file, &g, err);
    if (!rc)
        *out = gguf_to_json(&g.header, all ? UINT64_MAX : ELEMENTS_SHOWN);
    container_free_gguf(&g);
    return rc;
}

/* ---- lists of tensors ---- */

static json_t *tensors_to_json(const char *format, const struct tensor_list *list)
{
    json_t *root = json_object(), *tensors = json_array();
    for (size_t i = 0; i < list->count; i++) {
        const struct tensor *t = &list->items[i];
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->ndim; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", t->name,
                                                 "type", t->dtype->name, "shape", shape, "offset",
                                                 (json_int_t)t->offset, "bytes",
                                                 (json_int_t)t->size));
    }
    json_object_set_new(root, "format", json_string(format));
    json_object_set_new(root, "tensors", tensors);
    return root;
}

static int load_list(struct source *file, enum container_kind kind, json_t **out,
                     struct error *err)
{
    struct tensor_list list = {0};
    int rc = container_list(file, kind, 0, &list, err);
    if (!rc)
        *out = tensors_to_json(kind == CONTAINER_TORCH ? "torch" : "safetensors", &list);
    tensor_list_free(&list);
    return rc;
}

/* By its first bytes: a file that somebody asks about may be called anything. */
static int load_file(struct source *file, bool all, json_t **out, struct error *err)
{
    char magic[4] = "";
    uint64_t size = source_identity(file)->size;
    int rc = source_read(file, magic, 0, size < sizeof magic ? (size_t)size : sizeof magic, err);
    if (rc)
        return rc;
    if (memcmp(magic, "GGUF", 4) == 0)
        return load_gguf(file, all, out, err);
    return load_list(file, memcmp(magic, "PK\3\4", 4) == 0 ? CONTAINER_TORCH : CONTAINER_SAFETENSORS,
                     out, err);
}

/* ---- printing ---- */

static void print_text(const json_t *root)
{
    const char *name;
    json_t *entry;
    size_t i;
    printf("%s\n", json_string_value(json_object_get(root, "format")));
    json_object_foreach(json_object_get((json_t *)root, "keys"), name, entry)
    {
        char *value = json_dumps(json_object_get(entry, "value"), JSON_ENCODE_ANY);
        const json_t *count = json_object_get(entry, "count");
        printf("  %s  %s", name, json_string_value(json_object_get(entry, "type")));
        if (count)
            printf("[%" JSON_INTEGER_FORMAT "]", json_integer_value(count));
        printf("  %.200s\n", value ? value : "?");
        free(value);
    }
    json_array_foreach(json_object_get(root, "tensors"), i, entry)
    {
        const json_t *shape = json_object_get(entry, "ne");
        char *text = json_dumps(shape ? shape : json_object_get(entry, "shape"), 0);
        printf("  %-40s %-8s %-16s at %" JSON_INTEGER_FORMAT "\n",
               json_string_value(json_object_get(entry, "name")),
               json_string_value(json_object_get(entry, "type")), text ? text : "?",
               json_integer_value(json_object_get(entry, "offset")));
        free(text);
    }
}

int run_inspect(const struct command *self, int argc, char **argv)
{
    bool json = false;
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return command_help(self);
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (argv[i][0] == '-' || path)
            return command_usage(self, "what is \"%s\"?", argv[i]);
        else
            path = argv[i];
    }
    if (!path)
        return command_usage(self, "a file is needed");
    static const struct beneath anywhere = {AT_FDCWD, true};
    struct stats stats = {0};
    struct error err;
    struct source *file;
    json_t *root = NULL;
    struct source_set *set = source_set_new(1, &stats);
    int rc = set ? source_open(set, &anywhere, path, &file, &err)
                 : error_set(&err, -ENOMEM, "out of memory");
    if (!rc) {
        rc = load_file(file, json, &root, &err);
        source_unref(file);
    }
    source_set_free(set);
    if (rc)
        return command_fail("%s", err.text);
    if (json) {
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
    } else {
        print_text(root);
    }
    json_decref(root);
    return 0;
}

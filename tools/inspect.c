/* SPDX-License-Identifier: MIT */
#include "codec/derived.h"
#include "codec/packed.h"
#include "fs/container.h"
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ELEMENTS_SHOWN = 4,   /* of an array, in text */
    CONFIG_MAX = 1 << 20, /* bytes of a config.json */
};

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

/* ---- what stands packed in a file, by the config.json beside it ---- */

static int read_config(struct source_set *set, const char *path, struct config *config)
{
    static const struct beneath anywhere = {AT_FDCWD, true};
    const char *slash = strrchr(path, '/');
    struct source *s;
    char *name, *text;
    if (asprintf(&name, "%.*sconfig.json", slash ? (int)(slash + 1 - path) : 0, path) < 0)
        return -ENOMEM;
    int rc = source_open(set, &anywhere, name, &s, NULL);
    free(name);
    if (rc)
        return rc;
    uint64_t size = source_identity(s)->size;
    text = size <= CONFIG_MAX ? malloc((size_t)size + 1) : NULL;
    rc = text ? source_read(s, text, 0, (size_t)size, NULL) : -ENOMEM;
    rc = rc ? rc : config_parse((struct blob){text, (size_t)size}, config, NULL);
    free(text);
    source_unref(s);
    return rc;
}

static int read_start(void *context, const struct tensor *t, void *out, size_t n, struct error *err)
{
    return source_read(context, out, t->offset, n, err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static json_t *packed_to_json(const struct tensor *t)
{
    return json_pack("{s:s, s:s, s:i, s:I, s:s, s:[I, I]}", "name", t->name, "method",
                     t->derived->method->name, "bits", (int)t->derived->bits, "group",
                     (json_int_t)t->derived->group, "type", t->dtype->name, "shape",
                     (json_int_t)t->shape[0], (json_int_t)t->shape[1]);
}

/* What the file's tensors stand for goes into "packed", or why that is not known, which may be because
 * the rest is in another file, into "packed_problem". */
static void add_packed(struct source_set *set, const char *path, struct source *file,
                       struct tensor_list *list, json_t *root)
{
    struct config config;
    struct error err;
    if (read_config(set, path, &config))
        return;
    const struct packed_reader reader = {read_start, file};
    if (list->count)
        qsort(list->items, list->count, sizeof *list->items, by_name);
    int rc = packed_find(&config, list, &reader, &err);
    json_t *packed = json_array();
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].derived)
            json_array_append_new(packed, packed_to_json(&list->items[i]));
    if (rc)
        json_object_set_new(root, "packed_problem", json_string(err.text));
    else if (json_array_size(packed))
        json_object_set(root, "packed", packed);
    json_decref(packed);
    config_free(&config);
}

static int load_list(struct source_set *set, const char *path, struct source *file,
                     enum container_kind kind, json_t **out, struct error *err)
{
    struct tensor_list list = {0};
    int rc = container_list(file, kind, 0, &list, err);
    if (!rc) {
        *out = tensors_to_json(kind == CONTAINER_TORCH ? "torch" : "safetensors", &list);
        add_packed(set, path, file, &list, *out);
    }
    tensor_list_free(&list);
    return rc;
}

/* By its first bytes: a file that somebody asks about may be called anything. */
static int load_file(struct source_set *set, const char *path, struct source *file, bool all,
                     json_t **out, struct error *err)
{
    char magic[4] = "";
    uint64_t size = source_identity(file)->size;
    int rc = source_read(file, magic, 0, size < sizeof magic ? (size_t)size : sizeof magic, err);
    if (rc)
        return rc;
    if (memcmp(magic, "GGUF", 4) == 0)
        return load_gguf(file, all, out, err);
    return load_list(set, path, file,
                     memcmp(magic, "PK\3\4", 4) == 0 ? CONTAINER_TORCH : CONTAINER_SAFETENSORS, out,
                     err);
}

/* ---- printing ---- */

/* What tensors stand for, behind them all. */
static void print_packed(const json_t *root)
{
    size_t i;
    json_t *entry;
    const char *problem = json_string_value(json_object_get(root, "packed_problem"));
    if (problem)
        printf("not unpacked, by this file alone: %s\n", problem);
    json_array_foreach(json_object_get(root, "packed"), i, entry)
    {
        const json_t *shape = json_object_get(entry, "shape");
        printf("  %-40s %s, %" JSON_INTEGER_FORMAT " bits, groups of %" JSON_INTEGER_FORMAT
               ", as %s [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT "]\n",
               json_string_value(json_object_get(entry, "name")),
               json_string_value(json_object_get(entry, "method")),
               json_integer_value(json_object_get(entry, "bits")),
               json_integer_value(json_object_get(entry, "group")),
               json_string_value(json_object_get(entry, "type")),
               json_integer_value(json_array_get(shape, 0)),
               json_integer_value(json_array_get(shape, 1)));
    }
}

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
    print_packed(root);
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
        rc = load_file(set, path, file, json, &root, &err);
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

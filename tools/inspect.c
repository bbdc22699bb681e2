/* SPDX-License-Identifier: MIT */
#include "codec/gguf.h"
#include "codec/safetensors.h"
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FIRST_READ = 1 << 20,
    GGUF_HEADER_MAX = 1 << 30,
    ELEMENTS_SHOWN = 4, /* of an array, in text */
};

/* The first `want` bytes of a file, or all if it is shorter. data is reallocated. */
static int read_start(int fd, uint8_t **data, size_t *have, size_t want, struct error *err)
{
    uint8_t *grown = realloc(*data, want ? want : 1);
    if (!grown)
        return error_set(err, -ENOMEM, "out of memory");
    *data = grown;
    while (*have < want) {
        ssize_t n = pread(fd, *data + *have, want - *have, (off_t)*have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, -errno, "%s", strerror(errno));
        if (n == 0)
            break;
        *have += (size_t)n;
    }
    return 0;
}

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
static json_t *json_value(const struct gguf_header *h, const struct gguf_value *v,
                          const uint8_t *end, uint64_t most)
{
    (void)h;
    struct reader r = {v->data, end};
    if (!v->is_array)
        return json_element(&r, v->type);
    json_t *list = json_array();
    for (uint64_t i = 0; i < v->count && i < most; i++)
        json_array_append_new(list, json_element(&r, v->type));
    return list;
}

static json_t *gguf_to_json(const struct gguf_header *h, const uint8_t *end, uint64_t most)
{
    json_t *root = json_object(), *keys = json_object(), *tensors = json_array();
    for (size_t i = 0; i < h->key_count; i++) {
        const struct gguf_value *v = &h->keys[i].value;
        json_t *entry = json_object(), *name = json_text(h->keys[i].name);
        json_object_set_new(entry, "type", json_string(gguf_type_name(v->type)));
        if (v->is_array)
            json_object_set_new(entry, "count", json_integer((json_int_t)v->count));
        json_object_set_new(entry, "value", json_value(h, v, end, most));
        json_object_set_new(keys, json_string_value(name), entry);
        json_decref(name);
    }
    for (size_t i = 0; i < h->tensor_count; i++) {
        const struct gguf_tensor_info *t = &h->tensors[i];
        const struct format *f = format_by_ggml_type(t->ggml_type);
        json_t *ne = json_array();
        for (uint32_t d = 0; d < t->ndim; d++)
            json_array_append_new(ne, json_integer((json_int_t)t->ne[d]));
        json_array_append_new(
            tensors, json_pack("{s:o, s:o, s:o, s:I}", "name", json_text(t->name), "type",
                               f ? json_string(f->title)
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

static int load_gguf(int fd, uint64_t file_size, bool all, json_t **out, struct error *err)
{
    uint8_t *data = NULL;
    size_t have = 0, want = FIRST_READ;
    struct gguf_header h;
    int rc;
    for (;; want *= 4) {
        rc = read_start(fd, &data, &have, want < file_size ? want : (size_t)file_size, err);
        rc = rc ? rc : gguf_parse(data, have, &h, err);
        if (rc != -ENODATA || have == file_size || want > GGUF_HEADER_MAX)
            break;
    }
    if (!rc) {
        *out = gguf_to_json(&h, data + have, all ? UINT64_MAX : ELEMENTS_SHOWN);
        gguf_header_free(&h);
    }
    free(data);
    return rc;
}

/* ---- safetensors ---- */

static json_t *safetensors_to_json(const struct tensor_list *list)
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
    json_object_set_new(root, "format", json_string("safetensors"));
    json_object_set_new(root, "tensors", tensors);
    return root;
}

static int load_safetensors(int fd, uint64_t file_size, json_t **out, struct error *err)
{
    uint8_t *data = NULL;
    size_t have = 0;
    uint64_t header_size;
    struct tensor_list list = {0};
    int rc = read_start(fd, &data, &have, SAFETENSORS_PREFIX, err);
    rc = rc ? rc : safetensors_header_size(data, have, file_size, &header_size, err);
    rc = rc ? rc : read_start(fd, &data, &have, SAFETENSORS_PREFIX + (size_t)header_size, err);
    if (!rc && have != SAFETENSORS_PREFIX + header_size)
        rc = error_set(err, -EINVAL, "truncated while it was read");
    rc = rc ? rc
            : safetensors_parse((char *)data + SAFETENSORS_PREFIX, (size_t)header_size, file_size,
                                0, &list, err);
    if (!rc)
        *out = safetensors_to_json(&list);
    tensor_list_free(&list);
    free(data);
    return rc;
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
    struct stat st;
    struct error err;
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = errno;
        if (fd >= 0)
            close(fd);
        return command_fail("%s: %s", path, strerror(rc));
    }
    json_t *root = NULL;
    bool gguf = pread(fd, magic, 4, 0) == 4 && memcmp(magic, "GGUF", 4) == 0;
    int rc = gguf ? load_gguf(fd, (uint64_t)st.st_size, json, &root, &err)
                  : load_safetensors(fd, (uint64_t)st.st_size, &root, &err);
    close(fd);
    if (rc)
        return command_fail("%s: %s", path, err.text);
    if (json) {
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
    } else {
        print_text(root);
    }
    json_decref(root);
    return 0;
}

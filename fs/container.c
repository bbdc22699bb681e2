/* SPDX-License-Identifier: MIT */
#include "fs/container.h"

#include "codec/affix.h"
#include "codec/gguf_model.h"
#include "codec/safetensors.h"
#include "codec/torch.h"
#include "codec/zip.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GGUF_FIRST_READ = 1 << 20,
    GGUF_HEADER_MAX = 1 << 30,
};

enum container_kind container_kind(const char *name)
{
    static const struct {
        const char *ending;
        enum container_kind kind;
    } endings[] = {
        {".safetensors", CONTAINER_SAFETENSORS},
        {".gguf",        CONTAINER_GGUF       },
        {".bin",         CONTAINER_TORCH      },
        {".pt",          CONTAINER_TORCH      },
        {".pth",         CONTAINER_TORCH      },
    };
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(name, endings[i].ending))
            return endings[i].kind;
    return CONTAINER_NONE;
}

/* n bytes of the file at an offset, in new memory; an error leaves *out NULL. */
static int read_bytes_at(struct source *s, uint64_t offset, uint64_t n, uint8_t **out,
                         struct error *err)
{
    *out = malloc(n + 1);
    if (!*out)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = source_read(s, *out, offset, n, err);
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

/* ---- safetensors ---- */

static int list_safetensors(struct source *s, uint32_t file, struct tensor_list *list,
                            struct error *err)
{
    uint8_t prefix[SAFETENSORS_PREFIX], *header;
    uint64_t size = source_identity(s)->size, header_size;
    size_t available = size < sizeof prefix ? (size_t)size : sizeof prefix;
    int rc = source_read(s, prefix, 0, available, err);
    if (rc)
        return rc;
    rc = safetensors_header_size(prefix, available, size, &header_size, err);
    if (rc)
        return error_prefix(err, rc, "%s", source_path(s));
    rc = read_bytes_at(s, SAFETENSORS_PREFIX, header_size, &header, err);
    if (rc)
        return rc;
    rc = safetensors_parse((char *)header, header_size, size, file, list, err);
    free(header);
    return rc ? error_prefix(err, rc, "%s", source_path(s)) : 0;
}

/* ---- GGUF ---- */

/* The header's length is not written anywhere: the read grows until it holds all of it. */
int container_read_gguf(struct source *s, struct container_gguf *out, struct error *err)
{
    uint64_t size = source_identity(s)->size, want = GGUF_FIRST_READ;
    *out = (struct container_gguf){0};
    for (;; want *= 4) {
        uint64_t n = want < size ? want : size;
        int rc = read_bytes_at(s, 0, n, &out->bytes, err);
        if (rc)
            return rc;
        rc = gguf_parse(out->bytes, n, &out->header, err);
        if (rc == 0)
            return 0;
        free(out->bytes);
        out->bytes = NULL;
        if (rc != -ENODATA || n == size || want >= GGUF_HEADER_MAX)
            return error_prefix(err, rc == -ENODATA ? -EINVAL : rc, "%s", source_path(s));
    }
}

void container_free_gguf(struct container_gguf *g)
{
    gguf_header_free(&g->header);
    free(g->bytes);
    *g = (struct container_gguf){0};
}

int container_list_gguf(struct source *s, const struct container_gguf *g, uint32_t file,
                        struct tensor_list *list, struct error *err)
{
    int rc = gguf_list_tensors(&g->header, source_identity(s)->size, file, list, err);
    return rc ? error_prefix(err, rc, "%s", source_path(s)) : 0;
}

/* ---- torch ---- */

static int read_archive(struct source *s, struct zip_archive *out, struct error *err)
{
    uint64_t size = source_identity(s)->size, tail = size < ZIP_TAIL_MAX ? size : ZIP_TAIL_MAX;
    struct zip_directory d;
    uint8_t *bytes;
    int rc = read_bytes_at(s, size - tail, tail, &bytes, err);
    if (rc)
        return rc;
    rc = zip_find_directory(bytes, tail, size, &d, err);
    free(bytes);
    if (rc)
        return error_prefix(err, rc, "%s", source_path(s));
    rc = read_bytes_at(s, d.offset, d.size, &bytes, err);
    if (rc)
        return rc;
    rc = zip_parse_directory(bytes, d.size, &d, size, out, err);
    free(bytes);
    return rc ? error_prefix(err, rc, "%s", source_path(s)) : 0;
}

static int find_data(struct source *s, const struct zip_member *m, uint64_t *offset,
                     struct error *err)
{
    uint8_t local[ZIP_LOCAL_SIZE];
    uint64_t size = source_identity(s)->size; /* the member's offset lies in it */
    if (size - m->offset < sizeof local)
        return error_set(err, -EINVAL, "%s: member \"%.100s\" is cut short", source_path(s),
                         m->name);
    int rc = source_read(s, local, m->offset, sizeof local, err);
    if (rc)
        return rc;
    rc = zip_data_offset(local, m, size, offset, err);
    return rc ? error_prefix(err, rc, "%s", source_path(s)) : 0;
}

struct torch_file {
    struct source *source;
    struct zip_archive archive;
    const struct zip_member *pickled; /* "FOLDER/data.pkl", the one member that must be there */
    struct torch_pickle pickle;
};

static const struct zip_member *find_pickle(const struct zip_archive *a)
{
    for (size_t i = 0; i < a->count; i++) {
        const char *slash = strchr(a->members[i].name, '/');
        if (slash && strcmp(slash, "/data.pkl") == 0)
            return &a->members[i];
    }
    return NULL;
}

/* A member beside the pickle. */
static const struct zip_member *member(const struct torch_file *t, const char *name)
{
    char path[512];
    const char *pickled = t->pickled->name;
    int n = snprintf(path, sizeof path, "%.*s/%s", (int)strcspn(pickled, "/"), pickled, name);
    return n < (int)sizeof path ? zip_find(&t->archive, path) : NULL;
}

static int check_byte_order(struct torch_file *t, struct error *err)
{
    const struct zip_member *m = member(t, "byteorder");
    char text[7] = "";
    uint64_t offset;
    if (!m)
        return 0; /* written before there was any choice */
    int rc = find_data(t->source, m, &offset, err);
    if (!rc && m->size < sizeof text)
        rc = source_read(t->source, text, offset, m->size, err);
    if (!rc && strcmp(text, "little") != 0)
        rc = error_set(err, -ENOTSUP, "%s: its byte order is not little-endian",
                       source_path(t->source));
    return rc;
}

static int read_pickle(struct torch_file *t, struct error *err)
{
    uint64_t offset;
    uint8_t *bytes;
    const char *path = source_path(t->source);
    const struct zip_member *m = t->pickled = find_pickle(&t->archive);
    if (!m)
        return error_set(err, -EINVAL, "%s: there is no data.pkl in it: not written by torch.save",
                         path);
    if (m->size > TORCH_PICKLE_MAX)
        return error_set(err, -EFBIG, "%s: data.pkl is too large", path);
    int rc = find_data(t->source, m, &offset, err);
    rc = rc ? rc : read_bytes_at(t->source, offset, m->size, &bytes, err);
    if (rc)
        return rc;
    rc = torch_pickle_parse(bytes, m->size, &t->pickle, err);
    free(bytes);
    return rc ? error_prefix(err, rc, "%s", path) : 0;
}

/* Where a tensor lies in the file. Several may lie in one storage, also overlapping: a model whose
 * input and output embeddings are one saves both so. */
static int add_torch_tensor(const struct torch_file *t, const struct torch_tensor *from,
                            uint32_t file, struct tensor_list *list, struct error *err)
{
    char name[256];
    uint64_t storage, skip, size;
    struct tensor *out = tensor_list_add(list);
    uint64_t *shape = out ? arena_array(&list->arena, from->ndim + 1, sizeof *shape) : NULL;
    if (!shape || !(out->name = arena_strdup(&list->arena, from->name)))
        return error_set(err, -ENOMEM, "out of memory");
    memcpy(shape, from->shape, from->ndim * sizeof *shape);
    snprintf(name, sizeof name, "data/%s", from->storage);
    const struct zip_member *m = member(t, name);
    if (!m)
        return error_set(err, -EINVAL, "%s: tensor \"%s\": storage %s is missing",
                         source_path(t->source), from->name, from->storage);
    int rc = find_data(t->source, m, &storage, err);
    if (rc)
        return rc;
    if (!dtype_bytes(from->dtype, from->elements, &size) ||
        __builtin_mul_overflow(from->first, (uint64_t)from->dtype->block_size, &skip) ||
        skip > m->size || size > m->size - skip)
        return error_set(err, -EINVAL, "%s: tensor \"%s\" ends behind its storage",
                         source_path(t->source), from->name);
    out->dtype = from->dtype;
    out->shape = shape;
    out->ndim = from->ndim;
    out->elements = from->elements;
    out->file = file;
    out->offset = storage + skip;
    out->size = size;
    return 0;
}

static int list_torch(struct source *s, uint32_t file, struct tensor_list *list, struct error *err)
{
    struct torch_file t = {.source = s};
    int rc = read_archive(s, &t.archive, err);
    rc = rc ? rc : read_pickle(&t, err);
    rc = rc ? rc : check_byte_order(&t, err);
    for (size_t i = 0; !rc && i < t.pickle.count; i++)
        rc = add_torch_tensor(&t, &t.pickle.tensors[i], file, list, err);
    torch_pickle_free(&t.pickle);
    zip_free(&t.archive);
    return rc;
}

int container_list(struct source *s, enum container_kind kind, uint32_t file,
                   struct tensor_list *list, struct error *err)
{
    struct container_gguf g;
    int rc;
    switch (kind) {
    case CONTAINER_SAFETENSORS:
        return list_safetensors(s, file, list, err);
    case CONTAINER_TORCH:
        return list_torch(s, file, list, err);
    case CONTAINER_GGUF:
        rc = container_read_gguf(s, &g, err);
        rc = rc ? rc : container_list_gguf(s, &g, file, list, err);
        container_free_gguf(&g);
        return rc;
    case CONTAINER_NONE:
        break;
    }
    return error_set(err, -EINVAL, "%s: no file of weights", source_path(s));
}

/* SPDX-License-Identifier: MIT */
#include "fs/checkpoint.h"

#include "codec/safetensors.h"
#include "daemon/beneath.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DEPTH_MAX = 8,         /* folders within folders */
    FILES_MAX = 100000,    /* of one checkpoint */
    JSON_MAX = 64 << 20,   /* config.json, an index */
};

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

/* path relative to the checkpoint, as one relative to the store */
static char *store_path(const struct checkpoint *c, const char *path)
{
    char *out;
    if (!*path || !*c->path)
        return strdup(*path ? path : c->path);
    return asprintf(&out, "%s/%s", c->path, path) < 0 ? NULL : out;
}

/* ---- listing ---- */

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct checkpoint_file *)a)->path,
                  ((const struct checkpoint_file *)b)->path);
}

/* What an entry is; a link that leaves the store is `outside`, other things than files and folders
 * are left out (false). */
static bool examine(const struct checkpoint *c, struct checkpoint_file *f)
{
    struct stat st;
    char *path = store_path(c, f->path);
    int fd = path ? open_beneath(c->root, path, O_PATH) : -ENOMEM;
    free(path);
    if (fd == -EXDEV || fd == -ELOOP) {
        f->outside = true;
        return true;
    }
    if (fd < 0)
        return false;
    bool ok = fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
    close(fd);
    if (!ok)
        return false;
    f->folder = S_ISDIR(st.st_mode);
    f->mode = st.st_mode;
    f->uid = st.st_uid;
    f->gid = st.st_gid;
    source_identity_of(&st, &f->identity);
    return true;
}

static int add_file(struct checkpoint *c, const char *path, size_t *capacity,
                    struct checkpoint_file **out)
{
    if (c->file_count == FILES_MAX)
        return -E2BIG;
    if (c->file_count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 16;
        struct checkpoint_file *files = reallocarray(c->files, *capacity, sizeof *files);
        if (!files)
            return -ENOMEM;
        c->files = files;
    }
    struct checkpoint_file f = {.path = arena_strdup(&c->arena, path)};
    if (!f.path)
        return -ENOMEM;
    *out = NULL;
    if (examine(c, &f)) {
        c->files[c->file_count] = f;
        *out = &c->files[c->file_count++];
    }
    return 0;
}

/* Lists one folder and those in it. Hidden entries (.git, .cache) are none of the checkpoint. */
static int list(struct checkpoint *c, const char *path, unsigned depth, size_t *capacity)
{
    char *in_store = store_path(c, path);
    int fd = in_store ? open_beneath(c->root, in_store, O_RDONLY | O_DIRECTORY) : -ENOMEM;
    free(in_store);
    if (fd < 0)
        return fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int rc = 0;
    for (struct dirent *entry; !rc && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        char *child;
        struct checkpoint_file *f;
        if (asprintf(&child, "%s%s%s", path, *path ? "/" : "", entry->d_name) < 0) {
            rc = -ENOMEM;
            break;
        }
        rc = add_file(c, child, capacity, &f);
        if (!rc && f && f->folder && depth < DEPTH_MAX) {
            rc = list(c, child, depth + 1, capacity);
            rc = rc == -EACCES ? 0 : rc;
        }
        free(child);
    }
    closedir(dir);
    return rc;
}

static int list_files(struct checkpoint *c, struct error *err)
{
    size_t capacity = 0;
    struct checkpoint_file *self;
    int rc = add_file(c, "", &capacity, &self); /* the folder itself */
    if (!rc && (!self || !self->folder))
        rc = -ENOTDIR;
    rc = rc ? rc : list(c, "", 0, &capacity);
    if (rc)
        return error_set(err, rc, "%s: %s", *c->path ? c->path : c->name, strerror(-rc));
    qsort(c->files, c->file_count, sizeof *c->files, by_path);
    return 0;
}

const struct checkpoint_file *checkpoint_find_file(const struct checkpoint *c, const char *path)
{
    struct checkpoint_file key = {.path = path};
    return bsearch(&key, c->files, c->file_count, sizeof key, by_path);
}

bool checkpoint_is_current(const struct checkpoint *c)
{
    for (size_t i = 0; i < c->file_count; i++) {
        struct checkpoint_file now = {.path = c->files[i].path};
        if (!examine(c, &now) || now.outside != c->files[i].outside ||
            now.folder != c->files[i].folder ||
            memcmp(&now.identity, &c->files[i].identity, sizeof now.identity) != 0)
            return false;
    }
    return true;
}

bool checkpoint_is_folder(int root, const char *path)
{
    int fd = open_beneath(root, path, O_RDONLY | O_DIRECTORY);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(dir));)
        found = strcmp(entry->d_name, "config.json") == 0 ||
                (ends_with(entry->d_name, ".safetensors") && entry->d_name[0] != '.');
    closedir(dir);
    return found;
}

/* ---- files ---- */

int checkpoint_open(const struct checkpoint *c, const char *path, struct source **out,
                    struct error *err)
{
    char *in_store = store_path(c, path);
    if (!in_store)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = source_open(c->set, c->root, in_store, out, err);
    free(in_store);
    return rc;
}

/* A small file as a whole; *out must be freed. */
static int read_file(const struct checkpoint *c, const char *path, struct blob *out,
                     struct error *err)
{
    struct source *s;
    int rc = checkpoint_open(c, path, &s, err);
    if (rc)
        return rc;
    uint64_t size = source_identity(s)->size;
    char *data = size <= JSON_MAX ? malloc(size + 1) : NULL;
    if (size > JSON_MAX)
        rc = error_set(err, -EFBIG, "%s: too large", source_path(s));
    else if (!data)
        rc = error_set(err, -ENOMEM, "out of memory");
    else
        rc = source_read(s, data, 0, size, err);
    source_unref(s);
    if (rc) {
        free(data);
        return rc;
    }
    *out = (struct blob){data, size};
    return 0;
}

/* ---- tensors ---- */

static int load_shard(struct checkpoint *c, const char *path, struct error *err)
{
    struct source *s;
    int rc = checkpoint_open(c, path, &s, err);
    if (rc)
        return rc;
    c->shards[c->shard_count++] = s; /* owned by the checkpoint from here on */
    uint8_t prefix[SAFETENSORS_PREFIX];
    uint64_t size = source_identity(s)->size, header_size;
    size_t available = size < sizeof prefix ? (size_t)size : sizeof prefix;
    rc = source_read(s, prefix, 0, available, err);
    if (rc)
        return rc;
    rc = safetensors_header_size(prefix, available, size, &header_size, err);
    if (rc)
        return error_prefix(err, rc, "%s", source_path(s));
    char *header = malloc(header_size + 1);
    if (!header)
        return error_set(err, -ENOMEM, "out of memory");
    rc = source_read(s, header, SAFETENSORS_PREFIX, header_size, err);
    if (!rc) {
        rc = safetensors_parse(header, header_size, size, (uint32_t)(c->shard_count - 1),
                               &c->tensors, err);
        rc = rc ? error_prefix(err, rc, "%s", source_path(s)) : 0;
    }
    free(header);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

const struct tensor *checkpoint_find_tensor(const struct checkpoint *c, const char *name)
{
    struct tensor key = {.name = name};
    return c->tensors.count
               ? bsearch(&key, c->tensors.items, c->tensors.count, sizeof key, by_name)
               : NULL;
}

/* The index must name the tensors that are there, no more and no less. */
static int check_index(const struct checkpoint *c, const struct safetensors_index *index,
                       const char *path, struct error *err)
{
    size_t i = 0;
    for (size_t k = 0; k < index->tensor_count; k++, i++) {
        int order = i < c->tensors.count ? strcmp(c->tensors.items[i].name, index->tensors[k]) : 1;
        if (order > 0)
            return error_set(err, -EINVAL, "%s: tensor \"%s\" is in none of the files", path,
                             index->tensors[k]);
        if (order < 0)
            break;
    }
    if (i < c->tensors.count)
        return error_set(err, -EINVAL, "%s: tensor \"%s\" of %s is not in the index", path,
                         c->tensors.items[i].name,
                         source_path(c->shards[c->tensors.items[i].file]));
    return 0;
}

/* The names of the weight files: those of the index if there is one, else model*.safetensors as
 * the converter takes them, else all safetensors files. */
static size_t pick_shards(const struct checkpoint *c, const char *prefix, const char **out)
{
    size_t n = 0;
    for (size_t i = 0; i < c->file_count; i++) {
        const struct checkpoint_file *f = &c->files[i];
        if (!f->folder && !strchr(f->path, '/') && ends_with(f->path, ".safetensors") &&
            strncmp(f->path, prefix, strlen(prefix)) == 0)
            out[n++] = f->path;
    }
    return n;
}

static int load_tensors(struct checkpoint *c, struct error *err)
{
    static const char index_name[] = "model.safetensors.index.json";
    struct safetensors_index index = {0};
    const char **shards = NULL;
    size_t count = 0;
    int rc = 0;
    bool indexed = checkpoint_find_file(c, index_name) != NULL;
    if (indexed) {
        struct blob file;
        rc = read_file(c, index_name, &file, err);
        if (rc)
            return rc;
        rc = safetensors_index_parse(file.data, file.size, &index, err);
        free((void *)file.data);
        if (rc)
            return error_prefix(err, rc, "%s%s%s", c->path, *c->path ? "/" : "", index_name);
        count = index.shard_count;
    }
    shards = reallocarray(NULL, count + c->file_count, sizeof *shards);
    c->shards = calloc(count + c->file_count, sizeof *c->shards);
    if (!shards || !c->shards) {
        rc = error_set(err, -ENOMEM, "out of memory");
        goto out;
    }
    if (indexed)
        memcpy(shards, index.shards, count * sizeof *shards);
    else if (!(count = pick_shards(c, "model", shards)))
        count = pick_shards(c, "", shards);
    if (!count)
        rc = error_set(err, -ENOENT, "there are no safetensors files");
    for (size_t i = 0; !rc && i < count; i++)
        rc = load_shard(c, shards[i], err);
    if (rc)
        goto out;
    if (c->tensors.count)
        qsort(c->tensors.items, c->tensors.count, sizeof *c->tensors.items, by_name);
    for (size_t i = 1; i < c->tensors.count; i++)
        if (by_name(&c->tensors.items[i - 1], &c->tensors.items[i]) == 0) {
            rc = error_set(err, -EINVAL, "tensor \"%s\" is in two files", c->tensors.items[i].name);
            goto out;
        }
    if (indexed)
        check_index(c, &index, index_name, &c->problem);
out:
    free(shards);
    safetensors_index_free(&index);
    return rc;
}

/* ---- the model ---- */

static int load_config(struct checkpoint *c, struct error *err)
{
    struct blob file;
    if (!checkpoint_find_file(c, "config.json"))
        return error_set(err, -ENOENT, "config.json is missing");
    int rc = read_file(c, "config.json", &file, err);
    if (rc)
        return rc;
    rc = config_parse(file, &c->config, err);
    free((void *)file.data);
    return rc ? error_prefix(err, rc, "config.json") : 0;
}

static void load_model(struct checkpoint *c, const struct checkpoint_options *options)
{
    struct error *err = &c->problem;
    if (options->imatrix) {
        c->miscalibrated = calibration_load(options->imatrix, options->imatrix_name,
                                            &c->calibration, err) != 0;
        if (c->miscalibrated)
            return;
    }
    if (*err->text || load_config(c, err) || model_map(&c->config, &c->tensors, &c->model, err))
        return;
    c->model.facts.imatrix = c->calibration != NULL;
    c->mapped = true;
}

/* What is made from the files shows their newest time, and no more to anyone than they do. */
static void set_attributes(struct checkpoint *c)
{
    c->mode = 0444;
    c->uid = c->files[0].uid;
    c->gid = c->files[0].gid;
    for (size_t i = 0; i < c->file_count; i++) {
        const struct checkpoint_file *f = &c->files[i];
        if (f->folder || f->outside)
            continue;
        if (f->identity.mtime_ns > c->mtime_ns)
            c->mtime_ns = f->identity.mtime_ns;
        if (!ends_with(f->path, ".safetensors"))
            continue;
        c->mode &= f->mode;
        c->uid = f->uid;
        c->gid = f->gid;
    }
}

int checkpoint_load(const struct checkpoint_options *options, struct checkpoint **out,
                    struct error *err)
{
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, -ENOMEM, "out of memory");
    c->refs = 1;
    c->root = options->root;
    c->set = options->set;
    pthread_mutex_init(&c->lock, NULL);
    c->name = strdup(options->name);
    c->folder = strdup(options->folder);
    c->path = strdup(options->path);
    int rc = c->name && c->folder && c->path ? list_files(c, err)
                                             : error_set(err, -ENOMEM, "out of memory");
    if (rc) {
        checkpoint_unref(c);
        return rc;
    }
    set_attributes(c);
    if (load_tensors(c, &c->unreadable)) {
        tensor_list_free(&c->tensors);
        c->problem = c->unreadable;
    } else {
        c->unreadable.text[0] = '\0';
        load_model(c, options);
        if (c->mapped)
            c->problem.text[0] = '\0';
    }
    *out = c;
    return 0;
}

struct checkpoint *checkpoint_ref(struct checkpoint *c)
{
    c->refs++;
    return c;
}

void checkpoint_unref(struct checkpoint *c)
{
    if (!c || --c->refs)
        return;
    for (int i = 0; i < RECIPE_COUNT; i++)
        image_unref(c->images[i]);
    bytes_unref(c->keys);
    model_free(&c->model);
    config_free(&c->config);
    calibration_unref(c->calibration);
    for (size_t i = 0; i < c->shard_count; i++)
        source_unref(c->shards[i]);
    free(c->shards);
    tensor_list_free(&c->tensors);
    arena_free(&c->arena);
    free(c->files);
    free(c->name);
    free(c->folder);
    free(c->path);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

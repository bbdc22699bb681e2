/* SPDX-License-Identifier: MIT */
#include "fs/checkpoint.h"

#include "codec/affix.h"
#include "codec/derived.h"
#include "codec/gguf_model.h"
#include "codec/hf_model.h"
#include "codec/packed.h"
#include "codec/safetensors.h"
#include "fs/adapter.h"
#include "fs/lora_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DEPTH_MAX = 8,         /* folders within folders */
    FILES_MAX = 100000,    /* of one checkpoint */
    JSON_MAX = 64 << 20,   /* config.json, an index */
};

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

/* What an entry is; a link that leaves the store is `outside`, one to nothing `missing`; other
 * things than files and folders are left out (false). */
static bool examine(const struct checkpoint *c, struct checkpoint_file *f)
{
    struct stat st;
    char *path = store_path(c, f->path);
    int fd = path ? open_beneath(c->root, path, O_PATH) : -ENOMEM;
    free(path);
    f->outside = fd == -EXDEV || fd == -ELOOP;
    f->missing = fd == -ENOENT;
    if (fd < 0)
        return f->outside || f->missing;
    bool ok = fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
    close(fd);
    if (!ok)
        return false;
    f->folder = S_ISDIR(st.st_mode);
    f->mode = st.st_mode;
    f->uid = st.st_uid;
    f->gid = st.st_gid;
    /* Who comes and goes in the folder of a GGUF file does not concern it. */
    if (!f->folder || !c->file)
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

/* The parts of a GGUF file. */
static int list_parts(struct checkpoint *c, size_t *capacity)
{
    size_t stem = 0;
    unsigned number = 1, count = 1;
    bool split = gguf_split_parse(c->file, &stem, &number, &count);
    struct checkpoint_file *f;
    int rc = split ? 0 : add_file(c, c->file, capacity, &f);
    for (number = 1; split && !rc && number <= count; number++) {
        char *part;
        if (asprintf(&part, "%.*s-%05u-of-%05u.gguf", (int)stem, c->file, number, count) < 0)
            return -ENOMEM;
        rc = add_file(c, part, capacity, &f);
        free(part);
    }
    return rc;
}

static int list_files(struct checkpoint *c, struct error *err)
{
    size_t capacity = 0;
    struct checkpoint_file *self;
    int rc = add_file(c, "", &capacity, &self); /* the folder itself */
    if (!rc && (!self || !self->folder))
        rc = -ENOTDIR;
    if (!rc)
        rc = c->file ? list_parts(c, &capacity) : list(c, "", 0, &capacity);
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
            now.missing != c->files[i].missing || now.folder != c->files[i].folder ||
            memcmp(&now.identity, &c->files[i].identity, sizeof now.identity) != 0)
            return false;
    }
    return adapter_is_current(c);
}

/* ---- files ---- */

int checkpoint_open(const struct checkpoint *c, const char *path, struct source **out,
                    struct error *err)
{
    const struct checkpoint_file *f = checkpoint_find_file(c, path);
    char *in_store = store_path(c, path);
    if (!in_store)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = source_open(c->set, c->root, in_store, out, err);
    free(in_store);
    if (!rc && (!f || memcmp(source_identity(*out), &f->identity, sizeof f->identity) != 0)) {
        source_unref(*out);
        rc = error_set(err, -ESTALE, "%s: the file has changed", path);
    }
    return rc;
}

int checkpoint_read(const struct checkpoint *c, const char *path, struct blob *out,
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

/* Opens the next weight file. The checkpoint owns it from here on. */
static int open_shard(struct checkpoint *c, const char *path, struct source **out, struct error *err)
{
    const struct checkpoint_file *f = checkpoint_find_file(c, path);
    if (!f || f->missing) {
        c->incomplete = true;
        return error_set(err, -ENOENT, "%s is missing", path);
    }
    int rc = checkpoint_open(c, path, out, err);
    if (!rc)
        c->shards[c->shard_count++] = *out;
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

static int sort_tensors(struct checkpoint *c, struct error *err)
{
    if (c->tensors.count)
        qsort(c->tensors.items, c->tensors.count, sizeof *c->tensors.items, by_name);
    for (size_t i = 1; i < c->tensors.count; i++)
        if (by_name(&c->tensors.items[i - 1], &c->tensors.items[i]) == 0)
            return error_set(err, -EINVAL, "tensor \"%s\" is in two files",
                             c->tensors.items[i].name);
    return 0;
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

/* Which files hold the weights of a checkpoint without an index: the first rule that finds any, as
 * the converter has them, and beyond it whatever there is. */
static const struct shard_rule {
    enum container_kind kind;
    const char *head, *tail;
    const char *index; /* that names the files, where it is there */
    const char *with;  /* a file that must be there; NULL: none */
} shard_rules[] = {
    {CONTAINER_SAFETENSORS, "adapter_model", ".safetensors", NULL, "adapter_config.json"},
    {CONTAINER_TORCH, "adapter_model", ".bin", NULL, "adapter_config.json"},
    {CONTAINER_SAFETENSORS, "model", ".safetensors", "model.safetensors.index.json", NULL},
    {CONTAINER_TORCH, "pytorch_model", ".bin", "pytorch_model.bin.index.json", NULL},
    {CONTAINER_SAFETENSORS, "", ".safetensors", NULL, NULL},
    {CONTAINER_TORCH, "", ".pt", NULL, NULL},
    {CONTAINER_TORCH, "", ".pth", NULL, NULL},
    {CONTAINER_TORCH, "", ".bin", NULL, NULL},
};

static size_t pick_shards(const struct checkpoint *c, const struct shard_rule *rule,
                          const char **out)
{
    size_t n = 0;
    if (rule->with && !checkpoint_find_file(c, rule->with))
        return 0;
    for (size_t i = 0; i < c->file_count; i++) {
        const struct checkpoint_file *f = &c->files[i];
        if (!f->folder && !f->outside && !f->missing && !strchr(f->path, '/') &&
            ends_with(f->path, rule->tail) &&
            strncmp(f->path, rule->head, strlen(rule->head)) == 0)
            out[n++] = f->path;
    }
    return n;
}

/* The rule that applies and the files it finds; NULL where there are no weights. */
static const struct shard_rule *find_shards(const struct checkpoint *c, const char **out,
                                            size_t *count)
{
    size_t rules = sizeof shard_rules / sizeof *shard_rules;
    for (size_t i = 0; i < rules; i++)
        if ((*count = pick_shards(c, &shard_rules[i], out)))
            return &shard_rules[i];
    for (size_t i = 0; i < rules; i++) /* an index alone names what is missing */
        if (shard_rules[i].index && checkpoint_find_file(c, shard_rules[i].index))
            return &shard_rules[i];
    return NULL;
}

static int read_index(struct checkpoint *c, const char *name, struct safetensors_index *index,
                      struct error *err)
{
    struct blob file;
    int rc = checkpoint_read(c, name, &file, err);
    if (rc)
        return rc;
    rc = safetensors_index_parse(file.data, file.size, index, err);
    free((void *)file.data);
    return rc ? error_prefix(err, rc, "%s", name) : 0;
}

static int load_shards(struct checkpoint *c, const char *const *shards, size_t count,
                       struct error *err)
{
    c->shards = calloc(count + 1, sizeof *c->shards);
    int rc = c->shards ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < count; i++) {
        struct source *s;
        rc = open_shard(c, shards[i], &s, err);
        rc = rc ? rc : container_list(s, c->container, (uint32_t)i, &c->tensors, err);
    }
    return rc;
}

static int load_folder(struct checkpoint *c, struct error *err)
{
    struct safetensors_index index = {0};
    size_t count;
    const char **found = reallocarray(NULL, c->file_count, sizeof *found);
    if (!found)
        return error_set(err, -ENOMEM, "out of memory");
    const struct shard_rule *rule = find_shards(c, found, &count);
    int rc = 0;
    if (!rule) {
        c->incomplete = true;
        rc = error_set(err, -ENOENT, "there are no weights");
    } else {
        c->container = rule->kind;
        bool indexed = rule->index && checkpoint_find_file(c, rule->index);
        rc = indexed ? read_index(c, rule->index, &index, err) : 0;
        rc = rc ? rc : load_shards(c, indexed ? index.shards : found,
                                   indexed ? index.shard_count : count, err);
        rc = rc ? rc : sort_tensors(c, err);
        if (!rc && indexed)
            check_index(c, &index, rule->index, &c->problem);
    }
    free(found);
    safetensors_index_free(&index);
    return rc;
}

/* Whether a part says of itself what its name says. */
static bool is_part(const struct gguf_header *h, size_t number, size_t count)
{
    double no, of;
    return gguf_find_number(h, "split.no", &no) && gguf_find_number(h, "split.count", &of) &&
           no == (double)number && of == (double)count;
}

/* A GGUF file with all its parts; head becomes the header of the first. */
static int load_gguf(struct checkpoint *c, struct container_gguf *head, struct error *err)
{
    size_t count = c->file_count - 1; /* [0] is the folder */
    c->container = CONTAINER_GGUF;
    c->shards = calloc(count + 1, sizeof *c->shards);
    int rc = c->shards ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < count; i++) {
        struct source *s;
        struct container_gguf g = {0};
        rc = open_shard(c, c->files[i + 1].path, &s, err);
        rc = rc ? rc : container_read_gguf(s, &g, err);
        if (!rc && count > 1 && !is_part(&g.header, i, count))
            rc = error_set(err, -EINVAL, "%s: by its keys it is not part %zu of %zu",
                           source_path(s), i + 1, count);
        rc = rc ? rc : container_list_gguf(s, &g, (uint32_t)i, &c->tensors, err);
        if (!rc && i == 0)
            *head = g;
        else
            container_free_gguf(&g);
    }
    return rc ? rc : sort_tensors(c, err);
}

/* ---- the model ---- */

static int load_config(struct checkpoint *c, struct error *err)
{
    struct blob file;
    const struct checkpoint *owner;
    if (!adapter_find_file(c, "config.json", &owner))
        return error_set(err, -ENOENT, "config.json is missing");
    int rc = checkpoint_read(owner, "config.json", &file, err);
    if (rc)
        return rc;
    rc = config_parse(file, &c->config, err);
    free((void *)file.data);
    return rc ? error_prefix(err, rc, "config.json") : 0;
}

/* Whether what is made of a model depends on a file of its folder: weights, config, tokenizer, card. */
static bool matters(const char *path)
{
    static const char *const endings[] = {".json", ".model", ".txt", ".jinja", ".md"};
    if (container_kind(path) != CONTAINER_NONE)
        return true;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(path, endings[i]))
            return true;
    return false;
}

/* What the folder should have and has not. */
static int check_complete(struct checkpoint *c, struct error *err)
{
    for (size_t i = 0; i < c->file_count; i++)
        if (c->files[i].missing && matters(c->files[i].path)) {
            c->incomplete = true;
            return error_set(err, -ENOENT, "%s is missing", c->files[i].path);
        }
    return 0;
}

static int read_start(void *context, const struct tensor *t, void *out, size_t n, struct error *err)
{
    struct checkpoint *c = context;
    return source_read(c->shards[t->file], out, t->offset, n, err);
}

/* Weights that other programs have packed become tensors of floats. Where they cannot, there is no
 * folder to be made of them, so that the config has no use. */
static int unpack_tensors(struct checkpoint *c, struct error *err)
{
    const struct packed_reader reader = {read_start, c};
    int rc = packed_find(&c->config, &c->tensors, &reader, err);
    if (rc)
        config_free(&c->config);
    for (size_t i = 0; !c->requantize && !c->quantized && i < c->tensors.count; i++)
        if (tensor_is_quantized(&c->tensors.items[i]))
            c->quantized = &c->tensors.items[i];
    return rc;
}

int checkpoint_may_quantize(const struct checkpoint *c, struct error *err)
{
    if (!c->quantized)
        return 0;
    const struct derived *d = c->quantized->derived;
    return error_set(err, -ENOTSUP,
                     "tensor \"%s\" is quantized already (%s); the option requantize makes other "
                     "formats of it all the same",
                     c->quantized->name, d ? d->method->name : c->quantized->dtype->name);
}

static int map_folder(struct checkpoint *c, struct error *err)
{
    int rc = load_config(c, err);
    if (rc)
        return rc;
    const char *class_name = config_architecture(&c->config);
    snprintf(c->architecture, sizeof c->architecture, "%s", class_name ? class_name : "");
    rc = unpack_tensors(c, err);
    rc = rc ? rc : model_map(&c->config, &c->tensors, &c->model, err);
    if (!rc)
        snprintf(c->architecture, sizeof c->architecture, "%s", c->model.arch->gguf);
    return rc;
}

static int map_gguf(struct checkpoint *c, const struct container_gguf *head, struct error *err)
{
    struct gguf_string arch;
    if (gguf_find_text(&head->header, "general.architecture", &arch))
        snprintf(c->architecture, sizeof c->architecture, "%.*s",
                 arch.size < sizeof c->architecture ? (int)arch.size : 0, arch.data);
    return gguf_model_map(&head->header, &c->tensors, c->requantize, &c->model, err);
}

static void load_model(struct checkpoint *c, const struct container_gguf *head,
                       const struct checkpoint_options *options)
{
    struct error *err = &c->problem;
    if (options->imatrix) {
        c->miscalibrated = calibration_load(options->imatrix, options->imatrix_name,
                                            &c->calibration, err) != 0;
        if (c->miscalibrated)
            return;
    }
    bool adapter = !c->file && adapter_is(c->root, c->path);
    if (*err->text || check_complete(c, err) || (adapter && adapter_merge(c, options, err)) ||
        (c->file ? map_gguf(c, head, err) : map_folder(c, err)))
        return;
    c->model.facts.imatrix = c->calibration != NULL;
    c->mapped = true;
    err->text[0] = '\0';
    lora_file_map(c);
}

/* Formats that feed errors back weigh columns by their calibration's own matrix, where it has one. */
static void load_own_imatrix(struct checkpoint *c)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/imatrix.gguf", c->factor_folder);
    if (n < 0 || (size_t)n >= sizeof path)
        return;
    if (calibration_load(path, "imatrix.gguf", &c->own_imatrix, &c->own_imatrix_problem) == -ENOENT)
        c->own_imatrix_problem.text[0] = '\0';
}

/* They belong to a model that is mapped. */
static void load_awq(struct checkpoint *c)
{
    char path[PATH_MAX];
    struct error *err = &c->awq_problem;
    int n = snprintf(path, sizeof path, "%s/awq.safetensors", c->factor_folder);
    if (n < 0 || (size_t)n >= sizeof path)
        return;
    int rc = calibration_load_scales(path, &c->awq, err);
    if (!rc && awq_scales_check(&c->awq->scales, &c->model, err))
        error_prefix(err, -EINVAL, "%s", path);
    else if (!rc || rc == -ENOENT)
        err->text[0] = '\0';
}

static void load_sequential(struct checkpoint *c)
{
    if (calibration_sequential(c->factor_folder, &c->sequential, &c->sequential_problem) == -ENOENT)
        c->sequential_problem.text[0] = '\0';
}

/* What is made from the files shows their newest time, and no more to anyone than they do. */
static void set_attributes(struct checkpoint *c)
{
    c->mode = 0444;
    c->uid = c->files[0].uid;
    c->gid = c->files[0].gid;
    for (size_t i = 0; i < c->file_count; i++) {
        const struct checkpoint_file *f = &c->files[i];
        if (f->folder || f->outside || f->missing)
            continue;
        if (f->identity.mtime_ns > c->mtime_ns)
            c->mtime_ns = f->identity.mtime_ns;
        if (container_kind(f->path) == CONTAINER_NONE)
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
    c->requantize = options->requantize;
    c->container = CONTAINER_NONE;
    pthread_mutex_init(&c->lock, NULL);
    c->name = strdup(options->name);
    c->base = strdup(options->base);
    c->path = strdup(options->path);
    c->file = options->file ? strdup(options->file) : NULL;
    c->factor_folder = options->calibration ? strdup(options->calibration) : NULL;
    c->factors = options->factors;
    int rc = c->name && c->base && c->path && !c->file == !options->file
                 ? list_files(c, err)
                 : error_set(err, -ENOMEM, "out of memory");
    if (rc) {
        checkpoint_unref(c);
        return rc;
    }
    set_attributes(c);
    if (c->factor_folder) {
        load_own_imatrix(c);
        load_sequential(c);
    }
    struct container_gguf head = {0};
    if (c->file ? load_gguf(c, &head, &c->unreadable) : load_folder(c, &c->unreadable)) {
        tensor_list_free(&c->tensors);
        c->problem = c->unreadable;
    } else {
        c->unreadable.text[0] = '\0';
        load_model(c, &head, options);
        if (c->mapped && c->factor_folder)
            load_awq(c);
    }
    container_free_gguf(&head);
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
    image_unref(c->lora_image);
    lora_gguf_free(&c->lora);
    bytes_unref(c->keys);
    if (c->hf)
        hf_model_free(c->hf);
    free(c->hf);
    bytes_unref(c->hf_texts[0]);
    bytes_unref(c->hf_texts[1]);
    model_free(&c->model);
    config_free(&c->config);
    calibration_unref(c->calibration);
    calibration_unref(c->own_imatrix);
    calibration_unref(c->awq);
    free(c->factor_folder);
    free(c->sequential);
    for (size_t i = 0; i < c->shard_count; i++)
        source_unref(c->shards[i]);
    free(c->shards);
    tensor_list_free(&c->tensors);
    tensor_list_free(&c->own_tensors);
    adapter_forget(c);
    arena_free(&c->arena);
    free(c->files);
    free(c->name);
    free(c->base);
    free(c->path);
    free(c->file);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

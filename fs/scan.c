/* SPDX-License-Identifier: MIT */
#include "fs/scan.h"

#include "codec/affix.h"
#include "codec/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    DEPTH_MAX = 4,        /* folders within folders that hold models */
    MODELS_MAX = 1 << 20, /* of one scan */
};

static const char repository_prefix[] = "models--";

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- one folder ---- */

struct entry {
    const char *name;
    unsigned char type; /* DT_REG, DT_DIR, or DT_LNK for a link that leaves the root; links are
                           followed */
};

struct folder {
    struct entry *entries; /* sorted by name; hidden ones are left out */
    size_t count, capacity;
    dev_t device;
    ino_t inode;
};

struct scanner {
    const struct scan_start *start;
    struct watch *watch;
    struct scan *scan;
    struct folder *ancestors[DEPTH_MAX + 1];
    bool failed; /* memory ran out */
};

static char *join(struct scanner *s, const char *folder, const char *name)
{
    char *path = arena_printf(&s->scan->arena, "%s%s%s", folder, *folder && *name ? "/" : "", name);
    s->failed |= !path;
    return path;
}

/* What an entry is in the end, 0 for what is neither file nor folder. A link to nothing counts as a
 * file: its model is there, and incomplete. */
static unsigned char follow(struct scanner *s, const char *folder, const struct dirent *entry)
{
    struct stat st;
    unsigned char type = 0;
    if (entry->d_type == DT_REG || entry->d_type == DT_DIR)
        return entry->d_type;
    if (entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN)
        return 0;
    const char *path = join(s, folder, entry->d_name);
    int fd = path ? open_beneath(&s->start->root, path, O_PATH) : -ENOMEM;
    if (fd == -EXDEV)
        return DT_LNK;
    if (fd == -ENOENT)
        return DT_REG;
    if (fd >= 0 && fstat(fd, &st) == 0)
        type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : 0;
    if (fd >= 0)
        close(fd);
    return type;
}

static int by_entry(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void add_entry(struct scanner *s, struct folder *f, const char *name, unsigned char type)
{
    if (f->count == f->capacity) {
        size_t capacity = f->capacity ? 2 * f->capacity : 32;
        struct entry *entries = reallocarray(f->entries, capacity, sizeof *entries);
        if (!entries) {
            s->failed = true;
            return;
        }
        f->entries = entries;
        f->capacity = capacity;
    }
    f->entries[f->count] = (struct entry){arena_strdup(&s->scan->arena, name), type};
    s->failed |= !f->entries[f->count++].name;
}

static int read_folder(struct scanner *s, const char *path, struct folder *out)
{
    struct stat st;
    *out = (struct folder){0};
    int fd = open_beneath(&s->start->root, path, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    DIR *dir = fstat(fd, &st) ? NULL : fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    out->device = st.st_dev;
    out->inode = st.st_ino;
    watch_add(s->watch, fd);
    for (struct dirent *entry; !s->failed && (entry = readdir(dir));) {
        unsigned char type = entry->d_name[0] == '.' ? 0 : follow(s, path, entry);
        if (type)
            add_entry(s, out, entry->d_name, type);
    }
    closedir(dir);
    if (out->count)
        qsort(out->entries, out->count, sizeof *out->entries, by_entry);
    return s->failed ? -ENOMEM : 0;
}

static const struct entry *find(const struct folder *f, const char *name)
{
    struct entry key = {.name = name};
    return f->count ? bsearch(&key, f->entries, f->count, sizeof key, by_entry) : NULL;
}

/* A GGUF file that is no importance matrix, by the names that llama-imatrix's have. */
static bool is_gguf_model(const char *name)
{
    return ends_with(name, ".gguf") && !ends_with(name, ".imatrix.gguf") &&
           strcmp(name, "imatrix.gguf") != 0;
}

/* Whether the folder itself is a checkpoint. A config.json beside GGUF files alone does not make
 * one: each of those is a model. */
static bool is_checkpoint(const struct folder *f)
{
    bool config = false, gguf = false;
    for (size_t i = 0; i < f->count; i++) {
        const char *name = f->entries[i].name;
        if (f->entries[i].type == DT_DIR)
            continue;
        if (ends_with(name, ".safetensors") || ends_with(name, ".pt") || ends_with(name, ".pth") ||
            (starts_with(name, "pytorch_model") && ends_with(name, ".bin")) ||
            strcmp(name, "adapter_config.json") == 0)
            return true;
        config |= strcmp(name, "config.json") == 0;
        gguf |= is_gguf_model(name);
    }
    return config && !gguf;
}

/* ---- what is found ---- */

static void add_model(struct scanner *s, const char *name, const char *base, const char *path,
                      const char *file)
{
    struct scan *scan = s->scan;
    if (scan->count == MODELS_MAX)
        return;
    if (scan->count == scan->capacity) {
        size_t capacity = scan->capacity ? 2 * scan->capacity : 64;
        struct scan_model *models = reallocarray(scan->models, capacity, sizeof *models);
        if (!models) {
            s->failed = true;
            return;
        }
        scan->models = models;
        scan->capacity = capacity;
    }
    scan->models[scan->count++] = (struct scan_model){name, base, path, file};
}

static void add_outside(struct scanner *s, const char *path)
{
    struct scan *scan = s->scan;
    if (!(scan->outside_count & (scan->outside_count - 1))) {
        size_t capacity = scan->outside_count ? 2 * scan->outside_count : 1;
        const char **outside = reallocarray(scan->outside, capacity, sizeof *outside);
        if (!outside) {
            s->failed = true;
            return;
        }
        scan->outside = outside;
    }
    scan->outside[scan->outside_count++] = path;
}

/* Whether the folder has an earlier part of a split file, too: the first stands for all. */
static bool has_earlier_part(const struct folder *f, const char *file)
{
    char part[NAME_MAX + 1];
    size_t stem;
    unsigned number, count;
    if (!gguf_split_parse(file, &stem, &number, &count))
        return false;
    for (unsigned i = 1; i < number; i++) {
        snprintf(part, sizeof part, "%.*s-%05u-of-%05u.gguf", (int)stem, file, i, count);
        if (find(f, part))
            return true;
    }
    return false;
}

/* A GGUF file, or any part of a split one. */
static void scan_gguf(struct scanner *s, const char *path, const char *prefix, const char *file)
{
    size_t stem = strlen(file) - strlen(".gguf");
    unsigned number, count;
    gguf_split_parse(file, &stem, &number, &count);
    char *base = arena_strndup(&s->scan->arena, file, stem);
    char *name = base ? join(s, prefix, base) : NULL;
    if (name)
        add_model(s, name, base, path, file);
    else
        s->failed = true;
}

/* ---- a model of a hub cache ---- */

/* What refs/main says, or NULL. */
static const char *main_revision(struct scanner *s, const char *path)
{
    char text[128];
    const char *refs = join(s, path, "refs");
    const char *file = refs ? join(s, refs, "main") : NULL;
    int folder = refs ? open_beneath(&s->start->root, refs, O_RDONLY | O_DIRECTORY) : -ENOMEM;
    if (folder >= 0) {
        watch_add(s->watch, folder);
        close(folder);
    }
    int fd = file ? open_beneath(&s->start->root, file, O_RDONLY | O_NONBLOCK) : -ENOMEM;
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return NULL;
    text[n] = '\0';
    text[strcspn(text, " \t\r\n")] = '\0';
    return arena_strdup(&s->scan->arena, text);
}

static struct timespec modified(struct scanner *s, const char *path)
{
    struct stat st = {0};
    int fd = open_beneath(&s->start->root, path, O_PATH);
    if (fd >= 0) {
        fstat(fd, &st);
        close(fd);
    }
    return st.st_mtim;
}

static bool later(struct timespec a, struct timespec b)
{
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

/* "models--org--name" to "org/name" */
static char *repository_name(struct scanner *s, const char *folder)
{
    const char *id = folder + strlen(repository_prefix), *dashes = strstr(id, "--");
    char *name = dashes
                     ? arena_printf(&s->scan->arena, "%.*s/%s", (int)(dashes - id), id, dashes + 2)
                     : arena_strdup(&s->scan->arena, id);
    s->failed |= !name;
    return name;
}

static void scan_models_of(struct scanner *s, const struct folder *f, const char *path,
                           const char *name, const char *base);

/* A snapshot is a checkpoint, or a folder of GGUF files; its name is that of the model. */
static void scan_snapshot(struct scanner *s, const char *path, const char *name, const char *base)
{
    struct folder f;
    if (read_folder(s, path, &f) == 0)
        scan_models_of(s, &f, path, name, base);
    free(f.entries);
}

/* All snapshots of a model. */
static void scan_repository(struct scanner *s, const char *path, const char *name)
{
    struct folder f;
    const char *base = last_part(name), *folder = join(s, path, "snapshots");
    const char *wanted = main_revision(s, path);
    size_t best = 0;
    struct timespec newest = {.tv_sec = -1};
    if (!folder || read_folder(s, folder, &f) != 0)
        return;
    for (size_t i = 0; i < f.count && !s->failed; i++) {
        const char *snapshot = join(s, folder, f.entries[i].name);
        if (f.entries[i].type != DT_DIR || !snapshot)
            continue;
        struct timespec mtime = modified(s, snapshot);
        if (wanted && strcmp(f.entries[i].name, wanted) == 0)
            mtime.tv_sec = (time_t)LONG_MAX;
        if (later(mtime, newest)) {
            newest = mtime;
            best = i;
        }
    }
    for (size_t i = 0; i < f.count && !s->failed; i++) {
        if (f.entries[i].type != DT_DIR)
            continue;
        const char *called =
            i == best ? name : arena_printf(&s->scan->arena, "%s@%s", name, f.entries[i].name);
        const char *snapshot = join(s, folder, f.entries[i].name);
        s->failed |= !called;
        if (!s->failed)
            scan_snapshot(s, snapshot, called, base);
    }
    free(f.entries);
}

/* ---- folders ---- */

static bool is_repository(const char *name, const struct folder *f)
{
    const struct entry *snapshots = find(f, "snapshots");
    return starts_with(name, repository_prefix) && snapshots && snapshots->type == DT_DIR;
}

static void scan_folder(struct scanner *s, const char *path, const char *prefix, unsigned depth);

/* A folder that has been read: a checkpoint called name, or one that holds GGUF files. */
static void scan_models_of(struct scanner *s, const struct folder *f, const char *path,
                           const char *name, const char *base)
{
    if (is_checkpoint(f)) {
        add_model(s, name, base, path, NULL);
        return;
    }
    for (size_t i = 0; i < f->count; i++)
        if (f->entries[i].type == DT_REG && is_gguf_model(f->entries[i].name) &&
            !has_earlier_part(f, f->entries[i].name))
            scan_gguf(s, path, name, f->entries[i].name);
}

static void scan_children(struct scanner *s, const struct folder *f, const char *path,
                          const char *prefix, unsigned depth)
{
    for (size_t i = 0; i < f->count && !s->failed; i++) {
        const struct entry *e = &f->entries[i];
        if (e->type == DT_REG)
            continue;
        const char *child = join(s, path, e->name), *name = join(s, prefix, e->name);
        if (s->failed)
            return;
        if (e->type == DT_LNK)
            add_outside(s, child);
        else if (depth < DEPTH_MAX)
            scan_folder(s, child, name, depth + 1);
    }
}

/* Whether the folder is one of those it lies in, by way of a link. */
static bool is_loop(const struct scanner *s, const struct folder *f, unsigned depth)
{
    for (unsigned i = 0; i < depth; i++)
        if (s->ancestors[i]->inode == f->inode && s->ancestors[i]->device == f->device)
            return true;
    return false;
}

/* A folder below the start, whose models' names begin with prefix. */
static void scan_folder(struct scanner *s, const char *path, const char *prefix, unsigned depth)
{
    struct folder f;
    if (read_folder(s, path, &f) == 0 && !is_loop(s, &f, depth)) {
        const char *own = last_part(path);
        s->ancestors[depth] = &f;
        if (is_repository(own, &f)) {
            char *name = repository_name(s, own);
            size_t group = strlen(prefix) - strlen(own); /* with its slash, if there is a group */
            char *full =
                name ? arena_printf(&s->scan->arena, "%.*s%s", (int)group, prefix, name) : NULL;
            s->failed |= !full;
            if (full)
                scan_repository(s, path, full);
        } else {
            scan_models_of(s, &f, path, prefix, last_part(prefix));
            if (!is_checkpoint(&f))
                scan_children(s, &f, path, prefix, depth);
        }
    }
    free(f.entries);
}

/* The start itself: one model, or a folder of them. */
static int scan_start(struct scanner *s, struct error *err)
{
    const struct scan_start *start = s->start;
    struct folder f;
    int rc = read_folder(s, start->path, &f);
    if (rc) {
        free(f.entries);
        return error_set(err, rc, "%s: %s", start->name, strerror(-rc));
    }
    s->ancestors[0] = &f;
    s->scan->self = true;
    if (start->file) {
        scan_gguf(s, start->path, "", start->file);
    } else if (is_repository(start->name, &f)) {
        char *name = repository_name(s, start->name);
        if (name)
            scan_repository(s, start->path, last_part(name));
    } else if (is_checkpoint(&f)) {
        add_model(s, start->name, start->name, start->path, NULL);
    } else {
        s->scan->self = false;
        scan_models_of(s, &f, start->path, "", "");
        scan_children(s, &f, start->path, "", 0);
    }
    free(f.entries);
    return s->failed ? error_set(err, -ENOMEM, "out of memory") : 0;
}

/* ---- names ---- */

static int by_place(const void *a, const void *b)
{
    const struct scan_model *x = a, *y = b;
    int order = strcmp(x->path, y->path);
    return order ? order : strcmp(x->file ? x->file : "", y->file ? y->file : "");
}

static int by_name(const void *a, const void *b)
{
    const struct scan_model *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : by_place(a, b);
}

/* Whether a name is that of one of the models, which are sorted by name, or leads to one. */
static bool is_taken(const struct scan_model *models, size_t count, const char *name)
{
    size_t n = strlen(name), lo = 0, hi = count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(models[mid].name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    /* the names between "a" and "a/x" begin with "a" and a character below "/" */
    for (; lo < count && strncmp(models[lo].name, name, n) == 0; lo++)
        if (models[lo].name[n] == '\0' || models[lo].name[n] == '/')
            return true;
    return false;
}

/* Numbers those whose name another model has before them, or a folder of models. */
static void settle_names(struct scanner *s)
{
    struct scan *scan = s->scan;
    struct scan_model *given = reallocarray(NULL, scan->count + 1, sizeof *given);
    size_t renamed = 0;
    if (!given) {
        s->failed = true;
        return;
    }
    if (scan->count)
        qsort(scan->models, scan->count, sizeof *scan->models, by_name);
    memcpy(given, scan->models, scan->count * sizeof *given);
    for (size_t i = 0; i < scan->count && !s->failed; i++) {
        const char *name = given[i].name;
        bool twin = i && strcmp(given[i - 1].name, name) == 0;
        size_t n = strlen(name);
        for (size_t k = i + 1; !twin && k < scan->count && strncmp(given[k].name, name, n) == 0;
             k++)
            twin = given[k].name[n] == '/';
        const char *unique = name;
        for (unsigned number = 2; twin && !s->failed; number++) {
            unique = arena_printf(&scan->arena, "%s~%u", name, number);
            s->failed |= !unique;
            twin = unique && is_taken(given, scan->count, unique);
            for (size_t k = 0; !twin && unique && k < i; k++)
                twin = strcmp(scan->models[k].name, unique) == 0;
        }
        renamed += unique != name;
        scan->models[i].name = unique;
    }
    free(given);
    if (renamed)
        qsort(scan->models, scan->count, sizeof *scan->models, by_name);
}

/* ---- the whole ---- */

int scan_run(const struct scan_start *start, struct watch *watch, struct scan *out,
             struct error *err)
{
    *out = (struct scan){0};
    struct scanner s = {.start = start, .watch = watch, .scan = out};
    int rc = scan_start(&s, err);
    if (!rc)
        settle_names(&s);
    if (!rc && s.failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc)
        scan_free(out);
    return rc;
}

void scan_free(struct scan *s)
{
    free(s->models);
    free(s->outside);
    arena_free(&s->arena);
    *s = (struct scan){0};
}

/* ---- the start ---- */

/* Cuts the last part off a path and returns it; path becomes "" at the top. */
static char *cut_last(char *path)
{
    char *slash = strrchr(path, '/');
    *slash = '\0';
    return slash + 1;
}

/* .../models--ORG--NAME/snapshots/REVISION: the root is the model's folder. Returns the path within
 * it, or NULL for what is no snapshot; root is cut. */
static char *snapshot_path(char *root, char **name)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", root);
    if (strcmp(copy, "/") == 0)
        return NULL;
    char *revision = cut_last(copy);
    if (!*copy || strcmp(cut_last(copy), "snapshots") != 0 || !*copy ||
        !starts_with(last_part(copy), repository_prefix))
        return NULL;
    const char *id = last_part(copy) + strlen(repository_prefix), *dashes = strstr(id, "--");
    char *path = NULL;
    *name = strdup(dashes ? dashes + 2 : id);
    if (asprintf(&path, "snapshots/%s", revision) < 0)
        path = NULL;
    strcpy(root, copy);
    return path;
}

int scan_open(const char *path, bool follow_links, struct scan_start *out, struct error *err)
{
    struct stat st;
    char root[PATH_MAX];
    *out = (struct scan_start){
        .root = {-1, follow_links}
    };
    snprintf(root, sizeof root, "%s", path);
    if (stat(path, &st))
        return error_set(err, -errno, "%s: %s", path, strerror(errno));
    if (S_ISREG(st.st_mode)) {
        if (!ends_with(path, ".gguf"))
            return error_set(err, -EINVAL, "%s: neither a folder nor a .gguf file", path);
        out->file = strdup(cut_last(root));
        out->name = strdup(last_part(path));
        out->path = strdup("");
        if (!*root)
            strcpy(root, "/");
    } else {
        out->path = snapshot_path(root, &out->name);
        if (!out->path) {
            out->path = strdup("");
            out->name = strdup(last_part(root));
        }
    }
    if (!out->path || !out->name || (S_ISREG(st.st_mode) && !out->file)) {
        scan_close(out);
        return error_set(err, -ENOMEM, "out of memory");
    }
    out->root.fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->root.fd < 0) {
        int rc = -errno;
        scan_close(out);
        return error_set(err, rc, "%s: %s", path, strerror(-rc));
    }
    return 0;
}

void scan_close(struct scan_start *start)
{
    if (start->root.fd >= 0)
        close(start->root.fd);
    free(start->path);
    free(start->file);
    free(start->name);
    *start = (struct scan_start){
        .root = {-1, false}
    };
}

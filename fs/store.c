/* SPDX-License-Identifier: MIT */
#include "fs/store.h"

#include "daemon/log.h"
#include "fs/adapter.h"
#include "fs/gguf_file.h"
#include "fs/hf_file.h"
#include "fs/lora_file.h"
#include "fs/scan.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHECK_SECONDS = 1 };

/* One state of a model, or a group. The strings are constant and in one piece of memory. */
struct slot {
    char *name, *base, *path, *file; /* as in scan.h; a group has a name only */
    bool dead;         /* changed or gone; by the store's lock */
    int64_t checked;   /* seconds, monotonic; by the store's lock */
    uint64_t used;     /* a clock; by the store's lock */
    pthread_mutex_t lock; /* held while loading; before the store's lock */
    struct checkpoint *checkpoint; /* by both locks to set, by either to read */
};

/* What an adapter, or all of them, shall add to. */
struct given_base {
    char *adapter; /* NULL: any */
    char *model;   /* of the store; or an absolute path */
    struct given_base *next;
};

/* A model that is no part of the store, but the base of an adapter in it. */
struct elsewhere {
    struct store *store;
    struct elsewhere *next;
};

struct store {
    char path[PATH_MAX];
    struct scan_start start;
    bool requantize, onto_nf4;
    struct given_base *bases;    /* what is given for adapters, the last one first */
    char *base;                  /* the same as an option; NULL: none */
    struct elsewhere *elsewhere; /* by lock */
    unsigned max_open;
    struct stats *stats;
    struct source_set *set;
    char *imatrix;      /* absolute, NULL: none */
    char *imatrix_name; /* as given */
    bool imatrix_file;  /* one file, for the one model there was */
    char *imatrix_model;
    char *calibration;       /* absolute, NULL: none */
    char *calibration_model; /* the one that it is of; NULL: it has a folder for each */
    struct factor_set factors;
    pthread_mutex_t lock;
    struct watch *watch;   /* by lock */
    struct scan scan;      /* the last one; by lock */
    struct slot **slots;   /* by number - 1; by lock */
    size_t count, capacity; /* by lock */
    uint32_t *live;        /* numbers, sorted by name; by lock */
    size_t live_count, live_capacity;
    int64_t scanned;       /* by lock */
    bool outdated;         /* scan again, whatever the watch says; by lock */
    uint64_t clock;        /* by lock */
};

static int64_t now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1; /* 0 is "never" */
}

/* ---- the table of models and groups ---- */

static bool is_group(const struct slot *slot) { return !slot->path; }

/* Where a name is, or would be, among the live ones. */
static size_t position(const struct store *s, const char *name, bool *found)
{
    size_t lo = 0, hi = s->live_count;
    *found = false;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(s->slots[s->live[mid] - 1]->name, name);
        if (order == 0) {
            *found = true;
            return mid;
        }
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* A copy behind *end, which moves on; NULL for NULL. */
static char *pack(char **end, const char *s)
{
    char *copy = s ? *end : NULL;
    if (s)
        *end = stpcpy(*end, s) + 1;
    return copy;
}

static size_t packed_size(const char *s) { return s ? strlen(s) + 1 : 0; }

/* m->path == NULL: a group */
static struct slot *slot_new(const struct scan_model *m)
{
    struct slot *slot = calloc(1, sizeof *slot + packed_size(m->name) + packed_size(m->base) +
                                      packed_size(m->path) + packed_size(m->file));
    if (!slot)
        return NULL;
    char *end = (char *)(slot + 1);
    slot->name = pack(&end, m->name);
    slot->base = pack(&end, m->base);
    slot->path = pack(&end, m->path);
    slot->file = pack(&end, m->file);
    pthread_mutex_init(&slot->lock, NULL);
    return slot;
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool is_slot_of(const struct slot *slot, const struct scan_model *m)
{
    return same(slot->name, m->name) && same(slot->base, m->base) && same(slot->path, m->path) &&
           same(slot->file, m->file);
}

static int grow(void **items, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return 0;
    size_t grown = *capacity ? 2 * *capacity : 64;
    void *p = reallocarray(*items, grown, size);
    if (!p)
        return -ENOMEM;
    *items = p;
    *capacity = grown;
    return 0;
}

/* A new number, which goes to place `at` among the live ones. By lock. */
static int add(struct store *s, size_t at, const struct scan_model *m)
{
    if (s->count >= STORE_ENTRIES_MAX || strlen(m->name) >= STORE_NAME_MAX ||
        grow((void **)&s->slots, s->count, &s->capacity, sizeof *s->slots) ||
        grow((void **)&s->live, s->live_count, &s->live_capacity, sizeof *s->live))
        return -ENOMEM;
    struct slot *slot = slot_new(m);
    if (!slot)
        return -ENOMEM;
    s->slots[s->count++] = slot;
    memmove(s->live + at + 1, s->live + at, (s->live_count - at) * sizeof *s->live);
    s->live[at] = (uint32_t)s->count;
    s->live_count++;
    return 0;
}

/* Takes a number out of use. By lock. */
static void retire(struct store *s, size_t at)
{
    struct slot *slot = s->slots[s->live[at] - 1];
    slot->dead = true;
    checkpoint_unref(slot->checkpoint);
    slot->checkpoint = NULL;
    memmove(s->live + at, s->live + at + 1, (s->live_count - at - 1) * sizeof *s->live);
    s->live_count--;
}

/* ---- scanning ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct scan_model *)a)->name, ((const struct scan_model *)b)->name);
}

/* All that should be live: the models that were found and the groups that their names are in.
 * NULL when memory is out. */
static struct scan_model *wanted(struct scan *scan, size_t *count)
{
    size_t parts = scan->count;
    for (size_t i = 0; i < scan->count; i++)
        for (const char *c = scan->models[i].name; *c; c++)
            parts += *c == '/';
    struct scan_model *all = reallocarray(NULL, parts + 1, sizeof *all);
    if (!all)
        return NULL;
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < scan->count; i++) {
        const char *name = scan->models[i].name;
        all[n++] = scan->models[i];
        for (const char *slash = name; (slash = strchr(slash, '/')); slash++) {
            char *group = arena_strndup(&scan->arena, name, (size_t)(slash - name));
            if (!group) {
                free(all);
                return NULL;
            }
            all[n++] = (struct scan_model){.name = group};
        }
    }
    if (n)
        qsort(all, n, sizeof *all, by_name);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || by_name(&all[kept - 1], &all[i]) != 0)
            all[kept++] = all[i];
    *count = kept;
    return all;
}

/* Makes the live ones those that are wanted. By lock. */
static void merge(struct store *s, const struct scan_model *all, size_t count)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        int order = -1;
        while (at < s->live_count &&
               (order = strcmp(s->slots[s->live[at] - 1]->name, all[i].name)) < 0)
            retire(s, at);
        if (at < s->live_count && order == 0 && !is_slot_of(s->slots[s->live[at] - 1], &all[i])) {
            retire(s, at);
            order = 1;
        }
        if (at < s->live_count && order == 0) {
            at++;
        } else if (add(s, at, &all[i]) == 0) {
            at++;
        } else {
            s->outdated = true; /* another time */
            return;
        }
    }
    while (at < s->live_count)
        retire(s, at);
}

/* Looks for new and gone models, at most once a second. By lock. */
static int scan(struct store *s, struct error *err)
{
    int64_t now = now_seconds();
    struct scan found;
    size_t count;
    if (now - s->scanned < CHECK_SECONDS && !s->outdated)
        return 0;
    bool changed = watch_changed(s->watch); /* before the scan, which sees what comes after */
    if (s->scanned && !s->outdated && !changed)
        return 0;
    s->scanned = now;
    s->outdated = false;
    int rc = scan_run(&s->start, s->watch, &found, err);
    if (rc)
        return rc;
    struct scan_model *all = wanted(&found, &count);
    if (all)
        merge(s, all, count);
    free(all);
    scan_free(&s->scan);
    s->scan = found;
    return all ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* A store that cannot be read just now keeps what it had. By lock. */
static void rescan(struct store *s)
{
    struct error err;
    if (scan(s, &err))
        log_warning("%s: %s", s->path, err.text);
}

/* ---- opening ---- */

static int resolve_imatrix(struct store *s, const char *given, struct error *err)
{
    struct stat st;
    s->imatrix = realpath(given, NULL);
    if (!s->imatrix || stat(s->imatrix, &st))
        return error_set(err, -errno, "imatrix=%s: %s", given, strerror(errno));
    s->imatrix_name = strdup(given);
    s->imatrix_file = !S_ISDIR(st.st_mode);
    if (!s->imatrix_name)
        return error_set(err, -ENOMEM, "out of memory");
    if (!s->imatrix_file)
        return 0;
    if (s->scan.count != 1)
        return error_set(err, -EINVAL,
                         "imatrix=%s: one file cannot serve the %zu models of this store; give a "
                         "folder with one file per model",
                         given, s->scan.count);
    struct calibration *probe; /* loaded with the model again; a bad one is refused now */
    int rc = calibration_load(s->imatrix, given, &probe, err);
    if (rc)
        return error_prefix(err, rc, "imatrix");
    calibration_unref(probe);
    s->imatrix_model = strdup(s->scan.models[0].name);
    return s->imatrix_model ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* A calibration, or a folder of some. */
static int resolve_calibration(struct store *s, const char *given, struct error *err)
{
    char path[PATH_MAX + 32];
    s->calibration = realpath(given, NULL);
    if (!s->calibration)
        return error_set(err, -errno, "calibration=%s: %s", given, strerror(errno));
    snprintf(path, sizeof path, "%s/calibration.json", s->calibration);
    if (access(path, F_OK))
        return 0;
    if (s->scan.count != 1)
        return error_set(err, -EINVAL,
                         "calibration=%s: it is of one model, and this store has %zu; give a folder"
                         " with one for each",
                         given, s->scan.count);
    s->calibration_model = strdup(s->scan.models[0].name);
    return s->calibration_model ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* ---- what an adapter adds to ---- */

/* What is given for an adapter, or else for all; NULL where nothing is. */
static const char *given_base(const struct store *s, const char *adapter)
{
    const char *of_all = NULL;
    for (const struct given_base *b = s->bases; b; b = b->next) {
        if (b->adapter && strcmp(b->adapter, adapter) == 0)
            return b->model;
        if (!b->adapter && !of_all)
            of_all = b->model;
    }
    return of_all;
}

/* The last part of a name or path, and how long that is; it may have slashes behind it. */
static const char *last_part(const char *name, size_t *n)
{
    const char *end = name + strlen(name), *first;
    while (end > name && end[-1] == '/')
        end--;
    for (first = end; first > name && first[-1] != '/';)
        first--;
    *n = (size_t)(end - first);
    return first;
}

/* The number of a model by its name, or by the last part of it, which must then be the only one. 0
 * where there is none, -EEXIST where there are several. */
static int find_by_name(struct store *s, const char *name, const char *adapter, uint32_t *number)
{
    size_t n;
    const char *last = last_part(name, &n);
    uint32_t alike = 0, count = 0;
    *number = 0;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->live_count; i++) {
        const struct slot *slot = s->slots[s->live[i] - 1];
        const char *cut = strrchr(slot->name, '/');
        if (is_group(slot) || strcmp(slot->name, adapter) == 0)
            continue;
        if (strcmp(slot->name, name) == 0)
            *number = s->live[i];
        cut = cut ? cut + 1 : slot->name;
        if (strlen(cut) == n && memcmp(cut, last, n) == 0) {
            alike = s->live[i];
            count++;
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (!*number)
        *number = alike;
    return *number == alike && count > 1 ? -EEXIST : 0;
}

static bool take_first(void *context, const struct store_entry *e)
{
    *(uint32_t *)context = e->number;
    return false;
}

/* Whether a store's folder is still the one that its path leads to. */
static bool is_in_place(const struct store *s)
{
    struct stat path, root;
    return stat(s->path, &path) == 0 && fstat(s->start.root.fd, &root) == 0 &&
           (!S_ISDIR(path.st_mode) || (path.st_dev == root.st_dev && path.st_ino == root.st_ino));
}

/* The store of a folder that is a model, and is not left while this one lives. */
static int open_elsewhere(struct store *s, const char *path, struct store **out, struct error *err)
{
    struct store_options options = {.path = path, .max_open = s->max_open, .stats = s->stats};
    for (const struct elsewhere *e = s->elsewhere; e; e = e->next)
        if (strcmp(store_path(e->store), path) == 0 && is_in_place(e->store)) {
            *out = e->store;
            return 0;
        }
    struct elsewhere *e = malloc(sizeof *e);
    int rc = e ? store_open(&options, &e->store, err) : error_set(err, -ENOMEM, "out of memory");
    if (rc) {
        free(e);
        return rc;
    }
    e->next = s->elsewhere;
    s->elsewhere = e;
    *out = e->store;
    return 0;
}

static int get_elsewhere(struct store *s, const char *path, struct checkpoint **out,
                         struct error *err)
{
    struct store *store;
    uint32_t number = 0;
    pthread_mutex_lock(&s->lock);
    int rc = open_elsewhere(s, path, &store, err);
    pthread_mutex_unlock(&s->lock);
    if (rc)
        return rc;
    store_each_model(store, take_first, &number);
    if (!number || !store_is_model(store))
        return error_set(err, -ENOENT, "%s: there is no model", path);
    return store_get_current(store, number, out, err);
}

static bool is_adapter(struct store *s, uint32_t number)
{
    pthread_mutex_lock(&s->lock);
    const struct slot *slot = s->slots[number - 1];
    char *path = slot->file ? NULL : strdup(slot->path);
    pthread_mutex_unlock(&s->lock);
    bool adapter = path && adapter_is(&s->start.root, path);
    free(path);
    return adapter;
}

/* -ESTALE where the base had changed since it was loaded: by its name it is found anew. */
static int get_base(struct store *s, const char *adapter, const char *name, struct checkpoint **out,
                    struct error *err)
{
    uint32_t number;
    const char *given = given_base(s, adapter), *wanted = given ? given : name;
    if (!wanted)
        return error_set(err, -ENOENT, "it is an adapter and does not say of what: base= can");
    if (given && *given == '/')
        return get_elsewhere(s, given, out, err);
    if (find_by_name(s, wanted, adapter, &number))
        return error_set(err, -EEXIST, "its base \"%s\" could be several models: base= says which",
                         wanted);
    if (!number)
        return error_set(err, -ENOENT, "its base \"%s\" is not in the store: base= says where it is",
                         wanted);
    if (is_adapter(s, number))
        return error_set(err, -ENOTSUP, "its base \"%s\" is an adapter", wanted);
    return store_get_current(s, number, out, err);
}

/* See checkpoint_options. The base's slot is taken while the adapter's is held, which is in order,
 * for a base is no adapter. */
static int find_base(void *context, const char *adapter, const char *name, struct checkpoint **out,
                     struct error *err)
{
    enum { ATTEMPTS = 3 };
    int rc = -ESTALE;
    for (int i = 0; rc == -ESTALE && i < ATTEMPTS; i++)
        rc = get_base(context, adapter, name, out, err);
    return rc;
}

/* "ADAPTER:MODEL", or "MODEL". A path becomes absolute before the program goes to the background. */
static int resolve_base(struct store *s, const char *given, size_t n, struct error *err)
{
    char path[PATH_MAX];
    uint32_t number;
    const char *colon = memchr(given, ':', n);
    const char *model = colon ? colon + 1 : given;
    struct given_base *b = calloc(1, sizeof *b);
    if (b) {
        b->next = s->bases;
        s->bases = b;
        b->adapter = colon ? strndup(given, (size_t)(colon - given)) : NULL;
        b->model = strndup(model, n - (size_t)(model - given));
    }
    if (!b || !b->model || !b->adapter != !colon)
        return error_set(err, -ENOMEM, "out of memory");
    if (find_by_name(s, b->model, b->adapter ? b->adapter : "", &number))
        return error_set(err, -EEXIST, "base=%.*s: \"%s\" could be several models", (int)n, given,
                         b->model);
    if (number)
        return 0;
    if (!realpath(b->model, path))
        return error_set(err, -ENOENT, "base=%.*s: there is no model \"%s\" in the store, nor a folder",
                         (int)n, given, b->model);
    free(b->model);
    b->model = strdup(path);
    return b->model ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* All of them as an option, with paths as they were found. */
static int print_bases(struct store *s, struct error *err)
{
    size_t size;
    FILE *out = open_memstream(&s->base, &size);
    for (const struct given_base *b = s->bases; out && b; b = b->next)
        fprintf(out, "%s%s%s%s", b->adapter ? b->adapter : "", b->adapter ? ":" : "", b->model,
                b->next ? ";" : "");
    return out && fclose(out) == 0 ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static int resolve_bases(struct store *s, const char *given, struct error *err)
{
    int rc = 0;
    for (const char *at = given; !rc && *at; at += strspn(at, ";")) {
        size_t n = strcspn(at, ";");
        rc = n ? resolve_base(s, at, n, err) : 0;
        at += n;
    }
    return rc ? rc : print_bases(s, err);
}

int store_open(const struct store_options *options, struct store **out, struct error *err)
{
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, -ENOMEM, "out of memory");
    s->start.root.fd = -1;
    s->requantize = options->requantize;
    s->onto_nf4 = options->onto_nf4;
    s->max_open = options->max_open;
    s->stats = options->stats;
    pthread_mutex_init(&s->lock, NULL);
    factor_set_init(&s->factors);
    s->set = source_set_new(options->max_open, options->stats);
    s->watch = watch_new();
    int rc = s->set && s->watch ? 0 : error_set(err, -ENOMEM, "out of memory");
    if (!rc && !realpath(options->path, s->path))
        rc = error_set(err, -errno, "%s: %s", options->path, strerror(errno));
    rc = rc ? rc : scan_open(s->path, options->follow_links, &s->start, err);
    rc = rc ? rc : scan(s, err);
    if (!rc && options->imatrix)
        rc = resolve_imatrix(s, options->imatrix, err);
    if (!rc && options->calibration)
        rc = resolve_calibration(s, options->calibration, err);
    if (!rc && options->base)
        rc = resolve_bases(s, options->base, err);
    if (rc)
        store_close(s);
    else
        *out = s;
    return rc;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++) {
        checkpoint_unref(s->slots[i]->checkpoint);
        pthread_mutex_destroy(&s->slots[i]->lock);
        free(s->slots[i]);
    }
    free(s->slots);
    free(s->live);
    free(s->imatrix);
    free(s->imatrix_name);
    free(s->imatrix_model);
    free(s->calibration);
    free(s->calibration_model);
    free(s->base);
    for (struct elsewhere *e; (e = s->elsewhere);) {
        s->elsewhere = e->next;
        store_close(e->store);
        free(e);
    }
    for (struct given_base *b; (b = s->bases);) {
        s->bases = b->next;
        free(b->adapter);
        free(b->model);
        free(b);
    }
    factor_set_destroy(&s->factors);
    source_set_free(s->set);
    scan_free(&s->scan);
    scan_close(&s->start);
    watch_free(s->watch);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

const char *store_path(const struct store *s) { return s->path; }

const char *store_calibration(const struct store *s) { return s->calibration; }

const char *store_base(const struct store *s) { return s->base; }

int store_root(const struct store *s) { return s->start.root.fd; }

bool store_is_model(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    bool self = s->scan.self;
    pthread_mutex_unlock(&s->lock);
    return self;
}

/* ---- loading ---- */

/* The importance matrix of a model: *file to read and *name to call it by, NULL if it has none. */
static int model_imatrix(const struct store *s, const char *model, char **file, char **name)
{
    *file = *name = NULL;
    if (!s->imatrix || (s->imatrix_file && strcmp(model, s->imatrix_model) != 0))
        return 0;
    if (s->imatrix_file) {
        *file = strdup(s->imatrix);
        *name = strdup(s->imatrix_name);
        return *file && *name ? 0 : -ENOMEM;
    }
    static const char *const endings[] = {"dat", "gguf"};
    for (int i = 0; i < 2; i++) {
        if (asprintf(file, "%s/%s.%s", s->imatrix, model, endings[i]) < 0)
            return *file = NULL, -ENOMEM;
        if (access(*file, F_OK) == 0) {
            size_t n = strlen(s->imatrix_name);
            const char *slash = n && s->imatrix_name[n - 1] == '/' ? "" : "/";
            if (asprintf(name, "%s%s%s.%s", s->imatrix_name, slash, model, endings[i]) >= 0)
                return 0;
            *name = NULL;
            return -ENOMEM;
        }
        free(*file);
        *file = NULL;
    }
    return 0;
}

/* The folder of a model's calibration, NULL if it can have none. */
static int model_calibration(const struct store *s, const char *model, char **folder)
{
    *folder = NULL;
    if (!s->calibration || (s->calibration_model && strcmp(model, s->calibration_model) != 0))
        return 0;
    if (s->calibration_model)
        *folder = strdup(s->calibration);
    else if (asprintf(folder, "%s/%s", s->calibration, model) < 0)
        *folder = NULL;
    return *folder ? 0 : -ENOMEM;
}

static int load(struct store *s, const struct slot *slot, struct checkpoint **out,
                struct error *err)
{
    char *imatrix, *imatrix_name, *calibration = NULL;
    int rc = model_imatrix(s, slot->name, &imatrix, &imatrix_name) ||
                     model_calibration(s, slot->name, &calibration)
                 ? error_set(err, -ENOMEM, "out of memory")
                 : 0;
    struct checkpoint_options options = {
        .name = slot->name,
        .base = slot->base,
        .path = slot->path,
        .file = slot->file,
        .root = &s->start.root,
        .set = s->set,
        .requantize = s->requantize,
        .imatrix = imatrix,
        .imatrix_name = imatrix_name,
        .calibration = calibration,
        .factors = &s->factors,
        .find_base = find_base,
        .context = s,
        .onto_nf4 = s->onto_nf4,
    };
    rc = rc ? rc : checkpoint_load(&options, out, err);
    free(imatrix);
    free(imatrix_name);
    free(calibration);
    return rc;
}

/* The slot of a number if it is alive. By lock. */
static struct slot *alive(const struct store *s, uint32_t number)
{
    struct slot *slot = number && number <= s->count ? s->slots[number - 1] : NULL;
    return slot && !slot->dead ? slot : NULL;
}

/* A reference on the slot's checkpoint, if it is loaded. By lock. */
static struct checkpoint *take(struct store *s, struct slot *slot)
{
    slot->used = ++s->clock;
    return slot->checkpoint ? checkpoint_ref(slot->checkpoint) : NULL;
}

int store_get(struct store *s, uint32_t number, struct checkpoint **out, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    struct slot *slot = alive(s, number);
    slot = slot && !is_group(slot) ? slot : NULL;
    *out = slot ? take(s, slot) : NULL;
    pthread_mutex_unlock(&s->lock);
    if (!slot)
        return error_set(err, -ESTALE, "the model has changed or is gone");
    if (*out)
        return 0;
    int rc = 0;
    pthread_mutex_lock(&slot->lock);
    if (!slot->checkpoint) {
        struct checkpoint *c = NULL;
        rc = load(s, slot, &c, err);
        pthread_mutex_lock(&s->lock);
        if (!rc && slot->dead) {
            checkpoint_unref(c);
            rc = error_set(err, -ESTALE, "the model has changed or is gone");
        } else if (!rc) {
            slot->checkpoint = c;
            slot->checked = now_seconds();
        }
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_lock(&s->lock);
    *out = rc ? NULL : take(s, slot);
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_unlock(&slot->lock);
    if (!rc && !*out)
        rc = error_set(err, -ESTALE, "the model has changed or is gone");
    return rc;
}

/* Retires a number whose files have changed; the model gets a new one if it is still there. */
static void replace(struct store *s, uint32_t number)
{
    bool found;
    pthread_mutex_lock(&s->lock);
    struct slot *slot = alive(s, number);
    if (slot) {
        retire(s, position(s, slot->name, &found));
        log_info("%s: its files have changed", slot->name);
        s->outdated = true;
        rescan(s);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Makes sure that a loaded model is current, at most once a second unless `now`. */
static bool check(struct store *s, uint32_t number, bool at_once)
{
    int64_t now = now_seconds();
    pthread_mutex_lock(&s->lock);
    struct slot *slot = alive(s, number);
    struct checkpoint *c = NULL;
    if (slot && slot->checkpoint && (at_once || now - slot->checked >= CHECK_SECONDS)) {
        slot->checked = now;
        c = checkpoint_ref(slot->checkpoint);
    }
    pthread_mutex_unlock(&s->lock);
    bool current = !c || checkpoint_is_current(c);
    checkpoint_unref(c);
    if (!current)
        replace(s, number);
    return slot && current;
}

int store_get_current(struct store *s, uint32_t number, struct checkpoint **out,
                      struct error *err)
{
    if (!check(s, number, true))
        return error_set(err, -ESTALE, "the model has changed or is gone");
    return store_get(s, number, out, err);
}

int store_name(struct store *s, uint32_t number, char *out)
{
    pthread_mutex_lock(&s->lock);
    const struct slot *slot = alive(s, number);
    if (slot)
        strcpy(out, slot->name);
    pthread_mutex_unlock(&s->lock);
    return slot ? 0 : -ESTALE;
}

int store_find(struct store *s, uint32_t group, const char *name, uint32_t *number,
               bool *is_group_out)
{
    char full[STORE_NAME_MAX] = "";
    int rc = group == STORE_ROOT ? 0 : store_name(s, group, full);
    size_t n = strlen(full);
    if (rc)
        return rc;
    if (n + 1 + strlen(name) >= sizeof full)
        return -ENOENT;
    sprintf(full + n, "%s%s", n ? "/" : "", name);
    for (int attempt = 0; attempt < 2; attempt++) {
        bool found;
        pthread_mutex_lock(&s->lock);
        rescan(s);
        size_t at = position(s, full, &found);
        *number = found ? s->live[at] : 0;
        *is_group_out = found && is_group(s->slots[*number - 1]);
        pthread_mutex_unlock(&s->lock);
        if (!found)
            return -ENOENT;
        if (*is_group_out || check(s, *number, false))
            return 0;
        /* it has changed: the second attempt finds its new number, or none */
    }
    return -ENOENT;
}

/* Those whose names begin with prefix; of a group (models == false) its own entries, which may be
 * groups. By lock. */
static void each(struct store *s, const char *prefix, bool models,
                 bool (*visit)(void *, const struct store_entry *), void *context)
{
    size_t n = strlen(prefix);
    for (size_t i = 0; i < s->live_count; i++) {
        const struct slot *slot = s->slots[s->live[i] - 1];
        const char *slash = strrchr(slot->name, '/');
        struct store_entry e = {.number = s->live[i],
                                .name = slot->name,
                                .last = slash ? slash + 1 : slot->name,
                                .group = is_group(slot)};
        if (models ? e.group : strncmp(slot->name, prefix, n) != 0 || e.last != slot->name + n)
            continue;
        if (!visit(context, &e))
            break;
    }
}

void store_each(struct store *s, uint32_t group,
                bool (*visit)(void *, const struct store_entry *), void *context)
{
    char prefix[STORE_NAME_MAX + 1] = "";
    if (group != STORE_ROOT && store_name(s, group, prefix))
        return;
    if (*prefix)
        strcat(prefix, "/");
    pthread_mutex_lock(&s->lock);
    rescan(s);
    each(s, prefix, false, visit, context);
    pthread_mutex_unlock(&s->lock);
}

void store_each_model(struct store *s, bool (*visit)(void *, const struct store_entry *),
                      void *context)
{
    pthread_mutex_lock(&s->lock);
    rescan(s);
    each(s, "", true, visit, context);
    pthread_mutex_unlock(&s->lock);
}

void store_each_outside(struct store *s, void (*visit)(void *, const char *), void *context)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->scan.outside_count; i++)
        visit(context, s->scan.outside[i]);
    pthread_mutex_unlock(&s->lock);
}

void store_trim(struct store *s, size_t budget)
{
    pthread_mutex_lock(&s->lock);
    for (;;) {
        size_t total = 0;
        struct slot *oldest = NULL;
        for (size_t i = 0; i < s->live_count; i++) {
            struct slot *slot = s->slots[s->live[i] - 1];
            size_t n = slot->checkpoint ? slot->checkpoint->footprint : 0;
            total += n;
            if (n && (!oldest || slot->used < oldest->used))
                oldest = slot;
        }
        if (total <= budget || !oldest)
            break;
        gguf_file_forget(oldest->checkpoint);
        lora_file_forget(oldest->checkpoint);
        hf_file_forget(oldest->checkpoint);
    }
    pthread_mutex_unlock(&s->lock);
}

/* SPDX-License-Identifier: MIT */
#include "fs/store.h"

#include "daemon/beneath.h"
#include "daemon/log.h"
#include "fs/gguf_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHECK_SECONDS = 1 };

/* One state of a model. */
struct slot {
    char *name, *path; /* constant */
    bool dead;         /* changed or gone; by the store's lock */
    bool seen;         /* during a scan; by the store's lock */
    int64_t checked;   /* seconds, monotonic; by the store's lock */
    uint64_t used;     /* a clock; by the store's lock */
    pthread_mutex_t lock; /* held while loading; before the store's lock */
    struct checkpoint *checkpoint; /* by both locks to set, by either to read */
};

struct store {
    char path[PATH_MAX];
    int root;
    bool single;        /* the folder itself is the checkpoint */
    struct source_set *set;
    char *imatrix;      /* absolute, NULL: none */
    char *imatrix_name; /* as given */
    bool imatrix_file;  /* one file, for the one model there was */
    char *imatrix_model;
    pthread_mutex_t lock;
    struct slot **slots;   /* by number - 1; by lock */
    size_t count, capacity; /* by lock */
    uint32_t *live;        /* numbers, sorted by name; by lock */
    size_t live_count, live_capacity;
    int64_t scanned;       /* by lock */
    uint64_t clock;        /* by lock */
};

static int64_t now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1; /* 0 is "never" */
}

/* ---- the table of models ---- */

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

static struct slot *slot_new(const char *name, const char *path)
{
    struct slot *slot = calloc(1, sizeof *slot);
    if (!slot)
        return NULL;
    slot->name = strdup(name);
    slot->path = strdup(path);
    if (!slot->name || !slot->path) {
        free(slot->name);
        free(slot->path);
        free(slot);
        return NULL;
    }
    pthread_mutex_init(&slot->lock, NULL);
    return slot;
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

/* A new number for a model. By lock. */
static int add(struct store *s, const char *name, const char *path)
{
    bool found;
    size_t at = position(s, name, &found);
    if (found)
        return 0;
    if (s->count >= STORE_MODELS_MAX ||
        grow((void **)&s->slots, s->count, &s->capacity, sizeof *s->slots) ||
        grow((void **)&s->live, s->live_count, &s->live_capacity, sizeof *s->live))
        return -ENOMEM;
    struct slot *slot = slot_new(name, path);
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

static void scan_entry(struct store *s, const char *name)
{
    bool found;
    size_t at = position(s, name, &found);
    if (name[0] == '.')
        return;
    if (!found && checkpoint_is_folder(s->root, name)) {
        add(s, name, name);
        at = position(s, name, &found);
    }
    if (found)
        s->slots[s->live[at] - 1]->seen = true;
}

/* Looks for new and gone models, at most once a second. By lock. */
static void scan(struct store *s)
{
    int64_t now = now_seconds();
    if (s->single || now - s->scanned < CHECK_SECONDS)
        return;
    s->scanned = now;
    int fd = openat(s->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (size_t i = 0; i < s->live_count; i++)
        s->slots[s->live[i] - 1]->seen = false;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_type == DT_DIR || entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN)
            scan_entry(s, entry->d_name);
    closedir(dir);
    for (size_t i = s->live_count; i-- > 0;)
        if (!s->slots[s->live[i] - 1]->seen)
            retire(s, i);
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
    if (s->live_count != 1)
        return error_set(err, -EINVAL,
                         "imatrix=%s: one file cannot serve the %zu models of this store; give a "
                         "folder with one file per model",
                         given, s->live_count);
    struct calibration *probe; /* loaded with the model again; a bad one is refused now */
    int rc = calibration_load(s->imatrix, given, &probe, err);
    if (rc)
        return error_prefix(err, rc, "imatrix");
    calibration_unref(probe);
    s->imatrix_model = strdup(s->slots[s->live[0] - 1]->name);
    return s->imatrix_model ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static int open_root(struct store *s, const char *path, struct error *err)
{
    if (!realpath(path, s->path))
        return error_set(err, -errno, "%s: %s", path, strerror(errno));
    s->root = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->root < 0)
        return error_set(err, -errno, "%s: %s", path, strerror(errno));
    s->single = checkpoint_is_folder(s->root, "");
    if (s->single) {
        char copy[PATH_MAX];
        strcpy(copy, s->path);
        return add(s, basename(copy), "") ? error_set(err, -ENOMEM, "out of memory") : 0;
    }
    scan(s);
    return 0;
}

int store_open(const struct store_options *options, struct store **out, struct error *err)
{
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, -ENOMEM, "out of memory");
    s->root = -1;
    pthread_mutex_init(&s->lock, NULL);
    s->set = source_set_new(options->max_open, options->stats);
    int rc = s->set ? open_root(s, options->path, err)
                    : error_set(err, -ENOMEM, "out of memory");
    if (!rc && options->imatrix)
        rc = resolve_imatrix(s, options->imatrix, err);
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
        struct slot *slot = s->slots[i];
        checkpoint_unref(slot->checkpoint);
        pthread_mutex_destroy(&slot->lock);
        free(slot->name);
        free(slot->path);
        free(slot);
    }
    free(s->slots);
    free(s->live);
    free(s->imatrix);
    free(s->imatrix_name);
    free(s->imatrix_model);
    source_set_free(s->set);
    if (s->root >= 0)
        close(s->root);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

const char *store_path(const struct store *s) { return s->path; }
int store_root(const struct store *s) { return s->root; }

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

static int load(struct store *s, const struct slot *slot, struct checkpoint **out,
                struct error *err)
{
    char *imatrix, *imatrix_name, copy[PATH_MAX];
    strcpy(copy, s->path);
    int rc = model_imatrix(s, slot->name, &imatrix, &imatrix_name)
                 ? error_set(err, -ENOMEM, "out of memory")
                 : 0;
    struct checkpoint_options options = {
        .name = slot->name,
        .folder = s->single ? basename(copy) : slot->name,
        .path = slot->path,
        .root = s->root,
        .set = s->set,
        .imatrix = imatrix,
        .imatrix_name = imatrix_name,
    };
    rc = rc ? rc : checkpoint_load(&options, out, err);
    free(imatrix);
    free(imatrix_name);
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

/* Retires a number whose files have changed, and gives the model a new one. */
static void replace(struct store *s, uint32_t number)
{
    bool found;
    pthread_mutex_lock(&s->lock);
    struct slot *slot = alive(s, number);
    if (slot) {
        size_t at = position(s, slot->name, &found);
        retire(s, at);
        if (s->single || checkpoint_is_folder(s->root, slot->path))
            add(s, slot->name, slot->path);
        log_info("%s: its files have changed", slot->name);
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

int store_find(struct store *s, const char *name, uint32_t *number)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        bool found;
        pthread_mutex_lock(&s->lock);
        size_t at = position(s, name, &found);
        if (!found && !s->single && name[0] != '.' && !strchr(name, '/') &&
            checkpoint_is_folder(s->root, name)) {
            add(s, name, name);
            at = position(s, name, &found);
        }
        *number = found ? s->live[at] : 0;
        pthread_mutex_unlock(&s->lock);
        if (!found)
            return -ENOENT;
        if (check(s, *number, false))
            return 0;
        /* it has changed: the second attempt finds its new number, or none */
    }
    return -ENOENT;
}

void store_each(struct store *s, bool (*visit)(void *, uint32_t, const char *), void *context)
{
    pthread_mutex_lock(&s->lock);
    scan(s);
    for (size_t i = 0; i < s->live_count; i++)
        if (!visit(context, s->live[i], s->slots[s->live[i] - 1]->name))
            break;
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
    }
    pthread_mutex_unlock(&s->lock);
}

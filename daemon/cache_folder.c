/* SPDX-License-Identifier: MIT */
#include "daemon/cache_folder.h"

#include "daemon/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum {
    QUIET_SECONDS = 5,            /* after an eviction that found nothing to remove */
    STRAY_SECONDS = 24 * 60 * 60, /* a temporary file of this age was left behind */
};

/* ---- names ---- */

void object_path(const struct cache *c, const uint8_t key[KEY_SIZE], char *out)
{
    int n = snprintf(out, PATH_MAX, "%s/%02x/", c->dir, key[0]);
    for (int i = 1; i < KEY_SIZE && n < PATH_MAX; i++)
        n += snprintf(out + n, (size_t)(PATH_MAX - n), "%02x", key[i]);
}

static bool from_hex(const char *s, size_t digits, uint8_t *out)
{
    for (size_t i = 0; i < digits; i++) {
        const char *hex = "0123456789abcdef", *at = s[i] ? strchr(hex, s[i]) : NULL;
        if (!at)
            return false;
        out[i / 2] = (uint8_t)(out[i / 2] << 4 | (at - hex));
    }
    return s[digits] == '\0';
}

/* mkdir -p, each folder for this user alone. */
static int make_folders(const char *path)
{
    char copy[PATH_MAX];
    int n = snprintf(copy, sizeof copy, "%s", path);
    if (n < 0 || (size_t)n >= sizeof copy)
        return -ENAMETOOLONG;
    for (char *slash = copy + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        if (mkdir(copy, 0700) && errno != EEXIST)
            return -errno;
    }
    return mkdir(copy, 0700) && errno != EEXIST ? -errno : 0;
}

int object_create(struct cache *c, const char *path, int flags)
{
    for (int attempt = 0;; attempt++) {
        int fd = open(path, flags | OBJECT_FLAGS, 0600);
        if (fd >= 0)
            return fd;
        if (errno != ENOENT || attempt) {
            cache_write_failed(c, errno);
            return -1;
        }
        char folder[PATH_MAX];
        snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
        int rc = make_folders(folder);
        if (rc) {
            cache_write_failed(c, -rc);
            return -1;
        }
    }
}

/* ---- how full it is ---- */

void cache_write_failed(struct cache *c, int error)
{
    if (!atomic_exchange(&c->failed, true))
        log_warning("tile cache: %s cannot be written (%s); tiles that do not fit are made again "
                    "when they are needed",
                    c->dir, strerror(error));
}

void cache_count(struct cache *c, int64_t change)
{
    int64_t used = atomic_fetch_add(&c->used, change) + change;
    stats_set(&c->stats->cache_bytes, used > 0 ? (uint64_t)used : 0);
}

static bool disk_free(const struct cache *c, uint64_t *free_bytes)
{
    struct statvfs fs;
    if (statvfs(c->dir, &fs))
        return false;
    *free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return true;
}

/* Bytes over the budget or the floor, once n more are written; 0: none. */
static uint64_t excess(struct cache *c, uint64_t n)
{
    uint64_t used = c->used > 0 ? (uint64_t)c->used : 0, over = 0, left;
    if (used + n > c->size)
        over = used + n - c->size;
    if (disk_free(c, &left) && left < c->keep_free + n && c->keep_free + n - left > over)
        over = c->keep_free + n - left;
    return over;
}

bool cache_may_write(struct cache *c, uint64_t n) { return !c->read_only && !excess(c, n); }

static int64_t now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

bool cache_wants_evict(struct cache *c)
{
    return !c->read_only && excess(c, TILE_MAX) && now_seconds() >= c->quiet_until &&
           !atomic_exchange(&c->evict_claimed, true);
}

/* ---- walking ---- */

struct object_file {
    char path[PATH_MAX];
    bool named;  /* its name is a key */
    bool temporary;
    uint8_t key[KEY_SIZE];
    int64_t used, mtime_ns;
};

/* Calls visit for every file of the folder until it returns non-zero, and returns that. */
static int walk(struct cache *c, int (*visit)(struct cache *, struct object_file *, void *),
                void *context)
{
    int rc = 0;
    for (int first = 0; !rc && first < 256; first++) {
        struct object_file f = {0};
        int n = snprintf(f.path, sizeof f.path, "%s/%02x", c->dir, first);
        DIR *dir = opendir(f.path);
        if (!dir)
            continue;
        f.path[n++] = '/';
        for (struct dirent *entry; !rc && (entry = readdir(dir));) {
            struct stat st;
            size_t length = strlen(entry->d_name);
            if (entry->d_name[0] == '.' || (size_t)n + length >= sizeof f.path ||
                fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) ||
                !S_ISREG(st.st_mode))
                continue;
            memcpy(f.path + n, entry->d_name, length + 1);
            f.key[0] = (uint8_t)first;
            f.named = from_hex(entry->d_name, 2 * KEY_SIZE - 2, f.key + 1);
            f.temporary = length > 4 && strcmp(entry->d_name + length - 4, ".tmp") == 0;
            f.used = st.st_blocks * 512;
            f.mtime_ns = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
            rc = visit(c, &f, context);
        }
        closedir(dir);
    }
    return rc;
}

static int add_usage(struct cache *c, struct object_file *f, void *context)
{
    (void)c;
    *(int64_t *)context += f->used;
    return 0;
}

/* ---- eviction ---- */

struct candidate {
    uint8_t key[KEY_SIZE];
    int64_t used, mtime_ns;
};

struct candidates {
    struct candidate *items;
    size_t count, capacity;
    int64_t used;
};

static int add_candidate(struct cache *c, struct object_file *f, void *context)
{
    (void)c;
    struct candidates *all = context;
    all->used += f->used;
    if (f->temporary && f->mtime_ns / 1000000000 < time(NULL) - STRAY_SECONDS) {
        if (unlink(f->path) == 0)
            all->used -= f->used;
        return 0;
    }
    if (!f->named)
        return 0;
    if (all->count == all->capacity) {
        size_t capacity = all->capacity ? 2 * all->capacity : 64;
        struct candidate *items = reallocarray(all->items, capacity, sizeof *items);
        if (!items)
            return -ENOMEM;
        all->items = items;
        all->capacity = capacity;
    }
    struct candidate *item = &all->items[all->count++];
    memcpy(item->key, f->key, KEY_SIZE);
    item->used = f->used;
    item->mtime_ns = f->mtime_ns;
    return 0;
}

static int by_age(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return (x->mtime_ns > y->mtime_ns) - (x->mtime_ns < y->mtime_ns);
}

/* Removes objects, oldest first, until `bytes` are gone. Returns what is gone. */
static uint64_t remove_oldest(struct cache *c, uint64_t bytes, struct cache_report *report)
{
    struct candidates all = {0};
    uint64_t gone = 0;
    walk(c, add_candidate, &all);
    if (all.count)
        qsort(all.items, all.count, sizeof *all.items, by_age);
    for (size_t i = 0; i < all.count && gone < bytes; i++) {
        char path[PATH_MAX];
        struct candidate *item = &all.items[i];
        object_path(c, item->key, path);
        pthread_mutex_lock(&c->lock);
        bool removed = !cache_in_use(c, item->key) && unlink(path) == 0;
        pthread_mutex_unlock(&c->lock);
        if (!removed)
            continue;
        gone += (uint64_t)item->used;
        report->objects++;
    }
    report->bytes += gone;
    free(all.items);
    /* What other daemons wrote or removed is known now, too. */
    atomic_store(&c->used, all.used - (int64_t)gone);
    cache_count(c, 0);
    return gone;
}

void cache_evict(struct cache *c)
{
    struct cache_report report = {0};
    uint64_t over = excess(c, TILE_MAX);
    uint64_t used = c->used > 0 ? (uint64_t)c->used : 0;
    /* A little more than needed, so that it is not needed again at once. */
    if (over && !remove_oldest(c, over + used / 32, &report)) {
        c->quiet_until = now_seconds() + QUIET_SECONDS;
        cache_write_failed(c, ENOSPC);
    }
    stats_add(&c->stats->objects_evicted, report.objects);
    atomic_store(&c->evict_claimed, false);
}

void cache_shrink(struct cache *c, uint64_t bytes, struct cache_report *removed)
{
    int64_t used = 0;
    *removed = (struct cache_report){0};
    walk(c, add_usage, &used);
    if ((uint64_t)used > bytes)
        remove_oldest(c, bytes ? (uint64_t)used - bytes : UINT64_MAX, removed);
}

/* ---- reports ---- */

struct report_context {
    bool verify, remove;
    struct cache_report *report;
    uint8_t *tile;
};

/* Counts an object's tiles; false if it is none, or not the one its name says. */
static bool examine(struct cache *c, const struct object_file *f, const struct report_context *x,
                    int fd, uint64_t *damaged)
{
    uint8_t header[HEADER_SIZE], key[KEY_SIZE];
    struct object_shape shape;
    enum object_kind kind;
    uint64_t checksum;
    struct stat st;
    if (pread(fd, header, sizeof header, 0) != (ssize_t)sizeof header ||
        !header_read(header, key, &shape, &kind, &checksum) ||
        memcmp(key, f->key, KEY_SIZE) != 0 || fstat(fd, &st))
        return false;
    /* The first tile that is stored makes a file longer than its index. */
    if (shape.tile_count > (uint64_t)st.st_size / ENTRY_SIZE)
        return kind == OBJECT_GROWING;
    uint8_t *index = object_read_index(fd, &shape);
    if (!index)
        return false;
    uint64_t offset = HEADER_SIZE + shape.tile_count * ENTRY_SIZE;
    x->report->sealed += kind == OBJECT_SEALED;
    for (uint64_t i = 0; i < shape.tile_count; i++) {
        struct object_entry e = entry_read(index + ENTRY_SIZE * i);
        uint64_t at = kind == OBJECT_SEALED ? offset : object_slot(&shape, i);
        offset += e.length;
        if (!e.length && !e.flags && !e.checksum)
            continue;
        if (!x->verify || object_read_tile(c, fd, key, &shape, i, e, at, x->tile))
            x->report->tiles++;
        else
            ++*damaged;
    }
    free(index);
    return true;
}

static int report_file(struct cache *c, struct object_file *f, void *context)
{
    struct report_context *x = context;
    if (!f->named) {
        x->report->foreign += !f->temporary;
        return 0;
    }
    uint64_t damaged = 0;
    int fd = open(f->path, O_RDONLY | OBJECT_FLAGS);
    if (fd < 0)
        return 0;
    if (!examine(c, f, x, fd, &damaged))
        damaged++;
    close(fd);
    x->report->objects++;
    x->report->bytes += (uint64_t)f->used;
    x->report->damaged += damaged;
    if (damaged && x->remove)
        unlink(f->path);
    return 0;
}

int cache_walk(struct cache *c, bool verify, bool remove, struct cache_report *report)
{
    *report = (struct cache_report){0};
    struct report_context x = {verify, remove, report, malloc(TILE_MAX)};
    if (!x.tile)
        return -ENOMEM;
    int rc = walk(c, report_file, &x);
    free(x.tile);
    return rc;
}

/* ---- opening ---- */

/* A folder that others may write is theirs: they could put files of the right checksum there. */
static int check_owner(const char *dir, struct error *err)
{
    struct stat st;
    if (stat(dir, &st))
        return error_set(err, -errno, "cache folder %s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return error_set(err, -ENOTDIR, "cache folder %s: not a folder", dir);
    if (st.st_uid != geteuid())
        return error_set(err, -EPERM, "cache folder %s belongs to another user", dir);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return error_set(err, -EPERM,
                         "cache folder %s can be written by others (chmod go-w mends it)", dir);
    return 0;
}

static int open_folder(struct cache *c, const char *dir, bool as_found, struct error *err)
{
    int n = snprintf(c->dir, sizeof c->dir, "%s/v%d", dir, CACHE_VERSION);
    if (n < 0 || n >= PATH_MAX - 2 * KEY_SIZE - 64)
        return error_set(err, -ENAMETOOLONG, "cache folder %s: the name is too long", dir);
    int rc = as_found ? 0 : make_folders(dir);
    if (rc && access(dir, F_OK)) /* EPERM is kept for folders of others */
        return error_set(err, rc == -EPERM ? -EACCES : rc, "cache folder %s: %s", dir, strerror(-rc));
    rc = check_owner(dir, err);
    if (rc || (as_found && access(c->dir, F_OK)))
        return rc;
    if (mkdir(c->dir, 0700) && errno != EEXIST)
        rc = -errno;
    if (!rc && access(c->dir, W_OK))
        rc = -errno;
    if (rc) {
        log_warning("tile cache: %s cannot be written (%s); what is there is used", dir,
                    strerror(-rc));
        c->read_only = true;
    }
    return 0;
}

/* Of the descriptors that there may be, half are for source files. */
static unsigned holds_max(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) ? 0 : (unsigned)(limit.rlim_cur / 4);
}

static int set_budget(struct cache *c, const struct cache_options *options, const char *dir,
                      struct error *err)
{
    struct statvfs fs;
    if (statvfs(dir, &fs))
        return error_set(err, -errno, "cache folder %s: %s", dir, strerror(errno));
    uint64_t total = (uint64_t)fs.f_blocks * fs.f_frsize;
    c->size = options->size ? options->size : total / 5;
    c->keep_free = options->keep_free != UINT64_MAX ? options->keep_free : total / 20;
    return 0;
}

int cache_open(const struct cache_options *options, struct cache **out, struct error *err)
{
    struct cache *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, -ENOMEM, "out of memory");
    c->stats = options->stats;
    c->seal = options->seal;
    c->holds_max = holds_max();
    int rc = open_folder(c, options->dir, options->as_found, err);
    rc = rc ? rc : set_budget(c, options, options->dir, err);
    if (rc) {
        free(c);
        return rc;
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->workspace_lock, NULL);
    pthread_cond_init(&c->workspace_given, NULL);
    int64_t used = 0;
    walk(c, add_usage, &used);
    cache_count(c, used);
    *out = c;
    return 0;
}

void cache_close(struct cache *c)
{
    if (!c)
        return;
    cache_forget_handles(c);
    workspaces_free(c);
    pthread_cond_destroy(&c->workspace_given);
    pthread_mutex_destroy(&c->workspace_lock);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* SPDX-License-Identifier: MIT */
#include "daemon/source.h"

#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_MS = 12,        /* at HZ=100, and some */
    CONTENT_DIGITS = 64, /* of a SHA-256 */
};

struct source_set {
    pthread_mutex_t lock;
    struct source *open_head, *open_tail; /* sources with a descriptor, newest first; by lock */
    unsigned open_count, max_open;        /* by lock */
    struct stats *stats;
};

struct source {
    struct source_set *set;
    const struct beneath *root;
    char *path;
    struct source_identity identity;
    uint64_t filesystem;
    char content[CONTENT_DIGITS + 1];
    _Atomic unsigned refs;
    _Atomic bool stale;
    /* Held shared by whoever uses fd, exclusively by whoever opens or closes it. */
    pthread_rwlock_t fd_lock;
    int fd;                          /* -1: closed; by fd_lock */
    struct source *newer, *older;    /* in the set's list; by the set's lock */
    bool listed;                     /* by the set's lock */
};

struct source_set *source_set_new(unsigned max_open, struct stats *stats)
{
    struct source_set *set = calloc(1, sizeof *set);
    if (set) {
        pthread_mutex_init(&set->lock, NULL);
        set->max_open = max_open;
        set->stats = stats;
    }
    return set;
}

void source_set_free(struct source_set *set)
{
    if (set)
        pthread_mutex_destroy(&set->lock);
    free(set);
}

void source_identity_of(const struct stat *st, struct source_identity *id)
{
    *id = (struct source_identity){
        .inode = st->st_ino,
        .size = (uint64_t)st->st_size,
        .mtime_ns = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec,
        .ctime_ns = st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec,
    };
}

/* ---- the list of open descriptors ---- */

static void unlist(struct source *s)
{
    struct source_set *set = s->set;
    *(s->newer ? &s->newer->older : &set->open_head) = s->older;
    *(s->older ? &s->older->newer : &set->open_tail) = s->newer;
    s->listed = false;
    set->open_count--;
}

/* Lists a source that was just opened and closes the oldest others that nobody is using. */
static void list_and_trim(struct source *s)
{
    struct source_set *set = s->set;
    pthread_mutex_lock(&set->lock);
    s->newer = NULL;
    s->older = set->open_head;
    *(s->older ? &s->older->newer : &set->open_tail) = s;
    set->open_head = s;
    s->listed = true;
    set->open_count++;
    for (struct source *old = set->open_tail, *next; old && set->open_count > set->max_open;
         old = next) {
        next = old->newer;
        if (old == s || pthread_rwlock_trywrlock(&old->fd_lock))
            continue;
        close(old->fd);
        old->fd = -1;
        unlist(old);
        pthread_rwlock_unlock(&old->fd_lock);
    }
    pthread_mutex_unlock(&set->lock);
}

/* ---- identity ---- */

static int changed(struct source *s, struct error *err)
{
    if (!atomic_exchange(&s->stale, true))
        log_error("%s: the file has changed under the mount; its open files fail from now on",
                  s->path);
    return error_set(err, -ESTALE, "%s: the file has changed under the mount", s->path);
}

static int check_fd(struct source *s, int fd, struct error *err)
{
    struct stat st;
    struct source_identity now;
    if (atomic_load(&s->stale) || fstat(fd, &st))
        return changed(s, err);
    source_identity_of(&st, &now);
    return memcmp(&now, &s->identity, sizeof now) ? changed(s, err) : 0;
}

/* ---- descriptors ---- */

static int open_fd(struct source *s, struct error *err)
{
    int rc = 0;
    pthread_rwlock_wrlock(&s->fd_lock);
    bool opened = s->fd < 0;
    if (opened) {
        int fd = open_beneath(s->root, s->path, O_RDONLY | O_NOCTTY);
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
            rc = error_set(err, fd, "%s: %s", s->path, strerror(-fd));
        else if (fd < 0)
            rc = changed(s, err);
        else
            s->fd = fd;
    }
    pthread_rwlock_unlock(&s->fd_lock);
    if (!rc && opened)
        list_and_trim(s);
    return rc;
}

/* Returns with fd_lock held shared and fd open, or an error and no lock. */
static int acquire(struct source *s, struct error *err)
{
    for (;;) {
        pthread_rwlock_rdlock(&s->fd_lock);
        if (s->fd >= 0)
            return 0;
        pthread_rwlock_unlock(&s->fd_lock);
        int rc = open_fd(s, err);
        if (rc)
            return rc;
    }
}

/* Files get their ctime from a clock that ticks every few milliseconds, so a file written just now
 * may be written once more without its identity telling. A tick later every change shows, and
 * nothing is read before. */
static void outwait_tick(const struct source_identity *id)
{
    static const struct timespec nap = {.tv_nsec = 1000000};
    struct timespec now;
    for (int i = 0; i < TICK_MS; i++) {
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        int64_t ahead = id->ctime_ns - (now.tv_sec * 1000000000LL + now.tv_nsec);
        if (ahead < 0 || ahead > TICK_MS * 1000000LL) /* long ago, or another machine's clock */
            return;
        nanosleep(&nap, NULL);
    }
}

/* .../models--ORG--NAME/blobs/HASH, for large files */
static void find_content(int fd, char *content)
{
    static const char digits[] = "0123456789abcdef";
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return;
    path[n] = '\0';
    char *hash = strrchr(path, '/');
    if (!hash || strlen(hash + 1) != CONTENT_DIGITS || strspn(hash + 1, digits) != CONTENT_DIGITS)
        return;
    *hash++ = '\0';
    char *blobs = strrchr(path, '/');
    if (!blobs || strcmp(blobs, "/blobs") != 0)
        return;
    *blobs = '\0';
    char *repository = strrchr(path, '/');
    if (repository && strncmp(repository, "/models--", 9) == 0)
        strcpy(content, hash);
}

int source_open(struct source_set *set, const struct beneath *root, const char *path,
                struct source **out, struct error *err)
{
    struct stat st;
    struct statfs fs;
    int fd = open_beneath(root, path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
    if (fd == -EXDEV)
        return error_set(err, fd, "%s: leads out of the store", path);
    if (fd < 0)
        return error_set(err, fd, "%s: %s", path, strerror(-fd));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return error_set(err, -EINVAL, "%s: not a regular file", path);
    }
    struct source *s = calloc(1, sizeof *s);
    char *copy = strdup(path);
    if (!s || !copy) {
        free(s);
        free(copy);
        close(fd);
        return error_set(err, -ENOMEM, "out of memory");
    }
    s->set = set;
    s->root = root;
    s->path = copy;
    s->refs = 1;
    s->fd = fd;
    source_identity_of(&st, &s->identity);
    if (fstatfs(fd, &fs) == 0)
        memcpy(&s->filesystem, &fs.f_fsid, sizeof s->filesystem);
    find_content(fd, s->content);
    outwait_tick(&s->identity);
    pthread_rwlock_init(&s->fd_lock, NULL);
    list_and_trim(s);
    *out = s;
    return 0;
}

struct source *source_ref(struct source *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void source_unref(struct source *s)
{
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    pthread_mutex_lock(&s->set->lock);
    if (s->listed)
        unlist(s);
    pthread_mutex_unlock(&s->set->lock);
    if (s->fd >= 0)
        close(s->fd);
    pthread_rwlock_destroy(&s->fd_lock);
    free(s->path);
    free(s);
}

const char *source_path(const struct source *s) { return s->path; }
const struct source_identity *source_identity(const struct source *s) { return &s->identity; }
uint64_t source_filesystem(const struct source *s) { return s->filesystem; }
const char *source_content(const struct source *s) { return s->content; }

int source_check(struct source *s, struct error *err)
{
    int rc = acquire(s, err);
    if (rc)
        return rc;
    rc = check_fd(s, s->fd, err);
    pthread_rwlock_unlock(&s->fd_lock);
    return rc;
}

int source_read(struct source *s, void *buf, uint64_t offset, size_t n, struct error *err)
{
    int rc = acquire(s, err);
    if (rc)
        return rc;
    rc = check_fd(s, s->fd, err);
    size_t done = 0;
    while (!rc && done < n) {
        ssize_t got = pread(s->fd, (char *)buf + done, n - done, (off_t)(offset + done));
        if (got > 0)
            done += (size_t)got;
        else if (got == 0)
            rc = changed(s, err); /* identity said it is long enough: truncated just now */
        else if (errno != EINTR)
            rc = error_set(err, -errno, "%s: byte %llu: %s", s->path,
                           (unsigned long long)(offset + done), strerror(errno));
    }
    if (!rc)
        rc = check_fd(s, s->fd, err);
    pthread_rwlock_unlock(&s->fd_lock);
    stats_add(&s->set->stats->source_bytes, done);
    return rc;
}

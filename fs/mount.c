/* SPDX-License-Identifier: MIT */
#define FUSE_USE_VERSION 312
#include "fs/mount.h"

#include "daemon/log.h"
#include "fs/fuse_ops.h"
#include "fs/service.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* They only wait, so their number is that of requests that can be known about at once: the windows
 * of a few page faults. Each keeps a reply buffer of READ_MAX. */
enum { FUSE_THREADS = 16 };

struct session {
    struct service service;
    struct options *options;
    const char *mount_point; /* absolute */
    struct fuse_session *fuse;
    int ready; /* the pipe on which the parent waits, or -1 */
    enum log_level level;
    pthread_t announcer;
};

/* ---- the table of mounts ---- */

/* Octal escapes of /proc/self/mountinfo undone, in place. */
static void unescape(char *s)
{
    char *out = s;
    for (; *s; s++) {
        if (*s == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
            *out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = '\0';
}

bool mount_each(bool (*visit)(void *context, const char *mount_point), void *context)
{
    FILE *table = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t size = 0;
    bool stopped = false;
    while (table && !stopped && getline(&line, &size, table) > 0) {
        /* id parent major:minor root mount_point options ... - type source options */
        char *type = strstr(line, " - "), *point = line;
        for (int field = 0; field < 4 && point; field++)
            point = (point = strchr(point, ' ')) ? point + 1 : NULL;
        if (!type || !point || strncmp(type + 3, "fuse.quantfs ", 13) != 0)
            continue;
        point[strcspn(point, " ")] = '\0';
        unescape(point);
        stopped = !visit(context, point);
    }
    free(line);
    if (table)
        fclose(table);
    return stopped;
}

static bool differs(void *context, const char *mount_point)
{
    return strcmp(context, mount_point) != 0;
}

/* ---- before the mount ---- */

static bool is_inside(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == '\0' || n == 1);
}

/* By statfs, whose answer the kernel never keeps: attributes outlive the daemon. */
bool mount_is_stale(const char *mount_point)
{
    struct statvfs st;
    return statvfs(mount_point, &st) && (errno == ENOTCONN || errno == ECONNABORTED);
}

/* realpath for mount points: the point itself may not answer any more. */
static bool canonical(const char *path, char *out)
{
    char copy[PATH_MAX], parent[PATH_MAX];
    if (realpath(path, out))
        return true;
    if (errno != ENOTCONN || strlen(path) >= sizeof copy)
        return false;
    strcpy(copy, path);
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/')
        copy[--n] = '\0';
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : copy;
    if (slash)
        *slash = '\0';
    if (!realpath(!slash ? "." : *copy ? copy : "/", parent))
        return false;
    return snprintf(out, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", name) < PATH_MAX;
}

static int check_mount_point(const char *given, const char *store, char *out)
{
    struct stat st;
    struct error err;
    if (mount_is_stale(given)) {
        log_info("%s: replacing a mount whose daemon is gone", given);
        if (mount_end(given, &err)) {
            log_error("%s", err.text);
            return MOUNT_NO_MOUNT_POINT;
        }
    }
    if (!realpath(given, out) || stat(out, &st)) {
        log_error("mount point %s: %s", given, strerror(errno));
        return MOUNT_NO_MOUNT_POINT;
    }
    if (mount_each(differs, out)) {
        log_error("mount point %s: there is a quantfs on it already", given);
        return MOUNT_NO_MOUNT_POINT;
    }
    if (!S_ISDIR(st.st_mode)) {
        log_error("mount point %s: not a folder", given);
        return MOUNT_NO_MOUNT_POINT;
    }
    if (is_inside(out, store) || is_inside(store, out)) {
        log_error("mount point %s: it and the store %s must not lie within each other", given,
                  store);
        return MOUNT_NO_MOUNT_POINT;
    }
    return MOUNT_OK;
}

/* ---- readiness ---- */

/* The kernel's read-ahead is per mount and only root may raise it. What it is in the end tells
 * when reads make a stream. */
static void set_readahead(struct session *s)
{
    struct stat st;
    char path[64], text[32];
    uint64_t wanted = s->options->readahead >> 10;
    if (stat(s->mount_point, &st))
        return;
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", major(st.st_dev),
             minor(st.st_dev));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int n = snprintf(text, sizeof text, "%llu", (unsigned long long)wanted);
    if (wanted && (fd < 0 || write(fd, text, (size_t)n) != n))
        log_info("read-ahead stays as it is: %s: %s", path, strerror(errno));
    if (fd < 0)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : (int)pread(fd, text, sizeof text - 1, 0);
    if (n > 0) {
        text[n] = '\0';
        s->service.tree.readahead = strtoull(text, NULL, 10) << 10;
    }
    log_info("read-ahead is %llu KiB", (unsigned long long)s->service.tree.readahead >> 10);
    if (fd >= 0)
        close(fd);
}

/* Until now errors went to stderr, for whoever mounts to see. */
static void set_log(const struct session *s)
{
    const char *target = s->options->log;
    if (!target && s->ready >= 0)
        target = "syslog";
    int rc = target ? log_open(target, s->level) : 0;
    if (rc)
        log_warning("log %s: %s", target, strerror(-rc));
}

/* Asks the mount for something, which it answers once it is up; then tells the parent. Read-ahead
 * counts only for files opened after it was set, so it comes first. */
static void *announce(void *argument)
{
    struct session *s = argument;
    struct stat st;
    if (stat(s->mount_point, &st))
        return NULL; /* the session has ended before it began; the main thread says why */
    set_readahead(s);
    log_info("%s is ready on %s", store_path(s->service.tree.store), s->mount_point);
    set_log(s);
    if (s->ready >= 0) {
        char status = MOUNT_OK;
        if (write(s->ready, &status, 1) != 1)
            log_warning("nobody waits for the mount");
        close(s->ready);
        s->ready = -1;
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = 0; fd <= 2; fd++)
            dup2(null, fd);
        close(null);
    }
    return NULL;
}

/* ---- the session ---- */

static void fuse_log_line(enum fuse_log_level level, const char *fmt, va_list ap)
{
    char text[512];
    int n = vsnprintf(text, sizeof text, fmt, ap);
    while (n > 0 && n < (int)sizeof text && text[n - 1] == '\n')
        text[--n] = '\0';
    log_write(level <= FUSE_LOG_ERR       ? LEVEL_ERROR
              : level == FUSE_LOG_WARNING ? LEVEL_WARNING
                                          : LEVEL_DEBUG,
              "%s", text);
}

/* The store's path in -o fsname=, where a comma and a backslash must be escaped. */
static void escape(const char *s, char *out, size_t size)
{
    size_t n = 0;
    for (; *s && n + 3 < size; s++) {
        if (*s == ',' || *s == '\\')
            out[n++] = '\\';
        out[n++] = *s;
    }
    out[n] = '\0';
}

static int open_session(struct session *s)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    char name[PATH_MAX * 2], mount_options[PATH_MAX * 2 + 256];
    escape(store_path(s->service.tree.store), name, sizeof name);
    snprintf(mount_options, sizeof mount_options,
             "-oro,nosuid,nodev,noexec,default_permissions,subtype=quantfs,max_read=%d%s,fsname=%s",
             READ_MAX, s->options->allow_other ? ",allow_other" : "", name);
    if (fuse_opt_add_arg(&args, "quantfs") || fuse_opt_add_arg(&args, mount_options)) {
        log_error("out of memory");
        return MOUNT_SETUP_FAILED;
    }
    s->fuse = fuse_session_new(&args, &quantfs_ops, sizeof quantfs_ops, &s->service.tree);
    fuse_opt_free_args(&args);
    if (!s->fuse)
        return MOUNT_SETUP_FAILED;
    if (fuse_set_signal_handlers(s->fuse))
        return MOUNT_SETUP_FAILED;
    if (fuse_session_mount(s->fuse, s->mount_point)) {
        log_error("%s cannot be mounted", s->mount_point);
        return MOUNT_FAILED;
    }
    return MOUNT_OK;
}

static int loop(struct session *s)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (!config)
        return MOUNT_SETUP_FAILED;
    fuse_loop_cfg_set_max_threads(config, FUSE_THREADS);
    fuse_loop_cfg_set_idle_threads(config, FUSE_THREADS);
    int rc = fuse_session_loop_mt(s->fuse, config);
    fuse_loop_cfg_destroy(config);
    /* a positive result is the signal that ended it */
    return rc < 0 ? MOUNT_LOOP_FAILED : MOUNT_OK;
}

/* Signals are for the main thread, which is the one that waits for them. */
static void block_signals(sigset_t *old)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
    pthread_sigmask(SIG_BLOCK, &set, old);
}

static int serve(struct session *s, const char *cache)
{
    struct error err;
    sigset_t old;
    block_signals(&old);
    signal(SIGXFSZ, SIG_IGN); /* under ulimit -f: a write to the cache fails, and that is all */
    int rc = service_start(&s->service, cache, &err);
    if (rc)
        log_error("%s", err.text);
    int status = rc ? MOUNT_SETUP_FAILED : open_session(s);
    bool announced = false;
    if (status == MOUNT_OK) {
        announced = pthread_create(&s->announcer, NULL, announce, s) == 0;
        status = announced ? MOUNT_OK : MOUNT_SETUP_FAILED;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (status == MOUNT_OK)
        status = loop(s);
    if (s->fuse) {
        fuse_session_unmount(s->fuse);
        fuse_remove_signal_handlers(s->fuse);
    }
    if (announced)
        pthread_join(s->announcer, NULL);
    if (s->fuse)
        fuse_session_destroy(s->fuse);
    service_close(&s->service);
    if (s->ready >= 0) { /* it never got ready */
        char failed = (char)(status ? status : MOUNT_FAILED);
        if (write(s->ready, &failed, 1) != 1)
            status = MOUNT_DAEMON_FAILED;
        close(s->ready);
    }
    return status;
}

/* The parent's part: waits for the daemon's word and returns it as the exit status. */
static int wait_for_daemon(int ready, pid_t daemon)
{
    char status;
    ssize_t n;
    do
        n = read(ready, &status, 1);
    while (n < 0 && errno == EINTR);
    if (n == 1)
        return status;
    waitpid(daemon, NULL, 0);
    log_error("the daemon has ended before the mount was ready");
    return MOUNT_DAEMON_FAILED;
}

static int go_to_background(struct session *s, int *status)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) {
        log_error("pipe: %s", strerror(errno));
        *status = MOUNT_DAEMON_FAILED;
        return -1;
    }
    pid_t daemon = fork();
    if (daemon < 0) {
        log_error("fork: %s", strerror(errno));
        *status = MOUNT_DAEMON_FAILED;
        return -1;
    }
    if (daemon) {
        close(ends[1]);
        *status = wait_for_daemon(ends[0], daemon);
        close(ends[0]);
        return 1;
    }
    close(ends[0]);
    s->ready = ends[1];
    setsid();
    return chdir("/") ? -1 : 0;
}

int mount_run(const char *store, const char *mount_point, struct options *options,
              bool foreground)
{
    char absolute[PATH_MAX], cache[PATH_MAX];
    struct error err;
    struct session s = {
        .options = options, .ready = -1, .mount_point = absolute, .level = LEVEL_WARNING};
    if (options->loglevel)
        log_level_parse(options->loglevel, &s.level);
    log_open(NULL, s.level);
    if (service_open(&s.service, store, options, &err) ||
        service_cache_folder(options, cache, &err)) {
        log_error("%s", err.text);
        return MOUNT_SETUP_FAILED;
    }
    int status =
        check_mount_point(mount_point, store_path(s.service.tree.store), absolute);
    fuse_set_log_func(fuse_log_line);
    if (status == MOUNT_OK && !foreground && go_to_background(&s, &status) == 0)
        return serve(&s, *cache ? cache : NULL);
    if (status == MOUNT_OK && foreground)
        return serve(&s, *cache ? cache : NULL);
    service_close(&s.service);
    return status;
}

/* ---- unmounting ---- */

static int run_fusermount(const char *mount_point)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        execlp("fusermount3", "fusermount3", "-u", "-z", "--", mount_point, (char *)NULL);
        _exit(127);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

int mount_end(const char *given, struct error *err)
{
    char mount_point[PATH_MAX];
    if (!canonical(given, mount_point))
        return error_set(err, -errno, "%s: %s", given, strerror(errno));
    if (!mount_each(differs, mount_point))
        return error_set(err, -EINVAL, "%s: no quantfs is mounted there", given);
    /* Lazily: the name goes at once, files that are open stay usable until they are closed. */
    if (umount2(mount_point, MNT_DETACH) == 0)
        return 0;
    if (errno != EPERM)
        return error_set(err, -errno, "%s: %s", mount_point, strerror(errno));
    if (run_fusermount(mount_point))
        return error_set(err, -EPERM, "%s: fusermount3 could not unmount it", mount_point);
    return 0;
}

/* SPDX-License-Identifier: MIT */
#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum { RECENT = 64, REPEAT_SECONDS = 60 };

static struct {
    pthread_mutex_t lock;
    enum log_level level;
    int fd;
    bool syslog, stamped;
    struct {
        uint64_t hash;
        time_t when;
    } recent[RECENT]; /* by hash modulo; a collision only lets a line through */
} log_state = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = LEVEL_WARNING, .fd = STDERR_FILENO};

static const struct {
    const char *name;
    int priority; /* of syslog */
} levels[] = {
    [LEVEL_ERROR] = {"error", LOG_ERR},
    [LEVEL_WARNING] = {"warning", LOG_WARNING},
    [LEVEL_INFO] = {"info", LOG_INFO},
    [LEVEL_DEBUG] = {"debug", LOG_DEBUG},
};

int log_level_parse(const char *name, enum log_level *level)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(name, levels[i].name) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    return -EINVAL;
}

int log_open(const char *target, enum log_level level)
{
    log_state.level = level;
    if (!target)
        return 0;
    if (strcmp(target, "syslog") == 0) {
        openlog("quantfs", LOG_PID, LOG_DAEMON);
        log_state.syslog = true;
        return 0;
    }
    int fd = open(target, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    log_state.fd = fd;
    log_state.stamped = true;
    return 0;
}

/* Whether this very line was written less than a minute ago. */
static bool repeated(const char *text, size_t n)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t hash = XXH64(text, n, 0);
    bool again = log_state.recent[hash % RECENT].hash == hash &&
                 now.tv_sec - log_state.recent[hash % RECENT].when < REPEAT_SECONDS;
    if (!again) {
        log_state.recent[hash % RECENT].hash = hash;
        log_state.recent[hash % RECENT].when = now.tv_sec;
    }
    return again;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    if (level > log_state.level)
        return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    for (char *c = text; *c; c++) /* names come from outside: one event stays one line */
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    pthread_mutex_lock(&log_state.lock);
    if (!repeated(text, strlen(text))) {
        if (log_state.syslog) {
            syslog(levels[level].priority, "%s", text);
        } else {
            char stamp[32] = "";
            time_t now = time(NULL);
            struct tm tm;
            if (log_state.stamped)
                strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S%z ", localtime_r(&now, &tm));
            dprintf(log_state.fd, "%squantfs: %s: %s\n", stamp, levels[level].name, text);
        }
    }
    pthread_mutex_unlock(&log_state.lock);
}

/* SPDX-License-Identifier: MIT
 *
 * One line per event: to stderr, a file, or syslog. The same message is not written again within a
 * minute, so that a reader that retries a bad tensor page by page leaves one line, not thousands.
 */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

enum log_level { LEVEL_ERROR, LEVEL_WARNING, LEVEL_INFO, LEVEL_DEBUG };

/* Where lines go: NULL for stderr, "syslog", or the path of a file that is appended to. Returns 0
 * or -errno. Until it is called, stderr and LEVEL_WARNING hold. */
int log_open(const char *target, enum log_level level);

/* "error", "warning", "info", "debug"; -EINVAL for others. */
int log_level_parse(const char *name, enum log_level *level);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LEVEL_DEBUG, __VA_ARGS__)

#endif

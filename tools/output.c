/* SPDX-License-Identifier: MIT */
#include "tools/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int fail(const struct output *o, struct error *err)
{
    int code = errno;
    return error_set(err, -code, "%s: %s", o->path, strerror(code));
}

/* A name that nothing has, beside the output. */
static int temporary_name(struct output *o, struct error *err)
{
    int n = snprintf(o->temporary, sizeof o->temporary, "%s.%ld.tmp", o->path, (long)getpid());
    if (n > 0 && (size_t)n < sizeof o->temporary)
        return 0;
    o->temporary[0] = '\0';
    return error_set(err, -ENAMETOOLONG, "%s: the name is too long", o->path);
}

int output_open(struct output *o, const char *path, struct error *err)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path + 1) : 1,
             slash ? path : ".");
    *o = (struct output){.path = path};
    o->fd = open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (o->fd >= 0)
        return 0;
    int rc = temporary_name(o, err);
    if (rc)
        return rc;
    o->fd = open(o->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return o->fd >= 0 ? 0 : fail(o, err);
}

int output_write(struct output *o, const void *data, size_t n, struct error *err)
{
    for (const char *p = data; n;) {
        ssize_t put = write(o->fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail(o, err);
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

static int name_it(struct output *o, struct error *err)
{
    char self[32];
    int rc = temporary_name(o, err);
    if (rc)
        return rc;
    snprintf(self, sizeof self, "/proc/self/fd/%d", o->fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, o->temporary, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    o->temporary[0] = '\0';
    return fail(o, err);
}

static int publish(struct output *o, bool replace, struct error *err)
{
    int rc = *o->temporary ? 0 : name_it(o, err);
    if (rc ||
        renameat2(AT_FDCWD, o->temporary, AT_FDCWD, o->path, replace ? 0 : RENAME_NOREPLACE) == 0)
        return rc;
    if ((errno == EINVAL || errno == ENOSYS) && rename(o->temporary, o->path) == 0)
        return 0;
    return fail(o, err);
}

int output_close(struct output *o, int rc, bool replace, struct error *err)
{
    rc = rc ? rc : publish(o, replace, err);
    if (close(o->fd) && !rc)
        rc = fail(o, err);
    if (rc && *o->temporary)
        unlink(o->temporary);
    return rc;
}

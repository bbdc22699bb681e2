/* SPDX-License-Identifier: MIT
 *
 * Opening files of a store without ever leaving it: names are resolved by the kernel beneath a
 * directory that was opened before anything was mounted. Symbolic links inside are followed;
 * those that lead out fail with -EXDEV, unless the user wants them followed.
 */
#ifndef DAEMON_BENEATH_H
#define DAEMON_BENEATH_H

#include <stdbool.h>

struct beneath {
    int fd;            /* the directory */
    bool follow_links; /* also those that lead out of it */
};

/* Opens path (relative, without a leading slash; "" for the directory itself) with open(2) flags;
 * O_CLOEXEC is added. Returns a descriptor or -errno. */
int open_beneath(const struct beneath *root, const char *path, int flags);

#endif

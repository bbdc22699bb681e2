/* SPDX-License-Identifier: MIT */
#include "daemon/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

int open_beneath(const struct beneath *root, const char *path, int flags)
{
    struct open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC),
        .resolve = RESOLVE_NO_MAGICLINKS | (root->follow_links ? 0 : RESOLVE_BENEATH),
    };
    for (;;) {
        long fd = syscall(SYS_openat2, root->fd, *path ? path : ".", &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno != EINTR && errno != EAGAIN) /* EAGAIN: a rename raced with the walk */
            return -errno;
    }
}

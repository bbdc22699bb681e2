/* SPDX-License-Identifier: MIT */
#include "fs/watch.h"

#include <linux/magic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/vfs.h>
#include <unistd.h>

struct watch {
    int fd; /* -1: there is no inotify */
    bool blind;
};

struct watch *watch_new(void)
{
    struct watch *w = calloc(1, sizeof *w);
    if (w) {
        w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        w->blind = w->fd < 0;
    }
    return w;
}

void watch_free(struct watch *w)
{
    if (w && w->fd >= 0)
        close(w->fd);
    free(w);
}

/* Whether others than this kernel change the folder's file system. */
static bool is_shared(int folder)
{
    static const uint32_t shared[] = {NFS_SUPER_MAGIC,  SMB_SUPER_MAGIC,  SMB2_SUPER_MAGIC,
                                      CIFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, CEPH_SUPER_MAGIC,
                                      V9FS_MAGIC,       AFS_SUPER_MAGIC};
    struct statfs st;
    if (fstatfs(folder, &st))
        return true;
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if ((uint32_t)st.f_type == shared[i])
            return true;
    return false;
}

void watch_add(struct watch *w, int folder)
{
    char path[32];
    if (w->blind)
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", folder);
    if (is_shared(folder) ||
        inotify_add_watch(w->fd, path,
                          IN_CREATE | IN_DELETE | IN_MOVE | IN_CLOSE_WRITE | IN_ATTRIB |
                              IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR) < 0)
        w->blind = true;
}

bool watch_changed(struct watch *w)
{
    char events[4096];
    bool changed = w->blind;
    while (w->fd >= 0 && read(w->fd, events, sizeof events) > 0)
        changed = true; /* which one does not matter; an overflow of the queue counts too */
    return changed;
}

bool watch_is_blind(const struct watch *w)
{
    return w->blind;
}

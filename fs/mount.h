/* SPDX-License-Identifier: MIT
 *
 * Mounting and unmounting: session, background, readiness, signals, read-ahead.
 */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include "fs/options.h"

/* Exit statuses, as those of libfuse's own programs. */
enum {
    MOUNT_OK = 0,
    MOUNT_BAD_OPTION = 1,
    MOUNT_NO_MOUNT_POINT = 2,
    MOUNT_SETUP_FAILED = 3,
    MOUNT_FAILED = 4,
    MOUNT_DAEMON_FAILED = 5,
    MOUNT_LOOP_FAILED = 7,
};

/* Mounts a store and serves it until it is unmounted or told to stop. In the background (not
 * foreground) the calling process returns as soon as the mount is ready, or has failed; the reason
 * is on stderr. Returns an exit status. */
int mount_run(const char *store, const char *mount_point, struct options *options,
              bool foreground);

/* Takes a mount away, also one whose daemon is dead or has files open. -errno with a sentence. */
int mount_end(const char *mount_point, struct error *err);

/* Calls visit for every quantfs mount of this machine until it returns false; true if it did. */
bool mount_each(bool (*visit)(void *context, const char *mount_point), void *context);

/* Whether the path is a mount point whose daemon is gone. */
bool mount_is_stale(const char *mount_point);

#endif

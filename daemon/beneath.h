/* SPDX-License-Identifier: MIT
 *
 * Opening files of a store without ever leaving it: names are resolved by the kernel beneath a
 * directory that was opened before anything was mounted. Symbolic links inside are followed,
 * those that lead out fail with -EXDEV.
 */
#ifndef DAEMON_BENEATH_H
#define DAEMON_BENEATH_H

/* Opens path (relative, without a leading slash; "" for the directory itself) with open(2) flags;
 * O_CLOEXEC is added. Returns a descriptor or -errno. */
int open_beneath(int dir, const char *path, int flags);

#endif

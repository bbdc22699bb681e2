/* SPDX-License-Identifier: MIT
 *
 * The low-level FUSE operations: each checks its arguments, asks the tree, and replies once.
 */
#ifndef FS_FUSE_OPS_H
#define FS_FUSE_OPS_H

#include "fs/tree.h"

enum { READ_MAX = 1 << 20 }; /* of one request; the mount option max_read says the same */

struct fuse_lowlevel_ops;

/* For fuse_session_new, with a struct tree as user data. */
extern const struct fuse_lowlevel_ops quantfs_ops;

#endif

/* SPDX-License-Identifier: MIT
 *
 * The text in which a mount tells where a file's tiles lie on disk (fs/EXTENTS.md).
 */
#ifndef TOOLS_RUN_EXTENTS_FILE_H
#define TOOLS_RUN_EXTENTS_FILE_H

#include "codec/extents.h"

#include <stdbool.h>

struct extents_file {
    int fd; /* as long as it is open, tiles stay where they are */
    struct extents extents;
};

/* False where the file is in no mount of quantfs, or the mount's text cannot be had: then all is
 * read through the file itself, which is always right. */
bool extents_file_open(struct extents_file *f, const char *path);
void extents_file_close(struct extents_file *f);

/* The tile that begins at an offset, or the next behind it; NULL where there is none. */
const struct extent *extents_file_find(const struct extents_file *f, uint64_t offset);

#endif

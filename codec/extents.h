/* SPDX-License-Identifier: MIT
 *
 * Where the packed bytes of a virtual file lie raw on disk, as a mount tells it in
 * .quantfs/extents/ (the format: fs/EXTENTS.md). A hint for who wants to read past the mount: what
 * is there is proven by each tile's checksum alone, and what is not is read through the mount.
 */
#ifndef CODEC_EXTENTS_H
#define CODEC_EXTENTS_H

#include "codec/error.h"

#include <stddef.h>
#include <stdint.h>

#define EXTENT_NOWHERE UINT32_MAX

/* A tile: a run of the virtual file's bytes. */
struct extent {
    uint64_t offset, length; /* in the virtual file; length > 0 */
    uint32_t object;         /* which object; EXTENT_NOWHERE: none, and what follows is 0 */
    uint64_t at;             /* where the tile's bytes begin in the object, at any byte */
    uint64_t checksum, seed; /* XXH3 (64 bits) of its bytes, with that seed */
};

struct extents {
    uint64_t size;  /* of the virtual file; at most INT64_MAX, as is each extent's end anywhere */
    char **objects; /* absolute paths */
    size_t object_count;
    struct extent *items; /* sorted by offset, without overlaps, within size */
    size_t count;
};

/* Parses n bytes of text. -EINVAL with a sentence that names the line for whatever is not exactly
 * the format, or -ENOMEM. Free with extents_free. */
int extents_parse(const char *text, size_t n, struct extents *out, struct error *err);
void extents_free(struct extents *e);

#endif

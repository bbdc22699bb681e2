/* SPDX-License-Identifier: MIT
 *
 * .quantfs/extents/: where the tiles of a virtual file lie raw in the tile cache, as text
 * (EXTENTS.md), for programs that read them past the mount.
 */
#ifndef FS_EXTENTS_H
#define FS_EXTENTS_H

#include "fs/tree.h"

/* The text for a file of `size` bytes; image: what it is made of, NULL where it has no tiles. Looks
 * into the index of every object and at no tile. *held becomes the objects that are named, a list
 * that ends with NULL: they stay as they are until extents_release. NULL when memory is out. */
struct bytes *extents_text(const struct tree *t, uint64_t size, const struct image *image,
                           struct cache_object ***held);

/* Lets go of the objects and frees the list, which may be NULL. */
void extents_release(const struct tree *t, struct cache_object **held);

#endif

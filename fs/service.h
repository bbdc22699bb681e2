/* SPDX-License-Identifier: MIT
 *
 * Everything behind the tree, set up from the options: store, tile cache, tiles, log. What mounts
 * and what converts without a mount stand on the same.
 */
#ifndef FS_SERVICE_H
#define FS_SERVICE_H

#include "fs/tree.h"

struct service {
    struct tree tree;
    struct stats stats;
    struct options *options;
};

/* Opens the store. Starts no thread, so the program may still go to the background. */
int service_open(struct service *s, const char *store, struct options *options,
                 struct error *err);

/* Opens the cache (a folder, or NULL for none) and starts the workers. A cache that cannot be is
 * told and done without, unless it is somebody else's. */
int service_start(struct service *s, const char *cache, struct error *err);

/* Stops and frees all of it, whatever there is. No file may be open. */
void service_close(struct service *s);

/* The cache folder that the options mean, in out (PATH_MAX bytes): absolute; "" for none. */
int service_cache_folder(const struct options *options, char *out, struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * A folder of checkpoints, or a single one. Which models there are is known from names alone;
 * a model is loaded when somebody looks into it. When its files change it gets a new number, and
 * whoever still uses the old number is told that it is stale.
 */
#ifndef FS_STORE_H
#define FS_STORE_H

#include "fs/checkpoint.h"

enum { STORE_MODELS_MAX = 1 << 24 }; /* numbers, which are not used twice */

struct store;

struct store_options {
    const char *path;
    const char *imatrix; /* as given to the mount option; NULL: none */
    unsigned max_open;   /* descriptors of source files */
    struct stats *stats;
};

/* Opens the folder and looks which models it has. -errno with a sentence. */
int store_open(const struct store_options *options, struct store **out, struct error *err);
void store_close(struct store *s);

/* The folder as an absolute path without links. */
const char *store_path(const struct store *s);

/* The folder's descriptor. */
int store_root(const struct store *s);

/* Calls visit for every model, in order of their names, until it returns false. Looks for new and
 * gone ones first, at most once a second. */
void store_each(struct store *s, bool (*visit)(void *context, uint32_t number, const char *name),
                void *context);

/* The number of a model by name; -ENOENT. Notices changes of its files, at most once a second. */
int store_find(struct store *s, const char *name, uint32_t *number);

/* The loaded checkpoint of a number; a reference is the caller's. -ESTALE where the number is no
 * longer that of a model, else why it could not be loaded. */
int store_get(struct store *s, uint32_t number, struct checkpoint **out, struct error *err);

/* As store_get, but first makes sure that its files are what they were, whenever that was last
 * checked: -ESTALE where they are not. */
int store_get_current(struct store *s, uint32_t number, struct checkpoint **out,
                      struct error *err);

/* Drops headers that were made, oldest use first, until they take at most `budget` bytes. */
void store_trim(struct store *s, size_t budget);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The models of a store, under names that form a tree: "name", "org/name". Which there are is known
 * from the names of files alone (scan.h); a model is loaded when somebody looks into it. When its
 * files change it gets a new number, and whoever still uses the old number is told that it is stale.
 * What is only part of names ("org") is a group, and has a number too.
 */
#ifndef FS_STORE_H
#define FS_STORE_H

#include "fs/checkpoint.h"

enum {
    STORE_ENTRIES_MAX = 1 << 24, /* numbers, which are not used twice */
    STORE_ROOT = 0,              /* the number of the group that holds all */
    STORE_NAME_MAX = 1024,
};

struct store;

struct store_options {
    const char *path;    /* a folder, or a .gguf file */
    const char *imatrix; /* as given to the mount option; NULL: none */
    const char *calibration; /* likewise */
    /* What adapters add to, as given: "ADAPTER:MODEL", or "MODEL" for all of them, several with ";"
     * between; a model of this store or a path. NULL: the one that each adapter names. */
    const char *base;
    bool onto_nf4;
    bool requantize, follow_links;
    unsigned max_open;   /* descriptors of source files */
    struct stats *stats;
};

/* Opens the store and looks which models it has. -errno with a sentence. */
int store_open(const struct store_options *options, struct store **out, struct error *err);
void store_close(struct store *s);

/* The store as an absolute path without links. */
const char *store_path(const struct store *s);

/* The absolute path of its calibration, or of the folder of some; NULL: none. */
const char *store_calibration(const struct store *s);

/* What adapters add to, as in the options, but with absolute paths; NULL: what each of them names. */
const char *store_base(const struct store *s);

/* A descriptor of its folder. */
int store_root(const struct store *s);

struct store_entry {
    uint32_t number;
    const char *name; /* in full */
    const char *last; /* its last part */
    bool group;
};

/* Calls visit for the entries of a group, or for all models, in order of their names, until it
 * returns false. Looks for new and gone ones first, at most once a second. */
void store_each(struct store *s, uint32_t group,
                bool (*visit)(void *context, const struct store_entry *e), void *context);
void store_each_model(struct store *s, bool (*visit)(void *context, const struct store_entry *e),
                      void *context);

/* Whether the store is one model itself, not a folder of models; of a hub cache's model, the first
 * of store_each_model is the current snapshot. */
bool store_is_model(struct store *s);

/* Calls visit for every link among its folders that leaves the store and is not followed. */
void store_each_outside(struct store *s, void (*visit)(void *context, const char *path),
                        void *context);

/* An entry of a group by name; -ENOENT. Notices changes of a model's files, at most once a
 * second. */
int store_find(struct store *s, uint32_t group, const char *name, uint32_t *number,
               bool *is_group);

/* The full name of a model or group, into out (STORE_NAME_MAX bytes). -ESTALE. */
int store_name(struct store *s, uint32_t number, char *out);

/* The loaded checkpoint of a model's number; a reference is the caller's. -ESTALE where the number
 * is no longer that of a model, else why it could not be loaded. */
int store_get(struct store *s, uint32_t number, struct checkpoint **out, struct error *err);

/* As store_get, but first makes sure that its files are what they were, whenever that was last
 * checked: -ESTALE where they are not. */
int store_get_current(struct store *s, uint32_t number, struct checkpoint **out,
                      struct error *err);

/* Drops headers that were made, oldest use first, until they take at most `budget` bytes. */
void store_trim(struct store *s, size_t budget);

#endif

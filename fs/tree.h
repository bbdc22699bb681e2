/* SPDX-License-Identifier: MIT
 *
 * What the mount shows, as a tree of nodes. A node is a 64-bit number that says all there is to
 * say about it: model, kind, which tensor or file, which format or recipe. So there is no table of
 * nodes, nothing to count and nothing to forget. A model that changes gets a new number, and with
 * it all its nodes; the inode numbers that users see are hashes of paths and stay.
 *
 *     /                              models, and groups of models (<org>/<model>)
 *     /<model>/original/...          its own files
 *     /<model>/gguf/<model>-<RECIPE>.gguf, of an adapter also <model>-lora-F16.gguf
 *     /<model>/tensors/<tensor>/<format>, info.json
 *     /<model>/tensors/<tensor>/<format>.error.json, <format>.error.png, sensitivity.png
 *     /.quantfs/...                  not listed; see control.h
 *     /.quantfs/extents/...          all of the above once more; see extents.h
 */
#ifndef FS_TREE_H
#define FS_TREE_H

#include "fs/image.h"
#include "fs/options.h"
#include "fs/store.h"

#include <sys/stat.h>

enum {
    TREE_ROOT = 1,
    READAHEAD_DEFAULT = 128 << 10, /* of a mount that nobody has tuned */
};

struct tree {
    struct store *store;
    struct tiles *tiles;
    struct cache *cache; /* NULL: none */
    struct stats *stats;
    const struct options *options;
    const struct isa *isa;
    _Atomic bool told_uncalibrated; /* in the log, once */
    _Atomic uint64_t readahead; /* bytes that the kernel reads ahead in this mount */
    struct timespec started, booted; /* the same moment by two clocks: the time of day, and since
                                        boot */
};

/* An open virtual file. */
struct file {
    struct image *image;     /* of a model's file */
    struct bytes *text;      /* of what is made when it is opened */
    struct cache_object **held; /* of an extents file; see extents.h */
    struct stream stream;
    char path[];             /* below the mount point, for messages */
};

/* All return 0 or -errno; what is an error of a model (not just a name that is not there) has
 * been logged with the path it concerns. */
int tree_lookup(struct tree *t, uint64_t parent, const char *name, uint64_t *node,
                struct stat *st);
int tree_getattr(struct tree *t, uint64_t node, struct stat *st);

/* The entries of a folder, "." and ".." first: name and the fields of st that a listing needs. */
struct entry {
    char *name;
    uint64_t inode;
    mode_t mode;
};

struct listing {
    struct entry *entries;
    size_t count, capacity;
    struct arena arena;
};

int tree_list(struct tree *t, uint64_t node, struct listing **out);
void listing_free(struct listing *l);

int tree_open(struct tree *t, uint64_t node, struct file **out);
/* Maps a range to pieces, as image_map; the caller ends the reading. buf: room for size bytes. */
int tree_read(struct tree *t, struct file *f, uint64_t offset, size_t size, uint8_t *buf,
              struct reading *r);
void tree_close(struct tree *t, struct file *f);

/* Whether a node is a folder of models, whose entries may come and go. */
bool tree_holds_models(uint64_t node);

/* Whether a node's size is not known before it is read (all files in .quantfs/). */
bool tree_is_unsized(uint64_t node);

/* Extended attributes: the value of one, and the list of names, each ended by NUL. The value's
 * length is returned, or -errno; value has room for `size` bytes, 0 asks for the length. */
ssize_t tree_getxattr(struct tree *t, uint64_t node, const char *name, char *value, size_t size);
ssize_t tree_listxattr(struct tree *t, uint64_t node, char *list, size_t size);

#endif

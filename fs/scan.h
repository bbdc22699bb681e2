/* SPDX-License-Identifier: MIT
 *
 * Which models a folder holds, told from the names of files and folders alone:
 *
 *   FOLDER/                          a checkpoint: config.json or weights in it
 *   NAME.gguf, NAME-00001-of-0000N.gguf; but imatrix.gguf and NAME.imatrix.gguf are none
 *   models--ORG--NAME/               of a Hugging Face hub cache, a model for each snapshot
 *   FOLDER/...                       anything else may hold models, to some depth
 *
 * A model is called by its path without the file's ending. Of a hub cache's models, ORG/NAME is the
 * snapshot that refs/main names, else the newest; the others are ORG/NAME@REVISION.
 *
 * Two that would have one name: paths are compared bytewise, the first keeps the name, the next is
 * called NAME~2, and so on. A folder of models goes before a model of its name.
 */
#ifndef FS_SCAN_H
#define FS_SCAN_H

#include "codec/arena.h"
#include "codec/error.h"
#include "daemon/beneath.h"
#include "fs/watch.h"

#include <stdbool.h>
#include <stddef.h>

struct scan_model {
    const char *name; /* in the tree: "name", "org/name", "org/name@revision" */
    const char *base; /* the name that its GGUF files and their keys have: "name" */
    const char *path; /* its folder, relative to the root; "" for the root itself */
    const char *file; /* of a GGUF model: the (first) file in that folder; else NULL */
};

struct scan {
    struct scan_model *models; /* sorted by name */
    size_t count, capacity;
    bool self;                 /* what was scanned is one model itself: a checkpoint, a file, a
                                  model of a hub cache with all its snapshots */
    const char **outside;      /* links that leave the root, not followed */
    size_t outside_count;
    struct arena arena;
};

/* Where a scan starts: the store as the user names it. */
struct scan_start {
    struct beneath root; /* the folder that is not left; of a hub cache's snapshot, the folder of its
                            model, for the files lie beside the snapshots */
    char *path;          /* what to scan, relative to the root */
    char *file;          /* a .gguf file in that folder; NULL: all of the folder */
    char *name;          /* what to call it if it is one model */
};

/* Opens the root. path: absolute, without links. -errno with a sentence. */
int scan_open(const char *path, bool follow_links, struct scan_start *out, struct error *err);
void scan_close(struct scan_start *start);

/* Scans. Every folder that was read is put under watch. Folders that cannot be read hold no
 * models. Fails only for want of memory, or where the start itself cannot be read. */
int scan_run(const struct scan_start *start, struct watch *watch, struct scan *out,
             struct error *err);
void scan_free(struct scan *s);

#endif

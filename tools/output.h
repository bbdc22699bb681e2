/* SPDX-License-Identifier: MIT
 *
 * A file that is complete or not there. While it is written it has no name where the file system can
 * do that, so that nothing is left whatever ends the program; else a temporary one beside its own.
 */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include "codec/error.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

struct output {
    const char *path;
    int fd;
    char temporary[PATH_MAX]; /* "": no name yet */
};

/* path must live as long. All return -errno, with a sentence that begins with the path. */
int output_open(struct output *o, const char *path, struct error *err);
int output_write(struct output *o, const void *data, size_t n, struct error *err);

/* Ends it: the file gets its name if rc, the result of what was done to it, is 0, and is gone
 * otherwise. A file that has the name is replaced only if that is wanted, where the file system can
 * tell. Returns rc, or what went wrong here. */
int output_close(struct output *o, int rc, bool replace, struct error *err);

#endif

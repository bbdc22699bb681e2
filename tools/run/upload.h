/* SPDX-License-Identifier: MIT
 *
 * Brings bytes to where the backend computes, at a program's start: in place where that is the host's
 * memory, else by copies out of a pinned buffer.
 */
#ifndef TOOLS_RUN_UPLOAD_H
#define TOOLS_RUN_UPLOAD_H

#include "daemon/source.h"
#include "tools/run/mirror.h"

struct upload {
    struct backend *backend;
    void *buffer; /* NULL: the backend's memory is the host's */
    struct event *done;
};

/* upload_close is right in any case. */
int upload_open(struct backend *b, struct upload *u, struct error *err);
void upload_close(struct upload *u);

/* size bytes of the host's memory, or of a file from offset on; there at return. */
int upload_bytes(struct upload *u, void *to, const void *from, size_t size, struct error *err);
int upload_file(struct upload *u, void *to, struct source *file, uint64_t offset, uint64_t size,
                struct error *err);

#endif

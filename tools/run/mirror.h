/* SPDX-License-Identifier: MIT
 *
 * Memory that the host fills for a backend, or that it reads what came out of: on both sides, with
 * copies between, or one and the same where a backend's memory is the host's.
 */
#ifndef TOOLS_RUN_MIRROR_H
#define TOOLS_RUN_MIRROR_H

#include "kernels/backend.h"

struct mirror {
    void *host, *device;
    size_t size; /* bytes; of the host's side whole pages, which are pinned */
};

/* -ENOMEM, -EOVERFLOW. What was not made is all zero, and may be freed. */
int mirror_new(struct backend *b, size_t count, size_t element, struct mirror *out);
void mirror_free(struct backend *b, struct mirror *m);

/* The first so many bytes, in QUEUE_COMPUTE: the host's side stays as it is, or is of no value, until
 * the host has waited. */
int mirror_send(struct backend *b, const struct mirror *m, size_t size);
int mirror_fetch(struct backend *b, const struct mirror *m, size_t size);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Bytes of a file that is made when it is first read, by whoever reads it, and kept as long as it
 * is open. One is made at a time: whoever wants the same one waits for it, and the room that making
 * takes is taken once.
 */
#ifndef FS_MADE_H
#define FS_MADE_H

#include "daemon/tile.h"

#include <stddef.h>
#include <stdint.h>

struct made_kind {
    /* Writes all bytes. May ask for tiles. -errno with a sentence; then it is asked again. */
    int (*make)(void *context, struct tiles *tiles, uint8_t *out, struct error *err);
    void (*free)(void *context);
};

struct made {
    _Atomic unsigned refs;
    size_t size;
    const struct made_kind *kind;
    void *context;
    uint8_t *_Atomic data; /* NULL: not made yet */
};

/* One reference is the caller's. Takes the context over, also where memory is out, which is NULL. */
struct made *made_new(const struct made_kind *kind, void *context, size_t size);
struct made *made_ref(struct made *m);
void made_unref(struct made *m);

/* The bytes, for as long as there is a reference. No tile may be held. */
int made_get(struct made *m, struct tiles *tiles, const uint8_t **data, struct error *err);

#endif

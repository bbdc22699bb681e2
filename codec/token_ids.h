/* SPDX-License-Identifier: MIT
 *
 * A growing list of token ids: what encoders make of a text. Zero-initialise; free ids.
 */
#ifndef CODEC_TOKEN_IDS_H
#define CODEC_TOKEN_IDS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct token_ids {
    uint32_t *ids;
    size_t count, capacity;
};

/* -ENOMEM. */
static inline int token_ids_add(struct token_ids *t, uint32_t id)
{
    if (t->count == t->capacity) {
        size_t grown = t->capacity ? 2 * t->capacity : 32;
        uint32_t *ids = reallocarray(t->ids, grown, sizeof *ids);
        if (!ids)
            return -ENOMEM;
        t->ids = ids;
        t->capacity = grown;
    }
    t->ids[t->count++] = id;
    return 0;
}

#endif

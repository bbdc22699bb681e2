/* SPDX-License-Identifier: MIT */
#include "fs/made.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

struct made *made_new(const struct made_kind *kind, void *context, size_t size)
{
    struct made *m = calloc(1, sizeof *m);
    if (!m) {
        kind->free(context);
        return NULL;
    }
    m->refs = 1;
    m->size = size;
    m->kind = kind;
    m->context = context;
    return m;
}

struct made *made_ref(struct made *m)
{
    m->refs++;
    return m;
}

void made_unref(struct made *m)
{
    if (!m || --m->refs)
        return;
    m->kind->free(m->context);
    free(m->data);
    free(m);
}

/* The lock is held. */
static int make(struct made *m, struct tiles *tiles, struct error *err)
{
    uint8_t *data = malloc(m->size);
    if (!data)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = m->kind->make(m->context, tiles, data, err);
    if (rc)
        free(data);
    else
        m->data = data;
    return rc;
}

/* Whoever finds the bytes without the lock sees them whole: the pointer comes last, and is atomic. */
int made_get(struct made *m, struct tiles *tiles, const uint8_t **data, struct error *err)
{
    int rc = 0;
    if (!m->data) {
        pthread_mutex_lock(&making);
        rc = m->data ? 0 : make(m, tiles, err);
        pthread_mutex_unlock(&making);
    }
    *data = m->data;
    return rc;
}

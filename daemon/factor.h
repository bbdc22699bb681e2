/* SPDX-License-Identifier: MIT
 *
 * Factors of a calibration (codec/CALIBRATION.md): the order of a matrix's columns, and U, by which an
 * encoder feeds errors back. The order is small and stays; U is read when a matrix is being encoded,
 * and of all the factors of a set only one stays in memory when nobody needs it.
 */
#ifndef DAEMON_FACTOR_H
#define DAEMON_FACTOR_H

#include "codec/spqr/factor.h"
#include "daemon/source.h"

#include <pthread.h>
#include <stdbool.h>

struct factor;

struct factor_set {
    pthread_mutex_t lock;
    struct factor *first; /* of all that are open: a file is open once */
    struct factor *kept;  /* whose U stays in memory */
};

struct factor {
    struct factor_set *set;
    struct factor *next; /* by the set's lock, as is refs */
    unsigned refs;
    char *path;
    struct source_identity identity;
    struct factor_layout layout;
    uint32_t *order;
    uint8_t digest[FACTOR_DIGEST]; /* of all of it; proven whenever U is read */
    float *packed;                 /* by the set's lock; NULL: not in memory */
    uint8_t *dead;                 /* likewise: places of columns that no input reached */
    unsigned users;
};

void factor_set_init(struct factor_set *set);

/* No factor of it is left. */
void factor_set_destroy(struct factor_set *set);

/* Opens a file and reads its order. -ENOENT where there is none, -EINVAL where it is not one of so
 * many columns; with a sentence that begins with the path. */
int factor_open(struct factor_set *set, const char *path, uint64_t columns, struct factor **out,
                struct error *err);
struct factor *factor_ref(struct factor *f);
void factor_unref(struct factor *f);

/* U in packed panels (codec/spqr/prepare.h), and which places are dead, until factor_give. -EIO where
 * the file is not what it was. */
int factor_take(struct factor *f, const float **packed, const uint8_t **dead, struct error *err);
void factor_give(struct factor *f);

#endif

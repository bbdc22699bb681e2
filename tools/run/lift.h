/* SPDX-License-Identifier: MIT
 *
 * Weights that stay in the host's memory, or only pass through it, on their way to a GPU that
 * multiplies with them. There are two ways:
 *
 *   copy     A piece is copied into one of a few slots of the GPU's memory by one queue, while the
 *            other multiplies with the pieces before it. Events order the two; the host waits for
 *            neither, and so runs ahead of both, until no slot of the ring is free.
 *
 *                copy queue      wait ran[s]     copy to s             record lifted[s]
 *                compute queue   wait lifted[s]  multiply with s       record ran[s]
 *                host            released by the copy: the ring's slot is given back
 *
 *   mapped   A kernel reads the piece where it lies, over the link: bytes go from the disk's
 *            controller into the host's memory and from there into the kernel. Nothing is kept in the
 *            GPU's memory. It is right for weights that a kernel reads once, as it does for one token;
 *            with a prompt they cross the link once for every few tokens.
 *
 *                compute queue   multiply with the ring's slot
 *                host            released by the product: the ring's slot is given back
 *
 * Pieces are taken and given as from a ring (ring.h), in the order of a pass. One thread calls.
 */
#ifndef TOOLS_RUN_LIFT_H
#define TOOLS_RUN_LIFT_H

#include "kernels/backend.h"
#include "tools/run/lift_trace.h"
#include "tools/run/ring.h"

enum lift_kind { LIFT_COPY, LIFT_MAPPED };

struct lift_stats {
    uint64_t bytes, pieces; /* that were taken */
    double waited;          /* seconds, for the device to release a slot of the ring */
};

/* What a lift is made of. */
struct lift_parts {
    enum lift_kind kind;
    struct piece *pieces; /* in the order of a pass; the lift keeps pointing to them */
    size_t count;
    struct ring *ring; /* of those that are not held; NULL: all are */
    uint64_t ring_slots, slot_size;
    uint32_t slots; /* in the backend's memory, of slot_size; for copies */
    void *held;     /* the host's memory of those that are, whole pages; NULL: there are none */
    uint64_t held_size;
    size_t traced; /* of the first so many that are lifted the times are kept */
};

struct lift;

/* -ENOMEM where memory cannot be pinned or had, with a sentence. */
int lift_open(struct backend *b, const struct lift_parts *parts, struct lift **out,
              struct error *err);
void lift_close(struct lift *l);
const struct lift_stats *lift_stats(const struct lift *l);
/* NULL: nothing is traced. */
const struct lift_trace *lift_traced(const struct lift *l);

/* The next piece of the pass, for what is asked of QUEUE_COMPUTE from now on. With wait, *data is
 * where it will be; without, it is NULL where it has not landed yet or there is no slot for it. */
int lift_take(struct lift *l, size_t piece, bool wait, const uint8_t **data, struct error *err);

/* Behind what was asked of QUEUE_COMPUTE until now, all pieces that were taken are needed no more. */
int lift_give(struct lift *l);

/* Begins with the next pass, as far as there are slots. */
int lift_ahead(struct lift *l, struct error *err);

#endif

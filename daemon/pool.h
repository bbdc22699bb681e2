/* SPDX-License-Identifier: MIT
 *
 * A fixed pool of workers. A job is a number of parts that may run at once and in any order, so
 * that even one tile keeps every core busy. Jobs of a more urgent class go first; within a class,
 * first come, first served. Workers never wait for anything but work.
 */
#ifndef DAEMON_POOL_H
#define DAEMON_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum job_class {
    JOB_URGENT,   /* somebody waits for this one out of several */
    JOB_DEMAND,   /* somebody waits */
    JOB_STORE,    /* to the tile cache, which frees memory */
    JOB_PREFETCH, /* somebody will probably want it */
    JOB_IDLE,     /* when there is nothing else to do */
    JOB_CLASS_COUNT
};

/* Memory that a worker keeps from part to part: two areas, each grown to what was asked for. */
struct scratch {
    void *area[2];
    size_t size[2];
};

/* At least n bytes, aligned to 64; NULL when memory is out. The content is lost at growth. */
void *scratch_get(struct scratch *s, int area, size_t n);
void scratch_free(struct scratch *s);

struct job {
    /* Set by the owner. run does one part, from any worker; done runs once, in a worker, after the
     * last part (or cancel, with no part run); it may free the job. */
    void (*run)(struct job *job, uint32_t part, struct scratch *scratch);
    void (*done)(struct job *job, bool cancelled);
    uint32_t parts;
    enum job_class class;
    const void *owner; /* for pool_cancel; NULL: cannot be cancelled */
    /* The pool's own. */
    struct job *prev, *next;
    uint32_t started, finished;
    bool queued;
};

struct pool;

/* workers > 0. NULL when threads cannot be made. */
struct pool *pool_new(unsigned workers);

/* Waits for the running parts; jobs that have not begun are cancelled. */
void pool_free(struct pool *p);

unsigned pool_workers(const struct pool *p);

void pool_submit(struct pool *p, struct job *job);

/* Makes a queued job more urgent. Harmless for one that runs or is done, as long as it exists. */
void pool_promote(struct pool *p, struct job *job, enum job_class class);

/* Cancels the owner's jobs of this class of which no part has begun. */
void pool_cancel(struct pool *p, enum job_class class, const void *owner);

#endif

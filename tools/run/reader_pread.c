/* SPDX-License-Identifier: MIT */
#include "daemon/pool.h"
#include "tools/run/reader_kinds.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 8 };

struct task {
    struct job job; /* first */
    struct reader_pread *reader;
    struct read *read;
    struct task *next; /* of the free, or of the finished */
    uint64_t again;
};

struct reader_pread {
    struct reader reader; /* first */
    struct pool *pool;
    pthread_mutex_t lock;
    pthread_cond_t one_finished;
    struct task *finished; /* by lock */
    struct task *unused, tasks[READER_DEPTH];
};

static void run(struct job *job, uint32_t part, struct scratch *scratch)
{
    (void)part;
    (void)scratch;
    struct task *t = (struct task *)job;
    struct read *read = t->read;
    int fd = t->reader->reader.fds[read->file];
    for (t->again = 0;; t->again++) {
        ssize_t got = pread(fd, read->to + read->done, read->size - read->done,
                            (off_t)(read->offset + read->done));
        if (read_advance(read, got < 0 ? -errno : got))
            return;
    }
}

static void done(struct job *job, bool cancelled)
{
    (void)cancelled; /* nothing is */
    struct task *t = (struct task *)job;
    struct reader_pread *p = t->reader;
    pthread_mutex_lock(&p->lock);
    t->next = p->finished;
    p->finished = t;
    pthread_cond_signal(&p->one_finished);
    pthread_mutex_unlock(&p->lock);
}

static void ask(struct reader *r, struct read *read)
{
    struct reader_pread *p = (struct reader_pread *)r;
    struct task *t = p->unused;
    p->unused = t->next;
    t->job = (struct job){.run = run, .done = done, .parts = 1, .class = JOB_DEMAND};
    t->read = read;
    pool_submit(p->pool, &t->job);
}

static void reap(struct reader *r, bool wait)
{
    struct reader_pread *p = (struct reader_pread *)r;
    pthread_mutex_lock(&p->lock);
    while (wait && !p->finished)
        pthread_cond_wait(&p->one_finished, &p->lock);
    struct task *t = p->finished;
    p->finished = NULL;
    pthread_mutex_unlock(&p->lock);
    while (t) {
        struct task *next = t->next;
        t->read->landed = true;
        r->stats.again += t->again;
        r->under_way--;
        t->next = p->unused;
        p->unused = t;
        t = next;
    }
}

static void close_pool(struct reader *r)
{
    struct reader_pread *p = (struct reader_pread *)r;
    pool_free(p->pool);
    pthread_cond_destroy(&p->one_finished);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int reader_pread_open(struct reader **out)
{
    struct reader_pread *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->pool = pool_new(THREADS);
    if (!p->pool) {
        free(p);
        return -EAGAIN;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->one_finished, NULL);
    for (int i = 0; i < READER_DEPTH; i++) {
        p->tasks[i].reader = p;
        p->tasks[i].next = p->unused;
        p->unused = &p->tasks[i];
    }
    p->reader =
        (struct reader){.kind = READER_PREAD, .ask = ask, .reap = reap, .close = close_pool};
    snprintf(p->reader.name, sizeof p->reader.name, "pread in %d threads", THREADS);
    *out = &p->reader;
    return 0;
}

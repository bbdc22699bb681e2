/* SPDX-License-Identifier: MIT */
#include "daemon/pool.h"

#include <pthread.h>
#include <stdlib.h>

struct job_list {
    struct job *head, *tail;
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work;                   /* a job came in, or stop */
    struct job_list lists[JOB_CLASS_COUNT]; /* jobs with parts left to start; by lock */
    bool stop;                             /* by lock */
    unsigned workers;
    pthread_t threads[];
};

void *scratch_get(struct scratch *s, int area, size_t n)
{
    if (n > s->size[area]) {
        n = (n + 63) & ~(size_t)63;
        free(s->area[area]);
        s->area[area] = aligned_alloc(64, n);
        s->size[area] = s->area[area] ? n : 0;
    }
    return s->area[area];
}

void scratch_free(struct scratch *s)
{
    free(s->area[0]);
    free(s->area[1]);
}

static void enqueue(struct pool *p, struct job *job)
{
    struct job_list *list = &p->lists[job->class];
    job->next = NULL;
    job->prev = list->tail;
    *(list->tail ? &list->tail->next : &list->head) = job;
    list->tail = job;
    job->queued = true;
}

static void dequeue(struct pool *p, struct job *job)
{
    struct job_list *list = &p->lists[job->class];
    *(job->prev ? &job->prev->next : &list->head) = job->next;
    *(job->next ? &job->next->prev : &list->tail) = job->prev;
    job->queued = false;
}

/* Takes the next part of the most urgent job. */
static struct job *next_part(struct pool *p, uint32_t *part)
{
    for (int class = 0; class < JOB_CLASS_COUNT; class ++) {
        struct job *job = p->lists[class].head;
        if (!job)
            continue;
        *part = job->started++;
        if (job->started == job->parts)
            dequeue(p, job);
        return job;
    }
    return NULL;
}

static void *work(void *argument)
{
    struct pool *p = argument;
    struct scratch scratch = {0};
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        uint32_t part;
        struct job *job = next_part(p, &part);
        if (!job) {
            pthread_cond_wait(&p->work, &p->lock);
            continue;
        }
        pthread_mutex_unlock(&p->lock);
        job->run(job, part, &scratch);
        pthread_mutex_lock(&p->lock);
        if (++job->finished == job->parts) {
            pthread_mutex_unlock(&p->lock);
            job->done(job, false);
            pthread_mutex_lock(&p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    scratch_free(&scratch);
    return NULL;
}

struct pool *pool_new(unsigned workers)
{
    struct pool *p = calloc(1, sizeof *p + workers * sizeof *p->threads);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    while (p->workers < workers &&
           pthread_create(&p->threads[p->workers], NULL, work, p) == 0)
        p->workers++;
    if (p->workers == workers)
        return p;
    pool_free(p);
    return NULL;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->workers; i++)
        pthread_join(p->threads[i], NULL);
    for (int class = 0; class < JOB_CLASS_COUNT; class ++)
        for (struct job *job; (job = p->lists[class].head);) {
            dequeue(p, job);
            job->done(job, true);
        }
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

unsigned pool_workers(const struct pool *p) { return p->workers; }

void pool_submit(struct pool *p, struct job *job)
{
    job->started = job->finished = 0;
    pthread_mutex_lock(&p->lock);
    enqueue(p, job);
    if (job->parts > 1)
        pthread_cond_broadcast(&p->work);
    else
        pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

void pool_promote(struct pool *p, struct job *job, enum job_class class)
{
    pthread_mutex_lock(&p->lock);
    if (job->queued && class < job->class) {
        dequeue(p, job);
        job->class = class;
        enqueue(p, job);
    }
    pthread_mutex_unlock(&p->lock);
}

void pool_cancel(struct pool *p, enum job_class class, const void *owner)
{
    struct job_list cancelled = {0};
    pthread_mutex_lock(&p->lock);
    for (struct job *job = p->lists[class].head, *next; job; job = next) {
        next = job->next;
        if (job->owner != owner || job->started)
            continue;
        dequeue(p, job);
        job->next = cancelled.head;
        cancelled.head = job;
    }
    pthread_mutex_unlock(&p->lock);
    for (struct job *job = cancelled.head, *next; job; job = next) {
        next = job->next;
        job->done(job, true);
    }
}

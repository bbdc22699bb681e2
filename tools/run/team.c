/* SPDX-License-Identifier: MIT */
#include "tools/run/team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { SPINS = 2000 };

struct team {
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
    _Atomic unsigned round; /* of the work; changes by lock */
    _Atomic unsigned busy;  /* threads beside the caller that are at it */
    void (*share)(void *, unsigned, unsigned); /* constant during a round */
    void *context;
    bool stop; /* by lock */
    unsigned size, next; /* next: the number of the thread that starts; by lock */
    pthread_t threads[];
};

static void pause_briefly(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static unsigned wait_for_round(struct team *t, unsigned last)
{
    for (int i = 0; i < SPINS && atomic_load(&t->round) == last; i++)
        pause_briefly();
    pthread_mutex_lock(&t->lock);
    while (t->round == last)
        pthread_cond_wait(&t->begun, &t->lock);
    unsigned round = t->round;
    pthread_mutex_unlock(&t->lock);
    return round;
}

static void *work(void *context)
{
    struct team *t = context;
    pthread_mutex_lock(&t->lock);
    unsigned own = ++t->next;
    pthread_mutex_unlock(&t->lock);
    for (unsigned round = 0;;) {
        round = wait_for_round(t, round);
        if (t->stop)
            return NULL;
        t->share(t->context, own, t->size);
        if (atomic_fetch_sub(&t->busy, 1) == 1) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->ended);
            pthread_mutex_unlock(&t->lock);
        }
    }
}

static void begin_round(struct team *t)
{
    pthread_mutex_lock(&t->lock);
    t->busy = t->size - 1;
    t->round++;
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
}

void team_run(struct team *t, void (*share)(void *, unsigned, unsigned), void *context)
{
    t->share = share;
    t->context = context;
    begin_round(t);
    share(context, 0, t->size);
    for (int i = 0; i < SPINS && atomic_load(&t->busy); i++)
        pause_briefly();
    pthread_mutex_lock(&t->lock);
    while (t->busy)
        pthread_cond_wait(&t->ended, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

struct team *team_new(unsigned size)
{
    struct team *t = calloc(1, sizeof *t + size * sizeof *t->threads);
    if (!t)
        return NULL;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begun, NULL);
    pthread_cond_init(&t->ended, NULL);
    for (t->size = 1; t->size < size; t->size++)
        if (pthread_create(&t->threads[t->size], NULL, work, t)) {
            team_free(t);
            return NULL;
        }
    return t;
}

unsigned team_size(const struct team *t) { return t->size; }

void team_free(struct team *t)
{
    if (!t)
        return;
    t->stop = true;
    begin_round(t);
    for (unsigned i = 1; i < t->size; i++)
        pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->begun);
    pthread_cond_destroy(&t->ended);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

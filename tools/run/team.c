/* SPDX-License-Identifier: MIT */
#include "tools/run/team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { SPINS = 2000, SHARES_EACH = 4, ROUND_SHIFT = 32 };

struct team {
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
    /* The number of the round above the number of its next share. Whoever takes a share of a round
     * keeps it from ending, and so what follows from changing. */
    _Atomic uint64_t ticket;
    void (*share)(void *, unsigned, unsigned);
    void *context;
    _Atomic unsigned left; /* shares that have not returned */
    _Atomic bool stop;
    unsigned size, shares;
    pthread_t threads[];
};

static void pause_briefly(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static bool has_share(const struct team *t)
{
    return (uint32_t)t->ticket < t->shares || t->stop;
}

/* Takes the next share of the round, if there is one. */
static bool take(struct team *t, unsigned *share)
{
    uint64_t ticket = t->ticket;
    do {
        *share = (uint32_t)ticket;
        if (*share >= t->shares)
            return false;
    } while (!atomic_compare_exchange_weak(&t->ticket, &ticket, ticket + 1));
    return true;
}

static void work(struct team *t)
{
    for (unsigned i; take(t, &i);) {
        t->share(t->context, i, t->shares);
        if (atomic_fetch_sub(&t->left, 1) == 1) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->ended);
            pthread_mutex_unlock(&t->lock);
        }
    }
}

static void *run_thread(void *context)
{
    struct team *t = context;
    while (!t->stop) {
        work(t);
        for (int i = 0; i < SPINS && !has_share(t); i++)
            pause_briefly();
        pthread_mutex_lock(&t->lock);
        while (!has_share(t))
            pthread_cond_wait(&t->begun, &t->lock);
        pthread_mutex_unlock(&t->lock);
    }
    return NULL;
}

void team_run(struct team *t, void (*share)(void *, unsigned, unsigned), void *context)
{
    t->share = share;
    t->context = context;
    t->left = t->shares;
    pthread_mutex_lock(&t->lock);
    t->ticket = ((t->ticket >> ROUND_SHIFT) + 1) << ROUND_SHIFT;
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
    work(t);
    for (int i = 0; i < SPINS && t->left; i++)
        pause_briefly();
    pthread_mutex_lock(&t->lock);
    while (t->left)
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
    t->shares = size > 1 ? size * SHARES_EACH : 1;
    t->ticket = t->shares; /* of a round that has ended */
    for (t->size = 1; t->size < size; t->size++)
        if (pthread_create(&t->threads[t->size], NULL, run_thread, t)) {
            team_free(t);
            return NULL;
        }
    return t;
}

unsigned team_size(const struct team *t) { return t->size; }
unsigned team_shares(const struct team *t) { return t->shares; }

void team_free(struct team *t)
{
    if (!t)
        return;
    t->stop = true;
    pthread_mutex_lock(&t->lock);
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
    for (unsigned i = 1; i < t->size; i++)
        pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->begun);
    pthread_cond_destroy(&t->ended);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

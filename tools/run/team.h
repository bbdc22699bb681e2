/* SPDX-License-Identifier: MIT
 *
 * Threads that do one thing together, thousands of times a second: work is cut into a few shares
 * for each thread, and whoever is free takes the next, the caller among them. So a thread that the
 * machine has no time for holds nobody up. Between calls they spin for a moment, then sleep.
 */
#ifndef TOOLS_RUN_TEAM_H
#define TOOLS_RUN_TEAM_H

struct team;

/* size: threads, the caller among them, at least 1. NULL when they cannot be made. */
struct team *team_new(unsigned size);
void team_free(struct team *t);

unsigned team_size(const struct team *t);

/* Into how many shares work is cut. */
unsigned team_shares(const struct team *t);

/* Calls share(context, i, team_shares) for every i below team_shares, and returns when all of them
 * have returned. */
void team_run(struct team *t, void (*share)(void *context, unsigned i, unsigned shares),
              void *context);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Threads that do one thing together, thousands of times a second: the caller and the others each
 * do a share, and the call returns when all have. Between calls they spin for a moment, then sleep.
 */
#ifndef TOOLS_RUN_TEAM_H
#define TOOLS_RUN_TEAM_H

struct team;

/* size: threads, the caller among them, at least 1. NULL when they cannot be made. */
struct team *team_new(unsigned size);
void team_free(struct team *t);

unsigned team_size(const struct team *t);

/* Calls share(context, i, size) for every i below the team's size, each in a thread of its own. */
void team_run(struct team *t, void (*share)(void *context, unsigned i, unsigned size),
              void *context);

#endif

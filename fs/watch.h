/* SPDX-License-Identifier: MIT
 *
 * Tells whether any of a set of folders has changed since one last looked: by inotify, where the
 * kernel sees all changes. On network file systems and FUSE, or when watches run out, it is blind
 * and says so; then one has to look.
 */
#ifndef FS_WATCH_H
#define FS_WATCH_H

#include <stdbool.h>

struct watch;

/* NULL when memory is out. */
struct watch *watch_new(void);
void watch_free(struct watch *w);

/* Adds an open folder. Again is harmless. */
void watch_add(struct watch *w, int folder);

/* Whether entries of a watched folder came, went, or were written since the last call, or might
 * have: true each time for a watch that is blind. */
bool watch_changed(struct watch *w);

bool watch_is_blind(const struct watch *w);

#endif

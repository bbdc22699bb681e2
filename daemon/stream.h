/* SPDX-License-Identifier: MIT
 *
 * Notices that a file is read from front to back and says what to make ready next. The window
 * doubles while that goes on and starts over after a jump. Requests may arrive a little out of
 * order, as the kernel's read-ahead sends them from several threads.
 */
#ifndef DAEMON_STREAM_H
#define DAEMON_STREAM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { STREAM_WINDOW_MIN = 2 << 20, STREAM_WINDOW_MAX = 64 << 20, STREAM_DISORDER = 4 << 20 };

struct stream {
    pthread_mutex_t lock;
    uint64_t readahead; /* the kernel's window; two of them in a row make a stream, for one is asked
                           for at a single page fault */
    uint64_t start, next, ahead, window; /* by lock */
    uint64_t run;                        /* bytes read since the last jump; 0: none yet; by lock */
};

void stream_init(struct stream *s, uint64_t readahead);
void stream_destroy(struct stream *s);

/* Whether a read is the one that a page fault waits for. The kernel reads a whole window around a
 * fault, in requests from its start on: after a jump, the page that faulted is the first of the
 * window's second half. To be asked before the read is noted. */
bool stream_is_fault(struct stream *s, uint64_t offset);

/* Takes note of a read. True if bytes [*from, *to) should be made ready (to may lie past the end
 * of the file). */
bool stream_advance(struct stream *s, uint64_t offset, uint64_t size, uint64_t *from,
                    uint64_t *to);

/* What was promised beyond `at` was not made. */
void stream_cut(struct stream *s, uint64_t at);

#endif

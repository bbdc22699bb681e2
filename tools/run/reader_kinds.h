/* SPDX-License-Identifier: MIT
 *
 * What the kinds of readers share; only they include it.
 */
#ifndef TOOLS_RUN_READER_KINDS_H
#define TOOLS_RUN_READER_KINDS_H

#include "tools/run/reader.h"

struct reader {
    enum reader_kind kind;
    char name[64];
    int *fds; /* READER_FILES */
    int file_count;
    unsigned under_way;
    struct reader_stats stats;
    void (*ask)(struct reader *r, struct read *read);
    void (*reap)(struct reader *r, bool wait);
    void (*added)(struct reader *r, int file); /* NULL: nothing to be done */
    void (*close)(struct reader *r);           /* frees the reader, but not what is above */
};

/* Each makes a reader that has its last five fields, kind and name. -errno where it cannot be. */
int reader_uring_open(void *memory, size_t size, struct reader **out);
int reader_pread_open(struct reader **out);

/* Takes what a call to read gave: bytes, or -errno. Returns whether the read has landed; if not, the
 * rest of it must be asked for. */
bool read_advance(struct read *read, int64_t got);

#endif

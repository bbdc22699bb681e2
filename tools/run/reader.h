/* SPDX-License-Identifier: MIT
 *
 * Reads under way: asked for now, found landed later, in whatever order they come. io_uring where
 * the kernel lets us, else a few threads that call pread. One thread asks and waits.
 */
#ifndef TOOLS_RUN_READER_H
#define TOOLS_RUN_READER_H

#include "codec/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    READER_ALIGNMENT = 4096, /* of offsets, sizes and memory, where a file is open O_DIRECT */
    READER_DEPTH = 32,       /* reads under way at once */
    READER_FILES = 4096,
};

enum reader_kind { READER_ANY, READER_URING, READER_PREAD };

/* One read; its owner keeps it in place until it has landed. */
struct read {
    uint64_t offset;
    uint8_t *to;
    uint32_t size;   /* bytes to ask for */
    uint32_t needed; /* so many of them must come: the file may end behind these */
    int file;        /* as reader_add told */
    uint32_t done;   /* the reader's from here on */
    bool landed;
    int result; /* once landed: 0, or -errno; -ENODATA where the file ends too early */
};

struct reader_stats {
    uint64_t reads, again; /* again: of them, how often the rest of one was asked for */
};

struct reader;

/* memory: where all reads go, to be registered with the kernel if it can be. -errno where the kind
 * cannot be had. */
int reader_open(enum reader_kind kind, void *memory, size_t size, struct reader **out,
                struct error *err);

/* Waits for what is under way. */
void reader_close(struct reader *r);

/* "io_uring, registered buffers and files", "pread in 8 threads" */
const char *reader_name(const struct reader *r);
enum reader_kind reader_kind(const struct reader *r);
struct reader_stats reader_stats(const struct reader *r);

/* Makes a file known; the descriptor becomes the reader's. -ENFILE after READER_FILES of them. */
int reader_add(struct reader *r, int fd, int *file);

/* Whether one more read may be asked for. */
bool reader_has_room(const struct reader *r);

/* Asks for a read. It is under way from the next reader_reap on, at the latest. */
void reader_ask(struct reader *r, struct read *read);

/* Marks what has landed; with wait, not before at least one has. Nothing may be waited for where
 * nothing is under way. */
void reader_reap(struct reader *r, bool wait);

#endif

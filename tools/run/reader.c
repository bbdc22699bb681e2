/* SPDX-License-Identifier: MIT */
#include "tools/run/reader_kinds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int reader_open(enum reader_kind kind, void *memory, size_t size, struct reader **out,
                struct error *err)
{
    struct reader *r;
    int rc = kind == READER_PREAD ? -ENOSYS : reader_uring_open(memory, size, &r);
    if (rc && kind == READER_URING)
        return error_set(err, rc, "io_uring cannot be used here: %s", strerror(-rc));
    rc = rc ? reader_pread_open(&r) : 0;
    if (rc)
        return error_set(err, rc, "no threads for reading: %s", strerror(-rc));
    r->fds = calloc(READER_FILES, sizeof *r->fds);
    if (!r->fds) {
        r->close(r);
        return error_set(err, -ENOMEM, "out of memory");
    }
    *out = r;
    return 0;
}

void reader_close(struct reader *r)
{
    if (!r)
        return;
    while (r->under_way)
        r->reap(r, true);
    int *fds = r->fds, count = r->file_count;
    r->close(r);
    for (int i = 0; i < count; i++)
        close(fds[i]);
    free(fds);
}

const char *reader_name(const struct reader *r) { return r->name; }
enum reader_kind reader_kind(const struct reader *r) { return r->kind; }
struct reader_stats reader_stats(const struct reader *r) { return r->stats; }

int reader_add(struct reader *r, int fd, int *file)
{
    if (r->file_count == READER_FILES) {
        close(fd);
        return -ENFILE;
    }
    *file = r->file_count++;
    r->fds[*file] = fd;
    if (r->added)
        r->added(r, *file);
    return 0;
}

bool reader_has_room(const struct reader *r) { return r->under_way < READER_DEPTH; }

void reader_ask(struct reader *r, struct read *read)
{
    read->done = 0;
    read->landed = false;
    r->under_way++;
    r->stats.reads++;
    r->ask(r, read);
}

void reader_reap(struct reader *r, bool wait)
{
    r->reap(r, wait);
}

bool read_advance(struct read *read, int64_t got)
{
    if (got == -EINTR || got == -EAGAIN)
        return false;
    uint32_t end = read->done + (got > 0 ? (uint32_t)got : 0);
    read->result = got < 0 ? (int)got : end < read->needed ? -ENODATA : 0;
    if (got <= 0 || read->result == 0)
        return true;
    /* The rest must begin where O_DIRECT can. Less than a sector comes at a file's end only. */
    uint32_t begin = end - end % READER_ALIGNMENT;
    if (begin == read->done)
        return true;
    read->done = begin;
    return false;
}

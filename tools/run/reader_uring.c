/* SPDX-License-Identifier: MIT */
#include "tools/run/reader_kinds.h"

#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

enum { REGISTERED_MAX = 1 << 30 }; /* bytes, of one buffer */

struct reader_uring {
    struct reader reader; /* first */
    struct io_uring ring;
    bool buffers, files; /* whether they are registered */
};

static void ask(struct reader *r, struct read *read)
{
    struct reader_uring *u = (struct reader_uring *)r;
    /* There is one for each read that may be under way, once those before have been submitted. */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    while (!sqe) {
        io_uring_submit(&u->ring);
        sqe = io_uring_get_sqe(&u->ring);
    }
    int fd = u->files ? read->file : r->fds[read->file];
    if (u->buffers)
        io_uring_prep_read_fixed(sqe, fd, read->to + read->done, read->size - read->done,
                                 read->offset + read->done, 0);
    else
        io_uring_prep_read(sqe, fd, read->to + read->done, read->size - read->done,
                           read->offset + read->done);
    if (u->files)
        io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, read);
}

static void reap(struct reader *r, bool wait)
{
    struct reader_uring *u = (struct reader_uring *)r;
    struct io_uring_cqe *cqe;
    unsigned landed = 0;
    do {
        if (wait)
            io_uring_submit_and_wait(&u->ring, 1);
        else
            io_uring_submit_and_get_events(&u->ring);
        while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
            struct read *read = io_uring_cqe_get_data(cqe);
            int got = cqe->res;
            io_uring_cqe_seen(&u->ring, cqe);
            read->landed = read_advance(read, got);
            if (read->landed) {
                landed++;
                r->under_way--;
            } else {
                r->stats.again++;
                ask(r, read);
            }
        }
    } while (wait && !landed);
}

static void added(struct reader *r, int file)
{
    struct reader_uring *u = (struct reader_uring *)r;
    if (u->files && io_uring_register_files_update(&u->ring, (unsigned)file, &r->fds[file], 1) != 1)
        u->files = false; /* by number from now on; what is under way has its file already */
}

static void close_ring(struct reader *r)
{
    struct reader_uring *u = (struct reader_uring *)r;
    io_uring_queue_exit(&u->ring);
    free(u);
}

/* With what newer kernels can do for a ring of one thread, else without. */
static int start(struct io_uring *ring)
{
    static const unsigned flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                         IORING_SETUP_TASKRUN_FLAG,
                                     IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
    int rc = -EINVAL;
    for (size_t i = 0; rc == -EINVAL && i < sizeof flags / sizeof *flags; i++)
        rc = io_uring_queue_init(READER_DEPTH, ring, flags[i]);
    return rc;
}

int reader_uring_open(void *memory, size_t size, struct reader **out)
{
    struct reader_uring *u = calloc(1, sizeof *u);
    if (!u)
        return -ENOMEM;
    int rc = start(&u->ring);
    if (rc) {
        free(u);
        return rc;
    }
    /* Both only save the kernel work; there may be limits to them. */
    struct iovec whole = {memory, size};
    u->buffers = size <= REGISTERED_MAX && io_uring_register_buffers(&u->ring, &whole, 1) == 0;
    u->files = io_uring_register_files_sparse(&u->ring, READER_FILES) == 0;
    u->reader = (struct reader){.kind = READER_URING,
                                .ask = ask,
                                .reap = reap,
                                .added = added,
                                .close = close_ring};
    snprintf(u->reader.name, sizeof u->reader.name, "io_uring%s%s",
             u->buffers ? ", registered buffers" : "",
             !u->files      ? ""
             : u->buffers   ? " and files"
                            : ", registered files");
    *out = &u->reader;
    return 0;
}

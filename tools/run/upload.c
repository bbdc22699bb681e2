/* SPDX-License-Identifier: MIT */
#include "tools/run/upload.h"

#include "tools/run/trouble.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { BUFFER = 8 << 20 };

int upload_open(struct backend *b, struct upload *u, struct error *err)
{
    *u = (struct upload){.backend = b};
    if (b->unified)
        return 0;
    void *p = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = b->pin(b, p, BUFFER, NULL);
    if (rc) {
        munmap(p, BUFFER);
        return trouble_set(err, b, rc, "pinning memory for the GPU");
    }
    u->buffer = p;
    rc = b->event_new(b, &u->done);
    return rc ? error_set(err, rc, "out of memory") : 0;
}

void upload_close(struct upload *u)
{
    if (!u->buffer)
        return;
    if (u->done)
        u->backend->event_free(u->backend, u->done);
    u->backend->unpin(u->backend, u->buffer);
    munmap(u->buffer, BUFFER);
}

/* Copies what is in the buffer, and waits, so that it may be filled again. */
static int flush(struct upload *u, void *to, size_t size, struct error *err)
{
    struct backend *b = u->backend;
    int rc = b->copy_in(b, QUEUE_COMPUTE, to, u->buffer, size);
    rc = rc ? rc : b->event_record(b, u->done, QUEUE_COMPUTE);
    rc = rc ? rc : b->event_wait(b, u->done);
    return trouble_set(err, b, rc, "a copy");
}

int upload_bytes(struct upload *u, void *to, const void *from, size_t size, struct error *err)
{
    int rc = 0;
    if (!u->buffer) {
        memcpy(to, from, size);
        return 0;
    }
    for (size_t at = 0, n; !rc && at < size; at += n) {
        n = size - at < BUFFER ? size - at : BUFFER;
        memcpy(u->buffer, (const uint8_t *)from + at, n);
        rc = flush(u, (uint8_t *)to + at, n, err);
    }
    return rc;
}

int upload_file(struct upload *u, void *to, struct source *file, uint64_t offset, uint64_t size,
                struct error *err)
{
    if (!u->buffer)
        return source_read(file, to, offset, size, err);
    int rc = 0;
    for (uint64_t at = 0, n; !rc && at < size; at += n) {
        n = size - at < BUFFER ? size - at : BUFFER;
        rc = source_read(file, u->buffer, offset + at, n, err);
        rc = rc ? rc : flush(u, (uint8_t *)to + at, n, err);
    }
    return rc;
}

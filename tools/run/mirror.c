/* SPDX-License-Identifier: MIT */
#include "tools/run/mirror.h"

#include <errno.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

static int make_host(struct backend *b, struct mirror *m)
{
    size_t size = (m->size + PAGE - 1) / PAGE * PAGE;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    m->size = size;
    int rc = b->pin(b, p, size, NULL);
    if (rc)
        munmap(p, size);
    else
        m->host = p;
    return rc;
}

int mirror_new(struct backend *b, size_t count, size_t element, struct mirror *out)
{
    struct mirror m = {0};
    size_t size;
    *out = m;
    if (__builtin_mul_overflow(count, element, &size) || size > SIZE_MAX - PAGE)
        return -EOVERFLOW;
    m.size = size ? size : 1;
    int rc = b->alloc(b, m.size, &m.device);
    if (rc)
        return rc;
    if (b->unified)
        m.host = m.device;
    else
        rc = make_host(b, &m);
    if (rc)
        b->free(b, m.device);
    else
        *out = m;
    return rc;
}

void mirror_free(struct backend *b, struct mirror *m)
{
    if (!m->device)
        return;
    if (m->host != m->device) {
        b->unpin(b, m->host);
        munmap(m->host, m->size);
    }
    b->free(b, m->device);
    *m = (struct mirror){0};
}

int mirror_send(struct backend *b, const struct mirror *m, size_t size)
{
    return m->host == m->device ? 0 : b->copy_in(b, QUEUE_COMPUTE, m->device, m->host, size);
}

int mirror_fetch(struct backend *b, const struct mirror *m, size_t size)
{
    return m->host == m->device ? 0 : b->copy_out(b, QUEUE_COMPUTE, m->host, m->device, size);
}

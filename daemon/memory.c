/* SPDX-License-Identifier: MIT */
#include "daemon/memory.h"

#include <stdlib.h>

static int class_of(size_t n)
{
    int class = MEMORY_CLASS_MIN;
    while (((size_t)1 << class) < n)
        class ++;
    return class;
}

size_t memory_size(size_t n) { return (size_t)1 << class_of(n); }

void memory_init(struct memory *m, size_t budget) { *m = (struct memory){.budget = budget}; }

/* Gives one kept buffer of the class back to the system. */
static void release(struct memory *m, int class)
{
    void *buffer = m->kept[class];
    m->kept[class] = *(void **)buffer;
    m->held -= (size_t)1 << class;
    free(buffer);
}

void memory_destroy(struct memory *m)
{
    for (int class = 0; class <= MEMORY_CLASS_MAX; class ++)
        while (m->kept[class])
            release(m, class);
}

void *memory_take(struct memory *m, size_t n)
{
    int class = class_of(n);
    size_t size = (size_t)1 << class;
    if (m->kept[class]) {
        void *buffer = m->kept[class];
        m->kept[class] = *(void **)buffer;
        return buffer;
    }
    for (int other = MEMORY_CLASS_MAX; other >= 0 && m->held + size > m->budget; other--)
        while (m->kept[other] && m->held + size > m->budget)
            release(m, other);
    if (m->held + size > m->budget)
        return NULL;
    void *buffer = aligned_alloc(4096, size);
    if (buffer)
        m->held += size;
    return buffer;
}

void memory_give(struct memory *m, void *buffer, size_t n)
{
    int class = class_of(n);
    *(void **)buffer = m->kept[class];
    m->kept[class] = buffer;
}

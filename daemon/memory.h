/* SPDX-License-Identifier: MIT
 *
 * Buffers under a hard budget. They come in powers of two and are kept for reuse, for the first
 * touch of fresh memory costs more than filling it again. Not locked: the owner locks.
 */
#ifndef DAEMON_MEMORY_H
#define DAEMON_MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum { MEMORY_CLASS_MIN = 12, MEMORY_CLASS_MAX = 21, MEMORY_SIZE_MAX = 1 << MEMORY_CLASS_MAX };

struct memory {
    size_t budget, held; /* held: in use or kept */
    void *kept[MEMORY_CLASS_MAX + 1]; /* by class: a list linked through the buffers */
};

void memory_init(struct memory *m, size_t budget);
void memory_destroy(struct memory *m);

/* A buffer of at least n <= MEMORY_SIZE_MAX bytes, or NULL when the budget (or the machine) does
 * not have it; then somebody must give one back first. */
void *memory_take(struct memory *m, size_t n);

/* n as given to memory_take. */
void memory_give(struct memory *m, void *buffer, size_t n);

/* What n bytes really take. */
size_t memory_size(size_t n);

#endif

/* SPDX-License-Identifier: MIT */
#ifndef TESTS_UNIT_EDGE_H
#define TESTS_UNIT_EDGE_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* n bytes that end where the process may read no further, so at an odd address where n is odd. They
 * are not given back. */
static inline uint8_t *at_the_edge(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (n + page - 1) / page * page;
    uint8_t *p =
        mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + size, page, PROT_NONE))
        abort();
    return p + size - n;
}

#endif

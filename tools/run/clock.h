/* SPDX-License-Identifier: MIT
 *
 * What durations are measured with.
 */
#ifndef TOOLS_RUN_CLOCK_H
#define TOOLS_RUN_CLOCK_H

#include <time.h>

/* Seconds since some moment. */
static inline double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#endif

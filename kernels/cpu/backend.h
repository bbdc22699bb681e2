/* SPDX-License-Identifier: MIT
 *
 * The processor as a backend: host memory, queues that are empty whenever a function returns, and
 * products by the given set of kernels.
 */
#ifndef KERNELS_CPU_BACKEND_H
#define KERNELS_CPU_BACKEND_H

#include "kernels/backend.h"
#include "kernels/cpu/dot.h"

/* callers: how many threads will share a product. -ENOMEM. To be closed. */
int backend_cpu_open(const struct dot_set *set, unsigned callers, struct backend **out);

#endif

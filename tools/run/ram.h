/* SPDX-License-Identifier: MIT
 *
 * How much memory this process may take: what the machine has to give, or its control group.
 */
#ifndef TOOLS_RUN_RAM_H
#define TOOLS_RUN_RAM_H

#include <stdint.h>

/* Bytes that can be taken without anything being swapped or killed, from now on. */
uint64_t ram_available(void);

/* Bytes that this process holds. */
uint64_t ram_resident(void);

#endif

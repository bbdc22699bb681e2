/* SPDX-License-Identifier: MIT
 *
 * Tells one build of the program from another, for what is kept on disk and follows from its code.
 */
#ifndef DAEMON_BUILD_ID_H
#define DAEMON_BUILD_ID_H

#include <stddef.h>
#include <stdint.h>

/* The build id that the linker wrote into the program, into out (at most max bytes). Returns its
 * length, 0 where there is none. */
size_t build_id(uint8_t *out, size_t max);

#endif

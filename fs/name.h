/* SPDX-License-Identifier: MIT
 *
 * Names from inside files (tensor names) as names of directory entries. Bytes that a path or a
 * terminal cannot bear are percent-encoded: "/", "%", control characters, what is not UTF-8, and
 * the dots of "." and "..". A name that gets longer than 255 bytes is cut and ends in "~" and 16
 * hexadecimal digits of its hash. Equal names give equal names, different ones different names.
 */
#ifndef FS_NAME_H
#define FS_NAME_H

#include <stdbool.h>
#include <stddef.h>

enum { NAME_BYTES = 255 };

/* out: NAME_BYTES + 1 bytes */
void name_encode(const char *raw, char *out);

/* The raw name that an encoded one stands for, or false where it is no such name. One that was cut
 * cannot be undone: that is false, too, or a name that nothing has. out: NAME_BYTES + 1 bytes. */
bool name_decode(const char *encoded, char *out);

#endif

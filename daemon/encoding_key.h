/* SPDX-License-Identifier: MIT
 *
 * What the bytes of an encoding follow from, as one number.
 */
#ifndef DAEMON_ENCODING_KEY_H
#define DAEMON_ENCODING_KEY_H

#include "daemon/encoding.h"

/* Sets e->key: SHA-256 over everything that the bytes follow from, each field with its length or of
 * fixed size. Paths and device numbers stay out, so that machines which mount one disk share objects. */
void encoding_set_key(struct encoding *e);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The files of .quantfs/: what the daemon counts, made anew at every open.
 */
#ifndef FS_CONTROL_H
#define FS_CONTROL_H

#include "fs/tree.h"

enum { CONTROL_COUNT = 4 };

/* stats, stats.json, metrics, version */
extern const char *const control_names[CONTROL_COUNT];

/* The text of a control file; free() it. NULL when memory is out. */
char *control_text(const struct tree *t, unsigned which);

#endif

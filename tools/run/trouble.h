/* SPDX-License-Identifier: MIT
 *
 * What went wrong where a backend computes, in a sentence.
 */
#ifndef TOOLS_RUN_TROUBLE_H
#define TOOLS_RUN_TROUBLE_H

#include "codec/error.h"
#include "kernels/backend.h"

#include <string.h>

/* "WHAT failed: ..." for an rc that is not 0; returns rc. */
static inline int trouble_set(struct error *err, const struct backend *b, int rc, const char *what)
{
    const char *why = b->trouble ? b->trouble : strerror(-rc);
    return rc ? error_set(err, rc, "%s failed: %s", what, why) : 0;
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The weights that an encoding is made of: read from files or derived, in the view's order, scaled.
 */
#ifndef DAEMON_WEIGHTS_H
#define DAEMON_WEIGHTS_H

#include "daemon/encoding.h"

/* Bytes of n weights as a file has them; n is a multiple of the type's block. */
static inline size_t weights_raw_size(const struct dtype *t, size_t n)
{
    return n / t->block * t->block_size;
}

/* Reads weights [first, first + n) as they are stored. -errno, -EINVAL where one is not finite. Not
 * for what is derived. */
int weights_read_stored(const struct encoding *e, uint64_t first, size_t n, void *raw,
                        struct error *err);

/* Reads weights [first, first + n) as floats; *out lies in the scratch's second area, the first is
 * used, too. -errno, -EINVAL where one is not finite. */
int weights_read(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                 struct scratch *scratch, float **out, struct error *err);

/* -EINVAL, with a sentence about weight `at`: which file, tensor, row and column it is from. */
int weights_bad(const struct encoding *e, uint64_t at, const char *problem, struct error *err);

#endif

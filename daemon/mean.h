/* SPDX-License-Identifier: MIT
 *
 * The mean of absmax over all blocks of a matrix in NF4, which is taken off before absmax is
 * quantized in turn (codec/bnb/FORMAT.md). It is the one number that needs all of a matrix: one
 * pass over its tiles, which the workers make side by side and which its weights are shown from,
 * too. The pass is made when the number is first asked for. It is kept as long as the tiles' owner
 * lives, and in the tile cache, where the matrix has more than a tile.
 */
#ifndef DAEMON_MEAN_H
#define DAEMON_MEAN_H

#include "daemon/tile.h"

struct means;

/* NULL when memory is out. */
struct means *means_new(void);
void means_free(struct means *m);

/* The mean of an encoding in NF4. Whoever asks while the pass is being made waits for it. No tile
 * may be held. Errors as of tile_get; they are not kept. */
int mean_get(struct tiles *tiles, struct encoding *e, enum job_class class, float *out,
             struct error *err);

#endif

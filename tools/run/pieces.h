/* SPDX-License-Identifier: MIT
 *
 * Weights that are not resident, cut into pieces, and where those lie. A part of weights.h, for
 * placing.c.
 */
#ifndef TOOLS_RUN_PIECES_H
#define TOOLS_RUN_PIECES_H

#include "tools/run/weights.h"

/* Units after which a run of rows may begin: where the backend wants it to. */
uint64_t pieces_step(const struct weights *w, const struct weight *m);

/* What a slot must have for pieces of about `target` bytes, or tiles. */
uint64_t pieces_slot_size(const struct weights *w, uint64_t target);

/* Cuts what is not resident, in the order of a pass. -ENOMEM. */
int pieces_cut(struct weights *w, uint64_t target);

/* Opens the ring that was sized, for pieces wherever they lie. */
int pieces_open_ring(struct weights *w, enum reader_kind io, struct error *err);

#endif

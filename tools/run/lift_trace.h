/* SPDX-License-Identifier: MIT
 *
 * When the first pieces that are lifted were copied and multiplied with, as the device's clock has it:
 * whether copies and products go on beside each other can be seen from that. It takes two events for
 * each piece and queue, and asks for nothing else, so that a run that is traced is the same run.
 *
 * Pieces that are multiplied with by one and the same call have one and the same run, which begins
 * when the last of them is there: what a piece waits for another is no work.
 */
#ifndef TOOLS_RUN_LIFT_TRACE_H
#define TOOLS_RUN_LIFT_TRACE_H

#include "codec/error.h"
#include "kernels/backend.h"

#include <stdio.h>

struct lift_trace;

/* Of the first `most` pieces, at least one. copies: they are copied, and not read where they lie.
 * -ENOMEM. */
int lift_trace_new(struct backend *b, size_t most, bool copies, struct lift_trace **out);
/* Waits for what is traced, if it is still under way. */
void lift_trace_free(struct lift_trace *t);

/* Around what is asked of QUEUE_COPY for the next piece to be copied, and of QUEUE_COMPUTE for the
 * pieces to be multiplied with, each of which begins by itself; all that began end together. Pieces
 * begin in the order in which they were copied. NULL for t: nobody traces. */
int lift_trace_copy_begins(struct lift_trace *t);
int lift_trace_copy_ends(struct lift_trace *t);
int lift_trace_run_begins(struct lift_trace *t, size_t piece, uint64_t bytes);
int lift_trace_run_ends(struct lift_trace *t);

/* A JSON object a line for each piece that was multiplied with, in seconds since the first began:
 *
 *     {"piece": 7, "bytes": 4194304, "copy": [0.00113, 0.0013], "run": [0.0013, 0.00135]}
 *
 * Waits for what is traced. -EIO as the backend's waits. */
int lift_trace_write(const struct lift_trace *t, FILE *out);

#endif

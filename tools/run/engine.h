/* SPDX-License-Identifier: MIT
 *
 * A model made ready to run: the kernels, the threads, the weights where they fit, and a forward
 * pass over them.
 */
#ifndef TOOLS_RUN_ENGINE_H
#define TOOLS_RUN_ENGINE_H

#include "tools/output.h"
#include "tools/run/forward.h"
#include "tools/run/machine.h"
#include "tools/run/options.h"

enum { ENGINE_BATCH = 128, ENGINE_CONTEXT = 4096 }; /* tokens */

struct engine {
    struct machine machine;
    struct backend *backend; /* the machine's */
    struct team *team;
    struct weights weights;
    struct run_model model;
    struct forward *forward;
    uint32_t context, batch; /* positions; the most tokens of a call of forward_run */
    uint64_t vram;           /* bytes of a device's memory that may be used */
    bool by_layer;           /* the weights are left in the file */
    struct plan_rates rates; /* measured: of the file, 0 where all is resident; of memory, that of a
                                GPU as its makers say, 0: unknown */
    double lift_rate;        /* measured: of copies to a GPU; 0 without */
    double expected;         /* tokens a second, of decoding; 0: unknown */
    struct output trace;     /* no path: none is wanted, or it is written */
};

/* Opens a GGUF file and loads what fits. context: that of the options, else the given one, where 0
 * is what the model was trained with, at most ENGINE_CONTEXT. -errno with a sentence that begins
 * with the path. */
int engine_open(struct engine *e, const char *path, const struct run_options *o, uint32_t context,
                struct error *err);
void engine_close(struct engine *e);

/* Writes the trace that the options ask for, if they do, once all has been run. */
int engine_trace(struct engine *e, struct error *err);

#endif

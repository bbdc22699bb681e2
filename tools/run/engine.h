/* SPDX-License-Identifier: MIT
 *
 * A model made ready to run: the kernels, the threads, the weights where they fit, and a forward
 * pass over them.
 */
#ifndef TOOLS_RUN_ENGINE_H
#define TOOLS_RUN_ENGINE_H

#include "tools/run/forward.h"
#include "tools/run/options.h"

enum { ENGINE_BATCH = 128, ENGINE_CONTEXT = 4096 }; /* tokens */

struct engine {
    struct backend *backend;
    struct team *team;
    struct weights weights;
    struct run_model model;
    struct forward *forward;
    uint32_t context;
    bool by_layer; /* the weights are left in the file */
    struct plan_rates rates; /* measured: of the file, 0 where all is resident; of memory */
    double expected;         /* tokens a second, of decoding */
};

/* Opens a GGUF file and loads what fits. context: that of the options, else the given one, where 0
 * is what the model was trained with, at most ENGINE_CONTEXT. -errno with a sentence that begins
 * with the path. */
int engine_open(struct engine *e, const char *path, const struct run_options *o, uint32_t context,
                struct error *err);
void engine_close(struct engine *e);

#endif

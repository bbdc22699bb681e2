/* SPDX-License-Identifier: MIT
 *
 * A model made ready to run: the kernels, the threads, the weights, and a forward pass over them.
 */
#ifndef TOOLS_RUN_ENGINE_H
#define TOOLS_RUN_ENGINE_H

#include "tools/run/forward.h"

enum { ENGINE_BATCH = 128, ENGINE_CONTEXT = 4096 }; /* tokens */

struct engine {
    struct backend *backend;
    struct team *team;
    struct weights weights;
    struct run_model model;
    struct forward *forward;
    uint32_t context;
};

/* Loads a GGUF file. context: 0 for what the model was trained with, or
 * ENGINE_CONTEXT if that is less. threads: 0 for one for each
 * processor that this process may use. -errno with a sentence that begins with the path. */
int engine_open(struct engine *e, const char *path, uint32_t context, unsigned threads,
                struct error *err);
void engine_close(struct engine *e);

#endif

/* SPDX-License-Identifier: MIT
 *
 * A calibration whose layers see what packing the layers before them does. Layer by layer the
 * text's hidden states go through the layer as it is, which is observed, and then through what packing
 * leaves of it, which gives the next layer's. They wait in a file without a name.
 */
#ifndef TOOLS_RUN_SEQUENTIAL_H
#define TOOLS_RUN_SEQUENTIAL_H

#include "codec/token_ids.h"
#include "tools/command.h"
#include "tools/run/engine.h"
#include "tools/run/hessians.h"
#include "tools/run/packing.h"

struct sequential {
    struct engine *engine; /* its weights are left in the file */
    struct hessians *hessians;
    const struct observer *observer; /* of every layer as it is */
    struct packing packing;
    struct token_ids *ids;
    uint32_t chunks;
    struct progress *progress;
};

/* Disk that the hidden states take, in the calibration's folder. */
uint64_t sequential_bytes(const struct sequential *s);

/* How often all chunks are gone through. */
uint64_t sequential_runs(const struct sequential *s);

/* Layers whose files are all there are not summed up again, but run: hidden states are not kept
 * from run to run. -errno with a sentence; then the files of the layers before are there. */
int sequential_run(struct sequential *s, struct error *err);

#endif

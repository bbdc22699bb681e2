/* SPDX-License-Identifier: MIT
 *
 * What a model is run on: a processor, a GPU, or the emulator of one.
 */
#ifndef TOOLS_RUN_MACHINE_H
#define TOOLS_RUN_MACHINE_H

#include "codec/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_api.h"

enum machine_kind { MACHINE_CPU, MACHINE_CUDA, MACHINE_EMU };

/* "cpu", "cuda", "emu". */
bool machine_by_name(const char *name, enum machine_kind *out);

struct machine {
    enum machine_kind kind;
    struct backend *backend;
    struct cuda_api api; /* of a GPU, or what stands for it */
};

/* threads: of a processor. vram: of an emulator, bytes; 0: as many as most GPUs have. -ENODEV with a
 * sentence where there is no such machine, or this program was built without it. */
int machine_open(struct machine *m, enum machine_kind kind, unsigned threads, uint64_t vram,
                 struct error *err);
void machine_close(struct machine *m);

#endif

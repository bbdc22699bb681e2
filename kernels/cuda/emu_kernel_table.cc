/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/emu_api.h"
#include "kernels/cuda/kernels.h"

extern "C" {
#define DECLARE(name, arguments) emu_kernel_fn name;
CUDA_KERNELS(DECLARE)
#undef DECLARE

const struct emu_kernel emu_kernels[] = {
#define ENTRY(name, arguments) {#name, name, sizeof(struct arguments)},
    CUDA_KERNELS(ENTRY)
#undef ENTRY
    {NULL, NULL, 0},
};
}

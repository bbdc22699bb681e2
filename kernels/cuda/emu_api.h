/* SPDX-License-Identifier: MIT
 *
 * A driver of CUDA without a GPU: a table of functions like the driver's, over the emulator. It
 * does what is asked of its streams late, in an order of its own, and as any driver may; and it
 * knows what a program has to wait for. A program that works only as long as it is lucky ends
 * here, in whatever order its work was done, with a sentence that names the operations:
 *
 *   - two operations use the same memory, one of them writes, and nothing says which is first:
 *     no stream, no event that one stream waits for, nothing that the host has waited for;
 *   - the host changes memory before it has waited for who reads it, or touches what a copy is
 *     to write there;
 *   - memory, a stream or an event is freed before the host has waited for who uses it;
 *   - a copy from or to host memory that is not registered, or device memory that is not there;
 *   - a kernel that uses host memory that is not registered as mapped, or anything else that
 *     emu.h finds;
 *   - handles that nobody made, or that were freed; the default stream, which nothing here
 *     uses.
 *
 * Memory counts by 16 bytes: who uses one of them uses all. What a copy wrote to host memory can
 * be seen there when the host has waited for it, and is 0xff until then. Device memory is fresh
 * with 0xff in it, which is NaN, and begins at multiples of 256 and of nothing more.
 *
 * One device in a process. Any thread may call, one at a time gets in, and what one of them has
 * waited for the others have waited for, too. As with the driver, a context is current for each
 * thread.
 */
#ifndef KERNELS_CUDA_EMU_API_H
#define KERNELS_CUDA_EMU_API_H

#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/emu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct emu_api_options {
    size_t budget;         /* bytes of device memory */
    size_t register_limit; /* bytes of host memory that can be registered at a time; 0: all */
    uint64_t seed;         /* of the order; 0: each operation is done when it is asked for */
    bool reverse;          /* the order of threads, as emu_reverse has it */
    uint64_t fail_at;      /* the operation, from 1 on, that fails, and so all behind it; 0: none */
};

struct emu_kernel {
    const char *name;
    emu_kernel_fn *kernel;
    size_t size; /* of its struct of arguments */
};

/* Those of kernels.h, a NULL name behind the last. */
extern const struct emu_kernel emu_kernels[];

/* Fills the table; every module has these kernels, a NULL name behind the last, whatever its code.
 * -EBUSY where there is such a driver, -ENOMEM. */
int emu_api_open(struct cuda_api *api, const struct emu_api_options *o,
                 const struct emu_kernel *kernels);
/* What is left of it is gone, done or not. */
void emu_api_close(struct cuda_api *api);

struct emu_api_counts {
    size_t allocated, allocated_most; /* bytes of device memory, now and at any time */
    size_t registered;                /* bytes of host memory */
    size_t handles;                 /* contexts, modules, streams and events, as long as they are */
    uint64_t operations, done;      /* asked for; of these */
    uint64_t launches;              /* asked for */
    uint64_t copied_in, copied_out; /* bytes, asked for */
};

struct emu_api_counts emu_api_count(void);

#ifdef __cplusplus
}
#endif

#endif

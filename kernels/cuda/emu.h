/* SPDX-License-Identifier: MIT
 *
 * Runs kernels on a processor, without a GPU. The threads of a block are fibers of one thread: each
 * runs until it exchanges something with its warp, or waits for its block. Blocks run one after the
 * other. A kernel that a GPU would let through, with wrong results now and then, ends the program
 * here, with a sentence that names the line:
 *
 *   - memory that nobody gave to the emulator, and addresses that are no multiple of the size;
 *   - shared memory that nobody wrote, or that another thread wrote or reads with no barrier in
 *     between, or that a copy is still on its way to;
 *   - a shuffle, product of matrices or barrier that some of the threads do not reach.
 *
 * Between barriers a GPU's threads run in any order; here lanes run forward or backward, which is
 * for the caller to say. Each access may be recorded, to count what a GPU's memory would have to do.
 */
#ifndef KERNELS_CUDA_EMU_H
#define KERNELS_CUDA_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct emu;

/* A kernel of kernels.h; arguments: its struct. */
typedef void emu_kernel_fn(const void *arguments);

/* NULL where there is no memory. */
struct emu *emu_new(void);
void emu_free(struct emu *e);

/* Kernels may read and write size bytes from p on, until they are taken back. */
void emu_give(struct emu *e, const void *p, size_t size);
void emu_take(struct emu *e, const void *p);

/* Hears of a read or write of memory before it happens; offset: from where that memory begins. */
typedef void emu_watch_fn(void *tag, size_t offset, size_t size, bool write);
/* emu_give, with one who hears of each access. */
void emu_give_watched(struct emu *e, const void *p, size_t size, emu_watch_fn *watch, void *tag);

/* The order of threads: forward (as at first) or backward. */
void emu_reverse(struct emu *e, bool reverse);

/* Whole warps, up to 1024 threads. Returns when all blocks are done. */
void emu_launch(struct emu *e, emu_kernel_fn *kernel, uint32_t blocks, uint32_t threads,
                const void *arguments);

/* What the lanes of a warp asked for at one line, added up over all launches. */
struct emu_site {
    const char *file;
    int line;
    bool shared;       /* memory */
    uint64_t requests; /* of a warp */
    uint64_t bytes;    /* asked for by all lanes */
    uint64_t sectors;  /* of 32 bytes, global memory: each counts once for a request */
    uint32_t ways;     /* shared memory: the most words of one bank, in what is done at once */
};

/* From now on; forgets what was recorded before. */
void emu_record(struct emu *e, bool record);
/* The emulator's own, until the next launch or emu_record. */
const struct emu_site *emu_sites(struct emu *e, size_t *count);

#ifdef __cplusplus
}
#endif

#endif

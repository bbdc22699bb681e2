/* SPDX-License-Identifier: MIT
 *
 * What the parts of the backend call of each other: backend.c has memory, copies, events and
 * launches, products.c activations and products, step.c the rest of a decode step.
 */
#ifndef KERNELS_CUDA_PARTS_H
#define KERNELS_CUDA_PARTS_H

#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"

enum kernel {
    NO_KERNEL, /* there is none */
#define KERNEL_NUMBER(name, arguments) KERNEL_##name,
    CUDA_KERNELS(KERNEL_NUMBER)
#undef KERNEL_NUMBER
        KERNEL_COUNT
};

static inline uint64_t blocks_of(uint64_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

/* Asks QUEUE_COMPUTE for a kernel; arguments: its struct, which may be gone at return. No blocks are
 * nothing to do. -EINVAL for more of them than a grid may have, -EIO. */
int cuda_launch(struct backend *b, enum kernel kernel, uint64_t blocks, uint32_t threads,
                void *arguments);

int cuda_alloc(struct backend *b, size_t size, void **out);
void cuda_free(struct backend *b, void *memory);

/* Set the functions of each part. */
void cuda_products(struct backend *b);
void cuda_step(struct backend *b);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The kernels: what each is asked for. Every kernel takes one struct; all pointers in it are to the
 * device's memory. A kernel is found by its name, in a module of the GPU's or, as a function with
 * that name, in the emulator. The comment above a struct says how many blocks of how many threads.
 *
 * Results have the bits of kernels/cpu wherever dot.h and attend.h define them: the integers are
 * the same, and floats are added up in the same order.
 */
#ifndef KERNELS_CUDA_KERNELS_H
#define KERNELS_CUDA_KERNELS_H

#include <stdint.h>

/* One column of activations in int8 blocks of 32 or 256, as kernels/cpu/activations.h has it: scales
 * one a block; sums of the levels of a block of 32, or in blocks of 256 of each 16, even ones before
 * odd ones. All begin at multiples of 16 bytes. */
struct activation_planes {
    int8_t *levels;
    float *scales;
    int16_t *sums;
};

/* Names: quantize_256, quantize_32. x[cols], cols a multiple of the block. A block with what is not
 * finite gets NaN for its scale. Where order is not NULL, element i is x[order[i]].
 *
 * QUANTIZE_THREADS, a warp for each 256 elements: ceil(cols / 256 / QUANTIZE_WARPS) blocks. */
enum { QUANTIZE_WARPS = 4, QUANTIZE_THREADS = 32 * QUANTIZE_WARPS };
struct quantize_args {
    const float *x;
    const uint32_t *order;
    struct activation_planes out;
    uint32_t cols;
};

/* Names: gemv_q4_k, ... out[r] = row r times x, for the rows of one run, packed one behind the other
 * from a multiple of 16 bytes on. cols is a multiple of the format's block, x of its kind.
 *
 * GEMV_THREADS; ceil(rows / rows of a block) blocks, which the enum has for each kind. */
enum {
    GEMV_WARPS = 4,
    GEMV_THREADS = 32 * GEMV_WARPS,
    GEMV_ROWS_256 = 4 * GEMV_WARPS,
    GEMV_ROWS_32 = 8 * GEMV_WARPS,
};
struct gemv_args {
    const uint8_t *rows;
    struct activation_planes x;
    float *out;
    uint32_t row_count, cols;
};

#endif

/* SPDX-License-Identifier: MIT
 *
 * What tests of a GPU's kernels have in common. They are run by the emulator, forward and backward;
 * memory is given to it to the byte, so nothing around it is read or written.
 */
#ifndef TESTS_UNIT_CUDA_ROOMS_H
#define TESTS_UNIT_CUDA_ROOMS_H

#include "codec/float16.h"
#include "kernels/cuda/emu.h"
#include "kernels/cuda/kernels.h"
#include "tests/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define KERNEL_DECLARE(name, type) emu_kernel_fn name;
CUDA_KERNELS(KERNEL_DECLARE)

static struct emu *emu;

#include "tests/unit/emu_ways.h"

static inline uint32_t blocks_of(uint32_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

/* Memory that kernels may use, aligned as a device's, filled with what is no number. */
static inline void *room(size_t size)
{
    void *p = aligned_alloc(256, (size + 256) / 256 * 256);
    assert_non_null(p);
    memset(p, 0xff, size);
    emu_give(emu, p, size);
    return p;
}

/* The same with a copy of something in it. */
static inline void *room_of(const void *from, size_t size)
{
    return memcpy(room(size), from, size);
}

static inline void room_free(const void *p)
{
    emu_take(emu, p);
    free((void *)p);
}

static inline void same(const char *what, const float *got, const float *wanted, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(got[i]) != f32_bits(wanted[i]) && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s: element %zu of %zu is %a instead of %a", what, i, n, (double)got[i],
                     (double)wanted[i]);
}

/* ---- activations, in blocks of 32, 64 or 256 ---- */

/* How many levels, and how many sums, there are for a column: whole blocks. */
static inline uint32_t levels_of(uint32_t cols, uint32_t block)
{
    return blocks_of(cols, block) * block;
}

static inline uint32_t sums_of(uint32_t cols, uint32_t block)
{
    return levels_of(cols, block) / (block == 32 ? 32 : 16);
}

/* Strides with something left between columns; the rest is 0. */
static inline struct matmul_args strides_of(uint32_t cols, uint32_t block)
{
    return (struct matmul_args){.level_stride = levels_of(cols, block) + 4,
                                .scale_stride = blocks_of(cols, block) + 3,
                                .sum_stride = blocks_of(sums_of(cols, block), 8) * 8 + 8};
}

/* Planes of so many columns; nothing is left behind the last. */
static inline struct activation_planes planes_new(uint32_t cols, uint32_t block, uint32_t batch)
{
    struct matmul_args s = strides_of(cols, block);
    size_t levels = (batch - 1) * s.level_stride + levels_of(cols, block);
    size_t scales = (batch - 1) * s.scale_stride + blocks_of(cols, block);
    size_t sums = (batch - 1) * s.sum_stride + sums_of(cols, block);
    return (struct activation_planes){room(levels), room(scales * sizeof(float)),
                                      room(sums * sizeof(int16_t))};
}

static inline void planes_free(struct activation_planes p)
{
    room_free(p.levels);
    room_free(p.scales);
    room_free(p.sums);
}

/* values: [batch][cols]; order: NULL, or where each element comes from. */
static inline struct activation_planes quantized(const float *values, const uint32_t *order,
                                                 uint32_t cols, uint32_t block, uint32_t batch)
{
    struct matmul_args s = strides_of(cols, block);
    float *x = room_of(values, (size_t)batch * cols * sizeof *x);
    uint32_t *from = order ? room_of(order, cols * sizeof *from) : NULL;
    struct quantize_args args = {
        x,    from, planes_new(cols, block, batch), s.level_stride, s.scale_stride, s.sum_stride,
        cols, batch};
    emu_launch(emu,
               block == 32   ? quantize_32
               : block == 64 ? quantize_64
                             : quantize_256,
               batch * blocks_of(cols, 256 * QUANTIZE_WARPS), QUANTIZE_THREADS, &args);
    room_free(x);
    if (order)
        room_free(from);
    return args.out;
}

/* ---- shared memory ---- */

/* What was recorded: no more than two words of a bank at once, and so many places at least that
 * use shared memory. */
static inline void banks_check(size_t places)
{
    size_t count, shared = 0;
    const struct emu_site *sites = emu_sites(emu, &count);
    for (size_t i = 0; i < count; i++) {
        shared += sites[i].shared;
        if (sites[i].ways > 2)
            fail_msg("%s:%d: %u ways", sites[i].file, sites[i].line, sites[i].ways);
    }
    assert_true(shared >= places);
}

/* A program's main. */
#define RUN_FORWARD_AND_BACKWARD(tests)                                                            \
    int main(void)                                                                                 \
    {                                                                                              \
        emu = emu_new();                                                                           \
        if (!emu)                                                                                  \
            return 1;                                                                              \
        int failed = cmocka_run_group_tests(tests, NULL, NULL);                                    \
        emu_free(emu);                                                                             \
        return failed;                                                                             \
    }

#endif

/* SPDX-License-Identifier: MIT
 *
 * Kernels that only the emulator's test runs, most of them broken in one way.
 */
#ifndef TESTS_UNIT_EMU_TOYS_H
#define TESTS_UNIT_EMU_TOYS_H

#include "kernels/cuda/emu.h"

#include <stdint.h>

enum { TOY_THREADS = 64 };

struct toy_args {
    uint32_t *in, *out;
    uint32_t stride; /* where a toy has one */
};

#ifdef __cplusplus
extern "C" {
#endif

/* out[i] = the word of the block's last thread but i. */
emu_kernel_fn toy_mirror, toy_mirror_without_barrier, toy_mirror_written_again, toy_never_written;
/* out[i] = in[i ^ 1], within a warp. */
emu_kernel_fn toy_neighbour, toy_neighbour_without_barrier;
/* out[i] = in[i + stride]; _words: 16 bytes, of word i * stride on. */
emu_kernel_fn toy_read, toy_read_words, toy_write_past_the_end;
emu_kernel_fn toy_shuffle, toy_shuffle_in_one_half, toy_shuffles_apart, toy_barrier_in_one_warp,
    toy_barriers_apart;
/* out[i] = in[i] by way of a copy to shared memory. */
emu_kernel_fn toy_copy, toy_copy_not_waited_for, toy_copy_of_the_last_group, toy_copy_forgotten;
/* A word of shared memory each, `stride` words apart. */
emu_kernel_fn toy_banks;
/* One warp: in has a, b and d of lane 0, then those of lane 1, ...; out d. */
emu_kernel_fn toy_mma16, toy_mma32;

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: MIT
 *
 * Words from blocks whose size is no multiple of four: they begin at even addresses. Two loads of
 * neighbouring words and a shift give one; a run of n takes n loads of words, one of a half, and n
 * shifts. Nothing outside of the words that p is in is read, and nothing behind the run.
 */
#ifndef KERNELS_CUDA_UNALIGNED_H
#define KERNELS_CUDA_UNALIGNED_H

#include "kernels/cuda/device.h"

/* n words from p on, an even address in memory that begins at a multiple of four. */
template <int n> DEVICE void load_even(const uint8_t *p, uint32_t *out)
{
    uint32_t shift = (uint32_t)(uintptr_t)p % 4 * 8;
    const uint8_t *aligned = p - (uintptr_t)p % 4;
    for (int i = 0; i < n; i++)
        out[i] = load4(aligned + 4 * i);
    /* The last half of the run, where it is not in the words; else it is not looked at. */
    uint32_t rest = load2(p + 4 * n - 2);
    for (int i = 0; i < n; i++)
        out[i] = funnel_right(out[i], i + 1 < n ? out[i + 1] : rest, shift);
}

#endif

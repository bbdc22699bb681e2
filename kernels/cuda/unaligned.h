/* SPDX-License-Identifier: MIT
 *
 * Words from blocks whose size is no multiple of four: they begin at even addresses, in memory that
 * begins at a multiple of four. Neighbouring words and a shift give one; a run of n takes n loads of
 * words, one of a half, and n shifts. Nothing outside of the words that the run is in is read, and
 * nothing behind it.
 */
#ifndef KERNELS_CUDA_UNALIGNED_H
#define KERNELS_CUDA_UNALIGNED_H

#include "kernels/cuda/device.h"

/* One word, from an even address. */
DEVICE uint32_t load_word(const uint8_t *p)
{
    return load2(p) | (uint32_t)load2(p + 2) << 16;
}

struct even_block {
    const uint8_t *words; /* at a multiple of four, 0 or 2 bytes before the block */
    uint32_t shift;       /* bits from there to the block */
};

DEVICE struct even_block even_block_at(const uint8_t *block)
{
    uint32_t rest = (uint32_t)(uintptr_t)block & 2;
    return {block - rest, 8 * rest};
}

/* n words from byte `at` of the block on, a multiple of four. */
template <int n> DEVICE void load_even(struct even_block b, uint32_t at, uint32_t *out)
{
    for (int i = 0; i < n; i++)
        out[i] = load4(b.words + at + 4 * i);
    /* The last half of the run, where it is not in the words; else it is not looked at. */
    uint32_t rest = load2(b.words + at + 4 * n - 2 + b.shift / 8);
    for (int i = 0; i < n; i++)
        out[i] = funnel_right(out[i], i + 1 < n ? out[i + 1] : rest, b.shift);
}

#endif

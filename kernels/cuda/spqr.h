/* SPDX-License-Identifier: MIT
 *
 * What the SpQR kernels have in common: where things lie in a stripe (codec/spqr/FORMAT.md), and
 * outliers. A kernel has no way to refuse a stripe whose outliers break the rules of the format: a row
 * that they are of becomes NaN, so that the model's output is not finite, which is an error.
 */
#ifndef KERNELS_CUDA_SPQR_H
#define KERNELS_CUDA_SPQR_H

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

/* Where planes begin in a supertile. */
template <int bits> struct spqr_planes {
    enum {
        THIRD = 256, /* three bits only */
        SCALES = 128 * bits,
        ZEROS = SCALES + 16,
        TOP_BITS = SCALES + 32,
        STATISTICS = SCALES + 48,
        SIZE = SCALES + 80,
    };
};

/* A three-bit code of group g: two bits of a plane's byte and one of the third bits. */
DEVICE float statistic_code(uint32_t low_bits, uint32_t top_bits, int g)
{
    return (float)((low_bits >> 2 * g & 3) | (top_bits << 2 >> g & 4));
}

DEVICE float half_of(const uint32_t *words, int i)
{
    return half_to_float((uint16_t)(words[i / 2] >> 16 * (i % 2)));
}

/* The slots of a row, and what their products are added to: 0, or NaN where ends are in no order, and
 * then there are no slots. */
struct slot_range {
    uint32_t first, end;
    float sum;
};

DEVICE struct slot_range slots_of(const struct spqr_places *l, const uint8_t *stripe, uint32_t row)
{
    const uint8_t *ends = stripe + l->ends_at;
    uint32_t end = load4(ends + 4 * row), first = row ? load4(ends + 4 * row - 4) : 0;
    if (first > end || end > l->slots)
        return {0, 0, float_from(0x7fc00000)};
    return {first, end, 0};
}

/* The residual in a slot times its activation; NaN where there is no such column. */
DEVICE float outlier_product(const struct spqr_places *l, const uint8_t *stripe, uint32_t slot,
                             const int8_t *levels, const float *scales)
{
    uint32_t column = l->wide ? load4(stripe + l->columns_at + 4 * (size_t)slot)
                              : load2(stripe + l->columns_at + 2 * (size_t)slot);
    if (column >= l->cols)
        return float_from(0x7fc00000);
    float level = (float)(int8_t)load1(levels + column);
    float x = float_from(load4(scales + column / 64)) * level;
    return half_to_float(load2(stripe + l->values_at + 2 * (size_t)slot)) * x;
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * Made-up packed weights: any codes, which no encoder would have to make.
 */
#ifndef TESTS_PACKED_H
#define TESTS_PACKED_H

#include "codec/float16.h"
#include "codec/format.h"
#include "tests/weights.h"

/* Sets the halves of a block: d, then dmin or m. */
static inline void scales_put(const struct format *f, uint8_t *block, float d, float dmin)
{
    uint16_t half[2] = {f16_from_f32(d), f16_from_f32(dmin)};
    for (int h = 0; h < f->halves; h++)
        memcpy(block + f->half_offset[h], &half[h], 2);
}

/* So many blocks of any codes, with scales of either sign, some of them zero. */
static inline void packed_fill(const struct format *f, struct random *r, uint8_t *packed,
                               size_t blocks)
{
    for (size_t i = 0; i < blocks * f->block_size; i++)
        packed[i] = (uint8_t)random_bits(r);
    for (size_t i = 0; i < blocks; i++) {
        bool zero = random_bits(r) % 16 == 0;
        scales_put(f, packed + i * f->block_size, zero ? 0 : random_gaussian(r),
                   zero ? 0 : random_gaussian(r));
    }
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The encoders, LANES blocks at a time. Their files (encode_k_lanes.c, encode_32_lanes.c)
 * are compiled once for each instruction set.
 *
 * A sum must run in the reference's order, so no single group can be spread over a vector. But
 * blocks know nothing of each other: one lane of a vector runs one superblock of 256 weights (or
 * one block of 32) from the first weight to the last, exactly as the scalar encoders would, while
 * the other lanes run others. Scales of scales, rounding, packing are then vertical as well; only
 * on the way in and out are vectors transposed. Lanes that have no block left repeat another's
 * and are not stored.
 *
 * The functions have the names and the order of those in encode_k.c and encode_32.c, where the
 * formats are explained. Packed blocks are made as words of four bytes, one vector for each word.
 */
#ifndef CODEC_ENCODE_LANES_H
#define CODEC_ENCODE_LANES_H

#include "codec/block.h"
#include "codec/encode_isa.h"
#include "codec/search_lanes.h"

#include <string.h>

enum { WORDS_MAX = 64 };

/* ---- in and out ---- */

/* n weights (a multiple of LANES) from each of LANES places: out[i] gets weight i of all. So many
 * places at once are more than the processor foresees: it is told what will be wanted next, as many
 * floats ahead. */
LANES_INLINE void load_columns(const float *const from[LANES], size_t n, size_t ahead, vfloat *out)
{
    for (size_t i = 0; i < n; i += LANES) {
        vfloat rows[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            rows[lane] = vfloat_load(from[lane] + i);
            if (ahead)
                prefetch(from[lane] + i, ahead);
        }
        transpose(rows);
        for (int lane = 0; lane < LANES; lane++)
            out[i + (size_t)lane] = rows[lane];
    }
}

/* The blocks that words hold: `size` bytes from byte `skip` on, of the first `count` lanes. Whole
 * vectors are transposed, whatever lies in them behind the last byte. */
LANES_INLINE void store_blocks(const vint *words, size_t skip, size_t size, size_t count,
                               uint8_t *out)
{
    float blocks[LANES][WORDS_MAX];
    for (size_t i = 0; i < (skip + size + 3) / 4; i += LANES) {
        vfloat rows[LANES];
        for (int lane = 0; lane < LANES; lane++)
            rows[lane] = (vfloat)words[i + (size_t)lane];
        transpose(rows);
        for (int lane = 0; lane < LANES; lane++)
            vfloat_store(blocks[lane] + i, rows[lane]);
    }
    for (size_t lane = 0; lane < count; lane++)
        memcpy(out + lane * size, (uint8_t *)blocks[lane] + skip, size);
}

/* Four bytes as a word. */
LANES_INLINE vint word(vint a, vint b, vint c, vint d)
{
    return a | b << 8 | c << 16 | d << 24;
}

/* n bytes, a multiple of four, as words. */
LANES_INLINE void words_put(int n, const vint *bytes, vint *words)
{
    for (int i = 0; i < n; i += 4)
        words[i / 4] = word(bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]);
}

LANES_INLINE vfloat sum_squares(const vfloat *x, int n)
{
    vfloat sum = {0};
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * SpQR, by stripes of 16 rows (codec/spqr/FORMAT.md), for 2, 3 and 4 bits.
 *
 * A block of four warps takes a stripe. Sixteen lanes take a supertile, a lane a row: two supertiles
 * a warp, eight a block, at once. For 64 weights a lane loads its 8 * bits bytes of each plane of
 * codes, 16 at a time, so that sixteen lanes read each plane as one run; a byte of scales, one of
 * zeros and one of third bits, likewise; and the 32 bytes of statistics and 64 levels, which are the
 * same for all sixteen. A group of 16 columns is four dp4a and
 *
 *     scale * (sum of code * level - zero * sum of level)
 *
 * with scale and zero made anew for each row, as the format has it.
 *
 * What supertiles add is written to shared memory, 64 of them in a turn, and sixteen threads add it
 * up, in order, while the others are at the next turn.
 *
 * Then each thread takes every eighth outlier of its row: a residual times the activation, as the
 * int8 block has it.
 *
 * The order of float sums is that of kernels/cpu/stripe.h: a row's supertiles one after the other;
 * outlier j to sum j % 8, which are added up in halves; at last those two. Columns of outliers are
 * cut to the matrix and slots to the stripe, so that nothing else is read, whatever they say.
 */
#include "kernels/cuda/spqr.h"

enum { SPQR_SUMS = SPQR_THREADS / 16, TURN_TILES = 64, TURN_WORDS = TURN_TILES * 16 };

/* The codes of a row as they lie. */
template <int bits> struct spqr_codes {
    uint32_t w[2 * bits];
};

template <int bits>
DEVICE void codes_load(const uint8_t *tile, uint32_t row, struct spqr_codes<bits> *out)
{
    enum { MAIN = bits == 4 ? 4 : 2 }; /* bits of the plane that is loaded 16 bytes at a time */
    for (int i = 0; i < MAIN / 2; i++) {
        struct words4 v = load16_once(tile + 8 * MAIN * row + 16 * i);
        for (int j = 0; j < 4; j++)
            out->w[4 * i + j] = v.w[j];
    }
    for (int i = 2 * MAIN; i < 2 * bits; i++)
        out->w[i] = load4(tile + spqr_planes<bits>::THIRD + 8 * row + 4 * (i - 2 * MAIN));
}

/* Columns 16 g + 4 i to 16 g + 4 i + 3, a byte each. */
template <int bits> DEVICE uint32_t four_codes(const struct spqr_codes<bits> *c, int g, int i)
{
    if (bits == 4)
        return c->w[4 * (g % 2) + i] >> 4 * (g / 2) & 0x0f0f0f0f;
    uint32_t low = c->w[i] >> 2 * g & 0x03030303;
    if (bits == 2)
        return low;
    /* Bit 2 g of bytes 0 to 7 is of the group's first eight columns, the next of the others. */
    uint32_t third = c->w[2 * bits - 2 + i % 2];
    int bit = 2 * g + i / 2;
    return low | ((bit < 2 ? third << (2 - bit) : third >> (bit - 2)) & 0x04040404);
}

/* What a supertile adds to a row. levels: of its 64 columns; sums: of each 16. */
template <int bits>
DEVICE float supertile_dot(const uint8_t *tile, uint32_t row, const int8_t *levels,
                           const int16_t *sums)
{
    typedef struct spqr_planes<bits> planes;
    struct spqr_codes<bits> codes;
    codes_load<bits>(tile, row, &codes);
    uint32_t scales = load1(tile + planes::SCALES + row), zeros = load1(tile + planes::ZEROS + row);
    uint32_t top = load1(tile + planes::TOP_BITS + row);
    struct words4 of_scales = load16(tile + planes::STATISTICS);
    struct words4 of_zeros = load16(tile + planes::STATISTICS + 16);
    uint32_t level_sums[2] = {load4(sums), load4(sums + 2)};
    float product = 0;
    for (int g = 0; g < 4; g++) {
        struct words4 q = load16(levels + 16 * g);
        int dot = 0;
        for (int i = 0; i < 4; i++)
            dot = dp4a_us(four_codes<bits>(&codes, g, i), q.w[i], dot);
        float sum = (float)(int16_t)(level_sums[g / 2] >> 16 * (g % 2));
        float scale = half_of(of_scales.w, g) *
                      (statistic_code(scales, top, g) - half_of(of_scales.w, 4 + g));
        float zero = half_of(of_zeros.w, g) *
                     (statistic_code(zeros, top >> 4, g) - half_of(of_zeros.w, 4 + g));
        product += scale * ((float)dot - zero * sum);
    }
    return product;
}

/* Every eighth of the row's outliers, from number `part` on. */
DEVICE float outliers_dot(const struct spqr_args *a, const uint8_t *stripe, uint32_t row,
                          uint32_t part)
{
    struct slot_range slots = slots_of(&a->layout, stripe, row);
    float sum = slots.sum;
    for (uint32_t slot = slots.first + part; slot < slots.end; slot += SPQR_SUMS)
        sum += outlier_product(&a->layout, stripe, slot, a->x.levels, a->x.scales);
    return sum;
}

/* What `part` finds for a row, all of it: the same for all threads of the row. */
DEVICE float parts_add(uint32_t *words, uint32_t row, uint32_t part, float v)
{
    float eight[SPQR_SUMS];
    shared_put4(words + 16 * part + row, float_bits(v));
    block_barrier();
    for (int j = 0; j < SPQR_SUMS; j++)
        eight[j] = float_from(shared_get4(words + 16 * j + row));
    for (int half = SPQR_SUMS / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            eight[j] += eight[j + half];
    return eight[0];
}

/* The supertiles of a row, added up for part 0. Turns alternate between two halves of the words, so
 * one barrier for each is enough. */
template <int bits>
DEVICE float tiles_add(const struct spqr_args *a, const uint8_t *stripe, uint32_t *words,
                       uint32_t row, uint32_t part)
{
    uint32_t tiles = (a->layout.cols + 63) / 64;
    float sum = 0;
    for (uint32_t first = 0; first < tiles; first += TURN_TILES) {
        uint32_t *turn = words + first / TURN_TILES % 2 * TURN_WORDS;
        uint32_t count = min_of(tiles - first, TURN_TILES);
        for (uint32_t i = part; i < count; i += SPQR_SUMS) {
            size_t t = first + i;
            float product = supertile_dot<bits>(stripe + t * spqr_planes<bits>::SIZE, row,
                                                a->x.levels + 64 * t, a->x.sums + 4 * t);
            product = float_from(load4(a->x.scales + t)) * product;
            shared_put4(turn + 16 * i + row, float_bits(product));
        }
        block_barrier();
        for (uint32_t i = 0; part == 0 && i < count; i++)
            sum += float_from(shared_get4(turn + 16 * i + row));
    }
    return sum;
}

template <int bits> DEVICE void gemv_spqr(const struct spqr_args *a)
{
    SHARED(uint32_t, words, 2 * TURN_WORDS);
    SHARED(uint32_t, of_parts, SPQR_THREADS);
    const uint8_t *stripe = a->stripes + block_index() * a->layout.stripe_size;
    uint32_t row = thread_index() % 16, part = thread_index() / 16;
    uint32_t mine = block_index() * 16 + row;
    float sum = tiles_add<bits>(a, stripe, words, row, part);
    if (a->layout.slots)
        sum += parts_add(of_parts, row, part, outliers_dot(a, stripe, row, part));
    if (part == 0 && mine < a->row_count)
        store4(a->out + mine, float_bits(sum));
}

KERNEL(gemv_spqr2, struct spqr_args, SPQR_THREADS)
{
    gemv_spqr<2>(a);
}
KERNEL(gemv_spqr3, struct spqr_args, SPQR_THREADS)
{
    gemv_spqr<3>(a);
}
KERNEL(gemv_spqr4, struct spqr_args, SPQR_THREADS)
{
    gemv_spqr<4>(a);
}

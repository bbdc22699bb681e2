/* SPDX-License-Identifier: MIT
 *
 * SpQR times 2 to 16 columns. A block takes a stripe, which is just the 16 rows of a product of
 * matrices, and 8 columns or 16, in turns of 16 supertiles; warp w has number 2 w and 2 w + 1 of each
 * turn. With g = lane / 4 and t = lane % 4 a lane loads, of the rows g and g + 8, the word of each
 * plane that has the columns 16 i + 4 t and following, and its three bytes of statistics; of column g
 * the words of levels for the same weights. It makes scale and zero of group t of both rows, which
 * go to the four lanes of a row by shared memory.
 *
 * Codes are not shifted down to where they count as themselves, where they can be multiplied as they
 * lie: the sums of such a group are 4 or 16 times too large. Sums become floats by what they are added
 * to: the bits of 1.5 * 2^23 as a float, or of that divided by what they are too large by. They are
 * all below 2^22, so what is left when that float is subtracted is exact. A product with ones gives
 * the sums of levels in the same way, so those of the activations are not read.
 *
 * What a supertile adds to a row and column goes to shared memory, in place of the statistics; a
 * thread for each row and column adds it up in order, and then goes through the row's outliers. The
 * order of float sums is that of kernels/cpu/stripe.h, as in gemv_spqr.cu. But the first of a
 * supertile's four parts is not added to 0: that would change nothing but the sign of a zero, which
 * is lost in the row's sum, for that begins as 0.
 */
#include "kernels/cuda/spqr.h"
#include "kernels/cuda/tile.h"

enum {
    OUTLIER_SUMS = 8,
    SPQR_GROUPS = 4,
    WARP_SUPERTILES = 2,
    TURN_SUPERTILES = WARP_SUPERTILES * TILE_WARPS
};

/* Where a lane finds its part of its first supertile of a turn: bytes from where the turn begins. Only
 * that moves from turn to turn, the same for all lanes. */
struct stripe_lane {
    uint32_t codes, thirds, bytes, halves;
};

/* Where it finds its part of that supertile's activations, for eight columns. */
struct column_lane {
    const int8_t *levels;
    const float *scales[2]; /* of the columns 2 t and 2 t + 1 */
};

/* In supertile k of a turn. */
template <int bits> DEVICE struct stripe_lane stripe_lane_at(uint32_t k)
{
    typedef struct spqr_planes<bits> planes;
    uint32_t g = lane_index() / 4, t = lane_index() % 4, tile = k * planes::SIZE;
    return {tile + (bits == 4 ? 32 : 16) * g + 4 * t, tile + planes::THIRD + 8 * g + 4 * (t % 2),
            tile + planes::SCALES + g, tile + planes::STATISTICS + 2 * t};
}

/* first: of the eight columns. Those beyond the last are the last again. */
DEVICE struct column_lane column_lane_at(const struct matmul_spqr_args *a, uint32_t first,
                                         uint32_t k)
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4, last = a->batch - 1;
    struct column_lane x;
    x.levels = a->x.levels + min_of(first + g, last) * a->level_stride + 64 * (size_t)k + 4 * t;
    for (uint32_t c = 0; c < 2; c++)
        x.scales[c] = a->x.scales + min_of(first + 2 * t + c, last) * a->scale_stride + k;
    return x;
}

/* Two words, of which every group's codes are some bits of each byte. Of three bits, those of groups
 * 0 and 2 lie in the first, and in the second those of 1 and 3: a nibble each. */
template <int bits>
DEVICE void codes_load(const uint8_t *tile, const struct stripe_lane *l, uint32_t half,
                       uint32_t *out)
{
    out[0] = load4(tile + l->codes + (bits == 4 ? 256 : 128) * half);
    if (bits == 4)
        out[1] = load4(tile + l->codes + 256 * half + 16);
    if (bits == 3) {
        uint32_t low = out[0];
        uint32_t third = load4(tile + l->thirds + 64 * half) >> lane_index() % 4 / 2;
        out[0] = bits_choose(0x33333333, low, third << 2);
        out[1] = bits_choose(0x33333333, low >> 2, third);
    }
}

/* By how many bits the codes of group i are too far up. */
template <int bits> DEVICE int codes_shift(int i)
{
    return bits == 2 ? i % 3 * 2 : bits == 3 ? i / 2 * 4 : 0;
}

/* Those of group i, as signed bytes. */
template <int bits> DEVICE uint32_t codes_of(const uint32_t *w, int i)
{
    if (bits == 4)
        return w[i % 2] >> 4 * (i / 2) & 0x0f0f0f0f;
    if (bits == 3)
        return w[i % 2] & 0x07070707 << 4 * (i / 2);
    return (i == 3 ? w[0] >> 6 : w[0]) & 0x03030303 << codes_shift<2>(i);
}

/* Of group t of the rows g and g + 8. */
struct lane_statistics {
    float scale[2], zero[2];
};

DEVICE void statistics_load(const uint8_t *tile, const struct stripe_lane *l,
                            struct lane_statistics *out)
{
    uint32_t t = lane_index() % 4;
    const uint8_t *bytes = tile + l->bytes, *halves = tile + l->halves;
    /* A byte each for scale of g and of g + 8, zero of g and of g + 8. */
    uint32_t low = bytes_pick(bytes_pick(load1(bytes), load1(bytes + 8), 0x1140),
                              bytes_pick(load1(bytes + 16), load1(bytes + 24), 0x1140), 0x5410) >>
                   2 * t;
    uint32_t top = bytes_pick(load1(bytes + 32), load1(bytes + 40), 0x4040) >> t;
    top = bytes_pick(top << 2, top >> 2, 0x7610);
    uint32_t codes = bits_choose(0x03030303, low, top) & 0x07070707;
    float scale = half_to_float(load2(halves)), less = half_to_float(load2(halves + 8));
    float zero = half_to_float(load2(halves + 16)), zero_less = half_to_float(load2(halves + 24));
    for (int r = 0; r < 2; r++) {
        out->scale[r] = scale * (byte_to_float(codes, r) - less);
        out->zero[r] = zero * (byte_to_float(codes, 2 + r) - zero_less);
    }
}

/* Products of matrices as floats. shift: by how much a is too large, in bits. */
DEVICE void float_products(const uint32_t *a, uint32_t b, int shift, float *out)
{
    uint32_t bits = 0x4b400000 - ((uint32_t)shift << 23); /* of 1.5 * 2^(23 - shift) */
    int sum[TILE_SUMS] = {(int)bits, (int)bits, (int)bits, (int)bits};
    mma16(sum, a, b);
    for (int s = 0; s < TILE_SUMS; s++)
        out[s] = float_from((uint32_t)sum[s]) - float_from(bits);
}

/* What supertile `at` of those that x points to adds to the lane's four sums. codes: [row]; scales and
 * zeros: [row][group]. */
template <int bits>
DEVICE void supertile_products(const struct column_lane *x, uint32_t at, const uint32_t codes[2][2],
                               const struct words4 *scales, const struct words4 *zeros,
                               float *product)
{
    const uint32_t ones[2] = {0x01010101, 0x01010101};
    UNROLLED
    for (int i = 0; i < SPQR_GROUPS; i++) {
        uint32_t rows[2] = {codes_of<bits>(codes[0], i), codes_of<bits>(codes[1], i)};
        uint32_t levels = load4(x->levels + 64 * at + 16 * i);
        float dot[TILE_SUMS], sums[TILE_SUMS];
        float_products(rows, levels, codes_shift<bits>(i), dot);
        float_products(ones, levels, 0, sums);
        UNROLLED
        for (int s = 0; s < TILE_SUMS; s++) {
            float scale = float_from(scales[s / 2].w[i]), zero = float_from(zeros[s / 2].w[i]);
            float part = scale * (dot[s] - zero * sums[s % 2]);
            product[s] = i == 0 ? part : product[s] + part;
        }
    }
    UNROLLED
    for (int s = 0; s < TILE_SUMS; s++)
        product[s] *= float_from(load4(x->scales[s % 2] + at));
}

/* Two supertiles of those that tiles, l and x point to, the first and the one `second` behind it, with
 * n groups of columns, to the warp's words: a pair for each sum. Statistics of both are exchanged
 * there before, [supertile][scale, zero][row][group]. */
template <int bits, int n>
DEVICE void supertiles_put(const uint8_t *tiles, const struct stripe_lane *l,
                           const struct column_lane *x, uint32_t second, uint32_t *words)
{
    enum { STATISTICS_WORDS = 2 * TILE_ROWS * SPQR_GROUPS };
    uint32_t g = lane_index() / 4, codes[WARP_SUPERTILES][2][2];
    float product[WARP_SUPERTILES][n][TILE_SUMS];
    UNROLLED
    for (uint32_t i = 0; i < WARP_SUPERTILES; i++) {
        const uint8_t *tile = tiles + i * second * spqr_planes<bits>::SIZE;
        struct lane_statistics mine;
        statistics_load(tile, l, &mine);
        UNROLLED
        for (uint32_t r = 0; r < 2; r++) {
            uint32_t *to = words + i * STATISTICS_WORDS + r * WARP_LANES + lane_index();
            shared_put4(to, float_bits(mine.scale[r]));
            shared_put4(to + STATISTICS_WORDS / 2, float_bits(mine.zero[r]));
            codes_load<bits>(tile, l, r, codes[i][r]);
        }
    }
    warp_barrier();
    UNROLLED
    for (uint32_t i = 0; i < WARP_SUPERTILES; i++) {
        struct words4 scales[2], zeros[2];
        UNROLLED
        for (uint32_t r = 0; r < 2; r++) {
            const uint32_t *from = words + i * STATISTICS_WORDS + r * WARP_LANES + 4 * g;
            scales[r] = shared_get16(from);
            zeros[r] = shared_get16(from + STATISTICS_WORDS / 2);
        }
        UNROLLED
        for (int group = 0; group < n; group++)
            supertile_products<bits>(&x[group], i * second, codes[i], scales, zeros,
                                     product[i][group]);
    }
    warp_barrier();
    UNROLLED
    for (int s = 0; s < n * TILE_SUMS; s++)
        shared_put8(words + 2 * (s * WARP_LANES + lane_index()),
                    {float_bits(product[0][s / TILE_SUMS][s % TILE_SUMS]),
                     float_bits(product[1][s / TILE_SUMS][s % TILE_SUMS])});
}

/* All outliers of a row, with one column. */
DEVICE float row_outliers(const struct matmul_spqr_args *a, const uint8_t *stripe, uint32_t row,
                          uint32_t column)
{
    const int8_t *levels = a->x.levels + column * a->level_stride;
    const float *scales = a->x.scales + column * a->scale_stride;
    struct slot_range slots = slots_of(&a->layout, stripe, row);
    float own[OUTLIER_SUMS] = {slots.sum};
    for (uint32_t slot = slots.first; slot < slots.end; slot += OUTLIER_SUMS) {
        UNROLLED
        for (uint32_t j = 0; j < OUTLIER_SUMS; j++)
            if (slot + j < slots.end)
                own[j] += outlier_product(&a->layout, stripe, slot + j, levels, scales);
    }
    for (int half = OUTLIER_SUMS / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            own[j] += own[j + half];
    return own[0];
}

/* To the supertiles of the next turn. */
template <int n> DEVICE void columns_move(struct column_lane *x)
{
    UNROLLED
    for (int group = 0; group < n; group++) {
        x[group].levels += 64 * TURN_SUPERTILES;
        x[group].scales[0] += TURN_SUPERTILES;
        x[group].scales[1] += TURN_SUPERTILES;
    }
}

template <int bits, int n> DEVICE void matmul_stripe(const struct matmul_spqr_args *a)
{
    enum {
        SUMS_OF_TILE = n * TILE_SUMS * WARP_LANES,
        WARP_WORDS = WARP_SUPERTILES * SUMS_OF_TILE,
        TURN = TILE_WARPS * WARP_WORDS
    };
    SHARED(uint32_t, words, 2 * TURN);
    const uint8_t *stripe = a->stripes + block_index() * a->layout.stripe_size, *tiles = stripe;
    uint32_t left = (a->layout.cols + 63) / 64, mine = WARP_SUPERTILES * warp_index();
    uint32_t at = thread_index(), *turn = words, *other = words + TURN;
    struct tile_place place = tile_place_of(at);
    uint32_t row = block_index() * TILE_ROWS + place.row;
    struct stripe_lane l = stripe_lane_at<bits>(mine);
    struct column_lane x[n];
    float sum = 0;
    for (int group = 0; group < n; group++)
        x[group] = column_lane_at(a, 8 * group, mine);
    /* Turns alternate between two halves of the words, so one barrier for each is enough. */
    ONE_BY_ONE
    for (; left >= TURN_SUPERTILES; left -= TURN_SUPERTILES) {
        supertiles_put<bits, n>(tiles, &l, x, 1, turn + warp_index() * WARP_WORDS);
        block_barrier();
        if (at < SUMS_OF_TILE)
            for (uint32_t w = 0; w < TILE_WARPS; w++) {
                struct words2 pair = shared_get8(turn + w * WARP_WORDS + 2 * at);
                sum += float_from(pair.w[0]);
                sum += float_from(pair.w[1]);
            }
        tiles += TURN_SUPERTILES * spqr_planes<bits>::SIZE;
        columns_move<n>(x);
        uint32_t *next = other;
        other = turn;
        turn = next;
    }
    /* The last turn, less than full. Where there is no second, it is the first again. */
    if (mine < left)
        supertiles_put<bits, n>(tiles, &l, x, mine + 1 < left, turn + warp_index() * WARP_WORDS);
    block_barrier();
    if (at >= SUMS_OF_TILE || row >= a->row_count || place.column >= a->batch)
        return;
    ONE_BY_ONE
    for (uint32_t i = 0; i < left; i++)
        sum += float_from(shared_get4(turn + i / 2 * WARP_WORDS + 2 * at + i % 2));
    if (a->layout.slots)
        sum += row_outliers(a, stripe, place.row, place.column);
    store4(a->out + place.column * a->out_stride + row, float_bits(sum));
}

#define MATMUL_SPQR(bits)                                                                          \
    KERNEL(matmul8_spqr##bits, struct matmul_spqr_args, TILE_THREADS)                              \
    {                                                                                              \
        matmul_stripe<bits, 1>(a);                                                                 \
    }                                                                                              \
    KERNEL(matmul16_spqr##bits, struct matmul_spqr_args, TILE_THREADS)                             \
    {                                                                                              \
        matmul_stripe<bits, 2>(a);                                                                 \
    }
MATMUL_SPQR(2)
MATMUL_SPQR(3)
MATMUL_SPQR(4)

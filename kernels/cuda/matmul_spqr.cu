/* SPDX-License-Identifier: MIT
 *
 * SpQR times 2 to 16 columns. A block takes a stripe, which is just the 16 rows of a product of
 * matrices, and 8 columns or 16; warp w the supertiles w, w + 8, .... With g = lane / 4 and
 * t = lane % 4 a lane loads, of the rows g and g + 8, the word of each plane that has the columns
 * 16 i + 4 t and following, and its three bytes of statistics. It makes scale and zero of group t
 * of both rows; the four lanes of a row then tell each other.
 *
 * What a supertile adds to a row and column goes to shared memory, eight supertiles in a turn; a
 * thread for each row and column adds it up in order, and then goes through the row's outliers. The
 * order of float sums is that of kernels/cpu/stripe.h, as in gemv_spqr.cu.
 */
#include "kernels/cuda/spqr.h"
#include "kernels/cuda/tile.h"

enum { OUTLIER_SUMS = 8, SPQR_GROUPS = 4 };

/* Of a row, for one lane. */
struct stripe_row {
    uint32_t codes[2]; /* words of planes; of three bits, the third bits in the second */
    float scale, zero; /* of group t */
};

template <int bits>
DEVICE void stripe_row_load(const uint8_t *tile, uint32_t row, struct stripe_row *out)
{
    typedef struct spqr_planes<bits> planes;
    uint32_t t = lane_index() % 4;
    uint32_t scales = load1(tile + planes::SCALES + row), zeros = load1(tile + planes::ZEROS + row);
    uint32_t top = load1(tile + planes::TOP_BITS + row);
    const uint8_t *halves = tile + planes::STATISTICS + 2 * t;
    out->codes[0] = load4(tile + (bits == 4 ? 32 : 16) * row + 4 * t);
    if (bits == 4)
        out->codes[1] = load4(tile + 32 * row + 16 + 4 * t);
    if (bits == 3)
        out->codes[1] = load4(tile + planes::THIRD + 8 * row + 4 * (t % 2)) >> t / 2;
    out->scale = half_to_float(load2(halves)) *
                 (statistic_code(scales, top, t) - half_to_float(load2(halves + 8)));
    out->zero = half_to_float(load2(halves + 16)) *
                (statistic_code(zeros, top >> 4, t) - half_to_float(load2(halves + 24)));
}

/* Four codes of group i. */
template <int bits> DEVICE uint32_t stripe_codes(const struct stripe_row *row, int i)
{
    if (bits == 4)
        return row->codes[i % 2] >> 4 * (i / 2) & 0x0f0f0f0f;
    uint32_t low = row->codes[0] >> 2 * i & 0x03030303;
    return bits == 2 ? low : low | (row->codes[1] >> 2 * i & 0x01010101) << 2;
}

DEVICE float of_lane(float v, uint32_t lane)
{
    return float_from(shuffle_from(float_bits(v), lane));
}

/* What supertile k adds to the lane's four sums, for the group of columns from `first` on; scales and
 * zeros: [row][group]. */
template <int bits>
DEVICE void supertile_products(const struct matmul_spqr_args *a, const struct stripe_row *rows,
                               float scales[2][SPQR_GROUPS], float zeros[2][SPQR_GROUPS],
                               uint32_t k, uint32_t first, float *product)
{
    uint32_t g = lane_index() / 4, t = lane_index() % 4, sums[2][2];
    const int8_t *levels =
        a->x.levels + min_of(first + g, a->batch - 1) * a->level_stride + 64 * (size_t)k + 4 * t;
    uint64_t columns[2] = {min_of(first + 2 * t, a->batch - 1),
                           min_of(first + 2 * t + 1, a->batch - 1)};
    for (int c = 0; c < 2; c++) {
        const int16_t *from = a->x.sums + columns[c] * a->sum_stride + 4 * (size_t)k;
        sums[c][0] = load4(from);
        sums[c][1] = load4(from + 2);
    }
    UNROLLED
    for (int i = 0; i < SPQR_GROUPS; i++) {
        uint32_t codes[2] = {stripe_codes<bits>(&rows[0], i), stripe_codes<bits>(&rows[1], i)};
        int isum[TILE_SUMS] = {};
        mma16(isum, codes, load4(levels + 16 * i));
        UNROLLED
        for (int s = 0; s < TILE_SUMS; s++) {
            float lsum = (float)(int16_t)(sums[s % 2][i / 2] >> 16 * (i % 2));
            float v = (float)isum[s] - zeros[s / 2][i] * lsum;
            product[s] += scales[s / 2][i] * v;
        }
    }
    UNROLLED
    for (int s = 0; s < TILE_SUMS; s++)
        product[s] *= float_from(load4(a->x.scales + columns[s % 2] * a->scale_stride + k));
}

/* Supertile k with n groups of columns, to a warp's words. */
template <int bits, int n>
DEVICE void supertile_put(const struct matmul_spqr_args *a, const uint8_t *stripe, uint32_t k,
                          uint32_t *words)
{
    const uint8_t *tile = stripe + (size_t)k * spqr_planes<bits>::SIZE;
    uint32_t g = lane_index() / 4;
    struct stripe_row rows[2];
    float scales[2][SPQR_GROUPS], zeros[2][SPQR_GROUPS];
    for (int r = 0; r < 2; r++) {
        stripe_row_load<bits>(tile, g + 8 * r, &rows[r]);
        for (int i = 0; i < SPQR_GROUPS; i++) {
            scales[r][i] = of_lane(rows[r].scale, 4 * g + i);
            zeros[r][i] = of_lane(rows[r].zero, 4 * g + i);
        }
    }
    ONE_BY_ONE
    for (int group = 0; group < n; group++) {
        float product[TILE_SUMS] = {};
        supertile_products<bits>(a, rows, scales, zeros, k, 8 * group, product);
        UNROLLED
        for (int s = 0; s < TILE_SUMS; s++)
            shared_put4(words + (group * TILE_SUMS + s) * WARP_LANES + lane_index(),
                        float_bits(product[s]));
    }
}

/* All outliers of a row, with one column. */
DEVICE float row_outliers(const struct matmul_spqr_args *a, const uint8_t *stripe, uint32_t row,
                          uint32_t column)
{
    const int8_t *levels = a->x.levels + column * a->level_stride;
    const float *scales = a->x.scales + column * a->scale_stride;
    struct slot_range slots = slots_of(&a->layout, stripe, row);
    float own[OUTLIER_SUMS] = {};
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

template <int bits, int n> DEVICE void matmul_stripe(const struct matmul_spqr_args *a)
{
    enum { WARP_WORDS = n * TILE_SUMS * WARP_LANES, TURN = TILE_WARPS * WARP_WORDS };
    SHARED(uint32_t, words, 2 * TURN);
    const uint8_t *stripe = a->stripes + block_index() * a->layout.stripe_size;
    uint32_t tiles = (a->layout.cols + 63) / 64, at = thread_index();
    struct tile_place place = tile_place_of(at);
    uint32_t row = block_index() * TILE_ROWS + place.row;
    bool mine = at < WARP_WORDS && row < a->row_count && place.column < a->batch;
    float sum = 0;
    /* Turns alternate between two halves of the words, so one barrier for each is enough. */
    for (uint32_t first = 0; first < tiles; first += TILE_WARPS) {
        uint32_t *turn = words + first / TILE_WARPS % 2 * TURN;
        uint32_t count = min_of(tiles - first, TILE_WARPS);
        if (warp_index() < count)
            supertile_put<bits, n>(a, stripe, first + warp_index(),
                                   turn + warp_index() * WARP_WORDS);
        block_barrier();
        for (uint32_t w = 0; mine && w < count; w++)
            sum += float_from(shared_get4(turn + w * WARP_WORDS + at));
    }
    if (!mine)
        return;
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

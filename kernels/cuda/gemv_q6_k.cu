/* SPDX-License-Identifier: MIT
 *
 * Q6_K, 210 bytes: 128 of low bits, 64 of top bits, 16 scales, d. With superblock.h's eight lanes,
 * lane l has h = l / 4 and c = l % 4. It loads the 16 bytes of low bits from 16 * l on: weights
 * 128 h + 16 c and following (low nibbles), and those 64 behind (high ones). Their top bits are in
 * the 16 bytes from 32 h + 16 (c % 2) on, at bit 2 (c / 2) and 4 above; lanes c and c + 2 load the
 * same ones. The scales are 8 h + c and 4 behind. Blocks begin at even addresses: see unaligned.h.
 *
 * That a code is 32 more than its weight is taken off first: sums begin at -32 times the sum of the
 * levels, which is the same for all rows.
 */
#include "kernels/cuda/superblock.h"
#include "kernels/cuda/unaligned.h"

struct q6_k {
    enum { SIZE = 210, D_AT = 208, DMIN_AT = 208, MINS = 0, HEADER = 0 };

    static DEVICE_MEMBER void levels(const struct activation_planes *x, uint32_t k, uint32_t l,
                                     struct lane_levels *out)
    {
        uint32_t h = l / 4, c = l % 4;
        load_levels(x, k * 256 + 128 * h + 16 * c, out->q);
        load_levels(x, k * 256 + 128 * h + 64 + 16 * c, out->q + 4);
        /* Of the sixteens 8 h + c and 8 h + c + 4. */
        const int16_t *sums = x->sums + k * 16 + 8 * (c % 2) + 4 * h + c / 2;
        out->sums[0] = (uint32_t)(-32 * (int16_t)load2(sums));
        out->sums[1] = (uint32_t)(-32 * (int16_t)load2(sums + 2));
    }

    static DEVICE_MEMBER uint32_t dot(const uint8_t *block, uint32_t l, const struct lane_levels *x,
                                      int *sums)
    {
        uint32_t h = l / 4, c = l % 4, low_bits[4], top_bits[4];
        struct even_block even = even_block_at(block);
        int first = (int)x->sums[0], second = (int)x->sums[1];
        load_even<4>(even, 16 * l, low_bits);
        load_even<4>(even, 128 + 32 * h + 16 * (c % 2), top_bits);
        for (int i = 0; i < 4; i++) {
            uint32_t first_top = top_bits[i] << (4 - c / 2 * 2) & 0x30303030;
            uint32_t second_top = top_bits[i] >> c / 2 * 2 & 0x30303030;
            first = dp4a_us((low_bits[i] & 0x0f0f0f0f) | first_top, x->q[i], first);
            second = dp4a_us((low_bits[i] >> 4 & 0x0f0f0f0f) | second_top, x->q[4 + i], second);
        }
        const uint8_t *scales = block + 192 + 8 * h + c;
        sums[0] += (int8_t)load1(scales) * first + (int8_t)load1(scales + 4) * second;
        return 0;
    }
};

KERNEL(gemv_q6_k, struct gemv_args, GEMV_THREADS)
{
    gemv_superblocks<struct q6_k>(a);
}

/* SPDX-License-Identifier: MIT
 *
 * out = x / sqrt(mean of squares + eps) * weight. A block takes a row, thread t the elements t,
 * t + NORM_THREADS and so on.
 *
 * Squares are floats, and their sum is a double. The order of sums, which kernels/cpu/elementwise.c
 * has as well: the square of element i is added to sum i % 256, in ascending order of i; then of each
 * 32 neighbouring sums s, s[l] += s[l + 16] for l < 16, s[l] += s[l + 8] for l < 8, and so on down to
 * 1; the eight that are left are added up one after the other. The mean is a double that becomes a
 * float before eps is added; out[i] = (x[i] * scale) * weight[i] with scale = 1 / sqrt.
 */
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

DEVICE double double_of(uint32_t low, uint32_t high)
{
    union {
        uint32_t word[2];
        double value;
    } u = {
        {low, high}
    };
    return u.value;
}

DEVICE void words_of(double v, uint32_t *word)
{
    union {
        double value;
        uint32_t word[2];
    } u = {v};
    word[0] = u.word[0];
    word[1] = u.word[1];
}

/* The sum over all threads of the block, the same for each. */
DEVICE double block_sum(double v)
{
    SHARED(uint32_t, of_warps, 2 * (NORM_THREADS / WARP_LANES));
    uint32_t word[2];
    for (uint32_t mask = WARP_LANES / 2; mask; mask /= 2) {
        words_of(v, word);
        v += double_of(shuffle_xor(word[0], mask), shuffle_xor(word[1], mask));
    }
    words_of(v, word);
    if (lane_index() == 0) {
        shared_put4(of_warps + 2 * warp_index(), word[0]);
        shared_put4(of_warps + 2 * warp_index() + 1, word[1]);
    }
    block_barrier();
    double sum = 0;
    for (uint32_t w = 0; w < NORM_THREADS / WARP_LANES; w++)
        sum += double_of(shared_get4(of_warps + 2 * w), shared_get4(of_warps + 2 * w + 1));
    return sum;
}

KERNEL(rms_norm, struct norm_args, NORM_THREADS)
{
    const float *x = a->x + (size_t)block_index() * a->cols;
    float *out = a->out + (size_t)block_index() * a->cols;
    double sum = 0;
    for (uint32_t i = thread_index(); i < a->cols; i += NORM_THREADS) {
        float v = float_from(load4_again(x + i));
        sum += (double)(v * v);
    }
    float scale = 1 / square_root((float)(block_sum(sum) / a->cols) + a->eps);
    for (uint32_t i = thread_index(); i < a->cols; i += NORM_THREADS) {
        float v = float_from(load4_again(x + i));
        store4(out + i, float_bits(v * scale * float_from(load4(a->weight + i))));
    }
}

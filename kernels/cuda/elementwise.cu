/* SPDX-License-Identifier: MIT
 *
 * What is done to one number or one pair at a time: a thread for each. A warp reads and writes runs
 * of 128 bytes. All work in place, so nothing goes through the cache that is never written to.
 */
#include "kernels/cuda/float_exp.h"
#include "kernels/cuda/kernels.h"

DEVICE uint32_t element_index(void)
{
    return block_index() * ELEMENT_THREADS + thread_index();
}

DEVICE float element(const float *x, size_t i)
{
    return float_from(load4_again(x + i));
}

KERNEL(add, struct pair_args, ELEMENT_THREADS)
{
    uint32_t i = element_index();
    if (i < a->count)
        store4(a->x + i, float_bits(element(a->x, i) + element(a->y, i)));
}

/* v / (1 + exp(-v)); exp takes nothing above 0, so for v < 0 both are multiplied by exp(v). */
DEVICE float silu(float v)
{
    float e = float_exp(v < 0 ? v : -v);
    return (v < 0 ? v * e : v) / (1 + e);
}

KERNEL(silu_gate, struct pair_args, ELEMENT_THREADS)
{
    uint32_t i = element_index();
    if (i < a->count)
        store4(a->x + i, float_bits(silu(element(a->x, i)) * element(a->y, i)));
}

KERNEL(rope, struct rope_args, ELEMENT_THREADS)
{
    uint32_t i = element_index(), head = i / a->pairs, pair = i % a->pairs;
    if (head >= a->heads)
        return;
    size_t first = (size_t)head * a->dim + (a->halves ? pair : 2 * pair);
    size_t second = first + (a->halves ? a->pairs : 1);
    float cosine = element(a->cosines, pair), sine = element(a->sines, pair);
    float x0 = element(a->x, first), x1 = element(a->x, second);
    store4(a->x + first, float_bits(x0 * cosine - x1 * sine));
    store4(a->x + second, float_bits(x0 * sine + x1 * cosine));
}

KERNEL(remember, struct remember_args, ELEMENT_THREADS)
{
    uint32_t i = element_index(), head = i / a->dim;
    if (head >= a->heads)
        return;
    size_t to = head * a->head_stride + (size_t)a->position * a->dim + i % a->dim;
    store2(a->keys + to, float_to_half(element(a->k, i)));
    store2(a->values + to, float_to_half(element(a->v, i)));
}

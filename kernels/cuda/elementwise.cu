/* SPDX-License-Identifier: MIT
 *
 * What is done to one number or one pair at a time: a thread for each. A warp reads and writes runs
 * of 128 bytes, but for those of two pieces where a row, a head or a period ends in it. Most work in
 * place, so no floats go through the cache that is never written to, only lists of rows and shares.
 */
#include "kernels/cuda/float_exp.h"
#include "kernels/cuda/kernels.h"
#include "kernels/gate.h"

DEVICE uint32_t element_index(void)
{
    return block_index() * ELEMENT_THREADS + thread_index();
}

DEVICE float element(const float *x, size_t i)
{
    return float_from(load4_again(x + i));
}

KERNEL(clear, struct pair_args, ELEMENT_THREADS)
{
    uint32_t i = element_index();
    if (i < a->count)
        store4(a->x + i, 0);
}

KERNEL(add, struct pair_args, ELEMENT_THREADS)
{
    uint32_t i = element_index();
    if (i < a->count)
        store4(a->x + i, float_bits(element(a->x, i) + element(a->y, i % a->period)));
}

GATES(DEVICE, float_exp)

KERNEL(silu_gate, struct pair_args, ELEMENT_THREADS)
{
    uint32_t i = element_index();
    if (i < a->count)
        store4(a->x + i, float_bits(silu(element(a->x, i)) * element(a->y, i)));
}

KERNEL(gelu_gate, struct pair_args, ELEMENT_THREADS)
{
    uint32_t i = element_index();
    if (i < a->count)
        store4(a->x + i, float_bits(gelu(element(a->x, i)) * element(a->y, i)));
}

KERNEL(gather, struct rows_args, ELEMENT_THREADS)
{
    uint32_t i = element_index(), row = i / a->cols;
    if (row >= a->count)
        return;
    size_t from = (size_t)load4(a->rows + row) * a->cols + i % a->cols;
    store4(a->out + i, load4_again(a->x + from));
}

KERNEL(scatter, struct rows_args, ELEMENT_THREADS)
{
    uint32_t i = element_index(), row = i / a->cols;
    if (row >= a->count)
        return;
    float *to = a->out + (size_t)load4(a->rows + row) * a->cols + i % a->cols;
    float part = float_from(load4(a->shares + row)) * element(a->x, i);
    store4(to, float_bits(element(to, 0) + part));
}

KERNEL(rope, struct rope_args, ELEMENT_THREADS)
{
    uint32_t i = element_index(), head = i / a->pairs, pair = i % a->pairs;
    uint32_t token = head / a->heads; /* heads are counted through all tokens */
    if (token >= a->tokens)
        return;
    size_t first = (size_t)head * a->dim + (a->halves ? pair : 2 * pair);
    size_t second = first + (a->halves ? a->pairs : 1), angle = (size_t)token * a->pairs + pair;
    float cosine = element(a->cosines, angle), sine = element(a->sines, angle);
    float x0 = element(a->x, first), x1 = element(a->x, second);
    store4(a->x + first, float_bits(x0 * cosine - x1 * sine));
    store4(a->x + second, float_bits(x0 * sine + x1 * cosine));
}

KERNEL(remember, struct remember_args, ELEMENT_THREADS)
{
    uint32_t i = element_index(), head = i / a->dim, token = head / a->heads;
    if (token >= a->tokens)
        return;
    size_t to =
        head % a->heads * a->head_stride + ((size_t)a->position + token) * a->dim + i % a->dim;
    store2(a->keys + to, float_to_half(element(a->k, i)));
    store2(a->values + to, float_to_half(element(a->v, i)));
}

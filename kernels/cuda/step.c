/* SPDX-License-Identifier: MIT
 *
 * What a decode step does besides products: attention, and operations on vectors.
 */
#include "kernels/cuda/parts.h"

#include <errno.h>

/* ---- attention ---- */

static int cuda_rope(struct backend *b, float *x, const float *cosines, const float *sines,
                     uint32_t tokens, uint32_t heads, uint32_t dim, uint32_t pairs, bool halves)
{
    struct rope_args args = {x, cosines, sines, tokens, heads, dim, pairs, halves};
    return cuda_launch(b, KERNEL_rope, blocks_of((uint64_t)tokens * heads * pairs, ELEMENT_THREADS),
                       ELEMENT_THREADS, &args);
}

static int cuda_remember(struct backend *b, const float *k, const float *v, uint32_t tokens,
                         uint32_t heads, uint32_t dim, uint32_t position, size_t head_stride,
                         uint16_t *keys, uint16_t *values)
{
    struct remember_args args = {k, v, keys, values, head_stride, tokens, heads, dim, position};
    return cuda_launch(b, KERNEL_remember,
                       blocks_of((uint64_t)tokens * heads * dim, ELEMENT_THREADS), ELEMENT_THREADS,
                       &args);
}

static int cuda_attend(struct backend *b, const float *q, uint32_t kv_heads, uint32_t shared_by,
                       const uint16_t *keys, const uint16_t *values, size_t head_stride,
                       uint32_t first, uint32_t last, uint32_t dim, float scale, float *scores,
                       float *out)
{
    if (first > last || last - first == UINT32_MAX || dim % b->head_multiple)
        return -EINVAL;
    uint32_t heads = kv_heads * shared_by, count = last - first + 1;
    uint64_t chunks = blocks_of(count, ATTEND_CHUNK);
    struct attend_args args = {.q = q,
                               .keys = keys,
                               .values = values,
                               .scores = scores,
                               .totals = scores + (size_t)heads * count,
                               .chunks = scores + (size_t)heads * (count + 1),
                               .out = out,
                               .head_stride = head_stride,
                               .heads = heads,
                               .shared_by = shared_by,
                               .dim = dim,
                               .first = first,
                               .count = count,
                               .scale = scale};
    int rc = cuda_launch(b, KERNEL_attend_scores, kv_heads * blocks_of(count, ATTEND_POSITIONS),
                         ATTEND_THREADS, &args);
    rc = rc ? rc : cuda_launch(b, KERNEL_attend_weights, heads, ATTEND_THREADS, &args);
    rc = rc ? rc
            : cuda_launch(b, KERNEL_attend_values,
                          heads * chunks * blocks_of(dim, ATTEND_VALUE_THREADS),
                          ATTEND_VALUE_THREADS, &args);
    return rc ? rc
              : cuda_launch(b, KERNEL_attend_sum, blocks_of((uint64_t)heads * dim, ATTEND_THREADS),
                            ATTEND_THREADS, &args);
}

/* ---- vectors ---- */

/* A kernel with a thread for each element. */
static int launch_elements(struct backend *b, enum kernel kernel, size_t count, void *args)
{
    if (count > UINT32_MAX)
        return -EINVAL;
    return cuda_launch(b, kernel, blocks_of(count, ELEMENT_THREADS), ELEMENT_THREADS, args);
}

static int cuda_clear(struct backend *b, float *x, size_t count)
{
    return launch_elements(b, KERNEL_clear, count,
                           &(struct pair_args){x, NULL, (uint32_t)count, 0});
}

static int cuda_add(struct backend *b, float *x, const float *y, size_t count, size_t period)
{
    struct pair_args args = {x, y, (uint32_t)count, (uint32_t)period};
    return launch_elements(b, KERNEL_add, count, &args);
}

static int cuda_gate(struct backend *b, enum gate gate, float *x, const float *y, size_t count)
{
    struct pair_args args = {x, y, (uint32_t)count, 0};
    return launch_elements(b, gate == GATE_GELU ? KERNEL_gelu_gate : KERNEL_silu_gate, count,
                           &args);
}

static int cuda_rms_norm(struct backend *b, const float *x, const float *weight, uint32_t rows,
                         uint32_t cols, float eps, float *out)
{
    struct norm_args args = {x, weight, out, cols, eps};
    return cuda_launch(b, KERNEL_rms_norm, rows, NORM_THREADS, &args);
}

static int cuda_gather(struct backend *b, const float *x, const uint32_t *rows, uint32_t count,
                       uint32_t cols, float *out)
{
    struct rows_args args = {x, rows, NULL, out, count, cols};
    return launch_elements(b, KERNEL_gather, (size_t)count * cols, &args);
}

static int cuda_scatter(struct backend *b, const float *x, const uint32_t *rows,
                        const float *shares, uint32_t count, uint32_t cols, float *out)
{
    struct rows_args args = {x, rows, shares, out, count, cols};
    return launch_elements(b, KERNEL_scatter, (size_t)count * cols, &args);
}

static int cuda_argmax(struct backend *b, const float *x, uint32_t count, uint32_t *out)
{
    struct argmax_args args = {x, out, count};
    return cuda_launch(b, KERNEL_argmax, 1, ARGMAX_THREADS, &args);
}

void cuda_step(struct backend *b)
{
    b->rope = cuda_rope;
    b->remember = cuda_remember;
    b->attend = cuda_attend;
    b->clear = cuda_clear;
    b->add = cuda_add;
    b->gate = cuda_gate;
    b->rms_norm = cuda_rms_norm;
    b->gather = cuda_gather;
    b->scatter = cuda_scatter;
    b->argmax = cuda_argmax;
}

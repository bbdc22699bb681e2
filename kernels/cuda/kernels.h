/* SPDX-License-Identifier: MIT
 *
 * The kernels: what each is asked for. Every kernel takes one struct; all pointers in it are to the
 * device's memory. A kernel is found by its name, in a module of the GPU's or, as a function with
 * that name, in the emulator. The comment above a struct says how many blocks of how many threads.
 *
 * Results have the bits of kernels/cpu: the integers are the same, and floats are added up in the same
 * order, which dot.h, stripe.h, attend.h and, of the rest, gate.h and the comments here define.
 */
#ifndef KERNELS_CUDA_KERNELS_H
#define KERNELS_CUDA_KERNELS_H

#include "kernels/attention.h"

#include <stdint.h>

/* One column of activations in int8 blocks of 32 or 256, as kernels/cpu/activations.h has it: scales
 * one a block; sums of the levels of a block of 32, or in blocks of 256 of each 16, even ones before
 * odd ones. For SpQR there are blocks of 64, with sums of each 16. All begin at multiples of 16
 * bytes. */
struct activation_planes {
    int8_t *levels;
    float *scales;
    int16_t *sums;
};

/* Names: quantize_256, quantize_32, quantize_64. x[cols]; what is missing in the last block counts
 * as 0. A block with what is not finite gets NaN for its scale. Where order is not NULL, element i
 * is x[order[i]]. Columns of x lie one behind the other; the planes of column c begin c strides
 * behind those of the first (in elements; of levels a multiple of 4).
 *
 * QUANTIZE_THREADS, a warp for each 256 elements: batch * ceil(cols / 256 / QUANTIZE_WARPS) blocks. */
enum { QUANTIZE_WARPS = 4, QUANTIZE_THREADS = 32 * QUANTIZE_WARPS };
struct quantize_args {
    const float *x;
    const uint32_t *order;
    struct activation_planes out;
    uint64_t level_stride, scale_stride, sum_stride;
    uint32_t cols, batch;
};

/* Names: gemv_q4_k, ... out[r] = row r times x, for the rows of one run, packed one behind the other
 * from a multiple of 16 bytes on. cols is a multiple of the format's block, x of its kind.
 *
 * GEMV_THREADS; ceil(rows / GEMV_ROWS_256) blocks for the K formats, GEMV_ROWS_32 for the others. */
enum {
    GEMV_WARPS = 4,
    GEMV_THREADS = 32 * GEMV_WARPS,
    GEMV_ROWS_256 = 4 * GEMV_WARPS,
    GEMV_ROWS_32 = 8 * GEMV_WARPS,
};
struct gemv_args {
    const uint8_t *rows;
    struct activation_planes x;
    float *out;
    uint32_t row_count, cols;
};

/* Names: matmul8_q4_k, matmul16_q4_k, .... The same formats for up to 8 or 16 columns,
 * out[c * out_stride + r]; the planes of column c begin c strides behind those of the first (in
 * elements; of levels a multiple of 4, of sums of 8).
 *
 * TILE_THREADS; ceil(rows / TILE_ROWS) blocks. */
enum { TILE_ROWS = 16, TILE_WARPS = 8, TILE_THREADS = 32 * TILE_WARPS };
struct matmul_args {
    const uint8_t *rows;
    struct activation_planes x;
    float *out;
    uint64_t level_stride, scale_stride, sum_stride, out_stride;
    uint32_t row_count, cols, batch;
};

/* Where things lie in a stripe, as codec/spqr/stripe.h has it. */
struct spqr_places {
    uint64_t stripe_size, ends_at, columns_at, values_at; /* ends_at: behind the supertiles */
    uint32_t cols, slots, wide;                           /* wide: columns have 4 bytes, not 2 */
};

/* Names: gemv_spqr2, gemv_spqr3, gemv_spqr4. The same for stripes, one behind the other from a
 * multiple of 16 bytes on; x in blocks of 64, in the order of the matrix's permutation, padded with
 * zeros to 64 columns.
 *
 * SPQR_THREADS; a block for each stripe, ceil(rows / 16) of them. */
enum { SPQR_THREADS = 128 };
struct spqr_args {
    const uint8_t *stripes;
    struct activation_planes x;
    float *out;
    struct spqr_places layout;
    uint32_t row_count;
};

/* Names: matmul8_spqr2, matmul16_spqr2, ... for 2, 3 and 4 bits. The same for up to 8 or 16 columns;
 * strides as for the other formats. Sums of x are not looked at.
 *
 * TILE_THREADS; a block for each stripe. */
struct matmul_spqr_args {
    const uint8_t *stripes;
    struct activation_planes x;
    float *out;
    struct spqr_places layout;
    uint64_t level_stride, scale_stride, sum_stride, out_stride;
    uint32_t row_count, batch;
};

/* Names: gemv_f16, gemv_bf16, gemv_f32. The same for plain floats; cols is a multiple of 16, and x
 * floats at a multiple of 16 bytes.
 *
 * GEMV_THREADS; ceil(rows / GEMV_ROWS_FLOATS) blocks. */
enum { GEMV_ROWS_FLOATS = 16 * GEMV_WARPS };
struct gemv_floats_args {
    const uint8_t *rows;
    const float *x;
    float *out;
    uint32_t row_count, cols;
};

/* Names: matmul8_f16, matmul8_bf16, matmul8_f32. The same for up to 8 columns, each cols behind the
 * one before; out[c * out_stride + r].
 *
 * GEMV_THREADS; ceil(rows / GEMV_ROWS_FLOATS) blocks. */
struct matmul_floats_args {
    const uint8_t *rows;
    const float *x;
    float *out;
    uint64_t out_stride;
    uint32_t row_count, cols, batch;
};

/* Names: clear (x = 0), add (x[i] += y[i % period]), silu_gate (x = silu(x) * y, by gate.h), gelu_gate
 * (likewise). Only add looks at period, and clear not at y.
 *
 * ELEMENT_THREADS, one for each element. */
enum { ELEMENT_THREADS = 128 };
struct pair_args {
    float *x;
    const float *y;
    uint32_t count, period;
};

/* Name: gather. out[i] = row rows[i] of x, for count rows of cols floats.
 * Name: scatter. out[rows[i]] += shares[i] * x[i]; the rows are different ones.
 *
 * ELEMENT_THREADS, one for each of count * cols. */
struct rows_args {
    const float *x;
    const uint32_t *rows;
    const float *shares; /* scatter's */
    float *out;
    uint32_t count, cols;
};

/* Name: rope. Turns `pairs` pairs of each head of x[tokens][heads][dim] by the angles of the token:
 * elements 2 i and 2 i + 1, or i and i + pairs where halves is set. cosines and sines:
 * [tokens][pairs].
 *
 * ELEMENT_THREADS, one for each of tokens * heads * pairs. */
struct rope_args {
    float *x;
    const float *cosines, *sines;
    uint32_t tokens, heads, dim, pairs, halves;
};

/* Name: remember. k and v, [tokens][heads][dim], as halves at positions of keys and values from
 * `position` on; a head's begin head_stride elements behind those of the one before.
 *
 * ELEMENT_THREADS, one for each of tokens * heads * dim. */
struct remember_args {
    const float *k, *v;
    uint16_t *keys, *values;
    uint64_t head_stride;
    uint32_t tokens, heads, dim, position;
};

/* Name: rms_norm. out[row][i] = x[row][i] / sqrt(mean of row's squares + eps) * weight[i]; out may be
 * x. rms_norm.cu defines the order of sums, and kernels/cpu/elementwise.c has the same.
 *
 * NORM_THREADS; a block for each row. */
enum { NORM_THREADS = 256 };
struct norm_args {
    const float *x, *weight;
    float *out;
    uint32_t cols;
    float eps;
};

/* Name: argmax. out[0] is where the largest of x is, of equal ones the first; out[1] is 1 where all
 * of them are finite, else 0.
 *
 * ARGMAX_THREADS; one block. */
enum { ARGMAX_THREADS = 512 };
struct argmax_args {
    const float *x;
    uint32_t *out;
    uint32_t count;
};

/* Names: attend_scores, attend_weights, attend_values, attend_sum, in that order, each behind the one
 * before. What attend of backend.h is for one token, for all heads: those of a kv head are its shared_by
 * heads, one behind the other in q and out, [heads][dim]. Keys and values of a kv head lie position by
 * position, dim each, a head's head_stride elements behind those of the one before;
 * first .. first + count - 1 are attended to. scores: [heads][count]; totals: [heads]; chunks:
 * [heads][ceil(count / ATTEND_CHUNK)][dim]. dim is a multiple of 16, head_stride of 8, and all but
 * scores, totals and chunks begin at multiples of 16 bytes.
 *
 * ATTEND_THREADS, heads / shared_by * ceil(count / ATTEND_POSITIONS) blocks; ATTEND_THREADS, a block for
 * each head; ATTEND_VALUE_THREADS, ceil(dim / ATTEND_VALUE_THREADS) blocks for each chunk;
 * ATTEND_THREADS, a thread for each of heads * dim. */
enum { ATTEND_THREADS = 128, ATTEND_POSITIONS = ATTEND_THREADS / 2, ATTEND_VALUE_THREADS = 64 };
struct attend_args {
    const float *q;
    const uint16_t *keys, *values;
    float *scores, *totals, *chunks, *out;
    uint64_t head_stride;
    uint32_t heads, shared_by, dim, first, count;
    float scale;
};

/* All of them: X(name, struct of its arguments). */
/* clang-format off */
#define CUDA_KERNELS(X) \
    X(quantize_256, quantize_args) X(quantize_32, quantize_args) X(quantize_64, quantize_args) \
    CUDA_PRODUCTS(X, q2_k) CUDA_PRODUCTS(X, q3_k) CUDA_PRODUCTS(X, q4_k) CUDA_PRODUCTS(X, q5_k) \
    CUDA_PRODUCTS(X, q6_k) CUDA_PRODUCTS(X, q8_0) CUDA_PRODUCTS(X, q4_0) CUDA_PRODUCTS(X, q4_1) \
    CUDA_PRODUCTS(X, q5_0) CUDA_PRODUCTS(X, q5_1) CUDA_PRODUCTS(X, iq4_nl) \
    CUDA_PRODUCTS_SPQR(X, spqr2) CUDA_PRODUCTS_SPQR(X, spqr3) CUDA_PRODUCTS_SPQR(X, spqr4) \
    X(gemv_f16, gemv_floats_args) X(gemv_bf16, gemv_floats_args) X(gemv_f32, gemv_floats_args) \
    X(matmul8_f16, matmul_floats_args) X(matmul8_bf16, matmul_floats_args) \
    X(matmul8_f32, matmul_floats_args) \
    X(clear, pair_args) X(add, pair_args) X(silu_gate, pair_args) X(gelu_gate, pair_args) \
    X(gather, rows_args) X(scatter, rows_args) X(rope, rope_args) X(remember, remember_args) \
    X(rms_norm, norm_args) X(argmax, argmax_args) X(attend_scores, attend_args) \
    X(attend_weights, attend_args) X(attend_values, attend_args) X(attend_sum, attend_args)
#define CUDA_PRODUCTS(X, format) \
    X(gemv_##format, gemv_args) X(matmul8_##format, matmul_args) X(matmul16_##format, matmul_args)
#define CUDA_PRODUCTS_SPQR(X, format) \
    X(gemv_##format, spqr_args) X(matmul8_##format, matmul_spqr_args) \
    X(matmul16_##format, matmul_spqr_args)
/* clang-format on */

#endif

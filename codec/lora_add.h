/* SPDX-License-Identifier: MIT
 *
 * What an adapter adds to weights, for an instruction set. All sets give the same bits: here alone a
 * multiplication and an addition are one operation, as in the BLAS that PEFT merges with.
 */
#ifndef CODEC_LORA_ADD_H
#define CODEC_LORA_ADD_H

#include <stddef.h>

/* For each row i and column j < n: with acc = 0, then fma(b[i * rank + k], a[k * n + j], acc) for k from
 * 0 to rank - 1, adds acc * scale to out[i * n + j]. */
typedef void lora_add_fn(const float *a, const float *b, size_t rank, float scale, float *out,
                         size_t rows, size_t n);

extern lora_add_fn lora_add_c, lora_add_avx2, lora_add_avx512;

#endif

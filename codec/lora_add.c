/* SPDX-License-Identifier: MIT
 *
 * Compiled once for each instruction set, and once without any, where fma is a function. A few rows at
 * a time use what was loaded of A.
 */
#include "codec/lora_add.h"

#include <math.h>

#ifndef LORA_ADD
#define LORA_ADD lora_add_c
#endif

enum { ROWS = 4, COLUMNS = 32 };

/* count columns of some rows; both are constants where it matters. */
static inline __attribute__((always_inline)) void
add_block(const float *a, const float *b, size_t rank, float scale, float *restrict out, size_t rows,
          size_t n, size_t count)
{
    float acc[ROWS][COLUMNS] = {0};
    for (size_t k = 0; k < rank; k++)
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < count; j++)
                acc[i][j] = fmaf(b[i * rank + k], a[k * n + j], acc[i][j]);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < count; j++)
            out[i * n + j] += acc[i][j] * scale;
}

void LORA_ADD(const float *a, const float *b, size_t rank, float scale, float *out, size_t rows,
              size_t n)
{
    size_t i = 0;
    for (; i < rows; i += ROWS) {
        const float *of_rows = b + i * rank;
        float *to = out + i * n;
        size_t there = rows - i < ROWS ? rows - i : ROWS, j = 0;
        for (; there == ROWS && j + COLUMNS <= n; j += COLUMNS)
            add_block(a + j, of_rows, rank, scale, to + j, ROWS, n, COLUMNS);
        for (; j < n; j += COLUMNS)
            add_block(a + j, of_rows, rank, scale, to + j, there, n,
                      n - j < COLUMNS ? n - j : COLUMNS);
    }
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/hessian.h"

#include "codec/spqr/prepare.h"

#include <cblas.h>
#include <errno.h>
#include <f77blas.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void hessian_threads(unsigned count)
{
    openblas_set_num_threads((int)count);
}

uint64_t hessian_bytes(uint64_t cols)
{
    return cols * cols * sizeof(float);
}

float *hessian_memory(uint64_t cols)
{
    enum { LINE = 64 };
    uint64_t size = (hessian_bytes(cols) + LINE - 1) / LINE * LINE;
    float *memory = aligned_alloc(LINE, size);
    return memory ? memset(memory, 0, size) : NULL;
}

int hessian_new(struct hessian *h, uint64_t cols, struct error *err)
{
    *h = (struct hessian){.cols = cols, .h = hessian_memory(cols)};
    h->magnitudes = calloc(cols, sizeof *h->magnitudes);
    return h->h && h->magnitudes
               ? 0
               : error_set(err, -ENOMEM, "no memory for a Hessian of %" PRIu64 " columns", cols);
}

void hessian_free(struct hessian *h)
{
    free(h->h);
    free(h->magnitudes);
    *h = (struct hessian){0};
}

/* ---- the sum ---- */

void hessian_add(struct hessian *h, const float *x, uint32_t tokens)
{
    int n = (int)h->cols;
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, n, (int)tokens, 1, x, n, 1, h->h, n);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint64_t c = 0; c < h->cols; c++)
            h->magnitudes[c] += (double)fabsf(x[t * h->cols + c]);
    h->tokens += tokens;
}

void hessian_finish(struct hessian *h, uint32_t sequences)
{
    float scale = 2 / (float)sequences;
    for (uint64_t row = 0; row < h->cols; row++)
        for (uint64_t col = row; col < h->cols; col++)
            h->h[row * h->cols + col] *= scale;
}

double hessian_loss(const struct hessian *h, const float *d, uint32_t rows, float *work)
{
    int n = (int)h->cols;
    double loss = 0;
    cblas_ssymm(CblasRowMajor, CblasRight, CblasUpper, (int)rows, n, 1, h->h, n, d, n, 0, work, n);
    for (uint64_t i = 0; i < rows * h->cols; i++)
        loss += (double)work[i] * (double)d[i];
    return loss;
}

/* ---- the factor ---- */

int hessian_order(const struct hessian *h, uint32_t *order, struct error *err)
{
    float *diagonal = calloc(h->cols, sizeof *diagonal);
    for (uint64_t c = 0; diagonal && c < h->cols; c++)
        diagonal[c] = h->h[c * h->cols + c];
    int rc = diagonal ? spqr_activation_order(diagonal, h->cols, order) : -ENOMEM;
    free(diagonal);
    return rc ? error_set(err, rc, "out of memory") : 0;
}

/* The lower triangle of H', last column first. */
static void gather(const struct hessian *h, const uint32_t *order, float damping, float *work)
{
    uint64_t n = h->cols;
    double sum = 0;
    for (uint64_t c = 0; c < n; c++)
        sum += (double)h->h[c * n + c];
    float raise = damping * (float)(sum / (double)n);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t row = order[n - 1 - i];
        for (uint64_t k = 0; k < i; k++) {
            uint64_t col = order[n - 1 - k];
            work[i * n + k] = row < col ? h->h[row * n + col] : h->h[col * n + row];
        }
        float diagonal = h->h[row * n + row];
        work[i * n + i] = diagonal == 0 ? 1 : diagonal + raise;
    }
}

int hessian_factor(const struct hessian *h, const uint32_t *order, float damping, float *work,
                   struct error *err)
{
    char upper[] = "U", not_unit[] = "N"; /* Fortran's upper triangle is our lower one */
    blasint n = (blasint)h->cols, info;
    gather(h, order, damping, work);
    BLASFUNC(spotrf)(upper, &n, work, &n, &info);
    if (!info)
        BLASFUNC(strtri)(upper, not_unit, &n, work, &n, &info);
    for (uint64_t i = 0; !info && i < h->cols; i++)
        info = !isfinite(work[i * h->cols + i]);
    return info ? error_set(err, -EDOM, "its Hessian, damped by %g, is not positive definite",
                            (double)damping)
                : 0;
}

void hessian_factor_row(const float *work, uint64_t cols, uint64_t i, float *out)
{
    const float *row = work + (cols - 1 - i) * cols;
    for (uint64_t c = i; c < cols; c++)
        out[c - i] = row[cols - 1 - c];
}

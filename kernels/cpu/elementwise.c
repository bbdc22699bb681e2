/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/elementwise.h"

#include "kernels/cpu/exp.h"
#include "kernels/gate.h"

#include <math.h>
#include <string.h>

GATES(static, exp_c)

void gate_floats(enum gate gate, float *x, const float *y, size_t count)
{
    if (gate == GATE_GELU)
        for (size_t i = 0; i < count; i++)
            x[i] = gelu(x[i]) * y[i];
    else
        for (size_t i = 0; i < count; i++)
            x[i] = silu(x[i]) * y[i];
}

static double squares(const float *x, uint32_t cols)
{
    enum { TOGETHER = 32 };
    double sum[NORM_SUMS] = {0}, all = 0;
    uint32_t i = 0;
    for (; i + NORM_SUMS <= cols; i += NORM_SUMS)
        for (uint32_t s = 0; s < NORM_SUMS; s++)
            sum[s] += (double)(x[i + s] * x[i + s]);
    for (uint32_t s = 0; i < cols; i++, s++)
        sum[s] += (double)(x[i] * x[i]);
    for (uint32_t w = 0; w < NORM_SUMS; w += TOGETHER) {
        for (uint32_t half = TOGETHER / 2; half; half /= 2)
            for (uint32_t s = 0; s < half; s++)
                sum[w + s] += sum[w + s + half];
        all += sum[w];
    }
    return all;
}

void rms_norm_row(const float *x, const float *weight, uint32_t cols, float eps, float *out)
{
    float scale = 1 / sqrtf((float)(squares(x, cols) / cols) + eps);
    for (uint32_t i = 0; i < cols; i++)
        out[i] = x[i] * scale * weight[i];
}

void rope_heads(float *x, const float *cosines, const float *sines, uint32_t heads, uint32_t dim,
                uint32_t pairs, bool halves)
{
    for (uint32_t h = 0; h < heads; h++, x += dim)
        for (uint32_t i = 0; i < pairs; i++) {
            float *a = halves ? x + i : x + 2 * i, *b = halves ? x + i + pairs : x + 2 * i + 1;
            float x0 = *a, x1 = *b;
            *a = x0 * cosines[i] - x1 * sines[i];
            *b = x0 * sines[i] + x1 * cosines[i];
        }
}

uint32_t argmax_floats(const float *x, uint32_t count, bool *finite)
{
    uint32_t best = 0;
    *finite = true;
    for (uint32_t i = 0; i < count; i++) {
        best = x[i] > x[best] ? i : best;
        *finite = *finite && isfinite(x[i]);
    }
    return best;
}

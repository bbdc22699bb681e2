/* SPDX-License-Identifier: MIT
 *
 * Attention in plain C, for reading and as what the others are compared with.
 */
#include "kernels/cpu/attend.h"

#include "codec/float16.h"

#include <math.h>

enum { SUMS = 16 };

static float halves_add(float *sum)
{
    for (int half = SUMS / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            sum[l] += sum[l + half];
    return sum[0];
}

/* Of no x above 0. What is NaN stays so. */
static float exp_c(float x)
{
    if (x < EXP_LEAST)
        return 0;
    float rounded = x * LOG2_E + EXP_ROUND, n = rounded - EXP_ROUND;
    float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float rest = (((EXP_6 * r + EXP_5) * r + EXP_4) * r + EXP_3) * r + EXP_2;
    return (1 + (r + r * r * rest)) * f32_from_bits(f32_bits(rounded) << 23);
}

/* Makes weights of scores; returns their sum. */
static float weigh(float *scores, uint32_t count)
{
    float most = -INFINITY, total[SUMS] = {0};
    for (uint32_t p = 0; p < count; p++)
        most = scores[p] > most ? scores[p] : most;
    for (uint32_t p = 0; p < count; p++) {
        scores[p] = exp_c(scores[p] - most);
        total[p % SUMS] += scores[p];
    }
    return halves_add(total);
}

void attend_c(const float *q, uint32_t heads, const uint16_t *keys, const uint16_t *values,
              size_t stride, uint32_t count, uint32_t dim, float scale, float *scores, float *out)
{
    for (uint32_t h = 0; h < heads; h++, q += dim, scores += count, out += dim) {
        for (uint32_t p = 0; p < count; p++) {
            float sum[SUMS] = {0};
            for (uint32_t i = 0; i < dim; i++)
                sum[i % SUMS] += q[i] * f32_from_f16(keys[p * stride + i]);
            scores[p] = scale * halves_add(sum);
        }
        float total = weigh(scores, count);
        for (uint32_t i = 0; i < dim; i++)
            out[i] = 0;
        for (uint32_t p = 0; p < count; p++)
            for (uint32_t i = 0; i < dim; i++)
                out[i] += scores[p] * f32_from_f16(values[p * stride + i]);
        for (uint32_t i = 0; i < dim; i++)
            out[i] /= total;
    }
}

/* SPDX-License-Identifier: MIT
 *
 * Attention in plain C, for reading and as what the others are compared with.
 */
#include "kernels/cpu/attend.h"

#include "codec/float16.h"
#include "kernels/cpu/exp.h"

#include <math.h>

enum { SUMS = 16 };

static float halves_add(float *sum)
{
    for (int half = SUMS / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            sum[l] += sum[l + half];
    return sum[0];
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

static void values_add(const uint16_t *values, const float *weights, uint32_t count, uint32_t dim,
                       float *out)
{
    for (uint32_t i = 0; i < dim; i++) {
        float sum = 0;
        for (uint32_t p = 0; p < count; p++)
            sum += weights[p] * f32_from_f16(values[(size_t)p * dim + i]);
        out[i] += sum;
    }
}

void attend_c(const float *q, uint32_t heads, const uint16_t *keys, const uint16_t *values,
              uint32_t count, uint32_t dim, float scale, float *scores, float *out)
{
    for (uint32_t h = 0; h < heads; h++, q += dim, scores += count, out += dim) {
        for (uint32_t p = 0; p < count; p++) {
            float sum[SUMS] = {0};
            for (uint32_t i = 0; i < dim; i++)
                sum[i % SUMS] += q[i] * f32_from_f16(keys[(size_t)p * dim + i]);
            scores[p] = scale * halves_add(sum);
        }
        float total = weigh(scores, count);
        for (uint32_t i = 0; i < dim; i++)
            out[i] = 0;
        for (uint32_t p = 0; p < count; p += ATTEND_CHUNK)
            values_add(values + (size_t)p * dim, scores + p,
                       count - p < ATTEND_CHUNK ? count - p : ATTEND_CHUNK, dim, out);
        for (uint32_t i = 0; i < dim; i++)
            out[i] /= total;
    }
}

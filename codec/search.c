/* SPDX-License-Identifier: MIT */
#include "codec/search.h"

#include <math.h>

enum { GROUP_SIZE_MAX = 32 };

/* The first of the values with the largest magnitude, with its sign. */
static float extreme(int n, const float *x, float *magnitude)
{
    float max = 0, amax = 0;
    for (int i = 0; i < n; i++) {
        float ax = fabsf(x[i]);
        if (ax > amax) {
            amax = ax;
            max = x[i];
        }
    }
    *magnitude = amax;
    return max;
}

/* Weighted error of x ~ scale * L + lo. */
static float affine_error(bool absolute, int n, const float *x, const float *w, const uint8_t *L,
                          float scale, float lo)
{
    float sum = 0;
    for (int i = 0; i < n; i++) {
        float diff = scale * (float)L[i] + lo - x[i];
        diff = absolute ? fabsf(diff) : diff * diff;
        sum += w[i] * diff;
    }
    return sum;
}

float search_scale_min(const struct search_grid *grid, int n, const float *x, const float *w,
                       uint8_t *L, float *min)
{
    float lo = x[0], hi = x[0];
    float sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < lo)
            lo = x[i];
        if (x[i] > hi)
            hi = x[i];
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    if (lo > 0)
        lo = 0;
    if (hi <= lo) {
        memset(L, 0, (size_t)n);
        *min = -lo;
        return 0;
    }
    int nmax = grid->nmax;
    float inverse = (float)nmax / (hi - lo);
    float scale = 1 / inverse;
    for (int i = 0; i < n; i++)
        L[i] = (uint8_t)clamp_int(round_even(inverse * (x[i] - lo)), 0, nmax);
    float best = affine_error(grid->absolute_error, n, x, w, L, scale, lo);

    uint8_t trial[GROUP_SIZE_MAX];
    for (int step = 0; step <= grid->steps; step++) {
        inverse = (grid->rmin + grid->rdelta * (float)step + (float)nmax) / (hi - lo);
        float sum_l = 0, sum_l2 = 0, sum_xl = 0;
        for (int i = 0; i < n; i++) {
            int l = clamp_int(round_even(inverse * (x[i] - lo)), 0, nmax);
            trial[i] = (uint8_t)l;
            sum_l += w[i] * (float)l;
            sum_l2 += w[i] * (float)l * (float)l;
            sum_xl += w[i] * (float)l * x[i];
        }
        float det = sum_w * sum_l2 - sum_l * sum_l;
        if (!(det > 0))
            continue;
        float trial_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        float trial_lo = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        if (trial_lo > 0) {
            trial_lo = 0;
            trial_scale = sum_xl / sum_l2;
        }
        float error = affine_error(grid->absolute_error, n, x, w, trial, trial_scale, trial_lo);
        if (error < best) {
            memcpy(L, trial, (size_t)n);
            best = error;
            scale = trial_scale;
            lo = trial_lo;
        }
    }
    *min = -lo;
    return scale;
}

float search_symmetric(int n, int nmax, const float *x, const float *w, uint8_t *L)
{
    float amax;
    float max = extreme(n, x, &amax);
    if (amax < GROUP_MAX_EPS) {
        memset(L, 0, (size_t)n);
        return 0;
    }
    float scale = 0, best = 0, chosen = 0;
    /* The plain grid point comes first and is always taken. */
    static const int order[] = {0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    for (unsigned k = 0; k < sizeof order / sizeof *order; k++) {
        float inverse = -((float)nmax + 0.1f * (float)order[k]) / max;
        float sum_xl = 0, sum_l2 = 0;
        for (int i = 0; i < n; i++) {
            float l = (float)clamp_int(round_even(inverse * x[i]), -nmax, nmax - 1);
            float weight = w ? w[i] : x[i] * x[i];
            sum_xl += weight * x[i] * l;
            sum_l2 += weight * l * l;
        }
        if (k == 0) {
            scale = sum_l2 != 0 ? sum_xl / sum_l2 : 0;
        } else if (sum_l2 > 0 && sum_xl * sum_xl > best * sum_l2) {
            scale = sum_xl / sum_l2;
        } else {
            continue;
        }
        chosen = inverse;
        best = scale * sum_xl;
    }
    for (int i = 0; i < n; i++)
        L[i] = (uint8_t)(clamp_int(round_even(chosen * x[i]), -nmax, nmax - 1) + nmax);
    return scale;
}

float search_q3(int n, const float *x, uint8_t *L)
{
    enum { NMAX = 4, SWEEPS = 5 };
    float amax;
    float max = extreme(n, x, &amax);
    if (amax < GROUP_MAX_EPS) {
        memset(L, 0, (size_t)n);
        return 0;
    }
    float inverse = -NMAX / max;
    int level[GROUP_SIZE_MAX];
    float sum_xl = 0, sum_l2 = 0;
    for (int i = 0; i < n; i++) {
        int l = clamp_int(round_even(inverse * x[i]), -NMAX, NMAX - 1);
        level[i] = l;
        float w = x[i] * x[i];
        sum_xl += w * x[i] * (float)l;
        sum_l2 += w * (float)l * (float)l;
    }
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool changed = false;
        for (int i = 0; i < n; i++) {
            float w = x[i] * x[i];
            float rest_xl = sum_xl - w * x[i] * (float)level[i];
            if (!(rest_xl > 0))
                continue;
            float rest_l2 = sum_l2 - w * (float)level[i] * (float)level[i];
            int l = clamp_int(round_even(x[i] * rest_l2 / rest_xl), -NMAX, NMAX - 1);
            if (l == level[i])
                continue;
            rest_xl += w * x[i] * (float)l;
            rest_l2 += w * (float)l * (float)l;
            if (rest_l2 > 0 && rest_xl * rest_xl * sum_l2 > sum_xl * sum_xl * rest_l2) {
                level[i] = l;
                sum_xl = rest_xl;
                sum_l2 = rest_l2;
                changed = true;
            }
        }
        if (!changed)
            break;
    }
    for (int i = 0; i < n; i++)
        L[i] = (uint8_t)(level[i] + NMAX);
    return sum_l2 > 0 ? sum_xl / sum_l2 : 0;
}

/* Weighted squared error of x ~ scale * min(nmax, round(inverse * x)). */
static float positive_error(int n, int nmax, const float *x, const float *w, float inverse,
                            float scale)
{
    float sum = 0;
    for (int i = 0; i < n; i++) {
        int l = round_even(inverse * x[i]);
        if (l > nmax)
            l = nmax;
        float diff = x[i] - scale * (float)l;
        sum += w[i] * diff * diff;
    }
    return sum;
}

float search_positive(int n, int nmax, const float *x, const float *w, uint8_t *L)
{
    enum { SWEEPS = 5 };
    float max = 0;
    for (int i = 0; i < n; i++)
        if (x[i] > max)
            max = x[i];
    if (max < GROUP_MAX_EPS) {
        memset(L, 0, (size_t)n);
        return 0;
    }
    float inverse = (float)nmax / max;
    for (int i = 0; i < n; i++)
        L[i] = (uint8_t)round_even(inverse * x[i]);
    /* The first error is taken on the levels as stored, wrapped and unclamped. */
    float scale = 1 / inverse, best = 0;
    for (int i = 0; i < n; i++) {
        float diff = x[i] - scale * (float)L[i];
        best += w[i] * diff * diff;
    }
    for (int step = -4; step <= 4; step++) {
        if (step == 0)
            continue;
        float trial = (0.1f * (float)step + (float)nmax) / max;
        float error = positive_error(n, nmax, x, w, trial, 1 / trial);
        if (error < best) {
            best = error;
            inverse = trial;
        }
    }
    float sum_xl = 0, sum_l2 = 0;
    for (int i = 0; i < n; i++) {
        int l = round_even(inverse * x[i]);
        if (l > nmax)
            l = nmax;
        L[i] = (uint8_t)l;
        sum_xl += w[i] * x[i] * (float)l;
        sum_l2 += w[i] * (float)l * (float)l;
    }
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool changed = false;
        for (int i = 0; i < n; i++) {
            float rest_xl = sum_xl - w[i] * x[i] * (float)L[i];
            float rest_l2 = sum_l2 - w[i] * (float)L[i] * (float)L[i];
            if (!(rest_xl > 0 && rest_l2 > 0))
                continue;
            int l = round_even(x[i] * rest_l2 / rest_xl);
            if (l > nmax)
                l = nmax;
            if (l == L[i])
                continue;
            rest_xl += w[i] * x[i] * (float)l;
            rest_l2 += w[i] * (float)l * (float)l;
            if (rest_xl * rest_xl * sum_l2 > sum_xl * sum_xl * rest_l2) {
                L[i] = (uint8_t)l;
                sum_xl = rest_xl;
                sum_l2 = rest_l2;
                changed = true;
            }
        }
        if (!changed)
            break;
    }
    return sum_l2 > 0 ? sum_xl / sum_l2 : 0;
}

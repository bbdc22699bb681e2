/* SPDX-License-Identifier: MIT
 *
 * The searches at the heart of ggml's encoders: given a group of weights, find the scale (and
 * min) whose rounded levels reproduce it best. Every float operation happens in the order of the
 * reference (ggml-quants.c, ggml 0.21 to 0.25), for its rounding errors are part of the format's
 * bytes: sums run in index order, a * b * c means (a * b) * c, nothing may be contracted to FMA.
 *
 * n is the group's size, at most 32. L receives n levels. A scale of 0 with L = 0 stands for an
 * all-zero group.
 */
#ifndef CODEC_SEARCH_H
#define CODEC_SEARCH_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* A group whose largest magnitude lies below this is all zero. */
#define GROUP_MAX_EPS 1e-15f

/* Rounds half to even by adding 1.5 * 2^23. Beyond 2^22 the result is garbage, and the same
 * garbage as the reference's: the coordinate searches reach such values and go on with them. */
static inline int round_even(float v)
{
    float shifted = v + 12582912.f;
    int bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (bits & 0x007fffff) - 0x00400000;
}

static inline int clamp_int(int v, int lo, int hi) { return v < lo ? lo : v > hi ? hi : v; }

/* The grid of a scale-and-min search: step s of 0..steps tries (rmin + rdelta * s + nmax). */
struct search_grid {
    int nmax;
    float rmin, rdelta;
    int steps;
    bool absolute_error; /* sum of w * |error| instead of w * error^2 (Q2_K) */
};

/* Scale and min (x ~ scale * L - min, min >= 0, 0 <= L <= nmax) under weights w. The search is
 * stateful: a step that improves replaces the lower end that later steps start from.
 * (make_qkx2_quants and make_qkx3_quants, which differ only where weights are missing.) */
float search_scale_min(const struct search_grid *grid, int n, const float *x, const float *w,
                       uint8_t *L, float *min);

/* Symmetric: x ~ scale * (L - nmax), -nmax <= L - nmax < nmax, weights w or x * x if NULL.
 * The scale may be negative. L stays literally 0 for an all-zero group. (make_qx_quants) */
float search_symmetric(int n, int nmax, const float *x, const float *w, uint8_t *L);

/* Symmetric with nmax = 4 and weights x * x, refined by coordinate descent: Q3_K without an
 * importance matrix. (make_q3_quants) */
float search_q3(int n, const float *x, uint8_t *L);

/* Non-negative: x ~ scale * L, L <= nmax, under weights w: the scales of scales. L may hold a
 * wrapped negative level; the packing above reproduces what follows. (make_qp_quants) */
float search_positive(int n, int nmax, const float *x, const float *w, uint8_t *L);

#endif

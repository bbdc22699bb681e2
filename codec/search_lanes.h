/* SPDX-License-Identifier: MIT
 *
 * The searches of search.c with one group in each lane of a vector: x[i] holds weight i of LANES
 * groups. Function by function this is the scalar code; a condition has become a mask, and a
 * branch is taken where any lane needs it. What differs:
 *
 * - Levels are not kept from step to step. The winning step is remembered by what its levels
 *   follow from (struct fit), for they are rarely needed: see fit_levels.
 * - Rounding by adding and subtracting 1.5 * 2^23 leaves a float; the garbage of round_even needs
 *   the detour over integers, and clamping needs time. Rounding is monotonous, so the two outermost
 *   values tell which of it a step can do without (struct reach).
 * - Sums are chains of dependent additions. Groups, or steps where these do not depend on each
 *   other, are worked on in flight beside each other.
 */
#ifndef CODEC_SEARCH_LANES_H
#define CODEC_SEARCH_LANES_H

#include "codec/lanes.h"
#include "codec/search.h"

enum {
    GROUP_MAX = 32,
    FLIGHT = 2, /* groups side by side in search_scale_min: x[n * f + i], w likewise */
    TRIES = 3,  /* steps side by side in search_symmetric */
};

/* The scale (and min) that a search found, and where its levels lie:
 * offset + clamp(round_even(inverse * (x - origin))). */
struct fit {
    vfloat scale, min, inverse, origin;
    vint offset;
};

/* ---- levels ---- */

/* What may happen to values on their way to levels. FAR stands alone. */
enum reach { BELOW = 1, ABOVE = 2, FAR = 4 };

/* The level nearest to v among lo..hi, given what v may be. */
LANES_INLINE vfloat nearest(int reach, vfloat v, int lo, int hi)
{
    if (reach == FAR)
        return to_float(clamp_ints(round_even_ints(v), lo, hi));
    vfloat level = round_even_floats(v);
    if (reach & BELOW)
        level = larger(level, splat((float)lo));
    if (reach & ABOVE)
        level = smaller(level, splat((float)hi));
    return level;
}

/* What may happen to values between a and b. */
LANES_INLINE int reach_of(vfloat a, vfloat b, int lo, int hi)
{
    vfloat least = smaller(a, b), most = larger(a, b);
    vmask tame = less(magnitude(a), splat(4e6f)) & less(magnitude(b), splat(4e6f));
    if (any(~tame))
        return FAR;
    return (any(less(round_even_floats(least), splat((float)lo))) ? BELOW : 0) |
           (any(less(splat((float)hi), round_even_floats(most))) ? ABOVE : 0);
}

/* Calls a function, whose first argument is the reach, with a constant for it. */
#define WITH_REACH(reach, function, ...)                                                           \
    do {                                                                                           \
        int reach_ = (reach);                                                                      \
        if (reach_ & FAR)                                                                          \
            function(FAR, __VA_ARGS__);                                                            \
        else if (reach_ == (BELOW | ABOVE))                                                        \
            function(BELOW | ABOVE, __VA_ARGS__);                                                  \
        else if (reach_ == BELOW)                                                                  \
            function(BELOW, __VA_ARGS__);                                                          \
        else if (reach_ == ABOVE)                                                                  \
            function(ABOVE, __VA_ARGS__);                                                          \
        else                                                                                       \
            function(0, __VA_ARGS__);                                                              \
    } while (0)

/* The level that a search left for x. */
LANES_INLINE vint fit_level(const struct fit *fit, vfloat x, int lo, int hi)
{
    return clamp_ints(round_even_ints(fit->inverse * (x - fit->origin)), lo, hi) + fit->offset;
}

/* ---- scale and min ---- */

struct scale_min_sums {
    vfloat l[FLIGHT], l2[FLIGHT], xl[FLIGHT];
};

/* The levels of one step, and their sums. */
LANES_INLINE void scale_min_levels(int reach, int n, int nmax, const vfloat *x, const vfloat *w,
                                   const vfloat inverse[FLIGHT], const vfloat lo[FLIGHT],
                                   vfloat *level, struct scale_min_sums *sums)
{
    struct scale_min_sums s = {0};
    for (int i = 0; i < n; i++)
        for (int f = 0; f < FLIGHT; f++) {
            vfloat xi = x[n * f + i];
            vfloat l = nearest(reach, inverse[f] * (xi - lo[f]), 0, nmax);
            vfloat wl = w[n * f + i] * l;
            level[n * f + i] = l;
            s.l[f] += wl;
            s.l2[f] += wl * l;
            s.xl[f] += wl * xi;
        }
    *sums = s;
}

LANES_INLINE void affine_error(bool absolute, int n, const vfloat *x, const vfloat *w,
                               const vfloat *level, const vfloat scale[FLIGHT],
                               const vfloat lo[FLIGHT], vfloat error[FLIGHT])
{
    vfloat sum[FLIGHT] = {{0}};
    for (int i = 0; i < n; i++)
        for (int f = 0; f < FLIGHT; f++) {
            vfloat diff = scale[f] * level[n * f + i] + lo[f] - x[n * f + i];
            diff = absolute ? magnitude(diff) : diff * diff;
            sum[f] += w[n * f + i] * diff;
        }
    for (int f = 0; f < FLIGHT; f++)
        error[f] = sum[f];
}

LANES_INLINE void search_scale_min_lanes(const struct search_grid *grid, int n, const vfloat *x,
                                         const vfloat *w, struct fit fit[FLIGHT])
{
    int nmax = grid->nmax;
    vfloat least[FLIGHT], lo[FLIGHT], hi[FLIGHT], sum_w[FLIGHT], sum_x[FLIGHT];
    vfloat inverse[FLIGHT], scale[FLIGHT], best[FLIGHT], level[FLIGHT * GROUP_MAX];
    vmask flat[FLIGHT];
    struct scale_min_sums sums;
    int reach = 0;
    for (int f = 0; f < FLIGHT; f++) {
        const vfloat *xf = x + n * f, *wf = w + n * f;
        lo[f] = hi[f] = xf[0];
        sum_w[f] = wf[0];
        sum_x[f] = wf[0] * xf[0];
        for (int i = 1; i < n; i++) {
            lo[f] = smaller(xf[i], lo[f]);
            hi[f] = larger(xf[i], hi[f]);
            sum_w[f] += wf[i];
            sum_x[f] += wf[i] * xf[i];
        }
        least[f] = lo[f];
        lo[f] = choose(less(splat(0), lo[f]), splat(0), lo[f]);
        /* Lanes with nothing to scale go along with a range that harms nobody. */
        flat[f] = ~less(lo[f], hi[f]);
        hi[f] = choose(flat[f], splat(1), hi[f]);
        inverse[f] = (float)nmax / (hi[f] - lo[f]);
        scale[f] = 1 / inverse[f];
        fit[f].inverse = inverse[f];
        fit[f].origin = lo[f];
        fit[f].offset = splat_int(0);
        reach |= reach_of(inverse[f] * (least[f] - lo[f]), inverse[f] * (hi[f] - lo[f]), 0, nmax);
    }
    WITH_REACH(reach, scale_min_levels, n, nmax, x, w, inverse, lo, level, &sums);
    affine_error(grid->absolute_error, n, x, w, level, scale, lo, best);

    for (int step = 0; step <= grid->steps; step++) {
        float factor = grid->rmin + grid->rdelta * (float)step + (float)nmax;
        reach = 0;
        for (int f = 0; f < FLIGHT; f++) {
            inverse[f] = factor / (hi[f] - lo[f]);
            reach |=
                reach_of(inverse[f] * (least[f] - lo[f]), inverse[f] * (hi[f] - lo[f]), 0, nmax);
        }
        WITH_REACH(reach, scale_min_levels, n, nmax, x, w, inverse, lo, level, &sums);
        vfloat trial_scale[FLIGHT], trial_lo[FLIGHT], error[FLIGHT];
        vmask valid[FLIGHT];
        for (int f = 0; f < FLIGHT; f++) {
            vfloat sum_l = sums.l[f], sum_l2 = sums.l2[f], sum_xl = sums.xl[f];
            vfloat det = sum_w[f] * sum_l2 - sum_l * sum_l;
            valid[f] = less(splat(0), det) & ~flat[f];
            trial_scale[f] = (sum_w[f] * sum_xl - sum_x[f] * sum_l) / det;
            trial_lo[f] = (sum_l2 * sum_x[f] - sum_l * sum_xl) / det;
            vmask positive = less(splat(0), trial_lo[f]);
            if (any(positive)) {
                trial_lo[f] = choose(positive, splat(0), trial_lo[f]);
                trial_scale[f] = choose(positive, sum_xl / sum_l2, trial_scale[f]);
            }
        }
        affine_error(grid->absolute_error, n, x, w, level, trial_scale, trial_lo, error);
        for (int f = 0; f < FLIGHT; f++) {
            vmask better = valid[f] & less(error[f], best[f]);
            fit[f].inverse = choose(better, inverse[f], fit[f].inverse);
            fit[f].origin = choose(better, lo[f], fit[f].origin);
            best[f] = choose(better, error[f], best[f]);
            scale[f] = choose(better, trial_scale[f], scale[f]);
            lo[f] = choose(better, trial_lo[f], lo[f]);
        }
    }
    for (int f = 0; f < FLIGHT; f++) {
        fit[f].scale = choose(flat[f], splat(0), scale[f]);
        fit[f].min = -lo[f];
    }
}

/* ---- symmetric ---- */

/* The first of the values with the largest magnitude, with its sign. */
LANES_INLINE vfloat extreme(int n, const vfloat *x, vfloat *magnitude_of)
{
    vfloat max = {0}, amax = {0};
    for (int i = 0; i < n; i++) {
        vfloat ax = magnitude(x[i]);
        vmask greater = less(amax, ax);
        amax = choose(greater, ax, amax);
        max = choose(greater, x[i], max);
    }
    *magnitude_of = amax;
    return max;
}

/* Sums of w x l and w l l for the levels of some steps. wx is w * x. */
LANES_INLINE void symmetric_sums(int reach, int steps, int n, int nmax, const vfloat *x,
                                 const vfloat *w, const vfloat *wx, const vfloat *inverse,
                                 vfloat *sum_xl, vfloat *sum_l2)
{
    vfloat xl[TRIES] = {{0}}, l2[TRIES] = {{0}};
    for (int i = 0; i < n; i++)
        for (int k = 0; k < steps; k++) {
            vfloat l = nearest(reach, inverse[k] * x[i], -nmax, nmax - 1);
            xl[k] += wx[i] * l;
            l2[k] += w[i] * l * l;
        }
    for (int k = 0; k < steps; k++) {
        sum_xl[k] = xl[k];
        sum_l2[k] = l2[k];
    }
}

LANES_INLINE void search_symmetric_lanes(int n, int nmax, const vfloat *x, const vfloat *w,
                                         struct fit *fit)
{
    vfloat amax, max = extreme(n, x, &amax), least = x[0], most = x[0], wx[GROUP_MAX];
    vfloat inverse[TRIES], sum_xl[TRIES], sum_l2[TRIES];
    vmask flat = less(amax, splat(GROUP_MAX_EPS));
    max = choose(flat, splat(1), max);
    for (int i = 0; i < n; i++) {
        least = smaller(x[i], least);
        most = larger(x[i], most);
        wx[i] = w[i] * x[i];
    }
    /* The plain grid point comes first and is always taken. */
    vfloat chosen = -(float)nmax / max;
    int reach = reach_of(chosen * least, chosen * most, -nmax, nmax - 1);
    WITH_REACH(reach, symmetric_sums, 1, n, nmax, x, w, wx, &chosen, sum_xl, sum_l2);
    vfloat scale = choose(equal(sum_l2[0], splat(0)), splat(0), sum_xl[0] / sum_l2[0]);
    vfloat best = scale * sum_xl[0];
    static const int8_t order[] = {-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    for (unsigned first = 0; first < sizeof order; first += TRIES) {
        reach = 0;
        for (int k = 0; k < TRIES; k++) {
            inverse[k] = -((float)nmax + 0.1f * (float)order[first + k]) / max;
            reach |= reach_of(inverse[k] * least, inverse[k] * most, -nmax, nmax - 1);
        }
        WITH_REACH(reach, symmetric_sums, TRIES, n, nmax, x, w, wx, inverse, sum_xl, sum_l2);
        for (int k = 0; k < TRIES; k++) {
            vmask better =
                less(splat(0), sum_l2[k]) & less(best * sum_l2[k], sum_xl[k] * sum_xl[k]);
            if (!any(better))
                continue;
            scale = choose(better, sum_xl[k] / sum_l2[k], scale);
            best = choose(better, scale * sum_xl[k], best);
            chosen = choose(better, inverse[k], chosen);
        }
    }
    *fit = (struct fit){
        .scale = choose(flat, splat(0), scale),
        .inverse = choose(flat, splat(0), chosen),
        .offset = choose_int(flat, splat_int(0), splat_int(nmax)),
    };
}

/* ---- Q3_K without an importance matrix ---- */

/* FLIGHT groups of 16. These levels are kept: nothing short of the whole descent would give them
 * again. */
LANES_INLINE void search_q3_lanes(const vfloat *x, vfloat scale[FLIGHT], vint *levels)
{
    enum { N = 16, NMAX = 4, SWEEPS = 5 };
    vfloat sum_xl[FLIGHT], sum_l2[FLIGHT], w[FLIGHT * N], wx[FLIGHT * N], L[FLIGHT * N];
    vmask flat[FLIGHT];
    for (int f = 0; f < FLIGHT; f++) {
        vfloat amax, max = extreme(N, x + N * f, &amax);
        flat[f] = less(amax, splat(GROUP_MAX_EPS));
        vfloat inverse = -(float)NMAX / choose(flat[f], splat(1), max);
        sum_xl[f] = sum_l2[f] = splat(0);
        for (int i = N * f; i < N * f + N; i++) {
            w[i] = x[i] * x[i];
            wx[i] = w[i] * x[i];
            L[i] = to_float(clamp_ints(round_even_ints(inverse * x[i]), -NMAX, NMAX - 1));
            sum_xl[f] += wx[i] * L[i];
            sum_l2[f] += w[i] * L[i] * L[i];
        }
    }
    /* A lane that a sweep leaves as it was is left by all others too. */
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool changed = false;
        for (int i = 0; i < N; i++) {
            vfloat rest_xl[FLIGHT], rest_l2[FLIGHT];
            vmask moves[FLIGHT];
            for (int f = 0; f < FLIGHT; f++) {
                int at = N * f + i;
                rest_xl[f] = sum_xl[f] - wx[at] * L[at];
                rest_l2[f] = sum_l2[f] - w[at] * L[at] * L[at];
                /* Where the quotient is less than half a level away, there is nothing to do; this
                 * tells without a division, and says yes where it is not certain. */
                vfloat off = magnitude(x[at] * rest_l2[f] - L[at] * rest_xl[f]);
                moves[f] = ~less(off, 0.499f * rest_xl[f]) & ~flat[f];
            }
            for (int f = 0; f < FLIGHT; f++) {
                if (!any(moves[f]))
                    continue;
                int at = N * f + i;
                vint l = round_even_ints(x[at] * rest_l2[f] / rest_xl[f]);
                vfloat level = to_float(clamp_ints(l, -NMAX, NMAX - 1));
                vmask better = moves[f] & less(splat(0), rest_xl[f]) & ~equal(level, L[at]);
                vfloat trial_xl = rest_xl[f] + wx[at] * level;
                vfloat trial_l2 = rest_l2[f] + w[at] * level * level;
                better &= less(splat(0), trial_l2) &
                          less(sum_xl[f] * sum_xl[f] * trial_l2, trial_xl * trial_xl * sum_l2[f]);
                if (!any(better))
                    continue;
                L[at] = choose(better, level, L[at]);
                sum_xl[f] = choose(better, trial_xl, sum_xl[f]);
                sum_l2[f] = choose(better, trial_l2, sum_l2[f]);
                changed = true;
            }
        }
        if (!changed)
            break;
    }
    for (int f = 0; f < FLIGHT; f++) {
        for (int i = N * f; i < N * f + N; i++)
            levels[i] = choose_int(flat[f], splat_int(0), to_int(L[i]) + NMAX);
        scale[f] = choose(less(splat(0), sum_l2[f]) & ~flat[f], sum_xl[f] / sum_l2[f], splat(0));
    }
}

/* ---- scales of scales ---- */

/* Weighted squared error of x ~ scale * min(nmax, round(inverse * x)). */
LANES_INLINE vfloat positive_error(int n, int nmax, const vfloat *x, const vfloat *w,
                                   vfloat inverse, vfloat scale)
{
    vfloat sum = {0};
    for (int i = 0; i < n; i++) {
        vint l = smaller_int(round_even_ints(inverse * x[i]), splat_int(nmax));
        vfloat diff = x[i] - scale * to_float(l);
        sum += w[i] * diff * diff;
    }
    return sum;
}

/* One sweep of coordinate descent; the lanes in which it changed something. */
LANES_INLINE vmask positive_sweep(int n, int nmax, const vfloat *x, const vfloat *w, vint *L,
                                  vfloat *sum_xl, vfloat *sum_l2)
{
    vmask changed = less(splat(0), splat(0));
    for (int i = 0; i < n; i++) {
        vfloat old = to_float(L[i]);
        vfloat rest_xl = *sum_xl - w[i] * x[i] * old;
        vfloat rest_l2 = *sum_l2 - w[i] * old * old;
        vint l = smaller_int(round_even_ints(x[i] * rest_l2 / rest_xl), splat_int(nmax));
        vfloat level = to_float(l);
        vmask better = less(splat(0), rest_xl) & less(splat(0), rest_l2) & ~equal_int(l, L[i]);
        rest_xl += w[i] * x[i] * level;
        rest_l2 += w[i] * level * level;
        better &= less(*sum_xl * *sum_xl * rest_l2, rest_xl * rest_xl * *sum_l2);
        L[i] = choose_int(better, l & 255, L[i]);
        *sum_xl = choose(better, rest_xl, *sum_xl);
        *sum_l2 = choose(better, rest_l2, *sum_l2);
        changed |= better;
    }
    return changed;
}

static vfloat search_positive_lanes(int n, int nmax, const vfloat *x, const vfloat *w, vint *L)
{
    enum { SWEEPS = 5 };
    vfloat max = {0};
    for (int i = 0; i < n; i++)
        max = larger(x[i], max);
    vmask flat = less(max, splat(GROUP_MAX_EPS));
    max = choose(flat, splat(1), max);
    vfloat inverse = (float)nmax / max, scale = 1 / inverse, best = {0};
    /* The first error is taken on the levels as stored, wrapped and unclamped. */
    for (int i = 0; i < n; i++) {
        vfloat diff = x[i] - scale * to_float(round_even_ints(inverse * x[i]) & 255);
        best += w[i] * diff * diff;
    }
    for (int step = -4; step <= 4; step++) {
        if (step == 0)
            continue;
        vfloat trial = (0.1f * (float)step + (float)nmax) / max;
        vfloat error = positive_error(n, nmax, x, w, trial, 1 / trial);
        vmask better = less(error, best);
        best = choose(better, error, best);
        inverse = choose(better, trial, inverse);
    }
    vfloat sum_xl = {0}, sum_l2 = {0};
    for (int i = 0; i < n; i++) {
        vint l = smaller_int(round_even_ints(inverse * x[i]), splat_int(nmax));
        L[i] = l & 255;
        sum_xl += w[i] * x[i] * to_float(l);
        sum_l2 += w[i] * to_float(l) * to_float(l);
    }
    /* A lane that a sweep leaves as it was is left by all others too. */
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        if (!any(positive_sweep(n, nmax, x, w, L, &sum_xl, &sum_l2)))
            break;
    for (int i = 0; i < n; i++)
        L[i] = choose_int(flat, splat_int(0), L[i]);
    return choose(less(splat(0), sum_l2) & ~flat, sum_xl / sum_l2, splat(0));
}

#endif

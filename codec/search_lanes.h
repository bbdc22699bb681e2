/* SPDX-License-Identifier: MIT
 *
 * The searches of search.c with one group in each lane of a vector: x[i] holds weight i of LANES
 * groups. Function by function this is the scalar code; a condition has become a mask, and a
 * branch is taken where any lane needs it. What differs:
 *
 * - Levels are not kept from step to step. The winning step is remembered by what its levels
 *   follow from (struct fit), for they are rarely needed.
 * - Rounding by adding and subtracting 1.5 * 2^23 leaves a float; the garbage of round_even needs
 *   the detour over integers, and clamping takes time. Rounding is monotonic, so the outermost
 *   values tell which of it a step can do without (enum reach).
 * - Sums are chains of dependent additions. Groups, or steps where these do not depend on each
 *   other, are in flight beside each other; and there is no branch where a step improves, which no
 *   processor foresees.
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

/* Where values may lie: below or above the levels, or so far out that rounding is garbage. FAR
 * stands alone. Doing more than is needed changes nothing. */
enum reach { BELOW = 1, ABOVE = 2, FAR = 4 };

/* The level nearest to v among lo..hi, given what v may be. Clamping happens between the addition
 * that rounds and the subtraction that takes it back, on the bits, where integer units do it. */
LANES_INLINE vfloat nearest(int reach, vfloat v, int lo, int hi)
{
    enum { ZERO = 0x4b400000 }; /* the bits of ROUNDER */
    if (reach == FAR)
        return to_float(clamp_ints(round_even_ints(v), lo, hi));
    vint level = (vint)(v + ROUNDER);
    if (reach & BELOW)
        level = larger_int(level, splat_int(ZERO + lo));
    if (reach & ABOVE)
        level = smaller_int(level, splat_int(ZERO + hi));
    return (vfloat)level - ROUNDER;
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

/* The state of a search in each lane. */
struct scale_min {
    vfloat least, lo, hi, sum_w, sum_x; /* of the group; lo is where steps start from */
    vfloat step, factor, inverse;       /* of the next step: inverse is factor / (hi - lo) */
    vfloat scale, best;                 /* of the best step, which has given lo */
    vmask flat;                         /* nothing to scale */
};

static void scale_min_begin(int n, int nmax, const vfloat *x, const vfloat *w, struct scale_min *s)
{
    vfloat lo = x[0], hi = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < n; i++) {
        lo = smaller(x[i], lo);
        hi = larger(x[i], hi);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    s->least = lo;
    s->lo = choose(less(splat(0), lo), splat(0), lo);
    s->flat = ~less(s->lo, hi);
    s->hi = choose(s->flat, splat(1), hi); /* a range that harms nobody */
    s->sum_w = sum_w;
    s->sum_x = sum_x;
    s->step = splat(0);
    s->factor = splat((float)nmax);
    s->inverse = s->factor / (s->hi - s->lo);
    s->scale = 1 / s->inverse;
}

/* Where the values of a step may lie, inverse * (x - lo). The largest is factor, but for rounding
 * errors. */
LANES_INLINE int scale_min_reach(int nmax, const struct scale_min *s)
{
    vfloat span = s->hi - s->lo, lowest = s->inverse * (s->least - s->lo);
    vmask tame = less(splat(1e-30f), span) & less(span, splat(3e38f)) & less(splat(-4e6f), lowest);
    if (any(~tame))
        return FAR;
    return (any(less(lowest, splat(-0.49f))) ? BELOW : 0) |
           (any(less(splat((float)nmax + 0.49f), s->factor)) ? ABOVE : 0);
}

/* Where there are few levels and the steps are small, most of them change no level, and so nothing
 * at all: such steps are jumped over. */
LANES_INLINE bool scale_min_jumps(const struct search_grid *grid)
{
    return grid->nmax == 3 && grid->rdelta < 0.1f;
}

/* One over the upper border of a level, 0 for the last one that jumping knows. */
static const float per_border[16] = {1 / 0.5f, 1 / 1.5f, 1 / 2.5f};

struct scale_min_sums {
    vfloat l[FLIGHT], l2[FLIGHT], xl[FLIGHT];
    vfloat closest[FLIGHT]; /* the largest quotient of a value and the border above it; to jump */
};

/* The levels of one step, and their sums. */
LANES_INLINE void scale_min_levels(int reach, bool jumps, int n, int nmax, const vfloat *x,
                                   const vfloat *w, const struct scale_min s[FLIGHT], vfloat *level,
                                   struct scale_min_sums *sums)
{
    struct scale_min_sums sum = {0};
    vfloat inverse[FLIGHT], lo[FLIGHT];
    for (int f = 0; f < FLIGHT; f++) {
        inverse[f] = s[f].inverse;
        lo[f] = s[f].lo;
    }
    for (int i = 0; i < n; i++)
        for (int f = 0; f < FLIGHT; f++) {
            vfloat xi = x[n * f + i], v = inverse[f] * (xi - lo[f]);
            vfloat l = nearest(reach, v, 0, nmax);
            vfloat wl = w[n * f + i] * l;
            level[n * f + i] = l;
            sum.l[f] += wl;
            sum.l2[f] += wl * l;
            sum.xl[f] += wl * xi;
            if (jumps)
                sum.closest[f] =
                    larger(v * lookup(per_border, (vint)(l + ROUNDER)), sum.closest[f]);
        }
    if (reach == FAR)
        for (int f = 0; f < FLIGHT; f++)
            sum.closest[f] = splat(1);
    *sums = sum;
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

/* The scale and the lower end that fit a step's levels best. Returns the lanes that have any. */
LANES_INLINE vmask scale_min_solve(const struct scale_min *s, vfloat sum_l, vfloat sum_l2,
                                   vfloat sum_xl, vfloat *scale, vfloat *lo)
{
    vfloat det = s->sum_w * sum_l2 - sum_l * sum_l;
    *scale = (s->sum_w * sum_xl - s->sum_x * sum_l) / det;
    *lo = (sum_l2 * s->sum_x - sum_l * sum_xl) / det;
    vmask positive = less(splat(0), *lo);
    if (any(positive)) {
        *lo = choose(positive, splat(0), *lo);
        *scale = choose(positive, sum_xl / sum_l2, *scale);
    }
    return less(splat(0), det) & ~s->flat;
}

/* Goes on to the next step; where the last one was in vain, to the next that differs from it. A
 * step's factor is larger than the last one's by rdelta, and so are all values, in proportion. */
LANES_INLINE void scale_min_next(const struct search_grid *grid, vmask better, vfloat closest,
                                 struct scale_min *s)
{
    vfloat steps = splat(1);
    if (scale_min_jumps(grid)) {
        vfloat room = s->factor / (closest * 1.00001f) - s->factor;
        vfloat vain = smaller(room / grid->rdelta - 0.001f, splat((float)grid->steps));
        steps += choose(better, splat(0), to_float(to_int(larger(vain, splat(0)))));
    }
    s->step += steps;
}

LANES_INLINE void search_scale_min_lanes(const struct search_grid *grid, int n, const vfloat *x,
                                         const vfloat *w, struct fit fit[FLIGHT])
{
    bool jumps = scale_min_jumps(grid);
    int nmax = grid->nmax, reach = 0;
    struct scale_min s[FLIGHT];
    struct scale_min_sums sums;
    vfloat level[FLIGHT * GROUP_MAX], scale[FLIGHT], lo[FLIGHT], error[FLIGHT];
    for (int f = 0; f < FLIGHT; f++) {
        scale_min_begin(n, nmax, x + n * f, w + n * f, &s[f]);
        fit[f].inverse = s[f].inverse;
        fit[f].origin = lo[f] = s[f].lo;
        fit[f].offset = splat_int(0);
        scale[f] = s[f].scale;
        reach |= scale_min_reach(nmax, &s[f]);
    }
    WITH_REACH(reach, scale_min_levels, jumps, n, nmax, x, w, s, level, &sums);
    affine_error(grid->absolute_error, n, x, w, level, scale, lo, error);
    for (int f = 0; f < FLIGHT; f++)
        s[f].best = error[f];

    /* Lanes may be at different steps; those at the end wait for the others. */
    for (bool more = true; more;) {
        vmask valid[FLIGHT];
        reach = 0;
        for (int f = 0; f < FLIGHT; f++) {
            s[f].factor = grid->rmin + grid->rdelta * s[f].step + (float)nmax;
            s[f].inverse = s[f].factor / (s[f].hi - s[f].lo);
            reach |= scale_min_reach(nmax, &s[f]);
        }
        WITH_REACH(reach, scale_min_levels, jumps, n, nmax, x, w, s, level, &sums);
        for (int f = 0; f < FLIGHT; f++)
            valid[f] = scale_min_solve(&s[f], sums.l[f], sums.l2[f], sums.xl[f], &scale[f], &lo[f]);
        affine_error(grid->absolute_error, n, x, w, level, scale, lo, error);
        more = false;
        for (int f = 0; f < FLIGHT; f++) {
            vmask better = valid[f] & less(error[f], s[f].best) &
                           less(s[f].step, splat((float)grid->steps + 0.5f));
            fit[f].inverse = choose(better, s[f].inverse, fit[f].inverse);
            fit[f].origin = choose(better, s[f].lo, fit[f].origin);
            s[f].best = choose(better, error[f], s[f].best);
            s[f].scale = choose(better, scale[f], s[f].scale);
            s[f].lo = choose(better, lo[f], s[f].lo);
            scale_min_next(grid, better, sums.closest[f], &s[f]);
            more |= any(less(s[f].step, splat((float)grid->steps + 0.5f)));
        }
    }
    for (int f = 0; f < FLIGHT; f++) {
        fit[f].scale = choose(s[f].flat, splat(0), s[f].scale);
        fit[f].min = -s[f].lo;
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

/* finite: x holds weights, not scales, which are infinite or NaN where sums have overflowed. */
LANES_INLINE void search_symmetric_lanes(int n, int nmax, bool finite, const vfloat *x,
                                         const vfloat *w, struct fit *fit)
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
    /* max becomes the lowest level; what lies farthest on the other side may come out above. */
    vfloat other = choose(less(splat(0), max), least, most);
    /* The plain grid point comes first and is always taken. */
    vfloat chosen = -(float)nmax / max;
    WITH_REACH(finite ? ABOVE : FAR, symmetric_sums, 1, n, nmax, x, w, wx, &chosen, sum_xl, sum_l2);
    vfloat scale = choose(equal(sum_l2[0], splat(0)), splat(0), sum_xl[0] / sum_l2[0]);
    vfloat best = scale * sum_xl[0];
    static const int8_t order[] = {-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    for (unsigned first = 0; first < sizeof order; first += TRIES) {
        int reach = order[first + TRIES - 1] > 4 ? BELOW : 0;
        for (int k = 0; k < TRIES; k++) {
            inverse[k] = -((float)nmax + 0.1f * (float)order[first + k]) / max;
            if (any(less(splat((float)nmax - 0.51f), inverse[k] * other)))
                reach |= ABOVE;
        }
        WITH_REACH(finite ? reach : FAR, symmetric_sums, TRIES, n, nmax, x, w, wx, inverse, sum_xl,
                   sum_l2);
        for (int k = 0; k < TRIES; k++) {
            vmask better =
                less(splat(0), sum_l2[k]) & less(best * sum_l2[k], sum_xl[k] * sum_xl[k]);
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

/* The state of the descent: levels, and the share that each weight has in the sums. */
struct q3 {
    vfloat w[16], wx[16], L[16], xl[16], l2[16], sum_xl, sum_l2;
};

/* Gives weight i its best level in the lanes that may move; the sums without it are rest_xl and
 * rest_l2. Returns whether any has moved. */
LANES_INLINE bool q3_move(struct q3 *s, int i, vfloat x, vmask may_move, vfloat rest_xl,
                          vfloat rest_l2)
{
    vfloat level = to_float(clamp_ints(round_even_ints(x * rest_l2 / rest_xl), -4, 3));
    vfloat xl = s->wx[i] * level, l2 = s->w[i] * level * level;
    vmask better = may_move & ~equal(level, s->L[i]);
    rest_xl += xl;
    rest_l2 += l2;
    better &= less(splat(0), rest_l2) &
              less(s->sum_xl * s->sum_xl * rest_l2, rest_xl * rest_xl * s->sum_l2);
    s->L[i] = choose(better, level, s->L[i]);
    s->xl[i] = choose(better, xl, s->xl[i]);
    s->l2[i] = choose(better, l2, s->l2[i]);
    s->sum_xl = choose(better, rest_xl, s->sum_xl);
    s->sum_l2 = choose(better, rest_l2, s->sum_l2);
    return any(better);
}

/* A group of 16. These levels are kept: nothing short of the whole descent would give them again. */
LANES_INLINE vfloat search_q3_lanes(const vfloat *x, vint *levels)
{
    enum { N = 16, NMAX = 4, SWEEPS = 5 };
    struct q3 s = {.sum_xl = splat(0), .sum_l2 = splat(0)};
    vfloat amax, max = extreme(N, x, &amax);
    vmask flat = less(amax, splat(GROUP_MAX_EPS));
    vfloat inverse = -(float)NMAX / choose(flat, splat(1), max);
    for (int i = 0; i < N; i++) {
        s.w[i] = x[i] * x[i];
        s.wx[i] = s.w[i] * x[i];
        s.L[i] = to_float(clamp_ints(round_even_ints(inverse * x[i]), -NMAX, NMAX - 1));
        s.xl[i] = s.wx[i] * s.L[i];
        s.l2[i] = s.w[i] * s.L[i] * s.L[i];
        s.sum_xl += s.xl[i];
        s.sum_l2 += s.l2[i];
    }
    /* A lane that a sweep leaves as it was is left by all others too. */
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool moved = false;
        for (int i = 0; i < N; i++) {
            vfloat rest_xl = s.sum_xl - s.xl[i], rest_l2 = s.sum_l2 - s.l2[i];
            /* Where rest_xl is not positive (in half of all groups it never is), or where the
             * quotient x * rest_l2 / rest_xl is less than half a level away, nothing moves. This
             * tells so without a division, and not where it is uncertain. */
            vfloat distance = magnitude(x[i] * rest_l2 - s.L[i] * rest_xl);
            vmask may_move = less(splat(0), rest_xl) & ~less(distance, 0.499f * rest_xl);
            if (any(may_move) && q3_move(&s, i, x[i], may_move, rest_xl, rest_l2))
                moved = true;
        }
        if (!moved)
            break;
    }
    for (int i = 0; i < N; i++)
        levels[i] = choose_int(flat, splat_int(0), to_int(s.L[i]) + NMAX);
    return choose(less(splat(0), s.sum_l2) & ~flat, s.sum_xl / s.sum_l2, splat(0));
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

static inline vfloat search_positive_lanes(int n, int nmax, const vfloat *x, const vfloat *w, vint *L)
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

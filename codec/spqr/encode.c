/* SPDX-License-Identifier: MIT
 *
 * This file is compiled once for each instruction set. The 16 rows of a stripe are the lanes
 * (feedback_lanes.h).
 */
#include "codec/spqr/encode.h"

#include "codec/feedback_lanes.h"
#include "codec/float16.h"

#include <math.h>
#include <string.h>

#ifdef ISA_SPQR_ENCODE /* the name for others */
#define ENCODE ISA_SPQR_ENCODE
spqr_encode_fn ENCODE;
#else
#define ENCODE spqr_encode
#endif

_Static_assert((int)ROWS == SPQR_ROWS && (int)GROUP == SPQR_GROUP, "a stripe is what feedback takes");

enum { PASSES = 2 };

/* A stripe in the making. */
struct encoder {
    struct spqr_settings settings;
    float top; /* the greatest code of a weight */
    const float *x;
    size_t rows, columns, padded;
    const float *factor;
    float (*errors)[ROWS]; /* [padded], each by its diagonal element */
    float (*gains)[ROWS];  /* [padded]: what an outlier is worth there, compared with thresholds */
    struct spqr_stripe *out;
};

/* Which weights become outliers, from here on. What the fit of a group has left out must become
 * one, or it is worse off than without: a slot is kept for each of these. */
struct choice {
    float threshold;
    size_t left, kept;        /* slots; those of them that are kept */
    uint16_t left_out[GROUP]; /* by the fit of this group: bit r: row r */
};

/* The range of each row: quantize with code = x / scale + zero. */
struct fit {
    float scale[ROWS], zero[ROWS];
};

/* ---- quantizing ---- */

/* Half to even: at 1.5 * 2^23 a float has no bits for fractions. */
static inline float nearest_code(float v, float top)
{
    v = v > 0 ? v : 0;
    v = v > top ? top : v;
    return v + 12582912.f - 12582912.f;
}

static inline float quantize(float x, float scale, float zero, float top)
{
    return nearest_code(x / (scale < 1e-9f ? 1e-9f : scale) + zero, top);
}

/* The nearest binary16 that is finite. */
static float half(float v)
{
    v = v < -65504 ? -65504 : v > 65504 ? 65504 : v;
    return f32_from_f16(f16_from_f32(v));
}

/* The reference takes equal weights for the range -1 to 1. */
static void fit_as_reference(float top, const float low[ROWS], const float high[ROWS],
                             struct fit *fit)
{
    for (int r = 0; r < ROWS; r++) {
        bool equal = low[r] == high[r];
        float from = equal ? -1 : low[r], to = equal ? 1 : high[r];
        fit->scale[r] = (to - from) / top;
        fit->zero[r] = -from / fit->scale[r];
    }
}

/* Ranges that are farther from 0 than they are wide begin there. */
static void fit_from_zero(float top, const float low[ROWS], const float high[ROWS], struct fit *fit)
{
    for (int r = 0; r < ROWS; r++) {
        float width = high[r] - low[r];
        float from = low[r] > width ? 0 : low[r], to = -high[r] > width ? 0 : high[r];
        float scale = (to - from) / top;
        fit->scale[r] = scale;
        fit->zero[r] = scale > 0 ? -from / scale : top / 2;
    }
}

static void fit_range(const struct encoder *e, const float low[ROWS], const float high[ROWS],
                      struct fit *fit)
{
    if (e->settings.reference)
        fit_as_reference(e->top, low, high, fit);
    else
        fit_from_zero(e->top, low, high, fit);
}

/* ---- statistics: scales and zeros are quantized themselves ---- */

static void find_range(const float v[ROWS], float *low, float *high)
{
    *low = *high = v[0];
    for (int r = 0; r < ROWS; r++) {
        *low = v[r] < *low ? v[r] : *low;
        *high = v[r] > *high ? v[r] : *high;
    }
}

static void fit_statistic_as_reference(const float v[ROWS], float *scale, float *zero)
{
    float low, high;
    find_range(v, &low, &high);
    if (low == high) {
        low = -1;
        high = 1;
    }
    *scale = (high - low) / 7;
    *zero = -low / *scale;
}

/* In binary16. Values that are equal in all that it can tell get the code 0 for 1 * value. */
static void fit_statistic(const float v[ROWS], float *scale, float *zero)
{
    float low, high;
    find_range(v, &low, &high);
    float greatest = fmaxf(fabsf(low), fabsf(high));
    *scale = half((high - low) / 7);
    if (high - low < greatest * 0x1p-10f || *scale == 0) {
        float middle = low / 2 + high / 2;
        *scale = half(fabsf(middle));
        *zero = middle > 0 ? -1 : middle < 0;
    } else {
        *zero = half(-low / *scale);
    }
}

/* Replaces the values by what will be decoded of them. */
static void quantize_statistic(const struct encoder *e, float v[ROWS], uint8_t codes[ROWS],
                               float *scale, float *zero)
{
    if (e->settings.reference)
        fit_statistic_as_reference(v, scale, zero);
    else
        fit_statistic(v, scale, zero);
    for (int r = 0; r < ROWS; r++) {
        float code = quantize(v[r], *scale, *zero, 7);
        codes[r] = (uint8_t)code;
        v[r] = *scale * (code - *zero);
    }
}

/* ---- leave one out ---- */

/* The two least and the two greatest of each row; the same twice where a value stands twice. */
struct extremes {
    float low[2][ROWS], high[2][ROWS];
};

static void find_extremes(const tile w, struct extremes *x)
{
    for (int r = 0; r < ROWS; r++) {
        x->low[0][r] = x->low[1][r] = INFINITY;
        x->high[0][r] = x->high[1][r] = -INFINITY;
    }
    for (int c = 0; c < GROUP; c++)
        for (int r = 0; r < ROWS; r++) {
            float v = w[c][r], low = x->low[0][r], high = x->high[0][r];
            float not_low = v < low ? low : v, not_high = v > high ? high : v;
            x->low[0][r] = v < low ? v : low;
            x->high[0][r] = v > high ? v : high;
            x->low[1][r] = not_low < x->low[1][r] ? not_low : x->low[1][r];
            x->high[1][r] = not_high > x->high[1][r] ? not_high : x->high[1][r];
        }
}

/* The error of each weight under a fit, and of each row. Weights that are equal to `without` (NULL:
 * none) do not count. */
static void sum_errors(const struct encoder *e, const tile w, const float diagonal[GROUP],
                       const struct fit *fit, const float *without, tile own, float sum[ROWS])
{
    float top = e->top;
    memset(sum, 0, ROWS * sizeof *sum);
    for (int c = 0; c < GROUP; c++) {
        for (int r = 0; r < ROWS; r++) {
            float code = quantize(w[c][r], fit->scale[r], fit->zero[r], top);
            float d = (fit->scale[r] * (code - fit->zero[r]) - w[c][r]) / diagonal[c];
            own[c][r] = d * d;
        }
        for (int r = 0; r < ROWS; r++)
            sum[r] += without && w[c][r] == without[r] ? 0 : own[c][r];
    }
}

/* What each weight's absence would gain for the others. Only that of the least or the greatest of a
 * row, where it stands alone, changes the range; without any other one, only its own error goes. */
static void leave_one_out(const struct encoder *e, const tile w, const float diagonal[GROUP],
                          tile gains)
{
    struct extremes x;
    struct fit fit;
    tile unused;
    float all[ROWS], without_low[ROWS], without_high[ROWS];
    find_extremes(w, &x);
    fit_range(e, x.low[1], x.high[0], &fit);
    sum_errors(e, w, diagonal, &fit, x.low[0], unused, without_low);
    fit_range(e, x.low[0], x.high[1], &fit);
    sum_errors(e, w, diagonal, &fit, x.high[0], unused, without_high);
    fit_range(e, x.low[0], x.high[0], &fit);
    sum_errors(e, w, diagonal, &fit, NULL, gains, all);
    for (int c = 0; c < GROUP; c++)
        for (int r = 0; r < ROWS; r++) {
            bool low = w[c][r] == x.low[0][r] && x.low[1][r] > x.low[0][r];
            bool high = w[c][r] == x.high[0][r] && x.high[1][r] < x.high[0][r];
            float gain = low ? all[r] - without_low[r] : gains[c][r];
            gain = high ? all[r] - without_high[r] : gain;
            gains[c][r] = gain > 0 ? gain : 0;
        }
}

/* Puts each row's mean in the place of weights whose gain is above the threshold. */
static void replace_outliers(const tile gains, float threshold, tile w)
{
    float mean[ROWS] = {0}, count[ROWS] = {0};
    for (int c = 0; c < GROUP; c++)
        for (int r = 0; r < ROWS; r++) {
            bool kept = !(gains[c][r] > threshold);
            mean[r] += kept ? w[c][r] : 0;
            count[r] += kept ? 1.f : 0;
        }
    for (int r = 0; r < ROWS; r++)
        mean[r] /= count[r] < 1 ? 1 : count[r];
    for (int c = 0; c < GROUP; c++)
        for (int r = 0; r < ROWS; r++)
            w[c][r] = gains[c][r] > threshold ? mean[r] : w[c][r];
}

/* ---- thresholds ---- */

/* The least threshold that at most `count` of n values are above. Values are not negative, so that
 * their bits are in their order: these are found from the top, a digit at a time. */
static float threshold_for(const float *v, size_t n, size_t count)
{
    enum { DIGIT = 8 };
    uint32_t prefix = 0;
    for (int shift = 32 - DIGIT; shift >= 0; shift -= DIGIT) {
        size_t histogram[1 << DIGIT] = {0};
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = f32_bits(v[i]);
            if ((uint64_t)bits >> (shift + DIGIT) == (uint64_t)prefix >> (shift + DIGIT))
                histogram[bits >> shift & ((1 << DIGIT) - 1)]++;
        }
        uint32_t digit = (1 << DIGIT) - 1;
        while (digit && histogram[digit] <= count)
            count -= histogram[digit--];
        prefix |= digit << shift;
    }
    return f32_from_bits(prefix);
}

/* ---- a group of columns ---- */

/* Of the stripe; its last row is repeated, its columns are padded with 0. */
static void load_group(const struct encoder *e, size_t first, tile w)
{
    for (size_t c = 0; c < GROUP; c++)
        for (size_t r = 0; r < ROWS; r++) {
            size_t row = r < e->rows ? r : e->rows - 1, column = first + c;
            w[c][r] = column < e->columns ? e->x[row * e->columns + column] : 0;
        }
}

/* The panel of the factor that belongs to these columns; NULL without one. */
static const float *panel_of(const struct encoder *e, size_t first)
{
    return e->factor && first < e->columns ? panel_at(e->factor, first) : NULL;
}

/* Where padding lies nothing is gained. */
static void clear_padding(const struct encoder *e, size_t column, float v[ROWS])
{
    for (size_t r = column < e->columns ? e->rows : 0; r < ROWS; r++)
        v[r] = 0;
}

static void find_gains(const struct encoder *e, const tile w, const float diagonal[GROUP],
                       size_t first)
{
    leave_one_out(e, w, diagonal, e->gains + first);
    for (size_t c = first; c < first + GROUP; c++)
        clear_padding(e, c, e->gains[c]);
}

/* The rows whose gain is above a threshold, as bits. */
static unsigned rows_above(const float gains[ROWS], float threshold)
{
    unsigned rows = 0;
    for (int r = 0; r < ROWS; r++)
        rows |= (unsigned)(gains[r] > threshold) << r;
    return rows;
}

/* What the fit of a group leaves out: what is likely an outlier, as long as there are slots. */
static void leave_out(const tile gains, float threshold, struct choice *choice)
{
    size_t count = 0;
    for (int c = 0; c < GROUP; c++) {
        choice->left_out[c] = (uint16_t)rows_above(gains[c], threshold);
        count += (size_t)__builtin_popcount(choice->left_out[c]);
    }
    choice->kept = count;
}

/* Scales and zeros as they will be decoded. */
static void fit_group(const struct encoder *e, const tile w, size_t first, struct choice *choice,
                      struct fit *fit)
{
    tile inner;
    struct extremes x;
    float threshold = choice->threshold;
    memcpy(inner, w, sizeof inner);
    leave_out(e->gains + first, threshold, choice);
    if (choice->kept > choice->left) {
        threshold = threshold_for(e->gains[first], GROUP * ROWS, choice->left);
        leave_out(e->gains + first, threshold, choice);
    }
    if (choice->kept)
        replace_outliers(e->gains + first, threshold, inner);
    find_extremes(inner, &x);
    fit_range(e, x.low[0], x.high[0], fit);
    struct spqr_group *g = &e->out->groups[first / GROUP];
    quantize_statistic(e, fit->scale, g->scales, &g->scale_scale, &g->scale_zero);
    quantize_statistic(e, fit->zero, g->zeros, &g->zero_scale, &g->zero_zero);
}

/* The rows of a column that become outliers, as bits: those whose squared error is above the
 * threshold. Of those that the fit has not left out, the greatest ones where slots are short. */
static unsigned choose_rows(const float squares[ROWS], unsigned left_out, struct choice *choice)
{
    unsigned above = rows_above(squares, choice->threshold);
    unsigned sure = above & left_out, others = above & ~left_out;
    choice->kept -= (size_t)__builtin_popcount(left_out);
    choice->left -= (size_t)__builtin_popcount(sure);
    while ((size_t)__builtin_popcount(others) > choice->left - choice->kept) {
        int least = __builtin_ctz(others);
        for (int r = 0; r < ROWS; r++)
            if (others >> r & 1 && squares[r] < squares[least])
                least = r;
        others &= ~(1u << least);
    }
    choice->left -= (size_t)__builtin_popcount(others);
    return sure | others;
}

/* A weight becomes an outlier: its code is that of 0, and its error what the residual leaves. */
static void put_outlier(const struct encoder *e, const struct fit *fit, size_t column, int row,
                        float weight, float diagonal)
{
    float code = nearest_code(fit->zero[row], e->top), value = weight, decoded = weight;
    if (!e->settings.reference) {
        float dense = fit->scale[row] * (code - fit->zero[row]);
        value = half(weight - dense);
        decoded = dense + value;
    }
    e->out->codes[column][row] = (uint8_t)code;
    e->out->outliers[column][row] = value;
    e->errors[column][row] = (weight - decoded) / diagonal;
}

/* The greatest threshold under which a weight would be an outlier again. One that was left out has
 * an error that it has only for being left out; it would not be for what it gains by that. */
static void update_gains(const float squares[ROWS], unsigned left_out, float gains[ROWS])
{
    for (int r = 0; r < ROWS; r++) {
        bool less = squares[r] < gains[r];
        gains[r] = less == (left_out >> r & 1) ? squares[r] : gains[r];
    }
}

static void quantize_column(const struct encoder *e, const struct fit *fit, size_t column,
                            const float w[ROWS], float diagonal, unsigned left_out,
                            struct choice *choice)
{
    float *errors = e->errors[column], squares[ROWS], top = e->top;
    uint8_t *codes = e->out->codes[column];
    for (int r = 0; r < ROWS; r++) {
        float code = quantize(w[r], fit->scale[r], fit->zero[r], top);
        codes[r] = (uint8_t)code;
        errors[r] = (w[r] - fit->scale[r] * (code - fit->zero[r])) / diagonal;
        squares[r] = errors[r] * errors[r];
    }
    clear_padding(e, column, squares);
    update_gains(squares, left_out, e->gains[column]);
    unsigned chosen = choose_rows(squares, left_out, choice);
    e->out->outlier_rows[column] = (uint16_t)chosen;
    for (; chosen; chosen &= chosen - 1) {
        int r = __builtin_ctz(chosen);
        put_outlier(e, fit, column, r, w[r], diagonal);
    }
}

static void encode_group(const struct encoder *e, size_t first, struct choice *choice)
{
    tile w;
    float diagonal[GROUP];
    struct fit fit;
    const float *panel = panel_of(e, first);
    load_group(e, first, w);
    load_diagonal(panel, first, diagonal);
    if (panel)
        feed_back((const float(*)[ROWS])e->errors, panel, first, w);
    if (choice->threshold < INFINITY)
        find_gains(e, (const float(*)[ROWS])w, diagonal, first);
    else
        memset(e->gains + first, 0, sizeof w);
    fit_group(e, (const float(*)[ROWS])w, first, choice, &fit);
    for (size_t c = 0; c < GROUP; c++) {
        quantize_column(e, &fit, first + c, w[c], diagonal[c], choice->left_out[c], choice);
        if (panel)
            feed_forward(e->errors[first + c], panel, first, c, w);
    }
}

/* ---- a stripe ---- */

/* With one threshold. */
static void encode_with(const struct encoder *e, float threshold)
{
    struct choice choice = {.threshold = threshold, .left = SIZE_MAX};
    for (size_t c = 0; c < e->padded; c += GROUP)
        encode_group(e, c, &choice);
}

/* Where the threshold is to be set anew: the first time soon, then at distances that double up to
 * the middle and halve behind it. */
static size_t next_setting(size_t column, size_t padded)
{
    size_t distance = column ? column : padded / 16, half = (padded - column) / 2;
    distance = (distance < half ? distance : half) / GROUP * GROUP;
    return column + (distance ? distance : GROUP);
}

/* With a threshold that fills the slots, by the gains that are known. The last columns get what is
 * left over. */
static void encode_within(const struct encoder *e, size_t slots)
{
    struct choice choice = {.left = slots};
    float threshold = INFINITY;
    for (size_t c = 0, next = 0; c < e->padded; c += GROUP) {
        if (c == next) {
            threshold = threshold_for(e->gains[c], (e->padded - c) * ROWS, choice.left);
            next = next_setting(c, e->padded);
        }
        if (c + GROUP >= e->columns)
            threshold = 0;
        choice.threshold = choice.left ? threshold : INFINITY;
        encode_group(e, c, &choice);
    }
}

/* What outliers would be worth if there were no feedback. */
static void guess_gains(const struct encoder *e)
{
    for (size_t first = 0; first < e->padded; first += GROUP) {
        tile w;
        float diagonal[GROUP];
        load_group(e, first, w);
        load_diagonal(panel_of(e, first), first, diagonal);
        find_gains(e, (const float(*)[ROWS])w, diagonal, first);
    }
}

/* What gains are with feedback the first pass finds out. With what it knows the second one spends
 * slots where they are worth most, for a loss that is up to 8 % lower; a third one finds no
 * better. */
static void fill_slots(const struct encoder *e, size_t slots)
{
    guess_gains(e);
    for (int pass = 0; pass < PASSES; pass++)
        encode_within(e, slots);
}

static size_t padded(size_t columns)
{
    return (columns + SPQR_COLUMNS - 1) / SPQR_COLUMNS * SPQR_COLUMNS;
}

/* n elements of the scratch. Since columns are padded to 64, what follows is aligned as well. */
static void *take(uint8_t **scratch, size_t n, size_t size)
{
    void *p = *scratch;
    *scratch += n * size;
    return p;
}

#ifndef ISA_SPQR_ENCODE
size_t spqr_scratch_size(size_t columns)
{
    return padded(columns) * (3 * sizeof(float[ROWS]) + sizeof(uint8_t[ROWS]) + sizeof(uint16_t)) +
           padded(columns) / GROUP * sizeof(struct spqr_group);
}
#endif

void ENCODE(const struct spqr_settings *settings, const float *x, size_t rows, size_t columns,
            const float *factor, void *scratch, struct spqr_stripe *out)
{
    uint8_t *free_space = scratch;
    size_t n = padded(columns);
    struct encoder e = {
        .settings = *settings,
        .top = (float)((1 << settings->bits) - 1),
        .x = x,
        .rows = rows,
        .columns = columns,
        .padded = n,
        .factor = factor,
        .errors = take(&free_space, n, sizeof *e.errors),
        .gains = take(&free_space, n, sizeof *e.gains),
        .out = out,
    };
    out->outliers = take(&free_space, n, sizeof *out->outliers);
    out->codes = take(&free_space, n, sizeof *out->codes);
    out->outlier_rows = take(&free_space, n, sizeof *out->outlier_rows);
    out->groups = take(&free_space, n / GROUP, sizeof *out->groups);
    if (settings->reference)
        encode_with(&e, settings->threshold);
    else if (settings->slots)
        fill_slots(&e, settings->slots);
    else
        encode_with(&e, INFINITY);
}

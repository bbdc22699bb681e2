/* SPDX-License-Identifier: MIT
 *
 * Feedback of errors over a group of 16 columns, for what is compiled once for each instruction set.
 * The 16 rows that are quantized together are the lanes: every loop over rows does the same to each,
 * which the compiler turns into vectors by itself.
 *
 * Nearly all time goes in here, columns^2 / 2 multiplications for a row. The errors of all columns
 * so far are applied to a group of 16 columns right before it is quantized, one after the other in
 * the order of columns; so the factor is read from front to back, what is added up stays in
 * registers, and a weight comes out the same whatever the width of a vector.
 */
#ifndef CODEC_FEEDBACK_LANES_H
#define CODEC_FEEDBACK_LANES_H

#include "codec/feedback.h"
#include "codec/spqr/prepare.h"

enum { ROWS = FEEDBACK_ROWS, GROUP = FEEDBACK_GROUP };

/* A group's columns of some rows, or a number for each of its weights. */
typedef float tile[GROUP][ROWS];

/* As many rows as a vector has, and how many of them and of columns are summed at once. */
#if defined ISA_AVX512
enum { LANES = 16, VECTORS = 1, AT_ONCE = 16 };
#elif defined ISA_AVX2
enum { LANES = 8, VECTORS = 2, AT_ONCE = 4 };
#else
enum { LANES = 4, VECTORS = 2, AT_ONCE = 4 };
#endif
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

/* The panel of a packed factor (spqr/prepare.h) that belongs to the group of this column. */
static inline const float *panel_at(const float *factor, size_t first)
{
    return factor + spqr_factor_size(first);
}

/* Of the group's columns in the factor; NULL: the identity. */
static inline void load_diagonal(const float *panel, size_t first, float diagonal[GROUP])
{
    for (size_t c = 0; c < GROUP; c++)
        diagonal[c] = panel ? panel[(first + c) * GROUP + c] : 1;
}

/* Some columns and rows of a group: the errors of `count` earlier columns. */
static inline __attribute__((always_inline)) void
apply_errors(const float *errors, const float *panel, size_t count, float *w)
{
    lanes sum[AT_ONCE][VECTORS];
    for (int c = 0; c < AT_ONCE; c++)
        for (int v = 0; v < VECTORS; v++)
            sum[c][v] = *(lanes *)(w + c * ROWS + v * LANES);
    for (size_t k = 0; k < count; k++, errors += ROWS, panel += GROUP)
#pragma GCC unroll 16
        for (int c = 0; c < AT_ONCE; c++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                sum[c][v] -= *(const lanes *)(errors + v * LANES) * panel[c];
    for (int c = 0; c < AT_ONCE; c++)
        for (int v = 0; v < VECTORS; v++)
            *(lanes *)(w + c * ROWS + v * LANES) = sum[c][v];
}

/* All earlier columns; so many at a time as the first cache has room for. */
static inline void feed_back(const float (*errors)[ROWS], const float *panel, size_t count, tile w)
{
    enum { CHUNK = 64 };
    for (size_t k = 0; k < count; k += CHUNK, errors += CHUNK, panel += CHUNK * GROUP)
        for (int c = 0; c < GROUP; c += AT_ONCE)
            for (int r = 0; r < ROWS; r += LANES * VECTORS)
                apply_errors(errors[0] + r, panel + c, count - k < CHUNK ? count - k : CHUNK,
                             w[c] + r);
}

/* Column c of the group at `first` alone, over the later ones of its group. */
static inline void feed_forward(const float errors[ROWS], const float *panel, size_t first,
                                size_t c, tile w)
{
    for (size_t later = c + 1; later < GROUP; later++) {
        float factor = panel[(first + c) * GROUP + later];
        for (int r = 0; r < ROWS; r++)
            w[later][r] -= errors[r] * factor;
    }
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * This file is compiled once for each instruction set.
 */
#include "codec/feedback.h"

#include "codec/feedback_lanes.h"

#include <string.h>

#ifdef ISA_FEEDBACK /* the name for others */
#define QUANTIZE ISA_FEEDBACK
feedback_fn QUANTIZE;
#else
#define QUANTIZE feedback_quantize
#endif

/* Half to even: at 1.5 * 2^23 a float has no bits for fractions. NaN becomes the least. */
static inline float nearest_level(float v, float low, float high)
{
    v = v > low ? v : low;
    v = v < high ? v : high;
    return v + 12582912.f - 12582912.f;
}

/* The last row is repeated. */
static void load_column(const struct feedback_rows *q, size_t column, float w[ROWS])
{
    for (size_t r = 0; r < ROWS; r++)
        w[r] = q->x[(r < q->rows ? r : q->rows - 1) * q->columns + column];
}

static void quantize_column(const struct feedback_rows *q, size_t column, const float w[ROWS],
                            float diagonal, float errors[ROWS])
{
    const float *scale = q->scales[column / q->group], *min = q->mins[column / q->group];
    float levels[ROWS];
    for (int r = 0; r < ROWS; r++) {
        levels[r] = nearest_level((w[r] + min[r]) / scale[r], q->low, q->high);
        errors[r] = (w[r] - (scale[r] * levels[r] - min[r])) / diagonal;
    }
    for (size_t r = 0; r < q->rows; r++)
        if (scale[r] != 0)
            q->codes[r * q->columns + column] = (uint8_t)(levels[r] - q->low);
}

void QUANTIZE(const struct feedback_rows *q, const struct feedback *f)
{
    for (size_t first = 0; first < q->columns; first += GROUP) {
        tile w;
        float diagonal[GROUP];
        const float *panel = f ? panel_at(f->factor, first) : NULL;
        load_diagonal(panel, first, diagonal);
        for (size_t c = 0; c < GROUP; c++)
            load_column(q, f ? f->order[first + c] : first + c, w[c]);
        if (panel)
            feed_back((const float(*)[ROWS])q->errors, panel, first, w);
        for (size_t c = 0; c < GROUP; c++) {
            float *errors = q->errors[first + c];
            quantize_column(q, f ? f->order[first + c] : first + c, w[c], diagonal[c], errors);
            if (panel)
                feed_forward(errors, panel, first, c, w);
        }
    }
}

#ifndef ISA_FEEDBACK
/* n elements of the scratch. */
static void *take(uint8_t **scratch, size_t n, size_t size)
{
    void *p = *scratch;
    *scratch += n * size;
    return p;
}

size_t feedback_scratch_size(size_t columns)
{
    size_t groups = columns / FEEDBACK_GROUP;
    return (columns + 2 * groups) * sizeof(float[ROWS]) + ROWS * columns;
}

void feedback_begin(struct feedback_rows *q, void *scratch)
{
    uint8_t *free_space = scratch;
    size_t groups = q->columns / q->group;
    q->errors = take(&free_space, q->columns, sizeof *q->errors);
    q->scales = take(&free_space, groups, sizeof *q->scales);
    q->mins = take(&free_space, groups, sizeof *q->mins);
    q->codes = take(&free_space, ROWS, q->columns);
    memset(q->mins, 0, groups * sizeof *q->mins);
}
#endif

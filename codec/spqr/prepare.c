/* SPDX-License-Identifier: MIT */
#include "codec/spqr/prepare.h"

#include "codec/spqr/stripe.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

struct column {
    float diagonal;
    uint32_t number;
};

static int by_activation(const void *a, const void *b)
{
    const struct column *x = a, *y = b;
    if (x->diagonal != y->diagonal)
        return x->diagonal > y->diagonal ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

int spqr_activation_order(const float *diagonal, size_t columns, uint32_t *order)
{
    struct column *sorted = calloc(columns, sizeof *sorted);
    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < columns; i++)
        sorted[i] = (struct column){diagonal[i], (uint32_t)i};
    qsort(sorted, columns, sizeof *sorted, by_activation);
    for (size_t i = 0; i < columns; i++)
        order[i] = sorted[i].number;
    free(sorted);
    return 0;
}

size_t spqr_factor_size(size_t columns)
{
    size_t panels = (columns + SPQR_GROUP - 1) / SPQR_GROUP;
    return panels * (panels + 1) / 2 * SPQR_GROUP * SPQR_GROUP;
}

void spqr_factor_pack(const float *upper, size_t columns, float *out)
{
    for (size_t from = 0; from < columns; from += SPQR_GROUP)
        for (size_t row = 0; row < from + SPQR_GROUP; row++)
            for (size_t c = from; c < from + SPQR_GROUP; c++) {
                bool inside = row <= c && c < columns;
                *out++ = inside ? upper[row * columns + c] : row == c;
            }
}

/* Of a column, unbiased. */
static double variance(const float *x, size_t rows, size_t stride)
{
    double sum = 0, squares = 0;
    for (size_t r = 0; r < rows; r++)
        sum += (double)x[r * stride];
    double mean = sum / (double)rows;
    for (size_t r = 0; r < rows; r++) {
        double d = (double)x[r * stride] - mean;
        squares += d * d;
    }
    return squares / (double)(rows - 1);
}

float spqr_threshold(const float *x, size_t rows, size_t columns, const float *factor,
                     float relative)
{
    double sum = 0;
    for (size_t c = 0; c < columns; c++) {
        double d = 1;
        if (factor)
            d = (double)factor[spqr_factor_size(c / SPQR_GROUP * SPQR_GROUP) + c * SPQR_GROUP +
                               c % SPQR_GROUP];
        sum += variance(x + c, rows, columns) / (d * d);
    }
    return relative * (float)(sum / (double)columns);
}

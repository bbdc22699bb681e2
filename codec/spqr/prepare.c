/* SPDX-License-Identifier: MIT */
#include "codec/spqr/prepare.h"

#include "codec/spqr/stripe.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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

/* The place of column c in its panel, and that of row 0 there. */
static float *panel_of(float *packed, size_t c)
{
    return packed + spqr_factor_size(c / SPQR_GROUP * SPQR_GROUP) + c % SPQR_GROUP;
}

void spqr_factor_begin(float *packed, size_t columns)
{
    size_t padded = (columns + SPQR_GROUP - 1) / SPQR_GROUP * SPQR_GROUP;
    memset(packed, 0, spqr_factor_size(columns) * sizeof *packed);
    for (size_t c = columns; c < padded; c++)
        panel_of(packed, c)[c * SPQR_GROUP] = 1;
}

void spqr_factor_put_row(float *packed, size_t columns, size_t row, const float *values)
{
    for (size_t c = row; c < columns; c++)
        panel_of(packed, c)[row * SPQR_GROUP] = values[c - row];
}

void spqr_factor_pack(const float *upper, size_t columns, float *out)
{
    spqr_factor_begin(out, columns);
    for (size_t row = 0; row < columns; row++)
        spqr_factor_put_row(out, columns, row, upper + row * columns + row);
}

void spqr_factor_inverse(const float *packed, size_t columns, float *diagonal)
{
    for (size_t c = 0; c < columns; c++) {
        const float *column = packed + spqr_factor_size(c / SPQR_GROUP * SPQR_GROUP) + c % SPQR_GROUP;
        double sum = 0;
        for (size_t row = 0; row <= c; row++)
            sum += (double)column[row * SPQR_GROUP] * (double)column[row * SPQR_GROUP];
        diagonal[c] = (float)sum;
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

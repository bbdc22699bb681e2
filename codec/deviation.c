/* SPDX-License-Identifier: MIT */
#include "codec/deviation.h"

#include <math.h>

void deviation_add_row(struct deviation *d, uint64_t row, const float *weights,
                       const float *decoded, size_t columns, const float *importance, float *errors)
{
    for (size_t c = 0; c < columns; c++) {
        double weight = (double)weights[c], error = fabs((double)decoded[c] - weight);
        d->squares += error * error;
        d->source += weight * weight;
        if (importance)
            d->weighted += error * error * (double)importance[c];
        if (error > d->greatest) {
            d->greatest = error;
            d->row = row;
            d->column = c;
        }
        errors[c] = (float)error;
    }
}

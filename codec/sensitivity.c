/* SPDX-License-Identifier: MIT */
#include "codec/sensitivity.h"

#include <math.h>

enum { GROUP = 16, CODE_MAX = 7 };

/* What rounding a group takes from its weights. One of equal weights keeps them. */
static void round_group(const float *weights, size_t n, float *lost)
{
    float least = weights[0], greatest = weights[0];
    for (size_t i = 1; i < n; i++) {
        least = fminf(least, weights[i]);
        greatest = fmaxf(greatest, weights[i]);
    }
    float scale = (greatest - least) / CODE_MAX;
    for (size_t i = 0; i < n; i++) {
        float code = scale > 0 ? rintf((weights[i] - least) / scale) : 0;
        lost[i] = scale > 0 ? weights[i] - (code * scale + least) : 0;
    }
}

void sensitivity_row(const float *weights, size_t columns, const float *inverse, float *out)
{
    for (size_t first = 0; first < columns; first += GROUP) {
        size_t n = columns - first < GROUP ? columns - first : GROUP;
        round_group(weights + first, n, out + first);
    }
    for (size_t c = 0; c < columns; c++)
        out[c] = out[c] * out[c] / (2 * (inverse ? inverse[c] : 1));
}

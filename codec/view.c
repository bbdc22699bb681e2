/* SPDX-License-Identifier: MIT */
#include "codec/view.h"

#include "codec/float16.h"

struct view view_make(const struct tensor *t)
{
    uint64_t cols = t->ndim ? t->shape[t->ndim - 1] : 1;
    return (struct view){.tensor = t,
                         .stack_count = 1,
                         .rows = cols ? t->elements / cols : 0,
                         .cols = cols,
                         .matrices = 1};
}

uint64_t view_source_row(const struct view *v, uint64_t row, uint32_t *which)
{
    uint64_t each = v->rows / v->stack_count;
    *which = (uint32_t)(row / each);
    row %= each;
    if (v->order != ROWS_AS_STORED) {
        uint64_t head_rows = each / v->heads, half = head_rows / 2;
        uint64_t head = row / head_rows * head_rows, r = row % head_rows;
        row = head + (v->order == ROWS_TO_PAIRS ? r % 2 * half + r / 2
                                                : r % half * 2 + r / half);
    }
    return v->first_row + row;
}

void view_add(const struct view *v, const struct dtype *t, float *weights, size_t n)
{
    if (v->add == 0)
        return;
    for (size_t i = 0; i < n; i++)
        weights[i] += v->add;
    /* torch adds half floats in half precision */
    if (t->format == &formats[FORMAT_F16])
        for (size_t i = 0; i < n; i++)
            weights[i] = f32_from_f16(f16_from_f32(weights[i]));
}

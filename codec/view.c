/* SPDX-License-Identifier: MIT */
#include "codec/view.h"

struct view view_make(const struct tensor *t)
{
    uint64_t cols = t->ndim ? t->shape[t->ndim - 1] : 1;
    return (struct view){.tensor = t, .rows = cols ? t->elements / cols : 0, .cols = cols};
}

uint64_t view_source_row(const struct view *v, uint64_t row)
{
    if (!v->rope_heads)
        return row;
    uint64_t head_rows = v->rows / v->rope_heads, half = head_rows / 2;
    uint64_t head = row / head_rows, r = row % head_rows;
    return head * head_rows + r % 2 * half + r / 2;
}

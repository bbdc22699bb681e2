/* SPDX-License-Identifier: MIT */
#include "codec/spqr/format.h"

const struct format spqr_formats[SPQR_FORMAT_COUNT] = {
    {.name = "spqr4", .title = "SPQR4", .version = 1, .stripe_bits = 4, .damping = 1},
    {.name = "spqr3", .title = "SPQR3", .version = 1, .stripe_bits = 3, .damping = 1},
    {.name = "spqr2", .title = "SPQR2", .version = 1, .stripe_bits = 2, .damping = 1},
};

int spqr_format_layout(const struct format *f, uint64_t columns, struct spqr_layout *out,
                       struct error *err)
{
    return spqr_layout(f->stripe_bits, columns, SPQR_BUDGET, out, err);
}

/* SPDX-License-Identifier: MIT */
#include "codec/spqr/format.h"

const struct format spqr_formats[SPQR_FORMAT_COUNT] = {
#define ROW(digit)                                                                                 \
    {                                                                                              \
        .name = "spqr" #digit, .title = "SPQR" #digit, .ggml_type = SPQR_GGML_TYPE + digit,        \
        .version = 1, .stripe_bits = digit, .damping = 1                                           \
    }
    ROW(4), ROW(3), ROW(2)
#undef ROW
};

int spqr_format_layout(const struct format *f, uint64_t columns, struct spqr_layout *out,
                       struct error *err)
{
    return spqr_layout(f->stripe_bits, columns, SPQR_BUDGET, out, err);
}

bool format_unit(const struct format *f, uint64_t cols, uint64_t *rows, uint64_t *size)
{
    struct spqr_layout layout;
    *rows = f->stripe_bits ? SPQR_ROWS : 1;
    if (!f->stripe_bits)
        return cols % f->block == 0 && format_packed_bytes(f, cols, cols, size);
    if (spqr_format_layout(f, cols, &layout, NULL))
        return false;
    *size = layout.stripe_size;
    return true;
}

bool matrices_size(const struct format *f, uint64_t matrices, uint64_t rows, uint64_t cols,
                   uint64_t *bytes)
{
    struct spqr_layout layout;
    uint64_t each;
    if (f->stripe_bits)
        return spqr_format_layout(f, cols, &layout, NULL) == 0 &&
               spqr_size(&layout, rows, &each, NULL) == 0 &&
               !__builtin_mul_overflow(matrices, each, bytes);
    return cols % f->block == 0 && !__builtin_mul_overflow(matrices, rows, &each) &&
           !__builtin_mul_overflow(each, cols, &each) && format_packed_bytes(f, cols, each, bytes);
}

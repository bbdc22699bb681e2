/* SPDX-License-Identifier: MIT
 *
 * spqr_matrix ROWS COLUMNS BITS SLOTS [THRESHOLD] <IN >OUT: packs a matrix and unpacks it again. IN
 * is the matrix with its columns in the factor's order, then U, both row by row in binary32; OUT the
 * matrix as it comes back. With SLOTS outliers in each stripe; or, where a relative THRESHOLD is
 * given, as many as the reference takes. What it took, of all weights, goes to stderr.
 */
#include "codec/isa.h"
#include "codec/spqr/prepare.h"

#include <stdio.h>
#include <stdlib.h>

/* The weights of a stripe that has no bytes. The reference's outliers are the weights themselves. */
static void decode(const struct spqr_stripe *s, size_t columns, bool reference, float *out)
{
    for (size_t c = 0; c < columns; c++) {
        const struct spqr_group *g = &s->groups[c / SPQR_GROUP];
        for (size_t r = 0; r < SPQR_ROWS; r++) {
            float scale = g->scale_scale * ((float)g->scales[r] - g->scale_zero);
            float zero = g->zero_scale * ((float)g->zeros[r] - g->zero_zero);
            float dense = scale * ((float)s->codes[c][r] - zero);
            bool outlier = s->outlier_rows[c] >> r & 1;
            out[r * columns + c] = !outlier    ? dense
                                   : reference ? s->outliers[c][r]
                                               : dense + s->outliers[c][r];
        }
    }
}

static void *allocate(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!p)
        abort();
    return p;
}

int main(int argc, char **argv)
{
    struct error err;
    struct spqr_layout layout;
    const struct isa *isa;
    size_t rows = argc > 4 ? strtoul(argv[1], NULL, 10) : 0, outliers = 0;
    size_t columns = argc > 4 ? strtoul(argv[2], NULL, 10) : 0;
    if (!rows || rows % SPQR_ROWS || isa_choose(NULL, &isa, &err) ||
        spqr_layout(atoi(argv[3]), columns, 0, &layout, &err)) {
        fprintf(stderr, "usage: %s ROWS COLUMNS BITS SLOTS [THRESHOLD]\n", argv[0]);
        return 1;
    }
    struct spqr_settings settings = {.bits = layout.bits, .slots = strtoul(argv[4], NULL, 10)};
    float *weights = allocate(rows * columns * sizeof *weights);
    float *upper = allocate(columns * columns * sizeof *upper);
    float *factor = allocate(spqr_factor_size(columns) * sizeof *factor);
    void *scratch = allocate(spqr_scratch_size(columns));
    if (fread(weights, sizeof *weights * columns, rows, stdin) != rows ||
        fread(upper, sizeof *upper * columns, columns, stdin) != columns)
        return 1;
    spqr_factor_pack(upper, columns, factor);
    if (argc > 5) {
        settings.reference = true;
        settings.threshold = spqr_threshold(weights, rows, columns, factor, strtof(argv[5], NULL));
    }
    for (size_t row = 0; row < rows; row += SPQR_ROWS) {
        struct spqr_stripe stripe;
        float *x = weights + row * columns;
        isa->spqr_encode(&settings, x, SPQR_ROWS, columns, factor, scratch, &stripe);
        decode(&stripe, columns, settings.reference, x);
        for (size_t c = 0; c < columns; c++)
            outliers += (size_t)__builtin_popcount(stripe.outlier_rows[c]);
    }
    fprintf(stderr, "%g\n", (double)outliers / (double)(rows * columns));
    return fwrite(weights, sizeof *weights * columns, rows, stdout) == rows ? 0 : 1;
}

/* SPDX-License-Identifier: MIT
 *
 * A stripe of an SpQR matrix, behind five bytes that say which: bits, columns, budget. What is not
 * there of the stripe is zeros.
 */
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/spqr/stripe.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>

enum { HEAD = 5, COLUMNS_MAX = 256 };

static void *allocate(size_t n, size_t size)
{
    void *p = calloc(n, size);
    assert(p);
    return p;
}

/* Taken to pieces and packed again, it decodes to the same weights. */
static void use_pieces(const struct spqr_layout *l, uint8_t *stripe, const float *weights)
{
    struct error err;
    struct spqr_stripe s = {
        .codes = allocate(l->padded, sizeof *s.codes),
        .groups = allocate(l->padded / SPQR_GROUP, sizeof *s.groups),
        .outlier_rows = allocate(l->padded, sizeof *s.outlier_rows),
        .outliers = allocate(l->padded, sizeof *s.outliers),
    };
    float *again = allocate(SPQR_ROWS * l->columns, sizeof *again);
    assert(spqr_unpack(l, stripe, l->stripe_size, &s, &err) == 0);
    spqr_pack(l, &s, stripe);
    assert(spqr_decode(l, stripe, l->stripe_size, again, &err) == 0);
    for (size_t i = 0; i < SPQR_ROWS * l->columns; i++)
        assert(f32_bits(weights[i]) == f32_bits(again[i]) ||
               (isnan(weights[i]) && isnan(again[i])));
    free(again);
    free(s.codes);
    free(s.groups);
    free(s.outlier_rows);
    free(s.outliers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct spqr_layout l;
    if (size < HEAD)
        return 0;
    uint64_t columns = load_u16(data + 1) % (COLUMNS_MAX + 1);
    if (spqr_layout(data[0], columns, (double)load_u16(data + 3) / 65535, &l, &err)) {
        use_text(err.text);
        return 0;
    }
    data += HEAD;
    size -= HEAD;
    uint8_t *stripe = allocate(l.stripe_size, 1);
    float *weights = allocate(SPQR_ROWS * l.columns, sizeof *weights);
    memcpy(stripe, data, size < l.stripe_size ? size : l.stripe_size);
    int rc = spqr_decode(&l, data, size, weights, &err);
    assert(size == l.stripe_size || rc);
    if (spqr_decode(&l, stripe, l.stripe_size, weights, &err) == 0)
        use_pieces(&l, stripe, weights);
    else
        use_text(err.text);
    free(weights);
    free(stripe);
    return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * Made-up SpQR stripes for unit tests. Include it behind cmocka.h.
 */
#ifndef TESTS_UNIT_STRIPES_H
#define TESTS_UNIT_STRIPES_H

#include "codec/spqr/stripe.h"
#include "tests/weights.h"

#include <stdlib.h>

static inline void *allocate(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

static inline struct spqr_layout layout(int bits, uint64_t columns, double budget)
{
    struct spqr_layout l;
    struct error err;
    assert_int_equal(spqr_layout(bits, columns, budget, &l, &err), 0);
    return l;
}

static inline void stripe_allocate(const struct spqr_layout *l, struct spqr_stripe *s)
{
    s->codes = allocate(l->padded, sizeof *s->codes);
    s->groups = allocate(l->padded / SPQR_GROUP, sizeof *s->groups);
    s->outlier_rows = allocate(l->padded, sizeof *s->outlier_rows);
    s->outliers = allocate(l->padded, sizeof *s->outliers);
}

static inline void stripe_free(struct spqr_stripe *s)
{
    free(s->codes);
    free(s->groups);
    free(s->outlier_rows);
    free(s->outliers);
}

/* A half between -2 and 2. */
static inline float random_half(struct random *r)
{
    return (float)((int)(random_bits(r) % 4096) - 2048) / 1024;
}

/* Codes, statistics and so many outliers: the first column and the last are among theirs. */
static inline void stripe_fill(const struct spqr_layout *l, struct random *r, size_t outliers,
                               struct spqr_stripe *s)
{
    for (size_t c = 0; c < l->padded; c++)
        for (int row = 0; row < SPQR_ROWS; row++)
            s->codes[c][row] = (uint8_t)(random_bits(r) % (1u << l->bits));
    for (size_t g = 0; g < l->padded / SPQR_GROUP; g++) {
        for (int row = 0; row < SPQR_ROWS; row++) {
            s->groups[g].scales[row] = random_bits(r) % 8;
            s->groups[g].zeros[row] = random_bits(r) % 8;
        }
        s->groups[g].scale_scale = random_half(r);
        s->groups[g].scale_zero = random_half(r);
        s->groups[g].zero_scale = random_half(r);
        s->groups[g].zero_zero = random_half(r);
    }
    for (size_t i = 0; i < outliers;) {
        size_t c = i == 0 ? 0 : i == 1 ? l->columns - 1 : random_bits(r) % l->columns;
        int row = (int)(random_bits(r) % SPQR_ROWS);
        if (s->outlier_rows[c] >> row & 1)
            continue;
        s->outlier_rows[c] |= (uint16_t)(1 << row);
        s->outliers[c][row] = random_half(r);
        i++;
    }
}

static inline void put_end(const struct spqr_layout *l, uint8_t *stripe, int row, uint32_t end)
{
    memcpy(stripe + l->columns_at - 64 + 4 * row, &end, sizeof end);
}

#endif

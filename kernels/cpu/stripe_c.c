/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/stripe.h"

#include "codec/bytes.h"
#include "codec/float16.h"

enum { GROUPS = SPQR_COLUMNS / SPQR_GROUP };

/* A supertile's codes by column, and what its rows decode with. */
struct supertile {
    uint8_t codes[SPQR_COLUMNS][SPQR_ROWS];
    float scales[GROUPS][SPQR_ROWS], zeros[GROUPS][SPQR_ROWS];
};

static void add_plane(const uint8_t *plane, int bits, int shift, struct supertile *t)
{
    int width = 8 * bits;
    for (int row = 0; row < SPQR_ROWS; row++)
        for (int c = 0; c < SPQR_COLUMNS; c++) {
            int code = plane[row * width + c % width] >> c / width * bits & ((1 << bits) - 1);
            t->codes[c][row] |= (uint8_t)(code << shift);
        }
}

/* statistics: the planes behind the weights. */
static void read_statistics(const uint8_t *statistics, struct supertile *t)
{
    const uint8_t *scales = statistics, *zeros = scales + SPQR_ROWS, *third = zeros + SPQR_ROWS;
    const uint8_t *halfs = third + SPQR_ROWS;
    for (int g = 0; g < GROUPS; g++) {
        float of[4]; /* ss, sz, zs, zz */
        for (int i = 0; i < 4; i++)
            of[i] = f32_from_f16(load_u16(halfs + 8 * i + 2 * g));
        for (int row = 0; row < SPQR_ROWS; row++) {
            int scale = (scales[row] >> 2 * g & 3) | (third[row] >> g & 1) << 2;
            int zero = (zeros[row] >> 2 * g & 3) | (third[row] >> (4 + g) & 1) << 2;
            t->scales[g][row] = of[0] * ((float)scale - of[1]);
            t->zeros[g][row] = of[2] * ((float)zero - of[3]);
        }
    }
}

static void read_supertile(int bits, const uint8_t *p, struct supertile *t)
{
    memset(t->codes, 0, sizeof t->codes);
    add_plane(p, bits == 3 ? 2 : bits, 0, t);
    if (bits == 3)
        add_plane(p + 256, 1, 2, t);
    read_statistics(p + 128 * bits, t);
}

/* One row and column; levels, lsum: of the supertile's columns and groups. */
static float multiply(const struct supertile *t, int row, const int8_t *levels, const float *lsum)
{
    float v = 0;
    for (int g = 0; g < GROUPS; g++) {
        int isum = 0;
        for (int c = 0; c < SPQR_GROUP; c++)
            isum += t->codes[g * SPQR_GROUP + c][row] * levels[g * SPQR_GROUP + c];
        v += t->scales[g][row] * ((float)isum - t->zeros[g][row] * lsum[g]);
    }
    return v;
}

static void dense(const struct spqr_layout *l, const uint8_t *stripe, const struct activations *a,
                  uint32_t column, uint32_t count, float (*sums)[SPQR_ROWS])
{
    memset(sums, 0, count * sizeof *sums);
    for (size_t k = 0; k < l->padded / SPQR_COLUMNS; k++) {
        struct supertile t;
        read_supertile(l->bits, stripe + k * l->supertile_size, &t);
        for (uint32_t i = 0; i < count; i++) {
            const int8_t *levels = a->q + (column + i) * a->q_stride + k * SPQR_COLUMNS;
            const float *lsum = a->lsum + (column + i) * a->sum_stride + k * GROUPS;
            float scale = a->scale[(column + i) * a->scale_stride + k];
            for (int row = 0; row < SPQR_ROWS; row++)
                sums[i][row] += scale * multiply(&t, row, levels, lsum);
        }
    }
}

/* A row's outliers with one column, whose activation at place c is x[c * stride]. */
static int add_outliers(const struct spqr_layout *l, const uint8_t *stripe, uint32_t slot,
                        uint32_t end, const float *x, size_t stride, float *sum)
{
    const uint8_t *columns = stripe + l->columns_at, *values = stripe + l->values_at;
    float own[OUTLIER_LANES] = {0};
    for (size_t j = 0; slot + j < end; j++) {
        size_t at = slot + j;
        uint32_t c = l->index_size == 2 ? load_u16(columns + 2 * at) : load_u32(columns + 4 * at);
        if (c >= l->columns)
            return -EINVAL;
        own[j % OUTLIER_LANES] += f32_from_f16(load_u16(values + 2 * at)) * x[c * stride];
    }
    for (int half = OUTLIER_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            own[i] += own[i + half];
    *sum += own[0];
    return 0;
}

int stripe_c(const struct spqr_layout *l, const uint8_t *stripe, const struct activations *a,
             uint32_t column, uint32_t count, float (*sums)[SPQR_ROWS])
{
    dense(l, stripe, a, column, count, sums);
    if (!l->slots)
        return 0;
    uint32_t ends[SPQR_ROWS + 1];
    int rc = stripe_ends(l, stripe, ends);
    for (int row = 0; row < SPQR_ROWS; row++)
        for (uint32_t i = 0; !rc && i < count; i++)
            rc = add_outliers(l, stripe, ends[row], ends[row + 1], a->x + column + i, a->batch,
                              &sums[i][row]);
    return rc;
}

/* SPDX-License-Identifier: MIT
 *
 * Rows whose codes feed errors back: guided K-quants and GPTQ. Under every instruction set they come
 * out as a plain loop over one row has them, which follows the papers and nothing else; and the loss
 * is clearly below that of the nearest codes.
 */
#include "codec/block.h"
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/gptq/format.h"
#include "codec/guided.h"
#include "codec/isa.h"
#include "tests/layer.h"

#include <math.h>
#include <stdio.h>

enum { ROWS = FEEDBACK_ROWS };

static const struct {
    size_t rows, columns;
} shapes[] = {
    {128, 256},
    {64,  512},
};

/* ---- by the encoders ---- */

/* All of the layer's rows. */
static uint8_t *encode(const struct format *f, const struct isa *isa, const struct layer *l,
                       const float *importance, const struct feedback *feedback)
{
    size_t row_size = l->columns / f->block * f->block_size;
    uint8_t *out = allocate(l->rows, row_size);
    float *x = allocate(ROWS * l->columns, sizeof *x);
    void *scratch = aligned_alloc(64, (feedback_scratch_size(l->columns) + 63) / 64 * 64);
    assert_non_null(scratch);
    for (size_t row = 0; row < l->rows; row += ROWS) {
        size_t rows = l->rows - row < ROWS ? l->rows - row : ROWS;
        memcpy(x, l->weights + row * l->columns, rows * l->columns * sizeof *x);
        memset(scratch, 0xaa, feedback_scratch_size(l->columns));
        f->encode_rows(f, isa, x, rows, l->columns, importance, feedback, scratch,
                       out + row * row_size);
    }
    free(scratch);
    free(x);
    return out;
}

/* What the layer's factor says. */
struct known {
    struct feedback feedback;
    uint8_t *dead;
    float *importance; /* the Hessian's diagonal, of columns in their order */
};

static struct known know(const struct layer *l)
{
    struct known k = {.dead = allocate(l->columns, 1),
                      .importance = allocate(l->columns, sizeof(float))};
    for (size_t i = 0; i < l->columns; i++) {
        k.importance[i] = (float)l->hessian[i * l->columns + i];
        k.dead[i] = l->hessian[l->order[i] * (l->columns + 1)] == 0;
    }
    k.feedback = (struct feedback){l->factor, l->order, k.dead};
    return k;
}

static void forget(struct known *k)
{
    free(k->dead);
    free(k->importance);
}

/* ---- by the page ---- */

/* A weight in its packed row: its scale, its min, its code. */
struct packed_weight {
    float scale, min;
    int code, low, high; /* levels; the code is that much above the least */
};

static struct packed_weight k_weight(const struct format *f, const uint8_t *row, size_t column)
{
    int i = (int)(column % SUPERBLOCK), third = i % 32;
    const uint8_t *at = row + column / SUPERBLOCK * f->block_size;
    uint8_t scale, min;
    if (f->plain == &formats[FORMAT_Q2_K]) {
        const struct block_q2_k *b = (const void *)at;
        return (struct packed_weight){f32_from_f16(b->d) * (float)(b->scales[i / 16] & 15),
                                      f32_from_f16(b->dmin) * (float)(b->scales[i / 16] >> 4),
                                      b->qs[32 * (i / 128) + third] >> 2 * (i % 128 / 32) & 3, 0,
                                      3};
    }
    if (f->plain == &formats[FORMAT_Q3_K]) {
        const struct block_q3_k *b = (const void *)at;
        int j = i / 16, low = j < 8 ? b->scales[j] & 15 : b->scales[j - 8] >> 4;
        int top = b->scales[8 + j % 4] >> 2 * (j / 4) & 3;
        return (struct packed_weight){f32_from_f16(b->d) * (float)(low + 16 * top - 32), 0,
                                      (b->qs[32 * (i / 128) + third] >> 2 * (i % 128 / 32) & 3) +
                                          4 * (b->hmask[third] >> i / 32 & 1),
                                      -4, 3};
    }
    const struct block_q4_k *b4 = (const void *)at;
    const struct block_q5_k *b5 = (const void *)at;
    bool five = f->plain == &formats[FORMAT_Q5_K];
    const uint8_t *qs = five ? b5->qs : b4->qs;
    int code = i % 64 < 32 ? qs[32 * (i / 64) + third] & 15 : qs[32 * (i / 64) + third] >> 4;
    code += five ? 16 * (b5->qh[third] >> i / 32 & 1) : 0;
    scale_min_get(i / 32, b4->scales, &scale, &min);
    return (struct packed_weight){f32_from_f16(b4->d) * (float)scale,
                                  f32_from_f16(b4->dmin) * (float)min, code, 0, five ? 31 : 15};
}

static struct packed_weight gptq_weight(const struct format *f, const uint8_t *row, size_t column)
{
    const uint8_t *at = row + column / f->block * f->block_size;
    int bits = f->block == 32 ? (f->block_size == 18 ? 4 : 3)
                              : (f->block_size == 66   ? 4
                                 : f->block_size == 50 ? 3
                                                       : 8);
    int code = 0;
    for (int k = 0; k < bits; k++) {
        size_t bit = column % f->block * (size_t)bits + (size_t)k;
        code |= (at[2 + bit / 8] >> bit % 8 & 1) << k;
    }
    return (struct packed_weight){f32_from_f16(load_u16(at)), 0, code, -(1 << (bits - 1)),
                                  (1 << (bits - 1)) - 1};
}

static struct packed_weight get_weight(const struct format *f, const uint8_t *row, size_t column)
{
    return f->plain ? k_weight(f, row, column) : gptq_weight(f, row, column);
}

/* The scales that GPTQ gives a row, and the code of 0 everywhere. */
static void fit_groups(const struct format *f, const float *w, size_t columns,
                       struct packed_weight *out)
{
    uint8_t nothing[130] = {0};
    struct packed_weight none = gptq_weight(f, nothing, 0);
    for (size_t c = 0; c < columns; c++) {
        float greatest = 0;
        for (size_t i = c / f->block * f->block; i < c / f->block * f->block + f->block; i++)
            greatest = fmaxf(greatest, fabsf(w[i]));
        float scale = 2 * greatest / (float)(none.high - none.low);
        scale = greatest > 0 ? fmaxf(scale, 0x1p-24f) : 0;
        out[c] = (struct packed_weight){f32_from_f16(f16_from_f32(scale)), 0, -none.low, none.low,
                                        none.high};
    }
}

/* One row after the other, one column after the other, each error taken from all later columns at
 * once. */
static void feed_back_plainly(const struct layer *l, float *w, struct packed_weight *p)
{
    size_t n = l->columns;
    for (size_t j = 0; j < n; j++) {
        size_t c = l->order[j];
        if (p[c].scale != 0) {
            float level = rintf((w[c] + p[c].min) / p[c].scale);
            level = fminf(fmaxf(level, (float)p[c].low), (float)p[c].high);
            p[c].code = (int)level - p[c].low;
        }
        float told = p[c].scale * (float)(p[c].code + p[c].low) - p[c].min;
        float e = (w[c] - told) / l->upper[j * n + j];
        for (size_t k = j + 1; k < n; k++) {
            float part = e * l->upper[j * n + k];
            w[l->order[k]] -= part;
        }
    }
}

/* K-quants take scales and first codes from what they are without feedback. */
static void check_against_the_page(const struct format *f, const struct layer *l,
                                   const struct known *k, const float *importance, const char *kind)
{
    size_t n = l->columns, row_size = n / f->block * f->block_size;
    float *w = allocate(n, sizeof *w);
    struct packed_weight *expected = allocate(n, sizeof *expected);
    for (const struct isa *const *isa = isas; *isa; isa++) {
        if (!isa_supported(*isa))
            continue;
        uint8_t *packed = encode(f, *isa, l, importance, &k->feedback);
        uint8_t *plain = encode(f, *isa, l, importance, NULL);
        for (size_t row = 0; row < l->rows; row++) {
            memcpy(w, l->weights + row * n, n * sizeof *w);
            for (size_t j = 0; j < n; j++)
                if (k->dead[j] && !f->plain)
                    w[l->order[j]] = 0;
            if (f->plain)
                for (size_t c = 0; c < n; c++)
                    expected[c] = k_weight(f, plain + row * row_size, c);
            else
                fit_groups(f, w, n, expected);
            feed_back_plainly(l, w, expected);
            for (size_t c = 0; c < n; c++) {
                struct packed_weight got = get_weight(f, packed + row * row_size, c);
                if (memcmp(&got, &expected[c], sizeof got) != 0)
                    fail_msg("%s, %s, %s: row %zu, column %zu: %d * %g - %g, not %d * %g - %g",
                             f->name, (*isa)->name, kind, row, c, got.code, (double)got.scale,
                             (double)got.min, expected[c].code, (double)expected[c].scale,
                             (double)expected[c].min);
            }
        }
        free(packed);
        free(plain);
    }
    free(expected);
    free(w);
}

static void check_table(const struct format *table, int count)
{
    static const enum weights_kind kinds[] = {WEIGHTS_GAUSSIAN, WEIGHTS_OUTLIERS,
                                              WEIGHTS_MOSTLY_ZERO, WEIGHTS_UNDERFLOW};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            for (int natural = 0; natural < 2; natural++) {
                struct layer l;
                layer_make(&l, kinds[i], shapes[s].rows, shapes[s].columns);
                layer_prepare(&l, !natural, 0.1);
                struct known k = know(&l);
                for (int f = 0; f < count; f++)
                    if (table[f].damping > 0 && table[f].natural == natural) {
                        check_against_the_page(&table[f], &l, &k, k.importance,
                                               weights_kind_names[kinds[i]]);
                        check_against_the_page(&table[f], &l, &k, NULL,
                                               weights_kind_names[kinds[i]]);
                    }
                forget(&k);
                layer_free(&l);
            }
}

static void test_guided_rows_follow_the_page(void **state)
{
    (void)state;
    check_table(guided_formats, GUIDED_FORMAT_COUNT);
}

static void test_gptq_rows_follow_the_page(void **state)
{
    (void)state;
    check_table(gptq_formats, GPTQ_FORMAT_COUNT);
}

/* ---- what it is worth ---- */

static double loss_of(const struct format *f, const struct layer *l, const uint8_t *packed)
{
    size_t n = l->columns;
    float *weights = allocate(l->rows * n, sizeof *weights);
    float *permuted = allocate(l->rows * n, sizeof *permuted);
    f->decode(packed, l->rows * n, weights);
    for (size_t row = 0; row < l->rows; row++)
        for (size_t j = 0; j < n; j++)
            permuted[row * n + j] = weights[row * n + l->order[j]];
    double loss = layer_loss(l, permuted);
    free(permuted);
    free(weights);
    return loss;
}

static void check_worth(const struct format *f, double part)
{
    struct layer l;
    layer_make(&l, WEIGHTS_GAUSSIAN, 48, 512);
    layer_prepare(&l, !f->natural, 0.1);
    struct known k = know(&l);
    uint8_t *with = encode(f, isas[0], &l, k.importance, &k.feedback);
    uint8_t *without = encode(f, isas[0], &l, k.importance, NULL);
    double fed = loss_of(f, &l, with), nearest = loss_of(f, &l, without);
    if (!(fed < part * nearest))
        fail_msg("%s: loss %g, and %g without feedback", f->name, fed, nearest);
    free(with);
    free(without);
    forget(&k);
    layer_free(&l);
}

static void test_feedback_lowers_the_loss(void **state)
{
    (void)state;
    for (int i = 0; i < GUIDED_FORMAT_COUNT; i++)
        check_worth(&guided_formats[i], 0.6);
    for (int i = 0; i < GPTQ_FORMAT_COUNT; i++)
        if (gptq_formats[i].damping > 0)
            check_worth(&gptq_formats[i], 0.6);
}

static void test_without_feedback(void **state)
{
    (void)state;
    struct layer l;
    layer_make(&l, WEIGHTS_GAUSSIAN, 37, 512);
    layer_prepare(&l, true, 0.1);
    struct known k = know(&l);
    for (int i = 0; i < GUIDED_FORMAT_COUNT; i++)
        for (int weighted = 0; weighted < 2; weighted++) {
            const struct format *f = &guided_formats[i];
            size_t size = l.rows * l.columns / f->block * f->block_size;
            const float *importance = weighted ? k.importance : NULL;
            uint8_t *got = encode(f, isas[0], &l, importance, NULL), *plain = allocate(size, 1);
            isas[0]->encode[f->plain - formats](l.weights, l.rows, l.columns, importance, plain);
            assert_memory_equal(got, plain, size);
            free(got);
            free(plain);
        }
    for (int i = 0; i < GPTQ_FORMAT_COUNT; i += 3) {
        size_t size = l.rows * l.columns / gptq_formats[i].block * gptq_formats[i].block_size;
        uint8_t *rtn = encode(&gptq_formats[i + 2], isas[0], &l, NULL, NULL);
        for (int twin = 0; twin < 2; twin++) {
            uint8_t *got = encode(&gptq_formats[i + twin], isas[0], &l, NULL, NULL);
            assert_memory_equal(got, rtn, size);
            free(got);
        }
        free(rtn);
    }
    forget(&k);
    layer_free(&l);
}

/* ---- edges ---- */

static void test_dead_columns(void **state)
{
    (void)state;
    enum { DEAD = 37, SIDE = 256 };
    struct layer l;
    layer_make(&l, WEIGHTS_GAUSSIAN, 16, SIDE);
    for (size_t i = 0; i < SIDE; i++)
        l.hessian[DEAD * SIDE + i] = l.hessian[i * SIDE + DEAD] = 0;
    for (size_t row = 0; row < l.rows; row++)
        l.weights[row * SIDE + DEAD] = 5; /* would take the whole range of its group */
    layer_prepare(&l, true, 0.1);
    struct known k = know(&l);
    for (int i = 0; i < GUIDED_FORMAT_COUNT; i++) {
        const struct format *f = &guided_formats[i];
        check_against_the_page(f, &l, &k, k.importance, "a dead column");
        uint8_t *with = encode(f, isas[0], &l, k.importance, &k.feedback);
        uint8_t *without = encode(f, isas[0], &l, k.importance, NULL);
        for (size_t row = 0; row < l.rows; row++)
            assert_int_equal(k_weight(f, with + row * f->block_size, DEAD).code,
                             k_weight(f, without + row * f->block_size, DEAD).code);
        free(with);
        free(without);
    }
    for (int i = 0; i < GPTQ_FORMAT_COUNT; i += 3) {
        const struct format *f = &gptq_formats[i];
        check_against_the_page(f, &l, &k, NULL, "a dead column");
        uint8_t *with = encode(f, isas[0], &l, NULL, &k.feedback);
        struct packed_weight w = gptq_weight(f, with, DEAD);
        assert_int_equal(w.code, -w.low);
        assert_true(w.scale < 0.1f);
        free(with);
    }
    forget(&k);
    layer_free(&l);
}

/* As many rows as there are: what is behind them is not touched. */
static void test_rows_know_nothing_of_each_other(void **state)
{
    (void)state;
    struct layer l;
    layer_make(&l, WEIGHTS_HEAVY_TAILS, ROWS, 256);
    layer_prepare(&l, true, 0.1);
    struct known k = know(&l);
    for (int i = 0; i < GUIDED_FORMAT_COUNT + GPTQ_FORMAT_COUNT; i++) {
        const struct format *f =
            i < GUIDED_FORMAT_COUNT ? &guided_formats[i] : &gptq_formats[i - GUIDED_FORMAT_COUNT];
        size_t row_size = l.columns / f->block * f->block_size;
        uint8_t *all = encode(f, isas[0], &l, k.importance, &k.feedback);
        for (size_t rows = 1; rows < ROWS; rows++) {
            struct layer first = l;
            first.rows = rows;
            uint8_t *some = encode(f, isas[0], &first, k.importance, &k.feedback);
            assert_memory_equal(some, all, rows * row_size);
            free(some);
        }
        free(all);
    }
    forget(&k);
    layer_free(&l);
}

static void test_gptq_groups(void **state)
{
    (void)state;
    enum { COLUMNS = 128 };
    float weights[COLUMNS], decoded[COLUMNS];
    struct layer l = {.rows = 1, .columns = COLUMNS, .weights = weights};
    for (int i = 0; i < GPTQ_FORMAT_COUNT; i++) {
        const struct format *f = &gptq_formats[i];
        int top = -gptq_weight(f, (uint8_t[130]){0}, 0).low;
        memset(weights, 0, sizeof weights);
        uint8_t *zeros = encode(f, isas[0], &l, NULL, NULL);
        for (size_t c = 0; c < COLUMNS; c++) {
            struct packed_weight w = gptq_weight(f, zeros, c);
            assert_true(w.scale == 0 && w.code == top);
        }
        free(zeros);
        /* Weights of one sign have the range of others: half a step is lost, and what binary16 takes
         * from the scale. */
        for (size_t c = 0; c < COLUMNS; c++)
            weights[c] = 0.5f + 0.001f * (float)c;
        uint8_t *positive = encode(f, isas[0], &l, NULL, NULL);
        f->decode(positive, COLUMNS, decoded);
        for (size_t c = 0; c < COLUMNS; c++) {
            float step = gptq_weight(f, positive, c).scale;
            assert_true(fabsf(decoded[c] - weights[c]) <= 0.6f * step);
        }
        assert_int_equal(format_first_invalid(f, positive, COLUMNS / f->block), COLUMNS / f->block);
        free(positive);
        weights[COLUMNS - 1] = 1e38f;
        uint8_t *huge = encode(f, isas[0], &l, NULL, NULL);
        assert_int_equal(format_first_invalid(f, huge, COLUMNS / f->block), COLUMNS / f->block - 1);
        free(huge);
    }
}

static void test_decoders(void **state)
{
    (void)state;
    enum { COLUMNS = 512 };
    struct random r = {7};
    float decoded[COLUMNS];
    uint8_t bytes[2 * COLUMNS];
    for (int i = 0; i < GPTQ_FORMAT_COUNT; i++) {
        const struct format *f = &gptq_formats[i];
        for (size_t k = 0; k < sizeof bytes; k++)
            bytes[k] = (uint8_t)random_bits(&r);
        for (size_t g = 0; g < COLUMNS / f->block; g++)
            bytes[g * f->block_size + 1] &= 0x3f; /* finite */
        f->decode(bytes, COLUMNS, decoded);
        for (size_t c = 0; c < COLUMNS; c++) {
            struct packed_weight w = gptq_weight(f, bytes, c);
            assert_true(decoded[c] == w.scale * (float)(w.code + w.low));
        }
    }
    for (int i = 0; i < GUIDED_FORMAT_COUNT; i++) {
        const struct format *f = &guided_formats[i], *plain = f->plain;
        assert_ptr_equal(guided_format_of(plain), f);
        assert_ptr_equal(f->decode, plain->decode);
        assert_true(f->ggml_type == plain->ggml_type && f->block == plain->block &&
                    f->block_size == plain->block_size && f->halves == plain->halves &&
                    memcmp(f->half_offset, plain->half_offset, 2) == 0 &&
                    f->exponent == plain->exponent);
    }
    assert_null(guided_format_of(&formats[FORMAT_Q6_K]));
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        int bits, group;
        double bpw;
    } expected[] = {
        {4, 128, 4.125},
        {4, 32,  4.5  },
        {3, 128, 3.125},
        {3, 32,  3.5  },
        {8, 128, 8.125},
    };
    static const char *const names[] = {"gptq%d-g%d", "gptq%d-g%d-natural", "rtn%d-g%d"};
    for (int i = 0; i < GPTQ_FORMAT_COUNT; i++) {
        const struct format *f = &gptq_formats[i];
        char name[32];
        snprintf(name, sizeof name, names[i % 3], expected[i / 3].bits, expected[i / 3].group);
        assert_string_equal(f->name, name);
        assert_true(format_bpw(f) == expected[i / 3].bpw);
        assert_int_equal(f->block, expected[i / 3].group);
        assert_int_equal(gptq_bits(f), expected[i / 3].bits);
        assert_true((f->damping > 0) == (i % 3 < 2) && f->natural == (i % 3 == 1));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guided_rows_follow_the_page),
        cmocka_unit_test(test_gptq_rows_follow_the_page),
        cmocka_unit_test(test_feedback_lowers_the_loss),
        cmocka_unit_test(test_without_feedback),
        cmocka_unit_test(test_dead_columns),
        cmocka_unit_test(test_rows_know_nothing_of_each_other),
        cmocka_unit_test(test_gptq_groups),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

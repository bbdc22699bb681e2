/* SPDX-License-Identifier: MIT
 *
 * The SpQR encoder. Layers that the reference engine has quantized (spqr-cases) come out the
 * same in reference mode, under every instruction set; without it the slots are filled and nothing
 * else is, what decodes is what the errors were computed from, and the loss falls with each thing
 * that the method adds.
 */
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/isa.h"
#include "codec/safetensors.h"
#include "codec/spqr/prepare.h"
#include "tests/layer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- a layer quantized ---- */

/* All stripes in pieces, and the weights that they stand for, [rows][columns], permuted. */
struct quantized {
    size_t stripes, padded;
    uint8_t *codes; /* [stripe][column][row] */
    struct spqr_group *groups;
    uint16_t *outlier_rows;
    float *outliers;
    float *weights;
    size_t count; /* of outliers */
};

static void quantized_free(struct quantized *q)
{
    free(q->codes);
    free(q->groups);
    free(q->outlier_rows);
    free(q->outliers);
    free(q->weights);
}

static float dense_value(const struct spqr_group *g, int row, uint8_t code)
{
    float scale = g->scale_scale * ((float)g->scales[row] - g->scale_zero);
    float zero = g->zero_scale * ((float)g->zeros[row] - g->zero_zero);
    return scale * ((float)code - zero);
}

static void store_weights(const struct layer *l, const struct spqr_settings *settings,
                          const struct spqr_stripe *s, size_t first, struct quantized *q)
{
    for (size_t r = 0; r < SPQR_ROWS && first + r < l->rows; r++)
        for (size_t c = 0; c < l->columns; c++) {
            float v = dense_value(&s->groups[c / SPQR_GROUP], (int)r, s->codes[c][r]);
            if (s->outlier_rows[c] >> r & 1)
                v = settings->reference ? s->outliers[c][r] : v + s->outliers[c][r];
            q->weights[(first + r) * l->columns + c] = v;
        }
}

static void quantize(const struct isa *isa, const struct spqr_settings *settings,
                     const struct layer *l, struct quantized *q)
{
    size_t n = (l->columns + SPQR_COLUMNS - 1) / SPQR_COLUMNS * SPQR_COLUMNS;
    size_t stripes = (l->rows + SPQR_ROWS - 1) / SPQR_ROWS;
    void *scratch = aligned_alloc(64, spqr_scratch_size(l->columns));
    assert_non_null(scratch);
    *q = (struct quantized){
        .stripes = stripes,
        .padded = n,
        .codes = allocate(stripes * n * SPQR_ROWS, 1),
        .groups = allocate(stripes * n / SPQR_GROUP, sizeof *q->groups),
        .outlier_rows = allocate(stripes * n, sizeof *q->outlier_rows),
        .outliers = allocate(stripes * n * SPQR_ROWS, sizeof *q->outliers),
        .weights = allocate(l->rows * l->columns, sizeof *q->weights),
    };
    for (size_t i = 0; i < stripes; i++) {
        size_t first = i * SPQR_ROWS, left = l->rows - first;
        struct spqr_stripe s;
        memset(scratch, 0xaa, spqr_scratch_size(l->columns));
        isa->spqr_encode(settings, l->permuted + first * l->columns,
                         left < SPQR_ROWS ? left : SPQR_ROWS, l->columns, l->factor, scratch, &s);
        memcpy(q->codes + i * n * SPQR_ROWS, s.codes, n * SPQR_ROWS);
        memcpy(q->groups + i * n / SPQR_GROUP, s.groups, n / SPQR_GROUP * sizeof *s.groups);
        memcpy(q->outlier_rows + i * n, s.outlier_rows, n * sizeof *s.outlier_rows);
        for (size_t c = 0; c < n; c++)
            for (size_t r = 0; r < SPQR_ROWS; r++)
                if (s.outlier_rows[c] >> r & 1) {
                    q->outliers[(i * n + c) * SPQR_ROWS + r] = s.outliers[c][r];
                    q->count++;
                }
        store_weights(l, settings, &s, first, q);
    }
    free(scratch);
}

static double loss_of(const struct layer *l, struct spqr_settings settings, size_t *count)
{
    const struct isa *isa;
    struct quantized q;
    assert_int_equal(isa_choose(NULL, &isa, NULL), 0);
    quantize(isa, &settings, l, &q);
    double loss = layer_loss(l, q.weights);
    if (count)
        *count = q.count;
    quantized_free(&q);
    return loss;
}

/* Round to nearest in groups of 16 columns as they stand, with statistics in binary32. */
static double round_to_nearest_loss(const struct layer *l, int bits)
{
    size_t n = l->columns;
    float *rounded = allocate(l->rows * n, sizeof *rounded);
    float *permuted = allocate(l->rows * n, sizeof *permuted), top = (float)((1 << bits) - 1);
    for (size_t i = 0; i < l->rows * n; i += SPQR_GROUP) {
        float low = INFINITY, high = -INFINITY;
        for (size_t j = i; j < i + SPQR_GROUP; j++) {
            low = fminf(low, l->weights[j]);
            high = fmaxf(high, l->weights[j]);
        }
        float scale = (high - low) / top;
        for (size_t j = i; j < i + SPQR_GROUP; j++)
            rounded[j] = low + scale * rintf((l->weights[j] - low) / scale);
    }
    for (size_t i = 0; i < l->rows * n; i++)
        permuted[i] = rounded[i / n * n + l->order[i % n]];
    double loss = layer_loss(l, permuted);
    free(permuted);
    free(rounded);
    return loss;
}

/* ---- the reference's cases ---- */

struct reference {
    char *file;
    struct tensor_list list;
    json_t *settings;
};

static void reference_open(struct reference *ref, const char *name)
{
    char path[4096];
    struct error err;
    uint64_t header;
    const char *folder = getenv("UNIT_DATA");
    assert_non_null(folder);
    snprintf(path, sizeof path, "%s/spqr-cases/%s.safetensors", folder, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    rewind(f);
    *ref = (struct reference){.file = allocate(size, 1)};
    assert_int_equal(fread(ref->file, 1, size, f), size);
    fclose(f);
    assert_int_equal(safetensors_header_size((uint8_t *)ref->file, size, size, &header, &err), 0);
    const char *text = ref->file + SAFETENSORS_PREFIX;
    assert_int_equal(safetensors_parse(text, header, size, 0, &ref->list, &err), 0);
    json_t *json = json_loadb(text, header, 0, NULL);
    ref->settings = json_incref(json_object_get(json, "__metadata__"));
    json_decref(json);
}

static void reference_close(struct reference *ref)
{
    json_decref(ref->settings);
    tensor_list_free(&ref->list);
    free(ref->file);
}

static const struct tensor *reference_find(const struct reference *ref, const char *name)
{
    for (size_t i = 0; i < ref->list.count; i++)
        if (strcmp(ref->list.items[i].name, name) == 0)
            return &ref->list.items[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static const void *reference_data(const struct reference *ref, const char *name)
{
    return ref->file + reference_find(ref, name)->offset;
}

static const char *reference_setting(const struct reference *ref, const char *name)
{
    const char *value = json_string_value(json_object_get(ref->settings, name));
    assert_non_null(value);
    return value;
}

static double reference_number(const struct reference *ref, const char *name)
{
    return strtod(reference_setting(ref, name), NULL);
}

/* As it was before the engine quantized it; its permutation must be ours. */
static void reference_layer(const struct reference *ref, struct layer *l)
{
    const struct tensor *w = reference_find(ref, "W");
    const uint8_t *halfs = reference_data(ref, "W");
    const float *h = reference_data(ref, "H");
    *l = (struct layer){.rows = w->shape[0], .columns = w->shape[1]};
    l->weights = allocate(l->rows * l->columns, sizeof *l->weights);
    l->hessian = allocate(l->columns * l->columns, sizeof *l->hessian);
    for (size_t i = 0; i < l->rows * l->columns; i++)
        l->weights[i] = f32_from_f16(load_u16(halfs + 2 * i));
    for (size_t i = 0; i < l->columns * l->columns; i++)
        memcpy(&l->hessian[i], &(double){(double)h[i]}, sizeof *l->hessian);
    layer_prepare(l, strcmp(reference_setting(ref, "permutation"), "act_order") == 0,
                  reference_number(ref, "percdamp"));
    assert_memory_equal(l->order, reference_data(ref, "perm"), l->columns * sizeof *l->order);
}

/* How many of a case's numbers differ from ours. */
struct difference {
    size_t codes, statistics, positions, values;
};

static void compare_group(const struct reference *ref, const struct spqr_group *g, size_t index,
                          struct difference *d)
{
    static const char *const halfs[] = {"scale_scale", "scale_zero", "zero_scale", "zero_zero"};
    const float ours[] = {g->scale_scale, g->scale_zero, g->zero_scale, g->zero_zero};
    const uint8_t *scales = reference_data(ref, "scale_codes"),
                  *zeros = reference_data(ref, "zero_codes");
    for (size_t r = 0; r < SPQR_ROWS; r++)
        d->statistics += (scales[index * SPQR_ROWS + r] != g->scales[r]) +
                         (zeros[index * SPQR_ROWS + r] != g->zeros[r]);
    for (int i = 0; i < 4; i++) {
        float theirs =
            f32_from_f16(load_u16((const uint8_t *)reference_data(ref, halfs[i]) + 2 * index));
        d->values += !(fabsf(theirs - ours[i]) <= 0x1p-10f * fabsf(theirs));
    }
}

static struct difference compare(const struct reference *ref, const struct layer *l,
                                 const struct quantized *q)
{
    struct difference d = {0};
    const uint8_t *codes = reference_data(ref, "codes"),
                  *mask = reference_data(ref, "outlier_mask"),
                  *values = reference_data(ref, "outliers");
    for (size_t row = 0; row < l->rows; row++)
        for (size_t c = 0; c < l->columns; c++) {
            size_t stripe = row / SPQR_ROWS, r = row % SPQR_ROWS, at = row * l->columns + c;
            size_t column = stripe * q->padded + c;
            bool outlier = q->outlier_rows[column] >> r & 1;
            d.codes += codes[at] != q->codes[column * SPQR_ROWS + r];
            d.positions += outlier != mask[at];
            if (outlier && mask[at]) {
                float theirs = f32_from_f16(load_u16(values + 2 * at));
                float ours = q->outliers[column * SPQR_ROWS + r];
                d.values += !(fabsf(theirs - ours) <= 0x1p-10f * fabsf(theirs));
            }
        }
    for (size_t stripe = 0; stripe < q->stripes; stripe++)
        for (size_t g = 0; g < l->columns / SPQR_GROUP; g++)
            compare_group(ref, &q->groups[stripe * q->padded / SPQR_GROUP + g],
                          g * q->stripes + stripe, &d);
    return d;
}

static void check_case(const char *name)
{
    struct reference ref;
    struct layer l;
    reference_open(&ref, name);
    reference_layer(&ref, &l);
    struct spqr_settings settings = {
        .bits = (int)reference_number(&ref, "bits"),
        .reference = true,
        .threshold = spqr_threshold(l.permuted, l.rows, l.columns, l.factor,
                                    (float)reference_number(&ref, "relative_threshold")),
    };
    double loss = reference_number(&ref, "weighted_loss");
    for (const struct isa *const *isa = isas; *isa; isa++) {
        struct quantized q;
        if (!isa_supported(*isa))
            continue;
        quantize(*isa, &settings, &l, &q);
        struct difference d = compare(&ref, &l, &q);
        double ours = layer_loss(&l, q.weights);
        if (d.codes + d.statistics + d.positions + d.values || fabs(ours / loss - 1) > 1e-5)
            fail_msg("%s, %s: %zu codes, %zu statistics, %zu positions, %zu values differ, loss %g "
                     "and not %g",
                     name, (*isa)->name, d.codes, d.statistics, d.positions, d.values, ours, loss);
        quantized_free(&q);
    }
    layer_free(&l);
    reference_close(&ref);
}

static void test_reference_cases(void **state)
{
    (void)state;
    check_case("3bit-inf-identity");
    check_case("3bit-thr0.2-actorder");
    check_case("4bit-thr0.1-actorder");
    check_case("3bit-thr0.1-wide");
}

/* ---- the method ---- */

static size_t slots_of(size_t columns, double budget)
{
    struct spqr_layout l;
    assert_int_equal(spqr_layout(3, columns, budget, &l, NULL), 0);
    return l.slots;
}

static double reference_loss(const struct layer *l, int bits, float relative)
{
    float threshold = spqr_threshold(l->permuted, l->rows, l->columns, l->factor, relative);
    return loss_of(
        l, (struct spqr_settings){.bits = bits, .reference = true, .threshold = threshold}, NULL);
}

static double budget_loss(const struct layer *l, int bits, double budget)
{
    return loss_of(l, (struct spqr_settings){.bits = bits, .slots = slots_of(l->columns, budget)},
                   NULL);
}

/* Rounding, then errors that are fed back, then outliers, more and more of them. */
static void test_each_step_lowers_the_loss(void **state)
{
    (void)state;
    struct reference ref;
    struct layer l;
    reference_open(&ref, "3bit-thr0.2-actorder");
    reference_layer(&ref, &l);
    for (int bits = 2; bits <= 4; bits++) {
        double loss[] = {round_to_nearest_loss(&l, bits), reference_loss(&l, bits, INFINITY),
                         reference_loss(&l, bits, 0.2f), reference_loss(&l, bits, 0.1f),
                         reference_loss(&l, bits, 0.05f)};
        double budget[] = {budget_loss(&l, bits, 0), budget_loss(&l, bits, 0.0025),
                           budget_loss(&l, bits, 0.01), budget_loss(&l, bits, 0.04)};
        for (int i = 1; i < 5; i++)
            assert_true(loss[i] < loss[i - 1]);
        for (int i = 1; i < 4; i++)
            assert_true(budget[i] < budget[i - 1]);
        /* What is stored in binary16 costs nothing that shows. */
        assert_true(fabs(budget[0] / loss[1] - 1) < 0.01);
    }
    layer_free(&l);
    reference_close(&ref);
}

/* As many outliers, within a stripe or wherever in the layer they are best. */
static void test_a_budget_is_worth_a_threshold(void **state)
{
    (void)state;
    struct reference ref;
    struct layer l;
    reference_open(&ref, "3bit-thr0.2-actorder");
    reference_layer(&ref, &l);
    size_t by_threshold, by_budget;
    float threshold = spqr_threshold(l.permuted, l.rows, l.columns, l.factor, 0.2f);
    double one =
        loss_of(&l, (struct spqr_settings){.bits = 3, .reference = true, .threshold = threshold},
                &by_threshold);
    double share = (double)by_threshold / (double)(l.rows * l.columns);
    double other = loss_of(
        &l, (struct spqr_settings){.bits = 3, .slots = slots_of(l.columns, share)}, &by_budget);
    assert_true(by_budget <= by_threshold + l.rows / SPQR_ROWS);
    assert_true(other < one * 1.02);
    layer_free(&l);
    reference_close(&ref);
}

static void check_slots(const struct layer *l, double budget, const char *kind)
{
    const struct isa *isa;
    struct quantized q;
    size_t slots = slots_of(l->columns, budget);
    assert_int_equal(isa_choose(NULL, &isa, NULL), 0);
    quantize(isa, &(struct spqr_settings){.bits = 3, .slots = slots}, l, &q);
    for (size_t i = 0; i < q.stripes; i++) {
        size_t used = 0;
        for (size_t c = 0; c < q.padded; c++)
            used += (size_t)__builtin_popcount(q.outlier_rows[i * q.padded + c]);
        if (used > slots || used * 10 < slots * 9)
            fail_msg("%s, %zu columns, stripe %zu: %zu of %zu slots", kind, l->columns, i, used,
                     slots);
    }
    quantized_free(&q);
}

static void test_slots_are_filled(void **state)
{
    (void)state;
    static const enum weights_kind kinds[] = {WEIGHTS_HEAVY_TAILS, WEIGHTS_OUTLIERS,
                                              WEIGHTS_GAUSSIAN, WEIGHTS_BFLOAT16};
    static const size_t widths[] = {256, 520, 1024};
    static const double budgets[] = {0.0025, 0.005, 0.01, 0.02};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            struct layer l;
            layer_make(&l, kinds[i], 32, widths[w]);
            layer_prepare(&l, true, 1);
            for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++)
                check_slots(&l, budgets[b], weights_kind_names[kinds[i]]);
            layer_free(&l);
        }
}

/* ---- a stripe ---- */

/* Quantizes rows through the bytes of a stripe into out. */
static void pass_through(int bits, double budget, const float *x, size_t rows, size_t columns,
                         const float *factor, float *out, struct spqr_stripe *stripe,
                         void **scratch)
{
    const struct isa *isa;
    struct spqr_layout l;
    struct error err;
    assert_int_equal(isa_choose(NULL, &isa, NULL), 0);
    assert_int_equal(spqr_layout(bits, columns, budget, &l, &err), 0);
    *scratch = aligned_alloc(64, spqr_scratch_size(columns));
    uint8_t *bytes = allocate(l.stripe_size, 1);
    assert_non_null(*scratch);
    isa->spqr_encode(&(struct spqr_settings){.bits = bits, .slots = l.slots}, x, rows, columns,
                     factor, *scratch, stripe);
    spqr_pack(&l, stripe, bytes);
    assert_int_equal(spqr_decode(&l, bytes, l.stripe_size, out, &err), 0);
    free(bytes);
}

/* What decodes at an outlier is the weight, as far as binary16 can tell what is missing to it; the
 * dense value there is that of the code of 0. */
static void test_outliers_are_residuals(void **state)
{
    (void)state;
    enum { COLUMNS = 512 };
    static float x[SPQR_ROWS * COLUMNS], out[SPQR_ROWS * COLUMNS];
    struct random r = {3};
    struct spqr_stripe s;
    void *scratch;
    size_t count = 0;
    weights_fill(WEIGHTS_OUTLIERS, &r, x, SPQR_ROWS * COLUMNS);
    pass_through(3, 0.02, x, SPQR_ROWS, COLUMNS, NULL, out, &s, &scratch);
    for (size_t c = 0; c < COLUMNS; c++)
        for (int row = 0; row < SPQR_ROWS; row++) {
            float dense = dense_value(&s.groups[c / SPQR_GROUP], row, s.codes[c][row]);
            float weight = x[row * COLUMNS + c], decoded = out[row * COLUMNS + c];
            if (s.outlier_rows[c] >> row & 1) {
                assert_true(fabsf(decoded - weight) <= 0x1p-11f * fabsf(weight - dense) + 0x1p-25f);
                count++;
            } else {
                assert_true(decoded == dense);
            }
        }
    assert_true(count > 100);
    free(scratch);
}

static void assert_near(const float *x, const float *y, size_t n, float relative)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(x[i] - y[i]) <= relative * fabsf(x[i])))
            fail_msg("weight %zu: %g came back as %g", i, (double)x[i], (double)y[i]);
}

/* What binary16 cannot say of an outlier is an error as any other: later columns make up for it. */
static void test_the_rest_of_an_outlier_is_fed_back(void **state)
{
    (void)state;
    enum { COLUMNS = 64, FIRST = 0, LATER = 40 };
    float x[SPQR_ROWS * COLUMNS] = {0}, out[SPQR_ROWS * COLUMNS];
    float *upper = allocate(COLUMNS * COLUMNS, sizeof *upper);
    float *factor = allocate(spqr_factor_size(COLUMNS), sizeof *factor);
    struct spqr_stripe s;
    void *scratch;
    for (size_t i = 0; i < COLUMNS; i++)
        upper[i * COLUMNS + i] = 1;
    upper[FIRST * COLUMNS + LATER] = 0.5f;
    spqr_factor_pack(upper, COLUMNS, factor);
    for (size_t i = 0; i < SPQR_GROUP; i++)
        x[i] = i % 2 ? 1 : -1;
    x[FIRST] = 8193.7f;
    pass_through(3, 0.002, x, SPQR_ROWS, COLUMNS, factor, out, &s, &scratch);
    float rest = x[FIRST] - out[FIRST];
    assert_int_equal(s.outlier_rows[FIRST], 1);
    assert_true(fabsf(rest) > 0.1f);
    assert_true(fabsf(out[LATER] + 0.5f * rest) < 0.1f * fabsf(rest));
    free(scratch);
    free(factor);
    free(upper);
}

/* Groups whose weights are all the same come back as they were, whatever their sign and whether the
 * rows of a tile are equal, nearly equal, or not; and so do zeros. */
static void test_constant_groups(void **state)
{
    (void)state;
    enum { COLUMNS = 64 };
    float x[SPQR_ROWS * COLUMNS], out[SPQR_ROWS * COLUMNS];
    static const float values[] = {0, 0.01f, -0.01f, 1, -1, 1e-3f, 1000};
    struct spqr_stripe s;
    void *scratch;
    for (int bits = 2; bits <= 4; bits++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            for (size_t i = 0; i < SPQR_ROWS * COLUMNS; i++)
                x[i] = values[v];
            pass_through(bits, 0, x, SPQR_ROWS, COLUMNS, NULL, out, &s, &scratch);
            assert_near(x, out, SPQR_ROWS * COLUMNS, 0x1p-9f);
            free(scratch);
            /* One weight in each group that is hardly another, and rows that hardly differ. */
            for (size_t i = 0; i < SPQR_ROWS * COLUMNS; i++)
                x[i] *= i % 16 == 3 ? 1 + 0x1p-20f : 1 + 0x1p-16f * (float)(i / COLUMNS);
            pass_through(bits, 0, x, SPQR_ROWS, COLUMNS, NULL, out, &s, &scratch);
            assert_near(x, out, SPQR_ROWS * COLUMNS, 0x1p-9f);
            free(scratch);
        }
}

static double squared_error(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)(x[i] - y[i]) * (double)(x[i] - y[i]);
    return sum;
}

/* A row of zeros among others stays one, and costs them little. */
static void test_rows_of_zeros(void **state)
{
    (void)state;
    enum { COLUMNS = 1024, N = SPQR_ROWS * COLUMNS };
    static float x[N], out[N];
    struct random r = {9};
    struct spqr_stripe s;
    void *scratch;
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, N);
    pass_through(3, 0, x, SPQR_ROWS, COLUMNS, NULL, out, &s, &scratch);
    double without = squared_error(x + COLUMNS, out + COLUMNS, N - COLUMNS);
    free(scratch);
    memset(x, 0, COLUMNS * sizeof *x);
    pass_through(3, 0, x, SPQR_ROWS, COLUMNS, NULL, out, &s, &scratch);
    for (size_t i = 0; i < COLUMNS; i++)
        assert_true(out[i] == 0);
    double with = squared_error(x + COLUMNS, out + COLUMNS, N - COLUMNS);
    assert_true(with < 1.06 * without);
    free(scratch);
}

/* Whatever finite weights are given, finite ones come back, and slots are never short. */
static void test_strange_weights_stay_finite(void **state)
{
    (void)state;
    enum { COLUMNS = 320 };
    static float x[SPQR_ROWS * COLUMNS], out[SPQR_ROWS * COLUMNS];
    struct random r = {11};
    for (enum weights_kind kind = 0; kind < WEIGHTS_KINDS; kind++) {
        struct spqr_stripe s;
        void *scratch;
        weights_fill(kind, &r, x, SPQR_ROWS * COLUMNS);
        for (size_t i = 0; i < SPQR_ROWS * COLUMNS; i++)
            x[i] = fminf(fmaxf(x[i], -0x1p95f), 0x1p95f);
        pass_through(3, 0.01, x, SPQR_ROWS, COLUMNS, NULL, out, &s, &scratch);
        size_t used = 0;
        for (size_t c = 0; c < COLUMNS; c++)
            used += (size_t)__builtin_popcount(s.outlier_rows[c]);
        assert_true(used <= slots_of(COLUMNS, 0.01));
        for (size_t i = 0; i < SPQR_ROWS * COLUMNS; i++)
            if (!isfinite(out[i]))
                fail_msg("%s: weight %zu is %g", weights_kind_names[kind], i, (double)out[i]);
        free(scratch);
    }
}

/* Sizes that fill no tile: what is there decodes as well as it would in a whole one, and nothing in
 * the padding is an outlier. */
static void test_odd_sizes(void **state)
{
    (void)state;
    enum { COLUMNS_MAX = 130 };
    static const size_t widths[] = {1, 15, 16, 17, 63, 64, 65, 100, 130};
    static float x[SPQR_ROWS * COLUMNS_MAX], out[SPQR_ROWS * COLUMNS_MAX];
    struct random r = {13};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t rows = 1; rows <= SPQR_ROWS; rows += 5) {
            struct spqr_stripe s;
            void *scratch;
            size_t n = widths[w];
            weights_fill(WEIGHTS_GAUSSIAN, &r, x, rows * n);
            pass_through(4, 0.05, x, rows, n, NULL, out, &s, &scratch);
            for (size_t c = 0; c < (n + 63) / 64 * 64; c++)
                assert_true(c < n ? s.outlier_rows[c] >> rows == 0 : s.outlier_rows[c] == 0);
            for (size_t i = 0; i < rows * n; i++)
                if (!(fabsf(x[i] - out[i]) < 0.02f))
                    fail_msg("%zu rows of %zu: weight %zu: %g came back as %g", rows, n, i,
                             (double)x[i], (double)out[i]);
            free(scratch);
        }
}

/* Columns that no input reaches are 0, and nothing that happens there matters to others. */
static void test_dead_columns(void **state)
{
    (void)state;
    enum { ROWS = 16, COLUMNS = 128 };
    struct layer l;
    layer_make(&l, WEIGHTS_GAUSSIAN, ROWS, COLUMNS);
    for (size_t dead = 3; dead < COLUMNS; dead += 20)
        for (size_t i = 0; i < COLUMNS; i++)
            l.hessian[dead * COLUMNS + i] = l.hessian[i * COLUMNS + dead] = 0;
    layer_prepare(&l, true, 1);
    for (size_t j = COLUMNS - 7; j < COLUMNS; j++)
        assert_int_equal(l.order[j] % 20, 3);
    double loss = budget_loss(&l, 3, 0.01);
    assert_true(loss > 0 && loss < round_to_nearest_loss(&l, 3));
    layer_free(&l);
}

/* ---- the same everywhere ---- */

static void test_every_set_gives_the_same(void **state)
{
    (void)state;
    for (enum weights_kind kind = 0; kind < WEIGHTS_OVERFLOW; kind++) {
        struct layer l;
        struct quantized reference;
        struct spqr_settings settings = {.bits = 3, .slots = slots_of(200, 0.01)};
        if (kind == WEIGHTS_EXPONENTS) /* beyond what is allowed */
            continue;
        layer_make(&l, kind, 19, 200);
        layer_prepare(&l, true, 0.1);
        const struct isa *const *isa = isas;
        while (isa[1])
            isa++;
        quantize(*isa, &settings, &l, &reference);
        for (isa = isas; isa[1]; isa++) {
            struct quantized q;
            if (!isa_supported(*isa))
                continue;
            quantize(*isa, &settings, &l, &q);
            size_t all = q.stripes * q.padded;
            if (memcmp(q.codes, reference.codes, all * SPQR_ROWS) != 0 ||
                memcmp(q.outlier_rows, reference.outlier_rows, all * sizeof(uint16_t)) != 0 ||
                memcmp(q.outliers, reference.outliers, all * sizeof(float[SPQR_ROWS])) != 0 ||
                memcmp(q.groups, reference.groups, all / SPQR_GROUP * sizeof *q.groups) != 0)
                fail_msg("%s with %s differs", weights_kind_names[kind], (*isa)->name);
            quantized_free(&q);
        }
        quantized_free(&reference);
        layer_free(&l);
    }
}

/* The bytes of a layer from halfs alone, so that they hang on no library: who changes them has
 * changed what caches hold. */
static void test_golden_bytes(void **state)
{
    (void)state;
    struct reference ref;
    reference_open(&ref, "3bit-thr0.2-actorder");
    const struct tensor *w = reference_find(&ref, "W");
    const uint8_t *halfs = reference_data(&ref, "W");
    size_t rows = w->shape[0], n = w->shape[1];
    float *x = allocate(rows * n, sizeof *x), *upper = allocate(n * n, sizeof *upper);
    float *factor = allocate(spqr_factor_size(n), sizeof *factor);
    void *scratch = aligned_alloc(64, spqr_scratch_size(n));
    assert_non_null(scratch);
    for (size_t i = 0; i < rows * n; i++)
        x[i] = f32_from_f16(load_u16(halfs + 2 * i));
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++)
            upper[i * n + j] = i == j ? 1 + fabsf(x[i]) : x[i % rows * n + j];
    spqr_factor_pack(upper, n, factor);
    static const uint64_t wanted[5] = {
        [2] = 0x1061e8100677d3b, [3] = 0x9c7daa44b884abab, [4] = 0x2cd2a94b668670ed};
    for (int bits = 2; bits <= 4; bits++)
        for (const struct isa *const *isa = isas; *isa; isa++) {
            struct spqr_layout l;
            uint64_t hash = HASH_START;
            if (!isa_supported(*isa))
                continue;
            assert_int_equal(spqr_layout(bits, n, 0.01, &l, NULL), 0);
            char *bytes = allocate(l.stripe_size, 1);
            for (size_t row = 0; row < rows; row += SPQR_ROWS) {
                struct spqr_stripe s;
                (*isa)->spqr_encode(&(struct spqr_settings){.bits = bits, .slots = l.slots},
                                    x + row * n, SPQR_ROWS, n, factor, scratch, &s);
                spqr_pack(&l, &s, (uint8_t *)bytes);
                hash = hash_bytes(hash, bytes, l.stripe_size);
            }
            if (hash != wanted[bits])
                fail_msg("%d bits with %s: 0x%llx", bits, (*isa)->name, (unsigned long long)hash);
            free(bytes);
        }
    free(scratch);
    free(factor);
    free(upper);
    free(x);
    reference_close(&ref);
}

static void test_activation_order_is_stable(void **state)
{
    (void)state;
    static const float diagonal[] = {1, 3, 0, 3, -0.f, 1, 7, 1};
    static const uint32_t wanted[] = {6, 1, 3, 0, 5, 7, 2, 4};
    uint32_t order[8];
    assert_int_equal(spqr_activation_order(diagonal, 8, order), 0);
    assert_memory_equal(order, wanted, sizeof order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_cases),
        cmocka_unit_test(test_each_step_lowers_the_loss),
        cmocka_unit_test(test_a_budget_is_worth_a_threshold),
        cmocka_unit_test(test_slots_are_filled),
        cmocka_unit_test(test_outliers_are_residuals),
        cmocka_unit_test(test_the_rest_of_an_outlier_is_fed_back),
        cmocka_unit_test(test_constant_groups),
        cmocka_unit_test(test_rows_of_zeros),
        cmocka_unit_test(test_strange_weights_stay_finite),
        cmocka_unit_test(test_odd_sizes),
        cmocka_unit_test(test_dead_columns),
        cmocka_unit_test(test_every_set_gives_the_same),
        cmocka_unit_test(test_golden_bytes),
        cmocka_unit_test(test_activation_order_is_stable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

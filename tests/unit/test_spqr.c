/* SPDX-License-Identifier: MIT
 *
 * The SpQR encoder. Layers that the reference engine has quantized (data/spqr-cases) come out the
 * same in reference mode, under every instruction set; without it the slots are filled and nothing
 * else is, what decodes is what the errors were computed from, and the loss falls with each thing
 * that the method adds.
 */
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/isa.h"
#include "codec/safetensors.h"
#include "codec/spqr/prepare.h"
#include "tests/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void *allocate(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

/* ---- a layer to quantize ---- */

struct layer {
    size_t rows, columns;
    float *weights;  /* [rows][columns] */
    double *hessian; /* [columns][columns] */
    uint32_t *order;
    float *permuted; /* the weights in that order */
    float *factor;   /* packed */
};

static void layer_free(struct layer *l)
{
    free(l->weights);
    free(l->hessian);
    free(l->order);
    free(l->permuted);
    free(l->factor);
}

/* In place, h becomes the upper M with h = M M^T. */
static void factor_backward(double *h, size_t n)
{
    for (size_t j = n; j-- > 0;) {
        for (size_t i = 0; i <= j; i++) {
            double sum = h[i * n + j];
            for (size_t k = j + 1; k < n; k++)
                sum -= h[i * n + k] * h[j * n + k];
            h[i * n + j] = sum;
        }
        double root = sqrt(h[j * n + j]);
        assert_true(root > 0);
        for (size_t i = 0; i < j; i++)
            h[i * n + j] /= root;
        h[j * n + j] = root;
    }
}

/* In place, an upper triangle becomes its inverse. */
static void invert_upper(double *m, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        m[j * n + j] = 1 / m[j * n + j];
        for (size_t i = 0; i < j; i++) {
            double sum = 0;
            for (size_t k = i; k < j; k++)
                sum += m[i * n + k] * m[k * n + j];
            m[i * n + j] = sum;
        }
        for (size_t i = 0; i < j; i++)
            m[i * n + j] *= -m[j * n + j];
    }
}

/* Orders the columns, zeroes those that no input reaches, and factors the damped Hessian. */
static void layer_prepare(struct layer *l, bool by_activation, double damping)
{
    size_t n = l->columns;
    float *diagonal = allocate(n, sizeof *diagonal), *upper = allocate(n * n, sizeof *upper);
    double *h = allocate(n * n, sizeof *h), mean = 0;
    l->order = allocate(n, sizeof *l->order);
    l->permuted = allocate(l->rows * n, sizeof *l->permuted);
    l->factor = allocate(spqr_factor_size(n), sizeof *l->factor);
    for (size_t i = 0; i < n; i++) {
        diagonal[i] = (float)l->hessian[i * n + i];
        l->order[i] = (uint32_t)i;
        mean += l->hessian[i * n + i] / (double)n;
    }
    if (by_activation)
        assert_int_equal(spqr_activation_order(diagonal, n, l->order), 0);
    for (size_t i = 0; i < n; i++) {
        bool dead = diagonal[l->order[i]] == 0;
        for (size_t j = 0; j < n; j++)
            h[i * n + j] = l->hessian[l->order[i] * n + l->order[j]];
        h[i * n + i] = dead ? 1 : h[i * n + i] + damping * mean;
        for (size_t r = 0; r < l->rows; r++)
            l->permuted[r * n + i] = dead ? 0 : l->weights[r * n + l->order[i]];
    }
    factor_backward(h, n);
    invert_upper(h, n);
    for (size_t i = 0; i < n * n; i++)
        upper[i] = (float)h[i];
    spqr_factor_pack(upper, n, l->factor);
    free(h);
    free(upper);
    free(diagonal);
}

/* What quantized weights (permuted) do to the outputs. */
static double layer_loss(const struct layer *l, const float *quantized)
{
    size_t n = l->columns;
    double loss = 0, *d = allocate(n, sizeof *d);
    for (size_t r = 0; r < l->rows; r++) {
        for (size_t j = 0; j < n; j++)
            d[l->order[j]] =
                (double)quantized[r * n + j] - (double)l->weights[r * n + l->order[j]];
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                loss += d[i] * d[j] * l->hessian[i * n + j];
    }
    free(d);
    return loss;
}

/* Weights of a kind, and a Hessian of inputs that have to do with each other, of which a few are
 * large. */
static void layer_make(struct layer *l, enum weights_kind kind, size_t rows, size_t columns)
{
    enum { HIDDEN = 24, NOISE = 8 };
    struct random r = {columns + (size_t)kind};
    *l = (struct layer){.rows = rows, .columns = columns};
    l->weights = allocate(rows * columns, sizeof *l->weights);
    l->hessian = allocate(columns * columns, sizeof *l->hessian);
    float *mix = allocate(columns * HIDDEN, sizeof *mix);
    weights_fill(kind, &r, l->weights, rows * columns);
    for (size_t i = 0; i < columns; i++) {
        float size = expf(0.7f * random_gaussian(&r));
        for (size_t k = 0; k < HIDDEN; k++)
            mix[i * HIDDEN + k] = size * random_gaussian(&r);
        l->hessian[i * columns + i] = NOISE * (double)(size * size);
    }
    for (size_t i = 0; i < columns; i++)
        for (size_t j = 0; j < columns; j++)
            for (size_t k = 0; k < HIDDEN; k++)
                l->hessian[i * columns + j] +=
                    (double)mix[i * HIDDEN + k] * (double)mix[j * HIDDEN + k];
    free(mix);
}

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

/* Round to nearest in groups of 16, with statistics in binary32. */
static double round_to_nearest_loss(const struct layer *l, int bits)
{
    float *rounded = allocate(l->rows * l->columns, sizeof *rounded);
    float top = (float)((1 << bits) - 1);
    for (size_t i = 0; i < l->rows * l->columns; i += SPQR_GROUP) {
        float low = INFINITY, high = -INFINITY;
        for (size_t j = i; j < i + SPQR_GROUP; j++) {
            low = fminf(low, l->permuted[j]);
            high = fmaxf(high, l->permuted[j]);
        }
        float scale = (high - low) / top;
        for (size_t j = i; j < i + SPQR_GROUP; j++)
            rounded[j] = low + scale * rintf((l->permuted[j] - low) / scale);
    }
    double loss = layer_loss(l, rounded);
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
    const char *folder = getenv("TEST_DATA");
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
    assert_int_equal(
        safetensors_header_size((uint8_t *)ref->file, size, size, &header, &err), 0);
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
    const uint8_t *codes = reference_data(ref, "codes"), *mask = reference_data(ref, "outlier_mask"),
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

static void check_case(const char *name, double codes_allowed)
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
        double ours = layer_loss(&l, q.weights), share = (double)(l.rows * l.columns);
        if ((double)d.codes > codes_allowed * share || fabs(ours / loss - 1) > 0.005 ||
            (codes_allowed == 0 && d.statistics + d.positions + d.values))
            fail_msg("%s, %s: %zu codes, %zu statistics, %zu positions, %zu values differ, loss %g "
                     "and not %g",
                     name, (*isa)->name, d.codes, d.statistics, d.positions, d.values, ours, loss);
        print_message("%s %s: %zu %zu %zu %zu, loss %g (%g)\n", name, (*isa)->name, d.codes,
                      d.statistics, d.positions, d.values, ours, loss);
        quantized_free(&q);
    }
    layer_free(&l);
    reference_close(&ref);
}

static void test_reference_cases(void **state)
{
    (void)state;
    check_case("3bit-inf-identity", 0);
    check_case("3bit-thr0.2-actorder", 0);
    check_case("4bit-thr0.1-actorder", 0);
    check_case("3bit-thr0.1-wide", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

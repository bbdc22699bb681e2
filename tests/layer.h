/* SPDX-License-Identifier: MIT
 *
 * A layer to quantize, for tests: weights, a Hessian of their inputs, and the factor of that.
 */
#ifndef TESTS_LAYER_H
#define TESTS_LAYER_H

#include "codec/spqr/prepare.h"
#include "tests/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static inline void *allocate(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

struct layer {
    size_t rows, columns;
    float *weights;  /* [rows][columns] */
    double *hessian; /* [columns][columns] */
    uint32_t *order;
    float *permuted; /* the weights in that order */
    float *upper;    /* the factor, [columns][columns] */
    float *factor;   /* packed */
};

static inline void layer_free(struct layer *l)
{
    free(l->weights);
    free(l->hessian);
    free(l->order);
    free(l->permuted);
    free(l->upper);
    free(l->factor);
}

/* In place, h becomes the upper M with h = M M^T. */
static inline void factor_backward(double *h, size_t n)
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
static inline void invert_upper(double *m, size_t n)
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
static inline void layer_prepare(struct layer *l, bool by_activation, double damping)
{
    size_t n = l->columns;
    float *diagonal = allocate(n, sizeof *diagonal);
    double *h = allocate(n * n, sizeof *h), mean = 0;
    l->order = allocate(n, sizeof *l->order);
    l->permuted = allocate(l->rows * n, sizeof *l->permuted);
    l->upper = allocate(n * n, sizeof *l->upper);
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
        l->upper[i] = (float)h[i];
    spqr_factor_pack(l->upper, n, l->factor);
    free(h);
    free(diagonal);
}

/* What quantized weights (permuted) do to the outputs. */
static inline double layer_loss(const struct layer *l, const float *quantized)
{
    size_t n = l->columns;
    double loss = 0, *d = allocate(n, sizeof *d);
    for (size_t r = 0; r < l->rows; r++) {
        for (size_t j = 0; j < n; j++)
            d[l->order[j]] = (double)quantized[r * n + j] - (double)l->weights[r * n + l->order[j]];
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                loss += d[i] * d[j] * l->hessian[i * n + j];
    }
    free(d);
    return loss;
}

/* Weights of a kind, and a Hessian of inputs that have to do with each other, of which a few are
 * large. */
static inline void layer_make(struct layer *l, enum weights_kind kind, size_t rows, size_t columns)
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

#endif

/* SPDX-License-Identifier: MIT */
#include "daemon/weights.h"

#include "codec/float16.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int weights_bad(const struct encoding *e, uint64_t at, const char *problem, struct error *err)
{
    uint32_t which;
    uint64_t row = view_source_row(&e->view, at / e->view.cols, &which);
    char part[32] = "";
    if (e->view.stack_count > 1)
        snprintf(part, sizeof part, " + %" PRIu32, which);
    const struct encoding_input *in = &e->inputs[e->derived ? e->derived_parts[which] : which];
    return error_set(err, -EINVAL, "%s: tensor \"%s\"%s, row %" PRIu64 ", column %" PRIu64 ": %s",
                     source_path(in->source), e->name, part, row, at % e->view.cols,
                     problem);
}

/* Finds the first weight that is not finite among n that start at weight `first`. */
static int not_finite(const struct encoding *e, uint64_t first, const uint8_t *raw, size_t n,
                      struct error *err)
{
    size_t i = 0, step = e->dtype->block;
    while (i + step < n && dtype_finite(e->dtype, raw + weights_raw_size(e->dtype, i), step))
        i += step;
    return weights_bad(e, first + i, "the weight is not finite", err);
}

/* What lies together in a source tensor. */
struct run {
    uint32_t which; /* of the view's tensors */
    uint64_t first; /* of its weights */
    size_t count;
};

/* The run that begins with weight `first` in the view's order, of at most n weights: of a row, or of
 * all rows that are left of the tensor. */
static struct run run_at(const struct encoding *e, uint64_t first, size_t n)
{
    struct run run;
    uint64_t cols = e->view.cols, each = e->view.rows / e->view.stack_count;
    uint64_t row = first / cols, col = first % cols;
    uint64_t rows = e->view.order == ROWS_AS_STORED ? each - row % each : 1;
    uint64_t left = rows * cols - col;
    run.first = view_source_row(&e->view, row, &run.which) * cols + col;
    run.count = n < left ? n : (size_t)left;
    return run;
}

/* Reads the elements of weights [first, first + n), in the view's order. */
static int read_elements(const struct encoding *e, uint64_t first, size_t n, uint8_t *raw,
                         struct error *err)
{
    while (n) {
        struct run run = run_at(e, first, n);
        const struct encoding_input *in = &e->inputs[run.which];
        uint64_t offset = run.first / e->dtype->block * e->dtype->block_size;
        size_t size = weights_raw_size(e->dtype, run.count);
        int rc = source_read(in->source, raw, in->offset + offset, size, err);
        if (rc)
            return rc;
        first += run.count;
        n -= run.count;
        raw += size;
    }
    return 0;
}

int weights_read_stored(const struct encoding *e, uint64_t first, size_t n, void *raw,
                        struct error *err)
{
    int rc = read_elements(e, first, n, raw, err);
    return rc || dtype_finite(e->dtype, raw, n) ? rc : not_finite(e, first, raw, n, err);
}

static int read_part(void *context, uint32_t part, uint64_t at, void *out, size_t n,
                     struct error *err)
{
    const struct encoding_input *in = (const struct encoding_input *)context + part;
    return source_read(in->source, out, in->offset + at, n, err);
}

static bool all_finite(const float *weights, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= (f32_bits(weights[i]) & 0x7f800000) == 0x7f800000;
    return !bad;
}

static int bad_derived(const struct encoding *e, uint64_t first, const float *weights, size_t n,
                       struct error *err)
{
    size_t i = 0;
    while (i + 1 < n && isfinite(weights[i]))
        i++;
    return weights_bad(e, first + i, "the weight is not finite", err);
}

/* Derives weights of one of the view's tensors, which lie together there. */
static int derive_run(const struct encoding *e, const struct isa *isa, const struct run *run,
                      size_t count, float *weights, struct error *err)
{
    const struct derived *d = &e->derived[run->which];
    struct derived_reader reader = {read_part, (void *)&e->inputs[e->derived_parts[run->which]]};
    int rc = d->method->weights(d, isa, &reader, run->first, count, weights, err);
    return rc ? error_prefix(err, rc, "tensor \"%s\"", e->name) : 0;
}

/* Derives weights [first, first + n) as they come. */
static int derive_runs(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                       float *weights, struct error *err)
{
    while (n) {
        struct run run = run_at(e, first, n);
        /* whole rows, or a piece of one */
        size_t cols = (size_t)e->view.cols, at = (size_t)(run.first % cols), whole = cols - at;
        size_t count = at == 0 && run.count >= cols ? run.count / cols * cols
                       : run.count < whole          ? run.count
                                                    : whole;
        int rc = derive_run(e, isa, &run, count, weights, err);
        if (rc)
            return rc;
        first += count;
        n -= count;
        weights += count;
    }
    return 0;
}

/* A row of a view, and where it comes from. */
struct placed_row {
    uint64_t source, place;
};

static int by_source(const void *a, const void *b)
{
    const struct placed_row *x = a, *y = b;
    return (x->source > y->source) - (x->source < y->source);
}

/* Derives rows that lie beside each other in the only tensor, and puts them where they belong. */
static int derive_placed(const struct encoding *e, const struct isa *isa,
                         const struct placed_row *rows, size_t count, float *room, float *weights,
                         struct error *err)
{
    size_t cols = (size_t)e->view.cols;
    struct run run = {.first = rows->source * cols, .count = count * cols};
    int rc = derive_run(e, isa, &run, run.count, room, err);
    for (size_t i = 0; !rc && i < count; i++)
        memcpy(weights + rows[i].place * cols, room + i * cols, cols * sizeof *room);
    return rc;
}

/* Derives whole rows of a view that reorders those of its only tensor: what lies together there is
 * derived together. */
static int derive_reordered(const struct encoding *e, const struct isa *isa, uint64_t first,
                            size_t n, float *weights, struct error *err)
{
    uint32_t which;
    size_t cols = (size_t)e->view.cols, count = n / cols, run = 0;
    struct placed_row *rows = calloc(count, sizeof *rows);
    float *room = malloc(n * sizeof *room);
    int rc = rows && room ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < count; i++)
        rows[i] = (struct placed_row){view_source_row(&e->view, first / cols + i, &which), i};
    if (!rc)
        qsort(rows, count, sizeof *rows, by_source);
    for (size_t i = 0; !rc && i < count; i += run) {
        for (run = 1; i + run < count && rows[i + run].source == rows[i].source + run;)
            run++;
        rc = derive_placed(e, isa, rows + i, run, room, weights, err);
    }
    free(rows);
    free(room);
    return rc;
}

/* Derives weights [first, first + n) of a view, in its order. */
static int derive(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                  float *weights, struct error *err)
{
    bool reordered = e->view.order != ROWS_AS_STORED && e->view.stack_count == 1 &&
                     first % e->view.cols == 0 && n % e->view.cols == 0;
    int rc = reordered ? derive_reordered(e, isa, first, n, weights, err)
                       : derive_runs(e, isa, first, n, weights, err);
    return rc || all_finite(weights, n) ? rc : bad_derived(e, first, weights, n, err);
}

/* Multiplies weights of one row, columns [col, col + n), by their scales. */
static int scale_row(const struct encoding *e, uint64_t row, uint64_t col, size_t n, float *weights,
                     struct error *err)
{
    uint32_t which;
    const struct view *v = &e->view;
    uint64_t per_row = (v->cols - 1) / v->scale_cols + 1;
    uint64_t scale_row = view_source_row(v, row, &which) / v->scale_rows;
    const struct encoding_input *in = &e->inputs[e->input_count - v->stack_count + which];
    for (size_t i = 0; i < n;) {
        uint64_t block = (col + i) / v->scale_cols, left = (block + 1) * v->scale_cols - col - i;
        size_t run = n - i < left ? n - i : (size_t)left;
        uint8_t raw[8];
        float scale;
        int rc =
            source_read(in->source, raw,
                        in->offset + (scale_row * per_row + block) * e->scale_dtype->block_size,
                        e->scale_dtype->block_size, err);
        if (rc)
            return rc;
        e->scale_dtype->widen(raw, 1, &scale);
        for (size_t k = 0; k < run; k++)
            weights[i + k] *= scale;
        i += run;
    }
    return 0;
}

/* The view's elementwise step, over weights [first, first + n). */
static int transform(const struct encoding *e, uint64_t first, size_t n, float *weights,
                     struct error *err)
{
    view_add(&e->view, e->dtype, weights, n);
    for (size_t done = 0; e->scale_dtype && done < n;) {
        uint64_t row = (first + done) / e->view.cols, col = (first + done) % e->view.cols;
        uint64_t left = e->view.cols - col;
        size_t run = n - done < left ? n - done : (size_t)left;
        int rc = scale_row(e, row, col, run, weights + done, err);
        if (rc)
            return rc;
        done += run;
    }
    if (e->view.round)
        format_round(e->view.round, weights, n);
    for (size_t i = 0; e->view.round && i < n; i++)
        if (!isfinite(weights[i]))
            return weights_bad(e, first + i, "the weight is too large for the model's type", err);
    return 0;
}

int weights_read(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                 struct scratch *scratch, float **out, struct error *err)
{
    float *weights = scratch_get(scratch, 1, n * sizeof *weights);
    uint8_t *raw = e->derived ? NULL : scratch_get(scratch, 0, weights_raw_size(e->dtype, n));
    if (!weights || (!raw && !e->derived))
        return error_set(err, -ENOMEM, "out of memory");
    *out = weights;
    if (e->derived) {
        int rc = derive(e, isa, first, n, weights, err);
        return rc ? rc : transform(e, first, n, weights, err);
    }
    int rc = weights_read_stored(e, first, n, raw, err);
    if (rc)
        return rc;
    const struct format *stored = e->dtype->format;
    (stored ? isa->decode[stored - formats] : e->dtype->widen)(raw, n, weights);
    return transform(e, first, n, weights, err);
}

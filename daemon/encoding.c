/* SPDX-License-Identifier: MIT */
#include "daemon/encoding.h"

#include "daemon/encoding_key.h"
#include "daemon/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- geometry ---- */

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Least common multiple of two block lengths, which are powers of two. */
static uint64_t common_block(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Cuts tiles that are made of units of so many bytes and weights. */
static void set_tiles(struct encoding *e, uint64_t unit_size, uint64_t unit_weights)
{
    uint64_t aligned = TILE_ALIGNMENT / gcd(unit_size, TILE_ALIGNMENT) * unit_size;
    uint64_t step = aligned <= TILE_MAX ? aligned : unit_size;
    uint64_t steps = TILE_TARGET / step ? TILE_TARGET / step : 1;
    e->tile_size = (uint32_t)(steps * step);
    e->tile_weights = steps * (step / unit_size) * unit_weights;
    e->tile_count = e->size ? (e->size - 1) / e->tile_size + 1 : 0;
}

static uint64_t matrix_rows(const struct encoding *e)
{
    return e->view.rows / e->view.matrices;
}

/* Stripes of one matrix; they do not reach into the next. */
static uint64_t matrix_stripes(const struct encoding *e)
{
    return matrix_rows(e) / SPQR_ROWS + (matrix_rows(e) % SPQR_ROWS != 0);
}

/* A part is a stripe. */
static int set_stripes(struct encoding *e, struct error *err)
{
    uint64_t cols = e->view.cols, stripes = 0;
    int rc = spqr_format_layout(e->format, cols, &e->stripes, err);
    if (rc)
        return error_prefix(err, rc, "tensor \"%s\"", e->name);
    uint64_t size = e->stripes.stripe_size;
    if (size > TILE_MAX)
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\": rows of %" PRIu64 " weights are too long for %s", e->name,
                         cols, e->format->title);
    e->part_weights = SPQR_ROWS * cols;
    if (__builtin_mul_overflow(e->view.matrices, matrix_stripes(e), &stripes) ||
        __builtin_mul_overflow(stripes, e->part_weights, &e->weights) ||
        __builtin_mul_overflow(stripes, size, &e->size))
        return error_set(err, -EINVAL, "tensor \"%s\" is too large", e->name);
    set_tiles(e, size, e->part_weights);
    return 0;
}

/* Bytes of so many weights from the start of a tile on. */
static uint64_t packed_size(const struct encoding *e, uint64_t weights)
{
    uint64_t size = 0;
    format_packed_bytes(e->format, e->view.cols, weights, &size);
    return size;
}

/* Blocks are made alone, or in whole rows, or in so many of these as feedback does together, or in
 * runs that know no rows. What is derived may take some of its parts anew each time, and then there
 * are larger pieces. */
static void set_blocks(struct encoding *e, uint64_t row_size, uint64_t block, bool whole)
{
    const struct format *f = e->format;
    if (f->run) {
        e->part_weights = PART_WEIGHTS / f->run * f->run;
        set_tiles(e, packed_size(e, f->run), f->run);
        return;
    }
    uint64_t cols = e->view.cols, unit = row_size > TILE_MAX ? block : cols;
    uint64_t most = e->derived && e->derived->across ? PART_WEIGHTS_ACROSS : PART_WEIGHTS;
    uint64_t part = whole || cols < most ? cols : block;
    e->part_weights = part >= most ? part : most / part * part;
    if (f->encode_rows) {
        e->part_weights = FEEDBACK_ROWS * cols;
        unit = FEEDBACK_ROWS * row_size <= TILE_MAX ? e->part_weights : cols;
    }
    set_tiles(e, packed_size(e, unit), unit);
}

static int set_geometry(struct encoding *e, struct error *err)
{
    const struct format *f = e->format;
    if (f->stripe_bits)
        return set_stripes(e, err);
    uint64_t row_size, block = common_block(f->block, e->dtype->block);
    if (e->view.cols == 0 || e->view.cols % (f->run ? e->dtype->block : block))
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\": width %" PRIu64
                         " is no multiple of %s's block of %" PRIu64,
                         e->name, e->view.cols, f->title, block);
    if (__builtin_mul_overflow(e->view.rows, e->view.cols, &e->weights) ||
        !format_packed_bytes(f, e->view.cols, e->weights, &e->size) ||
        !format_packed_bytes(f, e->view.cols, e->view.cols, &row_size))
        return error_set(err, -EINVAL, "tensor \"%s\" is too large", e->name);
    bool whole = f->encode_rows || f->row_head || (e->importance && f->whole_rows);
    if (row_size > TILE_MAX && whole)
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\": a row of %" PRIu64 " weights is too long for %s%s",
                         e->name, e->view.cols, f->title,
                         e->importance && f->whole_rows ? " with an importance matrix" : "");
    set_blocks(e, row_size, block, whole);
    return 0;
}

/* ---- life ---- */

/* A part that a derived tensor does without has no source. */
static void add_input(struct encoding *e, const struct tensor *t, struct source *const *sources)
{
    struct encoding_input in = {t ? source_ref(sources[t->file]) : NULL, t ? t->offset : 0};
    e->inputs[e->input_count++] = in;
}

static const struct tensor *stack_tensor(const struct view *v, uint32_t i)
{
    return v->stack ? v->stack[i] : v->tensor;
}

static uint32_t input_count(const struct view *v)
{
    uint32_t count = view_scale_count(v);
    for (uint32_t i = 0; i < v->stack_count; i++) {
        const struct derived *d = stack_tensor(v, i)->derived;
        count += d ? d->part_count : 1;
    }
    return count;
}

/* Room for what keep_derived copies. */
static size_t kept_size(const struct derived *d)
{
    size_t n = 0;
    for (; d; d = d->base) {
        n += sizeof *d;
        for (uint32_t i = 0; i < d->part_count; i++)
            if (d->parts[i])
                n += sizeof *d->parts[i] + d->parts[i]->ndim * sizeof *d->parts[i]->shape;
    }
    return n;
}

/* A derived tensor with parts of its own, which need no checkpoint; *room moves on behind them. */
static void keep_derived(const struct derived *d, struct derived *out, uint8_t **room)
{
    *out = *d;
    for (uint32_t i = 0; i < d->part_count; i++) {
        if (!d->parts[i])
            continue;
        struct tensor *t = (struct tensor *)(void *)*room;
        uint64_t *shape = (uint64_t *)(void *)(t + 1);
        *t = *d->parts[i];
        memcpy(shape, t->shape, t->ndim * sizeof *shape);
        t->name = "";
        t->shape = shape;
        out->parts[i] = t;
        *room = (uint8_t *)(shape + t->ndim);
    }
    if (!d->base)
        return;
    struct derived *base = (struct derived *)(void *)*room;
    *room += sizeof *base;
    keep_derived(d->base, base, room);
    out->base = base;
}

/* The tensors of a view are all derived, or none is. */
static int add_derived(struct encoding *e, const struct view *v, struct source *const *sources,
                       struct error *err)
{
    size_t size = 0;
    for (uint32_t i = 0; i < v->stack_count; i++)
        size += kept_size(stack_tensor(v, i)->derived);
    e->derived = calloc(v->stack_count, sizeof *e->derived);
    e->derived_parts = calloc(v->stack_count, sizeof *e->derived_parts);
    e->derived_kept = malloc(size);
    if (!e->derived || !e->derived_parts || !e->derived_kept)
        return error_set(err, -ENOMEM, "out of memory");
    uint8_t *room = e->derived_kept;
    for (uint32_t i = 0; i < v->stack_count; i++) {
        const struct derived *d = stack_tensor(v, i)->derived;
        if (!d)
            return error_set(err, -ENOTSUP, "tensor \"%s\" is packed, and \"%s\" beside it is not",
                             v->tensor->name, stack_tensor(v, i)->name);
        keep_derived(d, &e->derived[i], &room);
        e->derived_parts[i] = e->input_count;
        for (uint32_t p = 0; p < d->part_count; p++)
            add_input(e, d->parts[p], sources);
    }
    return 0;
}

static int add_inputs(struct encoding *e, const struct view *v, struct source *const *sources,
                      struct error *err)
{
    if (v->tensor->derived)
        return add_derived(e, v, sources, err);
    for (uint32_t i = 0; i < v->stack_count; i++) {
        if (stack_tensor(v, i)->derived)
            return error_set(err, -ENOTSUP, "tensor \"%s\" is packed, and \"%s\" beside it is not",
                             stack_tensor(v, i)->name, v->tensor->name);
        add_input(e, stack_tensor(v, i), sources);
    }
    return 0;
}

/* Whether it points into a calibration. */
static bool is_scaled(const struct derived *d)
{
    return d->col_scale || d->row_scale;
}

/* Of a format that takes them: none of an input that nothing is known of. */
static int add_factors(struct encoding *e, struct factor *const *factors, struct error *err)
{
    if (e->format->damping == 0)
        return 0;
    e->factors = calloc(e->view.matrices, sizeof *e->factors);
    if (!e->factors)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint64_t i = 0; factors && i < e->view.matrices; i++)
        e->factors[i] = factor_ref(factors[i]);
    return 0;
}

int encoding_new(const struct format *format, const struct view *view,
                 struct source *const *sources, struct calibration *calibration,
                 const float *importance, struct factor *const *factors, struct encoding **out,
                 struct error *err)
{
    const struct tensor *t = view->tensor;
    if (!t->dtype->widen || (view->scale && !view->scale->dtype->widen))
        return error_set(err, -ENOTSUP, "tensor \"%s\" is stored as %s, which cannot be encoded",
                         t->name, t->dtype->name);
    struct encoding *e = calloc(1, sizeof *e + input_count(view) * sizeof *e->inputs);
    if (!e)
        return error_set(err, -ENOMEM, "out of memory");
    e->refs = 1;
    e->format = format;
    e->dtype = t->dtype;
    e->view = *view;
    int rc = add_inputs(e, view, sources, err);
    for (uint32_t i = 0; !rc && i < view_scale_count(view); i++) {
        e->scale_dtype = view->scale->dtype;
        add_input(e, view->scales ? view->scales[i] : view->scale, sources);
    }
    e->view.tensor = e->view.scale = NULL;
    e->view.stack = e->view.scales = NULL;
    e->cached = !format->plain_float;
    if (format->importance && importance)
        e->importance = importance;
    if (e->importance || (e->derived && is_scaled(e->derived)))
        e->calibration = calibration_ref(calibration);
    e->name = strdup(t->name);
    if (!rc)
        rc = e->name ? set_geometry(e, err) : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : add_factors(e, factors, err);
    if (rc) {
        encoding_unref(e);
        return rc;
    }
    encoding_set_key(e);
    *out = e;
    return 0;
}

int encoding_check(const struct encoding *e, struct error *err)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && i < e->input_count; i++)
        if (e->inputs[i].source && (i == 0 || e->inputs[i].source != e->inputs[i - 1].source))
            rc = source_check(e->inputs[i].source, err);
    return rc;
}

struct encoding *encoding_ref(struct encoding *e)
{
    e->refs++;
    return e;
}

void encoding_unref(struct encoding *e)
{
    if (!e || --e->refs)
        return;
    calibration_unref(e->calibration);
    for (uint64_t i = 0; e->factors && i < e->view.matrices; i++)
        factor_unref(e->factors[i]);
    free(e->factors);
    free(e->derived);
    free(e->derived_parts);
    free(e->derived_kept);
    for (uint32_t i = 0; i < e->input_count; i++)
        source_unref(e->inputs[i].source);
    free(e->name);
    free(e);
}

/* ---- making bytes ---- */

uint32_t encoding_tile_size(const struct encoding *e, uint64_t index)
{
    uint64_t left = e->size - index * e->tile_size;
    return left < e->tile_size ? (uint32_t)left : e->tile_size;
}

uint64_t encoding_tile_weights(const struct encoding *e, uint64_t index)
{
    uint64_t left = e->weights - index * e->tile_weights;
    return left < e->tile_weights ? left : e->tile_weights;
}

uint32_t encoding_parts(const struct encoding *e, uint64_t index)
{
    return (uint32_t)((encoding_tile_weights(e, index) - 1) / e->part_weights + 1);
}

/* Encodes weights [first, first + n): as many whole rows of a matrix at a time as there are, and
 * what is cut off a row at either end. */
static void encode(const struct encoding *e, const struct isa *isa, const float *weights,
                   uint64_t first, size_t n, uint8_t *out)
{
    const struct format *f = e->format;
    encode_fn *encode_rows = isa_encoder(isa, f);
    uint64_t width = e->view.cols, each = matrix_rows(e);
    if (f->run) {
        encode_rows(weights, 1, n, NULL, out);
        return;
    }
    while (n) {
        uint64_t row = first / width, col = first % width;
        size_t cols = (size_t)width, rows = n / cols;
        const float *importance = e->importance;
        if (importance) {
            uint64_t left = each - row % each;
            rows = rows < left ? rows : (size_t)left;
            importance += row / each * width + col;
        }
        if (col || !rows) {
            cols = n < width - col ? n : (size_t)(width - col);
            rows = 1;
        }
        encode_rows(weights, rows, cols, importance, out);
        weights += rows * cols;
        first += rows * cols;
        n -= rows * cols;
        out += cols == width ? packed_size(e, rows * cols) : cols / f->block * f->block_size;
    }
}

static struct factor *factor_of(const struct encoding *e, uint64_t matrix)
{
    return e->factors ? e->factors[matrix] : NULL;
}

/* What is known of the inputs of a matrix; give_factor is due. f: NULL where that is nothing. */
static int take_factor(struct factor *f, struct feedback *out, struct error *err)
{
    *out = (struct feedback){.order = f ? f->order : NULL};
    return f ? factor_take(f, &out->factor, &out->dead, err) : 0;
}

static void give_factor(struct factor *f)
{
    if (f)
        factor_give(f);
}

/* Encodes up to 16 rows of one matrix, the first of which is `row`. */
static int encode_rows(const struct encoding *e, const struct isa *isa, float *weights,
                       uint64_t row, size_t rows, uint8_t *out, struct scratch *scratch,
                       struct error *err)
{
    struct feedback feedback;
    size_t cols = (size_t)e->view.cols;
    uint64_t matrix = row / matrix_rows(e);
    struct factor *factor = factor_of(e, matrix);
    void *room = scratch_get(scratch, 0, feedback_scratch_size(cols));
    int rc = room ? take_factor(factor, &feedback, err) : error_set(err, -ENOMEM, "out of memory");
    if (rc)
        return rc;
    e->format->encode_rows(e->format, isa, weights, rows, cols,
                           e->importance ? e->importance + matrix * cols : NULL,
                           factor ? &feedback : NULL, room, out);
    give_factor(factor);
    return 0;
}

/* A part's rows, which may be of several matrices. */
static int encode_part(const struct encoding *e, const struct isa *isa, float *weights,
                       uint64_t row, size_t rows, uint8_t *out, struct scratch *scratch,
                       struct error *err)
{
    size_t cols = (size_t)e->view.cols, row_size = cols / e->format->block * e->format->block_size;
    for (size_t done = 0; done < rows;) {
        uint64_t left = matrix_rows(e) - (row + done) % matrix_rows(e);
        size_t run = rows - done < left ? rows - done : (size_t)left;
        int rc = encode_rows(e, isa, weights + done * cols, row + done, run, out + done * row_size,
                             scratch, err);
        if (rc)
            return rc;
        done += run;
    }
    return 0;
}

/* Weights that the format's type has anyway are not looked at. */
static int check_limit(const struct encoding *e, uint64_t first, const float *weights, size_t n,
                       struct error *err)
{
    const struct format *f = e->format;
    bool is_of_type = f->type && e->dtype->format == f->type && view_keeps_values(&e->view);
    if (f->limit == 0 || is_of_type)
        return 0;
    bool good = true;
    for (size_t i = 0; i < n; i++)
        good &= fabsf(weights[i]) < f->limit;
    for (size_t i = 0; !good && i < n; i++)
        if (!(fabsf(weights[i]) < f->limit))
            return weights_bad(e, first + i, "the weight is too large for the format", err);
    return 0;
}

/* What encodes weights as they are stored; NULL where they are to be widened. */
static encode_bf16_fn *direct_encoder(const struct encoding *e, const struct isa *isa)
{
    bool stored = !e->derived && e->dtype->format == &formats[FORMAT_BF16];
    return stored && view_keeps_values(&e->view) && e->format->encoder
               ? isa->encode_bf16[e->format->encoder]
               : NULL;
}

static int make_directly(const struct encoding *e, encode_bf16_fn *direct, uint64_t first,
                         size_t n, uint8_t *out, struct scratch *scratch, struct error *err)
{
    uint8_t *raw = scratch_get(scratch, 0, weights_raw_size(e->dtype, n));
    int rc = raw ? weights_read_stored(e, first, n, raw, err)
                 : error_set(err, -ENOMEM, "out of memory");
    if (!rc)
        direct(raw, n, out);
    return rc;
}

static int make_blocks(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                       uint8_t *out, struct scratch *scratch, struct error *err)
{
    const struct format *f = e->format;
    encode_bf16_fn *direct = direct_encoder(e, isa);
    if (direct)
        return make_directly(e, direct, first, n, out, scratch, err);
    float *weights;
    int rc = weights_read(e, isa, first, n, scratch, &weights, err);
    rc = rc ? rc : check_limit(e, first, weights, n, err);
    if (rc)
        return rc;
    if (f->encode_rows)
        rc = encode_part(e, isa, weights, first / e->view.cols, n / (size_t)e->view.cols, out,
                         scratch, err);
    else
        encode(e, isa, weights, first, n, out);
    if (rc)
        return rc;
    uint64_t blocks = f->halves ? n / f->block : 0, bad = format_first_invalid(f, out, blocks);
    if (bad < blocks)
        return weights_bad(e, first + bad * f->block, "the weights are too large for the format",
                          err);
    return 0;
}

/* Puts the columns of some rows into the factor's order; what never meets an input becomes 0. */
static void order_columns(const struct feedback *f, float *weights, size_t rows, size_t cols,
                          float *row)
{
    for (size_t r = 0; r < rows; r++, weights += cols) {
        for (size_t c = 0; c < cols; c++)
            row[c] = f->dead[c] ? 0 : weights[f->order[c]];
        memcpy(weights, row, cols * sizeof *row);
    }
}

/* With a factor, or with columns as they stand and nothing that feeds back. */
static int encode_stripe(const struct encoding *e, const struct isa *isa, uint64_t matrix,
                         float *weights, size_t rows, uint8_t *out, struct scratch *scratch,
                         struct error *err)
{
    size_t cols = (size_t)e->view.cols, work = spqr_scratch_size(cols);
    uint8_t *room = scratch_get(scratch, 0, work + cols * sizeof(float));
    struct spqr_settings settings = {.bits = e->stripes.bits, .slots = e->stripes.slots};
    struct spqr_stripe stripe;
    struct feedback feedback;
    struct factor *factor = factor_of(e, matrix);
    int rc = room ? take_factor(factor, &feedback, err) : error_set(err, -ENOMEM, "out of memory");
    if (rc)
        return rc;
    if (factor)
        order_columns(&feedback, weights, rows, cols, (float *)(void *)(room + work));
    isa->spqr_encode(&settings, weights, rows, cols, feedback.factor, room, &stripe);
    spqr_pack(&e->stripes, &stripe, out);
    give_factor(factor);
    return 0;
}

static int make_stripe(const struct encoding *e, const struct isa *isa, uint64_t stripe,
                       uint8_t *out, struct scratch *scratch, struct error *err)
{
    uint64_t matrix = stripe / matrix_stripes(e), at = stripe % matrix_stripes(e) * SPQR_ROWS;
    uint64_t left = matrix_rows(e) - at, first = (matrix * matrix_rows(e) + at) * e->view.cols;
    size_t rows = left < SPQR_ROWS ? (size_t)left : SPQR_ROWS, n = rows * (size_t)e->view.cols;
    float *weights;
    int rc = weights_read(e, isa, first, n, scratch, &weights, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(weights[i]) < SPQR_WEIGHT_MAX))
            return weights_bad(e, first + i, "the weight is too large for the format", err);
    return encode_stripe(e, isa, matrix, weights, rows, out, scratch, err);
}

int encoding_make_part(const struct encoding *e, const struct isa *isa, uint64_t index,
                       uint32_t part, uint8_t *out, struct scratch *scratch, struct error *err)
{
    const struct format *f = e->format;
    uint64_t start = part * e->part_weights, left = encoding_tile_weights(e, index) - start;
    size_t n = (size_t)(left < e->part_weights ? left : e->part_weights);
    uint64_t first = index * e->tile_weights + start;
    if (f->stripe_bits)
        return make_stripe(e, isa, first / e->part_weights, out + part * e->stripes.stripe_size,
                           scratch, err);
    out += packed_size(e, start);
    /* The same type on both sides: what is read is what is written. */
    if (e->dtype->format == f && view_keeps_values(&e->view) && !e->derived)
        return weights_read_stored(e, first, n, out, err);
    return make_blocks(e, isa, first, n, out, scratch, err);
}

/* SPDX-License-Identifier: MIT */
#include "daemon/encoding.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(KEY_SIZE == crypto_hash_sha256_BYTES, "keys are SHA-256");

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

/* Blocks are made alone, or in whole rows, or in so many of these as feedback does together. */
static void set_blocks(struct encoding *e, uint64_t row_size, uint64_t block, bool whole)
{
    const struct format *f = e->format;
    uint64_t cols = e->view.cols, unit = row_size > TILE_MAX ? block : cols;
    uint64_t part = whole || cols < PART_WEIGHTS ? cols : block;
    e->part_weights = part >= PART_WEIGHTS ? part : PART_WEIGHTS / part * part;
    if (f->encode_rows) {
        e->part_weights = FEEDBACK_ROWS * cols;
        unit = FEEDBACK_ROWS * row_size <= TILE_MAX ? e->part_weights : cols;
    }
    set_tiles(e, unit / f->block * f->block_size, unit);
}

static int set_geometry(struct encoding *e, struct error *err)
{
    const struct format *f = e->format;
    if (f->stripe_bits)
        return set_stripes(e, err);
    uint64_t row_size, block = common_block(f->block, e->dtype->block);
    if (e->view.cols == 0 || e->view.cols % block)
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\": width %" PRIu64
                         " is no multiple of %s's block of %" PRIu64,
                         e->name, e->view.cols, f->title, block);
    if (__builtin_mul_overflow(e->view.rows, e->view.cols, &e->weights) ||
        !format_bytes(f, e->weights, &e->size) || !format_bytes(f, e->view.cols, &row_size))
        return error_set(err, -EINVAL, "tensor \"%s\" is too large", e->name);
    bool whole = f->encode_rows || (e->importance && f->whole_rows);
    if (row_size > TILE_MAX && whole)
        return error_set(
            err, -ENOTSUP, "tensor \"%s\": a row of %" PRIu64 " weights is too long for %s%s",
            e->name, e->view.cols, f->title, f->encode_rows ? "" : " with an importance matrix");
    set_blocks(e, row_size, block, whole);
    return 0;
}

/* ---- key ---- */

static void hash(crypto_hash_sha256_state *state, const void *data, size_t n)
{
    crypto_hash_sha256_update(state, data, n);
}

static void hash_u64(crypto_hash_sha256_state *state, uint64_t v)
{
    hash(state, &v, sizeof v);
}

static void hash_text(crypto_hash_sha256_state *state, const char *s)
{
    hash_u64(state, strlen(s));
    hash(state, s, strlen(s));
}

/* The input's tensor, and the file that it lies in: its content if that is known, else its identity. */
static void hash_input(crypto_hash_sha256_state *state, const struct encoding_input *input)
{
    const struct source_identity *id = source_identity(input->source);
    const char *content = source_content(input->source);
    hash_u64(state, input->offset);
    hash_text(state, content);
    if (*content) {
        hash_u64(state, id->size);
        return;
    }
    hash_u64(state, source_filesystem(input->source));
    hash_u64(state, id->inode);
    hash_u64(state, id->size);
    hash_u64(state, (uint64_t)id->mtime_ns);
    hash_u64(state, (uint64_t)id->ctime_ns);
}

static void hash_view(crypto_hash_sha256_state *state, const struct view *v)
{
    uint32_t add;
    memcpy(&add, &v->add, sizeof add);
    hash_u64(state, v->rows);
    hash_u64(state, v->cols);
    hash_u64(state, v->first_row);
    hash_u64(state, v->order);
    hash_u64(state, v->heads);
    hash_u64(state, add);
    hash_u64(state, v->scale_rows);
    hash_u64(state, v->scale_cols);
}

/* What is known of the inputs of each matrix. */
static void hash_factors(crypto_hash_sha256_state *state, const struct encoding *e)
{
    hash(state, &e->format->damping, sizeof e->format->damping);
    for (uint64_t i = 0; i < e->view.matrices; i++) {
        hash_u64(state, e->factors[i] != NULL);
        if (e->factors[i])
            hash(state, e->factors[i]->digest, sizeof e->factors[i]->digest);
    }
}

/* Everything that the bytes follow from, each field with its length or of fixed size. Paths and
 * device numbers stay out, so that machines which mount one disk share objects. */
static void set_key(struct encoding *e)
{
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    hash_text(&state, "quantfs encoding 3");
    hash_text(&state, e->format->name);
    hash_u64(&state, e->format->version);
    hash_text(&state, e->dtype->name);
    hash_text(&state, e->scale_dtype ? e->scale_dtype->name : "");
    hash_view(&state, &e->view);
    hash_u64(&state, e->input_count);
    for (uint32_t i = 0; i < e->input_count; i++)
        hash_input(&state, &e->inputs[i]);
    uint64_t count = e->importance ? e->view.matrices * e->view.cols : 0;
    hash_u64(&state, count);
    if (count) {
        uint8_t digest[crypto_hash_sha256_BYTES];
        crypto_hash_sha256(digest, (const uint8_t *)e->importance, count * sizeof *e->importance);
        hash(&state, digest, sizeof digest);
    }
    if (e->format->stripe_bits)
        hash_u64(&state, e->stripes.slots);
    if (e->factors)
        hash_factors(&state, e);
    crypto_hash_sha256_final(&state, e->key);
}

/* ---- life ---- */

static void add_input(struct encoding *e, const struct tensor *t, struct source *const *sources)
{
    e->inputs[e->input_count++] = (struct encoding_input){source_ref(sources[t->file]), t->offset};
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
    uint32_t inputs = view->stack_count + view_scale_count(view);
    struct encoding *e = calloc(1, sizeof *e + inputs * sizeof *e->inputs);
    if (!e)
        return error_set(err, -ENOMEM, "out of memory");
    e->refs = 1;
    e->format = format;
    e->dtype = t->dtype;
    e->view = *view;
    for (uint32_t i = 0; i < view->stack_count; i++)
        add_input(e, view->stack ? view->stack[i] : t, sources);
    for (uint32_t i = 0; i < view_scale_count(view); i++) {
        e->scale_dtype = view->scale->dtype;
        add_input(e, view->scales ? view->scales[i] : view->scale, sources);
    }
    e->view.tensor = e->view.scale = NULL;
    e->view.stack = e->view.scales = NULL;
    e->cached = !format->plain_float;
    if (format->importance && importance) {
        e->calibration = calibration_ref(calibration);
        e->importance = importance;
    }
    e->name = strdup(t->name);
    int rc = e->name ? set_geometry(e, err) : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : add_factors(e, factors, err);
    if (rc) {
        encoding_unref(e);
        return rc;
    }
    set_key(e);
    *out = e;
    return 0;
}

int encoding_check(const struct encoding *e, struct error *err)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && i < e->input_count; i++)
        if (i == 0 || e->inputs[i].source != e->inputs[i - 1].source)
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

/* A message about weight `at`: which file, tensor and row it is from. */
static int bad_weight(const struct encoding *e, uint64_t at, const char *problem, struct error *err)
{
    uint32_t which;
    uint64_t row = view_source_row(&e->view, at / e->view.cols, &which);
    char part[32] = "";
    if (e->view.stack_count > 1)
        snprintf(part, sizeof part, " + %" PRIu32, which);
    return error_set(err, -EINVAL, "%s: tensor \"%s\"%s, row %" PRIu64 ", column %" PRIu64 ": %s",
                     source_path(e->inputs[which].source), e->name, part, row, at % e->view.cols,
                     problem);
}

static size_t raw_size(const struct dtype *t, size_t n)
{
    return n / t->block * t->block_size;
}

/* Finds the first weight that is not finite among n that start at weight `first`. */
static int not_finite(const struct encoding *e, uint64_t first, const uint8_t *raw, size_t n,
                      struct error *err)
{
    size_t i = 0, step = e->dtype->block;
    while (i + step < n && dtype_finite(e->dtype, raw + raw_size(e->dtype, i), step))
        i += step;
    return bad_weight(e, first + i, "the weight is not finite", err);
}

/* Reads the elements of weights [first, first + n), in the view's order. */
static int read_elements(const struct encoding *e, uint64_t first, size_t n, uint8_t *raw,
                         struct error *err)
{
    uint64_t cols = e->view.cols, each = e->view.rows / e->view.stack_count;
    while (n) {
        uint32_t which;
        uint64_t row = first / cols, col = first % cols;
        uint64_t at = view_source_row(&e->view, row, &which);
        /* what lies together: a row, or all rows that are left of the tensor */
        uint64_t rows = e->view.order == ROWS_AS_STORED ? each - row % each : 1;
        uint64_t left = rows * cols - col;
        size_t run = n < left ? n : (size_t)left;
        const struct encoding_input *in = &e->inputs[which];
        uint64_t offset = (at * cols + col) / e->dtype->block * e->dtype->block_size;
        size_t size = raw_size(e->dtype, run);
        int rc = source_read(in->source, raw, in->offset + offset, size, err);
        if (rc)
            return rc;
        first += run;
        n -= run;
        raw += size;
    }
    return 0;
}

/* Multiplies weights of one row, columns [col, col + n), by their scales. */
static int scale_row(const struct encoding *e, uint64_t row, uint64_t col, size_t n, float *weights,
                     struct error *err)
{
    uint32_t which;
    const struct view *v = &e->view;
    uint64_t per_row = (v->cols - 1) / v->scale_cols + 1;
    uint64_t scale_row = view_source_row(v, row, &which) / v->scale_rows;
    const struct encoding_input *in = &e->inputs[v->stack_count + which];
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
    return 0;
}

/* Encodes weights [first, first + n): as many whole rows of a matrix at a time as there are, and
 * what is cut off a row at either end. */
static void encode(const struct encoding *e, const struct isa *isa, const float *weights,
                   uint64_t first, size_t n, uint8_t *out)
{
    const struct format *f = e->format;
    encode_fn *encode_rows = isa->encode[f - formats];
    uint64_t width = e->view.cols, each = matrix_rows(e);
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
        out += rows * cols / f->block * f->block_size;
    }
}

/* Reads weights [first, first + n) as floats, in the scratch's second area. */
static int read_weights(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                        struct scratch *scratch, float **out, struct error *err)
{
    uint8_t *raw = scratch_get(scratch, 0, raw_size(e->dtype, n));
    float *weights = scratch_get(scratch, 1, n * sizeof *weights);
    if (!raw || !weights)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = read_elements(e, first, n, raw, err);
    if (rc)
        return rc;
    if (!dtype_finite(e->dtype, raw, n))
        return not_finite(e, first, raw, n, err);
    const struct format *stored = e->dtype->format;
    (stored ? isa->decode[stored - formats] : e->dtype->widen)(raw, n, weights);
    *out = weights;
    return transform(e, first, n, weights, err);
}

/* The bytes of weights [first, first + n) as they are stored. */
static int copy_part(const struct encoding *e, uint64_t first, size_t n, uint8_t *out,
                     struct error *err)
{
    int rc = read_elements(e, first, n, out, err);
    if (!rc && !dtype_finite(e->dtype, out, n))
        rc = not_finite(e, first, out, n, err);
    return rc;
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

static int make_blocks(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                       uint8_t *out, struct scratch *scratch, struct error *err)
{
    const struct format *f = e->format;
    float *weights;
    int rc = read_weights(e, isa, first, n, scratch, &weights, err);
    if (rc)
        return rc;
    if (f->encode_rows)
        rc = encode_part(e, isa, weights, first / e->view.cols, n / (size_t)e->view.cols, out,
                         scratch, err);
    else
        encode(e, isa, weights, first, n, out);
    if (rc)
        return rc;
    uint64_t blocks = n / f->block, bad = format_first_invalid(f, out, blocks);
    if (bad < blocks)
        return bad_weight(e, first + bad * f->block, "the weights are too large for the format",
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
    int rc = read_weights(e, isa, first, n, scratch, &weights, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(weights[i]) < SPQR_WEIGHT_MAX))
            return bad_weight(e, first + i, "the weight is too large for the format", err);
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
    out += start / f->block * f->block_size;
    /* The same type on both sides: what is read is what is written. */
    if (e->dtype->format == f && view_keeps_values(&e->view))
        return copy_part(e, first, n, out, err);
    return make_blocks(e, isa, first, n, out, scratch, err);
}

/* SPDX-License-Identifier: MIT */
#include "daemon/encoding.h"

#include "codec/float16.h"

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
    hash_u64(state, input->source != NULL);
    if (!input->source)
        return;
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

/* n scales, or that there are none. */
static void hash_scales(crypto_hash_sha256_state *state, const float *scales, uint64_t n)
{
    hash_u64(state, scales ? n : 0);
    if (scales)
        hash(state, scales, n * sizeof *scales);
}

/* How the view's tensors follow from the inputs. */
static void hash_derived(crypto_hash_sha256_state *state, const struct derived *d)
{
    uint32_t number;
    memcpy(&number, &d->number, sizeof number);
    hash_text(state, d->method->name);
    hash_u64(state, d->method->version);
    hash_text(state, d->type->name);
    hash_u64(state, d->part_count);
    hash_u64(state, d->bits);
    hash_u64(state, d->variant);
    hash_u64(state, d->group);
    hash_u64(state, d->rank);
    hash_u64(state, number);
    hash_scales(state, d->col_scale, d->cols);
    hash_scales(state, d->row_scale, d->rows);
    hash_u64(state, d->base != NULL);
    if (d->base)
        hash_derived(state, d->base);
}

/* Everything that the bytes follow from, each field with its length or of fixed size. Paths and
 * device numbers stay out, so that machines which mount one disk share objects. */
static void set_key(struct encoding *e)
{
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    hash_text(&state, "quantfs encoding 4");
    hash_text(&state, e->format->name);
    hash_u64(&state, e->format->version);
    hash_text(&state, e->dtype->name);
    hash_text(&state, e->scale_dtype ? e->scale_dtype->name : "");
    hash_view(&state, &e->view);
    hash_u64(&state, e->derived != NULL);
    for (uint32_t i = 0; e->derived && i < e->view.stack_count; i++)
        hash_derived(&state, &e->derived[i]);
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
    if (e->view.round)
        hash_text(&state, e->view.round->name);
    crypto_hash_sha256_final(&state, e->key);
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
    set_key(e);
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

/* A message about weight `at`: which file, tensor and row it is from. */
static int bad_weight(const struct encoding *e, uint64_t at, const char *problem, struct error *err)
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
        size_t size = raw_size(e->dtype, run.count);
        int rc = source_read(in->source, raw, in->offset + offset, size, err);
        if (rc)
            return rc;
        first += run.count;
        n -= run.count;
        raw += size;
    }
    return 0;
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
    return bad_weight(e, first + i, "the weight is not finite", err);
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
            return bad_weight(e, first + i, "the weight is too large for the model's type", err);
    return 0;
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

/* Reads weights [first, first + n) as floats, in the scratch's second area. */
static int read_weights(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                        struct scratch *scratch, float **out, struct error *err)
{
    float *weights = scratch_get(scratch, 1, n * sizeof *weights);
    uint8_t *raw = e->derived ? NULL : scratch_get(scratch, 0, raw_size(e->dtype, n));
    if (!weights || (!raw && !e->derived))
        return error_set(err, -ENOMEM, "out of memory");
    *out = weights;
    if (e->derived) {
        int rc = derive(e, isa, first, n, weights, err);
        return rc ? rc : transform(e, first, n, weights, err);
    }
    int rc = read_elements(e, first, n, raw, err);
    if (rc)
        return rc;
    if (!dtype_finite(e->dtype, raw, n))
        return not_finite(e, first, raw, n, err);
    const struct format *stored = e->dtype->format;
    (stored ? isa->decode[stored - formats] : e->dtype->widen)(raw, n, weights);
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
            return bad_weight(e, first + i, "the weight is too large for the format", err);
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
    uint8_t *raw = scratch_get(scratch, 0, raw_size(e->dtype, n));
    int rc = raw ? read_elements(e, first, n, raw, err) : error_set(err, -ENOMEM, "out of memory");
    if (rc)
        return rc;
    if (!dtype_finite(e->dtype, raw, n))
        return not_finite(e, first, raw, n, err);
    direct(raw, n, out);
    return 0;
}

static int make_blocks(const struct encoding *e, const struct isa *isa, uint64_t first, size_t n,
                       uint8_t *out, struct scratch *scratch, struct error *err)
{
    const struct format *f = e->format;
    encode_bf16_fn *direct = direct_encoder(e, isa);
    if (direct)
        return make_directly(e, direct, first, n, out, scratch, err);
    float *weights;
    int rc = read_weights(e, isa, first, n, scratch, &weights, err);
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
    out += packed_size(e, start);
    /* The same type on both sides: what is read is what is written. */
    if (e->dtype->format == f && view_keeps_values(&e->view) && !e->derived)
        return copy_part(e, first, n, out, err);
    return make_blocks(e, isa, first, n, out, scratch, err);
}

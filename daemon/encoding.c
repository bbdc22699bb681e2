/* SPDX-License-Identifier: MIT */
#include "daemon/encoding.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
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

static int set_geometry(struct encoding *e, struct error *err)
{
    const struct format *f = e->format;
    uint64_t row_size, unit = e->view.cols;
    if (e->view.cols == 0 || e->view.cols % f->block)
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\": width %" PRIu64 " is no multiple of %s's block of %u",
                         e->name, e->view.cols, f->title, f->block);
    if (__builtin_mul_overflow(e->view.rows, e->view.cols, &e->weights) ||
        !format_bytes(f, e->weights, &e->size) || !format_bytes(f, e->view.cols, &row_size))
        return error_set(err, -EINVAL, "tensor \"%s\" is too large", e->name);
    bool whole = e->importance && f->whole_rows;
    if (row_size > TILE_MAX) {
        if (whole)
            return error_set(err, -ENOTSUP,
                             "tensor \"%s\": a row of %" PRIu64
                             " weights is too long for %s with an importance matrix",
                             e->name, e->view.cols, f->title);
        unit = f->block;
    }
    uint64_t unit_size = unit / f->block * f->block_size;
    uint64_t aligned = TILE_ALIGNMENT / gcd(unit_size, TILE_ALIGNMENT) * unit_size;
    uint64_t step = aligned <= TILE_MAX ? aligned : unit_size;
    uint64_t steps = TILE_TARGET / step ? TILE_TARGET / step : 1;
    e->tile_size = (uint32_t)(steps * step);
    e->tile_weights = steps * step / f->block_size * f->block;
    e->tile_count = e->size ? (e->size - 1) / e->tile_size + 1 : 0;
    uint64_t part = whole || e->view.cols < PART_WEIGHTS ? e->view.cols : f->block;
    e->part_weights = part >= PART_WEIGHTS ? part : PART_WEIGHTS / part * part;
    return 0;
}

/* ---- key ---- */

static void hash(crypto_hash_sha256_state *state, const void *data, size_t n)
{
    crypto_hash_sha256_update(state, data, n);
}

static void hash_u64(crypto_hash_sha256_state *state, uint64_t v) { hash(state, &v, sizeof v); }

static void hash_text(crypto_hash_sha256_state *state, const char *s)
{
    hash_u64(state, strlen(s));
    hash(state, s, strlen(s));
}

/* Everything that the bytes follow from, each field with its length or of fixed size. Paths and
 * device numbers stay out, so that machines which mount one disk share objects. */
static void set_key(struct encoding *e)
{
    const struct source_identity *id = source_identity(e->source);
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    hash_text(&state, "quantfs encoding 1");
    hash_text(&state, e->format->name);
    hash_u64(&state, e->format->version);
    hash_text(&state, e->dtype->name);
    hash_u64(&state, e->view.rows);
    hash_u64(&state, e->view.cols);
    hash_u64(&state, e->view.rope_heads);
    hash_u64(&state, e->offset);
    hash_u64(&state, source_filesystem(e->source));
    hash_u64(&state, id->inode);
    hash_u64(&state, id->size);
    hash_u64(&state, (uint64_t)id->mtime_ns);
    hash_u64(&state, (uint64_t)id->ctime_ns);
    hash_u64(&state, e->importance ? e->view.cols : 0);
    if (e->importance) {
        uint8_t digest[crypto_hash_sha256_BYTES];
        crypto_hash_sha256(digest, (const uint8_t *)e->importance,
                           e->view.cols * sizeof *e->importance);
        hash(&state, digest, sizeof digest);
    }
    crypto_hash_sha256_final(&state, e->key);
}

/* ---- life ---- */

int encoding_new(const struct format *format, const struct view *view, struct source *source,
                 struct calibration *calibration, const float *importance, struct encoding **out,
                 struct error *err)
{
    const struct tensor *t = view->tensor;
    if (!t->dtype->widen)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is stored as %s, which cannot be encoded",
                         t->name, t->dtype->name);
    struct encoding *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, -ENOMEM, "out of memory");
    e->refs = 1;
    e->format = format;
    e->dtype = t->dtype;
    e->offset = t->offset;
    e->view = *view;
    e->view.tensor = NULL;
    e->cached = !format->plain_float;
    e->source = source_ref(source);
    if (format->importance && importance) {
        e->calibration = calibration_ref(calibration);
        e->importance = importance;
    }
    e->name = strdup(t->name);
    int rc = e->name ? set_geometry(e, err) : error_set(err, -ENOMEM, "out of memory");
    if (rc) {
        encoding_unref(e);
        return rc;
    }
    set_key(e);
    *out = e;
    return 0;
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
    source_unref(e->source);
    free(e->name);
    free(e);
}

/* ---- making bytes ---- */

uint32_t encoding_tile_size(const struct encoding *e, uint64_t index)
{
    uint64_t left = e->size - index * e->tile_size;
    return left < e->tile_size ? (uint32_t)left : e->tile_size;
}

static uint64_t tile_weights(const struct encoding *e, uint64_t index)
{
    uint64_t left = e->weights - index * e->tile_weights;
    return left < e->tile_weights ? left : e->tile_weights;
}

uint32_t encoding_parts(const struct encoding *e, uint64_t index)
{
    return (uint32_t)((tile_weights(e, index) - 1) / e->part_weights + 1);
}

/* Names the first weight that is not finite in elements that start at weight `first`. */
static int not_finite(const struct encoding *e, uint64_t first, const uint8_t *raw, size_t n,
                      struct error *err)
{
    size_t i = 0;
    while (i + 1 < n && e->dtype->finite(raw + i * e->dtype->bits / 8, 1))
        i++;
    return error_set(err, -EINVAL,
                     "%s: tensor \"%s\", row %" PRIu64 ", column %" PRIu64
                     ": the weight is not finite",
                     source_path(e->source), e->name,
                     view_source_row(&e->view, (first + i) / e->view.cols),
                     (first + i) % e->view.cols);
}

/* Reads the elements of weights [first, first + n), in the view's order. */
static int read_elements(const struct encoding *e, uint64_t first, size_t n, uint8_t *raw,
                         struct error *err)
{
    size_t width = e->dtype->bits / 8;
    if (!e->view.rope_heads)
        return source_read(e->source, raw, e->offset + first * width, n * width, err);
    while (n) {
        uint64_t row = first / e->view.cols, col = first % e->view.cols;
        uint64_t left = e->view.cols - col;
        size_t run = n < left ? n : (size_t)left;
        uint64_t at = view_source_row(&e->view, row) * e->view.cols + col;
        int rc = source_read(e->source, raw, e->offset + at * width, run * width, err);
        if (rc)
            return rc;
        first += run;
        n -= run;
        raw += run * width;
    }
    return 0;
}

/* Encodes weights [first, first + n): as many whole rows at a time as there are, and what is cut
 * off a row at either end. */
static void encode(const struct encoding *e, const float *weights, uint64_t first, size_t n,
                   uint8_t *out)
{
    const struct format *f = e->format;
    while (n) {
        size_t cols = (size_t)e->view.cols, col = (size_t)(first % cols), rows = n / cols;
        if (col || !rows) {
            cols = n < cols - col ? n : cols - col;
            rows = 1;
        }
        f->encode(weights, rows, cols, e->importance ? e->importance + col : NULL, out);
        weights += rows * cols;
        first += rows * cols;
        n -= rows * cols;
        out += rows * cols / f->block * f->block_size;
    }
}

int encoding_make_part(const struct encoding *e, uint64_t index, uint32_t part, uint8_t *out,
                       struct scratch *scratch, struct error *err)
{
    const struct format *f = e->format;
    uint64_t start = part * e->part_weights, left = tile_weights(e, index) - start;
    size_t n = (size_t)(left < e->part_weights ? left : e->part_weights);
    uint64_t first = index * e->tile_weights + start;
    out += start / f->block * f->block_size;

    /* The same type on both sides: what is read is what is written. */
    bool copy = e->dtype->format == f;
    uint8_t *raw = copy ? out : scratch_get(scratch, 0, n * e->dtype->bits / 8);
    float *rows = copy ? NULL : scratch_get(scratch, 1, n * sizeof *rows);
    if (!raw || (!copy && !rows))
        return error_set(err, -ENOMEM, "out of memory");
    int rc = read_elements(e, first, n, raw, err);
    if (rc)
        return rc;
    if (!e->dtype->finite(raw, n))
        return not_finite(e, first, raw, n, err);
    if (copy)
        return 0;
    e->dtype->widen(raw, n, rows);
    encode(e, rows, first, n, out);
    uint64_t blocks = n / f->block, bad = format_first_invalid(f, out, blocks);
    if (bad < blocks)
        return error_set(err, -EINVAL,
                         "%s: tensor \"%s\", row %" PRIu64 ": the weights are too large for %s",
                         source_path(e->source), e->name,
                         view_source_row(&e->view, (first + bad * f->block) / e->view.cols),
                         f->title);
    return 0;
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/weights.h"

#include "codec/gguf_model.h"
#include "codec/spqr/format.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { UNIT_MAX = 64 << 20 };

static const struct beneath anywhere = {AT_FDCWD, true};

/* ---- the file ---- */

static int load_header(struct weights *w, struct error *err)
{
    int rc = container_read_gguf(w->file, &w->gguf, err);
    rc = rc ? rc : container_list_gguf(w->file, &w->gguf, 0, &w->tensors, err);
    return rc ? rc : gguf_vocab_load(&w->gguf.header, &w->vocab, err);
}

int weights_open(struct weights *w, const char *path, struct backend *backend, struct error *err)
{
    *w = (struct weights){.backend = backend,
                          .run_alignment = backend ? backend->run_alignment : 0,
                          .set = source_set_new(1, &w->stats)};
    int rc = w->set ? source_open(w->set, &anywhere, path, &w->file, err)
                    : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : load_header(w, err);
    if (rc)
        weights_close(w);
    else
        w->mounted = extents_file_open(&w->tiles, path);
    return rc;
}

void weights_close(struct weights *w)
{
    lift_close(w->lift);
    ring_close(w->ring);
    if (w->held)
        munmap(w->held, w->held_size);
    if (w->backend) {
        w->backend->free(w->backend, w->memory);
        w->backend->free(w->backend, w->sent);
    }
    if (w->mounted)
        extents_file_close(&w->tiles);
    free(w->pieces);
    free(w->blocks);
    free(w->order);
    arena_free(&w->arena);
    tensor_list_free(&w->tensors);
    gguf_vocab_free(&w->vocab);
    container_free_gguf(&w->gguf);
    source_unref(w->file);
    source_set_free(w->set);
    *w = (struct weights){0};
}

/* ---- what is in it ---- */

static const struct tensor *find(const struct weights *w, const char *name)
{
    for (size_t i = 0; i < w->tensors.count; i++)
        if (strcmp(w->tensors.items[i].name, name) == 0)
            return &w->tensors.items[i];
    return NULL;
}

static int describe(const struct weights *w, const char *name, uint32_t part, struct weight *out,
                    struct error *err)
{
    const struct tensor *t = find(w, name);
    if (!t)
        return error_set(err, -ENOENT, "tensor \"%s\" is missing", name);
    if (t->ndim < 2 || t->ndim > 3 || (t->ndim == 3 ? part >= t->shape[0] : part > 0))
        return error_set(err, -EINVAL, "tensor \"%s\" has %" PRIu32 " dimensions", name, t->ndim);
    if (!t->dtype->format)
        return error_set(err, -ENOTSUP, "tensor \"%s\": there is no kernel for %s", name,
                         t->dtype->name);
    *out = (struct weight){.format = t->dtype->format,
                           .rows = t->shape[t->ndim - 2],
                           .cols = t->shape[t->ndim - 1],
                           .expert = t->ndim == 3 ? part : PIECE_ALWAYS};
    if (!weight_set_units(out) || out->unit_size > UNIT_MAX)
        return error_set(err, -EINVAL, "tensor \"%s\" has rows of %" PRIu64 " weights", name,
                         out->cols);
    if (w->backend && !w->backend->multiplies(w->backend, out->format, out->cols))
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\": %s has no product of %s with %" PRIu64 " columns", name,
                         w->backend->name, out->format->title, out->cols);
    /* below the tensor's size, which the parser of the header has checked */
    out->offset = t->offset + part * out->units * out->unit_size;
    return 0;
}

/* The order of a matrix's columns: behind all stripes of the tensor, one for each of its matrices. */
static int read_order(struct weights *w, const char *name, uint32_t part, struct weight *m,
                      struct error *err)
{
    const struct tensor *t = find(w, name);
    uint64_t matrices = t->ndim == 3 ? t->shape[0] : 1;
    struct spqr_layout l;
    int rc = spqr_format_layout(m->format, m->cols, &l, err);
    if (rc)
        return rc;
    uint64_t size = l.columns * l.index_size;
    uint64_t at = t->offset + matrices * m->units * m->unit_size + part * size;
    uint8_t *data = malloc(size);
    uint32_t *order = arena_array(&w->arena, l.columns, sizeof *order);
    rc = data && order ? source_read(w->file, data, at, size, err)
                       : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : spqr_order_parse(&l, data, size, order, err);
    free(data);
    m->order = m->backend_order = order;
    return rc ? error_prefix(err, rc, "tensor \"%s\"", name) : 0;
}

/* *where is to be in the backend's memory, too. */
static int add_sending(struct weights *w, const void **where, size_t size, struct error *err)
{
    struct sending *s = arena_alloc(&w->arena, sizeof *s);
    if (!s)
        return error_set(err, -ENOMEM, "out of memory");
    *s = (struct sending){where, size, w->sendings};
    w->sendings = s;
    return 0;
}

int weights_add(struct weights *w, const struct weight *matrix, const struct weight **out,
                struct error *err)
{
    if (w->count == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 256;
        struct weight **order = realloc(w->order, capacity * sizeof *order);
        if (!order)
            return error_set(err, -ENOMEM, "out of memory");
        w->order = order;
        w->capacity = capacity;
    }
    struct weight *weight = arena_alloc(&w->arena, sizeof *weight);
    if (!weight)
        return error_set(err, -ENOMEM, "out of memory");
    *weight = *matrix;
    w->order[w->count++] = weight;
    w->bytes += weight->units * weight->unit_size;
    *out = weight;
    return weight->order ? add_sending(w, (const void **)&weight->backend_order,
                                       weight->cols * sizeof *weight->order, err)
                         : 0;
}

int weights_matrix(struct weights *w, const char *name, uint32_t layer, uint32_t part,
                   const struct weight **out, struct error *err)
{
    struct weight described;
    int rc = describe(w, name, part, &described, err);
    if (!rc && described.format->stripe_bits)
        rc = read_order(w, name, part, &described, err);
    described.layer = layer;
    return rc ? rc : weights_add(w, &described, out, err);
}

int weights_table(struct weights *w, const char *name, struct weight *out, struct error *err)
{
    int rc = describe(w, name, 0, out, err);
    if (!rc && out->unit_rows > 1)
        rc = error_set(err, -ENOTSUP, "tensor \"%s\": rows of %s cannot be had one by one", name,
                       out->format->title);
    return rc;
}

int weights_row(struct weights *w, const struct weight *table, uint64_t row, void *out,
                struct error *err)
{
    return source_read(w->file, out, table->offset + row * table->unit_size, table->unit_size, err);
}

int weights_floats(struct weights *w, const char *name, uint64_t n, const float **out,
                   struct error *err)
{
    const struct tensor *t = find(w, name);
    *out = NULL;
    if (!t)
        return 0;
    if (t->elements != n)
        return error_set(err, -EINVAL, "tensor \"%s\" has %" PRIu64 " elements, not %" PRIu64, name,
                         t->elements, n);
    void *packed = malloc(t->size + 1);
    float *values = arena_array(&w->arena, (size_t)n, sizeof *values);
    int rc = packed && values ? source_read(w->file, packed, t->offset, t->size, err)
                              : error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        t->dtype->widen(packed, (size_t)n, values);
        *out = values;
    }
    free(packed);
    return rc;
}

int weights_vector(struct weights *w, const char *name, uint64_t n, const float **out,
                   struct error *err)
{
    int rc = weights_floats(w, name, n, out, err);
    return rc || !*out ? rc : add_sending(w, (const void **)out, (size_t)n * sizeof **out, err);
}

/* ---- passes ---- */

uint64_t weights_streamed(const struct weights *w)
{
    uint64_t bytes = 0;
    for (int place = 0; w->ring && place < PLACE_COUNT; place++)
        bytes += ring_stats(w->ring)->bytes[place];
    return bytes;
}

uint64_t weights_lifted(const struct weights *w)
{
    return w->lift ? lift_stats(w->lift)->bytes : 0;
}

void weights_begin(struct weights *w)
{
    w->streamed_before = weights_streamed(w);
    w->lifted_before = weights_lifted(w);
    if (w->ring)
        ring_begin(w->ring);
}

static void note_least(uint64_t *least, uint64_t bytes, bool first)
{
    if (first || bytes < *least)
        *least = bytes;
}

int weights_end(struct weights *w, struct error *err)
{
    bool first = w->passes++ == 0;
    note_least(&w->streamed_least, weights_streamed(w) - w->streamed_before, first);
    note_least(&w->lifted_least, weights_lifted(w) - w->lifted_before, first);
    /* What was made for this pass lies in the cache for the next ones. */
    if (w->unplaced && (w->passes & (w->passes - 1)) == 0)
        weights_look_again(w);
    int rc = w->lift ? lift_ahead(w->lift, err) : 0;
    return rc || !w->ring ? rc : source_check(w->file, err);
}

void weights_choose(struct weights *w, uint32_t layer, const bool *chosen)
{
    if (w->ring)
        ring_choose(w->ring, layer, chosen);
}

/* Some units, as rows; the last may stand for fewer than it has room for. */
static struct row_run run_of(const struct weight *m, const void *data, uint64_t first,
                             uint64_t count)
{
    uint64_t row = first * m->unit_rows, left = m->rows - row, rows = count * m->unit_rows;
    return (struct row_run){data, row, rows < left ? rows : left};
}

/* The next units of a weight; no data where they have not landed and nobody wants to wait. */
static int next_run(struct weights *w, struct taking *t, const struct weight *m,
                    struct row_run *run, struct error *err)
{
    if (t->unit < m->resident_units) {
        *run = run_of(m, m->resident, 0, m->resident_units);
        t->unit = m->resident_units;
        return 0;
    }
    const uint8_t *data;
    size_t piece = m->piece + t->piece;
    bool wait = t->portion_count == 0;
    int rc = w->lift ? lift_take(w->lift, piece, wait, &data, err)
                     : ring_take(w->ring, piece, wait, &data, err);
    if (rc || !data) {
        run->data = NULL;
        return rc;
    }
    uint64_t units = w->pieces[piece].size / m->unit_size;
    *run = run_of(m, data, t->unit, units);
    t->unit += units;
    t->piece++;
    t->taken++;
    return 0;
}

int weights_take(struct weights *w, struct taking *t, struct error *err)
{
    t->portion_count = t->taken = 0;
    while (t->at < t->count && t->portion_count < TAKING_RUNS) {
        const struct weight *m = t->weights[t->at];
        if (t->unit == m->units) {
            t->at++;
            t->unit = t->piece = 0;
            continue;
        }
        struct row_run run;
        int rc = next_run(w, t, m, &run, err);
        if (rc)
            return rc;
        if (!run.data)
            break;
        t->portions[t->portion_count++] = (struct portion){t->at, run};
    }
    return t->portion_count > 0;
}

int weights_give(struct weights *w, struct taking *t)
{
    if (w->lift)
        return t->taken ? lift_give(w->lift) : 0;
    if (t->taken)
        ring_give(w->ring, t->taken);
    return 0;
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/weights.h"

#include "codec/gguf_model.h"
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PIECE_LARGE = 1 << 20,
    PIECE_SMALL = 256 << 10,
    LARGE_RING = 16 << 20, /* from here on pieces are large */
    SLOTS_LEAST = 2,       /* one runs, one lands */
    RING_USEFUL = 64 << 20,
    RING_MOST = 256 << 20,
    ROW_MAX = 64 << 20,
    RUN_ALIGNMENT = 64, /* of what is resident */
};

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
    *w = (struct weights){.backend = backend, .set = source_set_new(1, &w->stats)};
    int rc = w->set ? source_open(w->set, &anywhere, path, &w->file, err)
                    : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : load_header(w, err);
    if (rc)
        weights_close(w);
    return rc;
}

void weights_close(struct weights *w)
{
    ring_close(w->ring);
    if (w->memory)
        w->backend->free(w->backend, w->memory);
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
    if (!format_bytes(out->format, out->cols, &out->row_size) || out->row_size > ROW_MAX)
        return error_set(err, -EINVAL, "tensor \"%s\" has rows of %" PRIu64 " weights", name,
                         out->cols);
    /* below the tensor's size, which the parser of the header has checked */
    out->offset = t->offset + part * out->rows * out->row_size;
    return 0;
}

int weights_matrix(struct weights *w, const char *name, uint32_t layer, uint32_t part,
                   const struct weight **out, struct error *err)
{
    struct weight described, *weight;
    int rc = describe(w, name, part, &described, err);
    if (rc)
        return rc;
    described.layer = layer;
    if (w->count == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 256;
        struct weight **order = realloc(w->order, capacity * sizeof *order);
        if (!order)
            return error_set(err, -ENOMEM, "out of memory");
        w->order = order;
        w->capacity = capacity;
    }
    weight = arena_alloc(&w->arena, sizeof *weight);
    if (!weight)
        return error_set(err, -ENOMEM, "out of memory");
    *weight = described;
    w->order[w->count++] = weight;
    w->bytes += weight->rows * weight->row_size;
    *out = weight;
    return 0;
}

int weights_table(struct weights *w, const char *name, struct weight *out, struct error *err)
{
    return describe(w, name, 0, out, err);
}

int weights_row(struct weights *w, const struct weight *table, uint64_t row, void *out,
                struct error *err)
{
    return source_read(w->file, out, table->offset + row * table->row_size, table->row_size, err);
}

int weights_vector(struct weights *w, const char *name, uint64_t n, const float **out,
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

/* ---- what is resident ---- */

static bool same_block(const struct weight *a, const struct weight *b)
{
    return a->layer == b->layer && (a->expert == PIECE_ALWAYS) == (b->expert == PIECE_ALWAYS);
}

static int make_blocks(struct weights *w, double expert_share)
{
    w->blocks = calloc(w->count + 1, sizeof *w->blocks);
    if (!w->blocks)
        return -ENOMEM;
    for (size_t i = 0; i < w->count; i++) {
        const struct weight *m = w->order[i];
        if (i == 0 || !same_block(w->order[i - 1], m))
            w->blocks[w->block_count++].share = m->expert == PIECE_ALWAYS ? 1 : expert_share;
        w->blocks[w->block_count - 1].bytes += m->rows * m->row_size;
    }
    return 0;
}

/* Gives each weight its rows of what is resident of its block; returns the bytes of all of them. */
static uint64_t share_out(struct weights *w)
{
    uint64_t at = 0, left = 0;
    size_t block = 0;
    for (size_t i = 0; i < w->count; i++) {
        struct weight *m = w->order[i];
        if (i == 0 || !same_block(w->order[i - 1], m))
            left = w->blocks[block++].resident;
        uint64_t rows = left / m->row_size;
        m->resident_rows = rows < m->rows ? rows : m->rows;
        left -= m->resident_rows * m->row_size;
        w->resident_bytes += m->resident_rows * m->row_size;
        at += (m->resident_rows * m->row_size + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    }
    return at;
}

static int load_rows(struct weights *w, uint8_t *to, uint64_t offset, uint64_t size,
                     struct progress *progress, struct error *err)
{
    enum { CHUNK = 16 << 20 };
    for (uint64_t at = 0, n; at < size; at += n) {
        n = size - at < CHUNK ? size - at : CHUNK;
        int rc = source_read(w->file, to + at, offset + at, n, err);
        if (rc)
            return rc;
        progress_add(progress, n);
    }
    return 0;
}

static int load_resident(struct weights *w, struct error *err)
{
    uint64_t size = share_out(w), at = 0;
    int rc = w->backend->alloc(w->backend, size, &w->memory);
    if (rc)
        return error_set(err, rc, "no memory for %" PRIu64 " bytes of weights", size);
    struct progress progress;
    progress_begin(&progress, "loading", NULL, w->resident_bytes);
    for (size_t i = 0; !rc && i < w->count; i++) {
        struct weight *m = w->order[i];
        uint64_t bytes = m->resident_rows * m->row_size;
        m->resident = (uint8_t *)w->memory + at;
        rc = load_rows(w, (uint8_t *)w->memory + at, m->offset, bytes, &progress, err);
        at += (bytes + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    }
    progress_end(&progress);
    return rc;
}

/* ---- what is not ---- */

static uint64_t rows_of_piece(const struct weight *m, uint64_t target)
{
    return target > m->row_size ? target / m->row_size : 1;
}

/* Of a ring whose pieces have about this many bytes. */
static uint64_t slot_size(const struct weights *w, uint64_t target)
{
    uint64_t most = 0;
    for (size_t i = 0; i < w->count; i++) {
        uint64_t size = rows_of_piece(w->order[i], target) * w->order[i]->row_size;
        most = size > most ? size : most;
    }
    return ring_slot_size(most);
}

uint64_t weights_ring_least(const struct weights *w)
{
    return SLOTS_LEAST * slot_size(w, PIECE_SMALL);
}

/* Enough for the link to go on while a block that is resident runs. */
static uint64_t useful_ring(const struct weights *w, uint64_t budget)
{
    uint64_t largest = 0, least = weights_ring_least(w);
    for (size_t i = 0; i < w->block_count; i++)
        largest = w->blocks[i].bytes > largest ? w->blocks[i].bytes : largest;
    uint64_t size = largest / 4 < RING_USEFUL ? RING_USEFUL
                    : largest / 4 < RING_MOST ? largest / 4
                                              : RING_MOST;
    size = size < budget / 4 ? size : budget / 4;
    return size > least ? size : least;
}

static int cut(struct weights *w, uint64_t target)
{
    size_t count = 0;
    for (size_t i = 0; i < w->count; i++) {
        uint64_t n = rows_of_piece(w->order[i], target), rows = w->order[i]->rows;
        count += (rows - w->order[i]->resident_rows + n - 1) / n;
    }
    w->pieces = calloc(count + 1, sizeof *w->pieces);
    if (!w->pieces)
        return -ENOMEM;
    for (size_t i = 0; i < w->count; i++) {
        struct weight *m = w->order[i];
        m->piece = w->piece_count;
        uint64_t n = rows_of_piece(m, target);
        for (uint64_t row = m->resident_rows; row < m->rows; row += n) {
            uint64_t rows = m->rows - row < n ? m->rows - row : n;
            uint64_t offset = m->offset + row * m->row_size;
            w->pieces[w->piece_count++] = (struct piece){.offset = offset,
                                                         .at = offset,
                                                         .size = (uint32_t)(rows * m->row_size),
                                                         .layer = m->layer,
                                                         .expert = m->expert};
        }
    }
    return 0;
}

/* The file once more, past the page cache if that can be: what is streamed would only push out what
 * is of use there. */
static int open_direct(struct weights *w, int *file, struct error *err)
{
    const char *path = source_path(w->file);
    struct stat st;
    struct source_identity id;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    w->direct = fd >= 0;
    if (fd < 0)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = error_set(err, -errno, "%s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    source_identity_of(&st, &id);
    if (memcmp(&id, source_identity(w->file), sizeof id)) {
        close(fd);
        return error_set(err, -ESTALE, "the file has just been changed");
    }
    return reader_add(ring_reader(w->ring), fd, file);
}

static int open_ring(struct weights *w, uint64_t target, enum reader_kind io, struct error *err)
{
    int rc = cut(w, target), file;
    if (rc)
        return error_set(err, rc, "out of memory");
    rc = ring_open(w->pieces, w->piece_count, w->slot_size, w->slots, io, w->file, &w->ring, err);
    rc = rc ? rc : open_direct(w, &file, err);
    for (size_t i = 0; !rc && i < w->piece_count; i++)
        w->pieces[i].file = file;
    return rc;
}

int weights_place(struct weights *w, const struct placing *p, struct error *err)
{
    if (make_blocks(w, p->expert_share))
        return error_set(err, -ENOMEM, "out of memory");
    if (w->bytes <= p->budget) {
        plan_place(w->blocks, w->block_count, w->bytes);
        return load_resident(w, err);
    }
    uint64_t ring = p->ring ? p->ring : useful_ring(w, p->budget), least = weights_ring_least(w);
    uint64_t target = ring >= LARGE_RING ? PIECE_LARGE : PIECE_SMALL;
    if (ring < least || ring > p->budget)
        return error_set(err, -ENOMEM,
                         "a ring of %" PRIu64 " bytes is %s: at least %" PRIu64
                         " are needed, and there are %" PRIu64,
                         ring, ring < least ? "too small" : "too large", least, p->budget);
    w->slot_size = slot_size(w, target);
    w->slots = ring / w->slot_size > SLOTS_LEAST ? ring / w->slot_size : SLOTS_LEAST;
    plan_place(w->blocks, w->block_count, p->budget - ring);
    int rc = load_resident(w, err);
    return rc ? rc : open_ring(w, target, p->io, err);
}

/* ---- passes ---- */

uint64_t weights_streamed(const struct weights *w)
{
    uint64_t bytes = 0;
    for (int place = 0; w->ring && place < PLACE_COUNT; place++)
        bytes += ring_stats(w->ring)->bytes[place];
    return bytes;
}

void weights_begin(struct weights *w)
{
    w->streamed_before = weights_streamed(w);
    if (w->ring)
        ring_begin(w->ring);
}

int weights_end(struct weights *w, struct error *err)
{
    uint64_t streamed = weights_streamed(w) - w->streamed_before;
    if (w->passes++ == 0 || streamed < w->streamed_least)
        w->streamed_least = streamed;
    return w->ring ? source_check(w->file, err) : 0;
}

void weights_choose(struct weights *w, uint32_t layer, const bool *chosen)
{
    if (w->ring)
        ring_choose(w->ring, layer, chosen);
}

/* The next rows of a weight; no data where they have not landed and nobody wants to wait. */
static int next_run(struct weights *w, struct taking *t, const struct weight *m,
                    struct row_run *run, struct error *err)
{
    if (t->row < m->resident_rows) {
        *run = (struct row_run){m->resident, 0, m->resident_rows};
        return 0;
    }
    const uint8_t *data;
    size_t piece = m->piece + t->piece;
    int rc = ring_take(w->ring, piece, t->portion_count == 0, &data, err);
    if (rc || !data) {
        run->data = NULL;
        return rc;
    }
    *run = (struct row_run){data, t->row, w->pieces[piece].size / m->row_size};
    t->piece++;
    t->taken++;
    return 0;
}

int weights_take(struct weights *w, struct taking *t, struct error *err)
{
    t->portion_count = t->taken = 0;
    while (t->at < t->count && t->portion_count < TAKING_RUNS) {
        const struct weight *m = t->weights[t->at];
        if (t->row == m->rows) {
            t->at++;
            t->row = t->piece = 0;
            continue;
        }
        struct row_run run;
        int rc = next_run(w, t, m, &run, err);
        if (rc)
            return rc;
        if (!run.data)
            break;
        t->portions[t->portion_count++] = (struct portion){t->at, run};
        t->row = run.first + run.count;
    }
    return t->portion_count > 0;
}

void weights_give(struct weights *w, struct taking *t)
{
    if (t->taken)
        ring_give(w->ring, t->taken);
}

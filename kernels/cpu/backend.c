/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/backend.h"

#include "codec/float16.h"
#include "codec/spqr/format.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct backend_cpu {
    struct backend backend; /* first */
    const struct dot_set *set;
    char name[32];
};

static const struct dot_set *set_of(struct backend *b)
{
    return ((struct backend_cpu *)b)->set;
}

/* ---- memory, copies, events: nothing is ever under way ---- */

enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

static int cpu_alloc(struct backend *b, size_t size, void **out)
{
    (void)b;
    size_t alignment = size < HUGE_PAGE ? PAGE : HUGE_PAGE, whole;
    if (__builtin_add_overflow(size, alignment, &whole))
        return -ENOMEM;
    *out = aligned_alloc(alignment, whole / alignment * alignment);
    if (!*out)
        return -ENOMEM;
    /* Weights are read through from end to end: with small pages, half of the time goes into
     * finding them. What is less than a page at the end is not worth one. */
    if (alignment == HUGE_PAGE)
        madvise(*out, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return 0;
}

static void cpu_free(struct backend *b, void *memory)
{
    (void)b;
    free(memory);
}

static int cpu_pin(struct backend *b, void *host, size_t size)
{
    (void)b;
    (void)host;
    (void)size;
    return 0;
}

static void cpu_unpin(struct backend *b, void *host)
{
    (void)b;
    (void)host;
}

static int cpu_copy(struct backend *b, enum backend_queue queue, void *to, const void *from,
                    size_t size)
{
    (void)b;
    (void)queue;
    memcpy(to, from, size);
    return 0;
}

/* All events are done, so one will do for all. */
static int cpu_event_new(struct backend *b, struct event **out)
{
    *out = (struct event *)b;
    return 0;
}

static void cpu_event_free(struct backend *b, struct event *event)
{
    (void)b;
    (void)event;
}

static int cpu_event_of_queue(struct backend *b, struct event *event, enum backend_queue queue)
{
    (void)b;
    (void)event;
    (void)queue;
    return 0;
}

static int cpu_event_wait(struct backend *b, struct event *event)
{
    (void)b;
    (void)event;
    return 0;
}

/* ---- activations ---- */

static int cpu_activations_new(struct backend *b, uint64_t cols, uint32_t batch,
                               struct activations **out)
{
    return activations_new(cols, batch, set_of(b)->tile_rows > 0, out);
}

static void cpu_activations_free(struct backend *b, struct activations *a)
{
    (void)b;
    activations_free(a);
}

static int cpu_activations_begin(struct backend *b, struct activations *a,
                                 enum activation_kind kind, uint32_t batch, const uint32_t *order)
{
    (void)b;
    return activations_begin(a, kind, batch, order);
}

static int cpu_activations_put(struct backend *b, struct activations *a, const float *x,
                               uint32_t first, uint32_t count)
{
    (void)b;
    return activations_put(a, x, first, count);
}

/* ---- products ---- */

/* Walks over the rows of a matrix. */
struct rows {
    const struct row_run *run;
    size_t row_size;
    uint64_t next;
};

static const uint8_t *rows_next(struct rows *r)
{
    while (r->next - r->run->first >= r->run->count)
        r->run++;
    return (const uint8_t *)r->run->data + (r->next++ - r->run->first) * r->row_size;
}

/* Whether the runs hold these rows; rows begins at the first. */
static bool rows_find(const struct matrix *w, uint64_t first, uint64_t count, struct rows *rows)
{
    const struct row_run *run = w->runs, *end = run + w->run_count;
    while (run < end && run->first + run->count <= first)
        run++;
    rows->run = run;
    rows->next = first;
    for (uint64_t row = first; row < first + count; run++) {
        if (run == end || run->first > row)
            return false;
        row = run->first + run->count;
    }
    return true;
}

/* The stripe of a row; NULL where the runs do not hold it. */
static const uint8_t *stripe_at(const struct matrix *w, const struct spqr_layout *l, uint64_t row)
{
    for (size_t i = 0; i < w->run_count; i++) {
        const struct row_run *run = &w->runs[i];
        if (row >= run->first && row - run->first < run->count && run->first % SPQR_ROWS == 0)
            return (const uint8_t *)run->data + (row - run->first) / SPQR_ROWS * l->stripe_size;
    }
    return NULL;
}

static int stripe_int8(const struct dot_set *set, const struct spqr_layout *l, const uint8_t *stripe,
                       uint64_t rows, const struct activations *a, float *out, size_t stride)
{
    for (uint32_t column = 0; column < a->batch; column += STRIPE_COLUMNS_MAX) {
        float sums[STRIPE_COLUMNS_MAX][SPQR_ROWS];
        uint32_t left = a->batch - column;
        uint32_t count = left < STRIPE_COLUMNS_MAX ? left : STRIPE_COLUMNS_MAX;
        int rc = set->stripe(l, stripe, a, column, count, sums);
        if (rc)
            return rc;
        for (uint32_t i = 0; i < count; i++)
            memcpy(out + (column + i) * stride, sums[i], rows * sizeof **sums);
    }
    return 0;
}

/* weights: room for those of the stripe. */
static int stripe_float(const struct dot_set *set, const struct spqr_layout *l, const uint8_t *stripe,
                        uint64_t rows, const struct activations *a, float *weights, float *out,
                        size_t stride)
{
    int rc = spqr_decode(l, stripe, l->stripe_size, weights, NULL);
    for (uint64_t row = 0; !rc && row < rows; row++)
        set->dot_float(&formats[FORMAT_F32], (const uint8_t *)(weights + row * l->columns), a, 0,
                       a->batch, out + row, stride);
    return rc;
}

static int stripes_matmul(const struct dot_set *set, const struct matrix *w, uint64_t first,
                          uint64_t count, const struct activations *a, float *out, size_t stride)
{
    struct spqr_layout l;
    if (first % SPQR_ROWS || (count % SPQR_ROWS && first + count != w->rows) ||
        spqr_format_layout(w->format, w->cols, &l, NULL))
        return -EINVAL;
    for (uint64_t row = first; row < first + count; row += SPQR_ROWS)
        if (!stripe_at(w, &l, row))
            return -EINVAL;
    bool as_floats = a->kind == ACTIVATIONS_F32;
    float *weights = as_floats ? malloc(SPQR_ROWS * l.columns * sizeof *weights) : NULL;
    int rc = as_floats && !weights ? -ENOMEM : 0;
    for (uint64_t row = first; !rc && row < first + count; row += SPQR_ROWS) {
        const uint8_t *stripe = stripe_at(w, &l, row);
        uint64_t left = first + count - row, rows = left < SPQR_ROWS ? left : SPQR_ROWS;
        rc = as_floats ? stripe_float(set, &l, stripe, rows, a, weights, out + row, stride)
                       : stripe_int8(set, &l, stripe, rows, a, out + row, stride);
    }
    free(weights);
    return rc;
}

static int cpu_matmul(struct backend *b, const struct matrix *w, uint64_t first, uint64_t count,
                      const struct activations *a, float *out, size_t stride)
{
    const struct dot_set *set = set_of(b);
    enum format_id id = (enum format_id)(w->format - formats);
    struct rows rows;
    uint64_t row_size;
    bool as_floats = a->kind == ACTIVATIONS_F32;
    if ((!as_floats && a->kind != activation_kind_of(w->format)) || w->cols != a->cols ||
        first > w->rows || count > w->rows - first)
        return -EINVAL;
    if (w->format->stripe_bits)
        return stripes_matmul(set, w, first, count, a, out, stride);
    if (w->cols % w->format->block ||
        !format_bytes(w->format, w->cols, &row_size) || !rows_find(w, first, count, &rows))
        return -EINVAL;
    rows.row_size = row_size;
    out += first;
    uint32_t tiled = a->tiles * TILE < a->batch ? a->tiles * TILE : a->batch;
    while (count) {
        const uint8_t *row[TILE_ROWS_MAX];
        uint32_t n = 0, most = a->tiles ? set->tile_rows : 1;
        for (; n < most && n < count; n++)
            row[n] = rows_next(&rows);
        if (n == most)
            for (uint32_t t = 0; t < a->tiles; t += TILES_MAX)
                set->tile[id](row, a, t, a->tiles - t < TILES_MAX ? a->tiles - t : TILES_MAX, out,
                              stride);
        /* Too few rows for a tile, or columns in none. */
        uint32_t column = n == most ? tiled : 0;
        for (uint32_t i = 0; i < n; i++, out++)
            if (as_floats)
                set->dot_float(w->format, row[i], a, column, a->batch - column, out, stride);
            else
                set->dot[id](row[i], a, column, a->batch - column, out, stride);
        count -= n;
    }
    return 0;
}

/* ---- attention ---- */

static int cpu_to_f16(struct backend *b, const float *x, size_t count, uint16_t *out)
{
    (void)b;
    for (size_t i = 0; i < count; i++)
        out[i] = f16_from_f32(x[i]);
    return 0;
}

static int cpu_attend(struct backend *b, const float *q, uint32_t heads, const uint16_t *keys,
                      const uint16_t *values, size_t stride, uint32_t first, uint32_t last,
                      uint32_t dim, float scale, float *scores, float *out)
{
    if (first > last || last - first == UINT32_MAX || stride < dim)
        return -EINVAL;
    set_of(b)->attend(q, heads, keys + first * stride, values + first * stride, stride,
                      last - first + 1, dim, scale, scores, out);
    return 0;
}

/* ---- the backend ---- */

static void cpu_close(struct backend *b)
{
    free(b);
}

int backend_cpu_open(const struct dot_set *set, unsigned callers, struct backend **out)
{
    struct backend_cpu *cpu = malloc(sizeof *cpu);
    if (!cpu)
        return -ENOMEM;
    snprintf(cpu->name, sizeof cpu->name, "cpu %s", set->name);
    cpu->set = set;
    cpu->backend = (struct backend){
        .name = cpu->name,
        .unified = true,
        .callers = callers,
        .close = cpu_close,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .pin = cpu_pin,
        .unpin = cpu_unpin,
        .copy_in = cpu_copy,
        .copy_out = cpu_copy,
        .event_new = cpu_event_new,
        .event_free = cpu_event_free,
        .event_record = cpu_event_of_queue,
        .event_queue_wait = cpu_event_of_queue,
        .event_wait = cpu_event_wait,
        .activations_new = cpu_activations_new,
        .activations_free = cpu_activations_free,
        .activations_begin = cpu_activations_begin,
        .activations_put = cpu_activations_put,
        .matmul = cpu_matmul,
        .to_f16 = cpu_to_f16,
        .attend = cpu_attend,
    };
    *out = &cpu->backend;
    return 0;
}

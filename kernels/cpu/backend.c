/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/backend.h"

#include "codec/float16.h"
#include "codec/spqr/format.h"
#include "kernels/cpu/elementwise.h"

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

static uint64_t cpu_room(struct backend *b)
{
    (void)b;
    return UINT64_MAX;
}

static int cpu_pin(struct backend *b, void *host, size_t size, void **mapped)
{
    (void)b;
    (void)size;
    if (mapped)
        *mapped = host;
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

static int cpu_event_done(struct backend *b, struct event *event)
{
    (void)b;
    (void)event;
    return 1;
}

static double cpu_event_seconds(struct backend *b, struct event *from, struct event *to)
{
    (void)b;
    (void)from;
    (void)to;
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

static int stripe_int8(const struct dot_set *set, const struct spqr_layout *l,
                       const uint8_t *stripe, uint64_t rows, const struct activations *a,
                       float *out, size_t stride)
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
static int stripe_float(const struct dot_set *set, const struct spqr_layout *l,
                        const uint8_t *stripe, uint64_t rows, const struct activations *a,
                        float *weights, float *out, size_t stride)
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

static bool cpu_multiplies(struct backend *b, const struct format *format, uint64_t cols)
{
    uint64_t unit_rows, unit_size;
    (void)b;
    return format_unit(format, cols, &unit_rows, &unit_size);
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
    if (w->cols % w->format->block || !format_bytes(w->format, w->cols, &row_size) ||
        !rows_find(w, first, count, &rows))
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

static int cpu_rope(struct backend *b, float *x, const float *cosines, const float *sines,
                    uint32_t tokens, uint32_t heads, uint32_t dim, uint32_t pairs, bool halves)
{
    (void)b;
    for (size_t t = 0; t < tokens; t++)
        rope_heads(x + t * heads * dim, cosines + t * pairs, sines + t * pairs, heads, dim, pairs,
                   halves);
    return 0;
}

static int cpu_remember(struct backend *b, const float *k, const float *v, uint32_t tokens,
                        uint32_t heads, uint32_t dim, uint32_t position, size_t head_stride,
                        uint16_t *keys, uint16_t *values)
{
    (void)b;
    for (size_t t = 0; t < tokens; t++)
        for (size_t h = 0; h < heads; h++, k += dim, v += dim) {
            size_t to = h * head_stride + (position + t) * dim;
            for (size_t i = 0; i < dim; i++) {
                keys[to + i] = f16_from_f32(k[i]);
                values[to + i] = f16_from_f32(v[i]);
            }
        }
    return 0;
}

static int cpu_attend(struct backend *b, const float *q, uint32_t kv_heads, uint32_t shared_by,
                      const uint16_t *keys, const uint16_t *values, size_t head_stride,
                      uint32_t first, uint32_t last, uint32_t dim, float scale, float *scores,
                      float *out)
{
    if (first > last || last - first == UINT32_MAX)
        return -EINVAL;
    for (size_t h = 0; h < kv_heads; h++) {
        size_t at = h * shared_by * dim, cache = h * head_stride + (size_t)first * dim;
        set_of(b)->attend(q + at, shared_by, keys + cache, values + cache, last - first + 1, dim,
                          scale, scores, out + at);
    }
    return 0;
}

/* ---- vectors ---- */

static int cpu_clear(struct backend *b, float *x, size_t count)
{
    (void)b;
    memset(x, 0, count * sizeof *x);
    return 0;
}

static int cpu_add(struct backend *b, float *x, const float *y, size_t count, size_t period)
{
    (void)b;
    for (size_t i = 0; i < count; i += period)
        for (size_t j = 0; j < period && i + j < count; j++)
            x[i + j] += y[j];
    return 0;
}

static int cpu_gate(struct backend *b, enum gate gate, float *x, const float *y, size_t count)
{
    (void)b;
    gate_floats(gate, x, y, count);
    return 0;
}

static int cpu_rms_norm(struct backend *b, const float *x, const float *weight, uint32_t rows,
                        uint32_t cols, float eps, float *out)
{
    (void)b;
    for (size_t r = 0; r < rows; r++)
        rms_norm_row(x + r * cols, weight, cols, eps, out + r * cols);
    return 0;
}

static int cpu_gather(struct backend *b, const float *x, const uint32_t *rows, uint32_t count,
                      uint32_t cols, float *out)
{
    (void)b;
    for (size_t i = 0; i < count; i++)
        memcpy(out + i * cols, x + (size_t)rows[i] * cols, cols * sizeof *x);
    return 0;
}

static int cpu_scatter(struct backend *b, const float *x, const uint32_t *rows, const float *shares,
                       uint32_t count, uint32_t cols, float *out)
{
    (void)b;
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < cols; c++)
            out[(size_t)rows[i] * cols + c] += shares[i] * x[i * cols + c];
    return 0;
}

static int cpu_argmax(struct backend *b, const float *x, uint32_t count, uint32_t *out)
{
    bool finite;
    (void)b;
    out[0] = argmax_floats(x, count, &finite);
    out[1] = finite;
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
        .run_alignment = 1,
        .head_multiple = 1,
        .close = cpu_close,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .room = cpu_room,
        .pin = cpu_pin,
        .unpin = cpu_unpin,
        .copy_in = cpu_copy,
        .copy_out = cpu_copy,
        .event_new = cpu_event_new,
        .event_free = cpu_event_free,
        .event_record = cpu_event_of_queue,
        .event_queue_wait = cpu_event_of_queue,
        .event_wait = cpu_event_wait,
        .event_done = cpu_event_done,
        .event_seconds = cpu_event_seconds,
        .activations_new = cpu_activations_new,
        .activations_free = cpu_activations_free,
        .activations_begin = cpu_activations_begin,
        .activations_put = cpu_activations_put,
        .multiplies = cpu_multiplies,
        .matmul = cpu_matmul,
        .rope = cpu_rope,
        .remember = cpu_remember,
        .attend = cpu_attend,
        .clear = cpu_clear,
        .add = cpu_add,
        .gate = cpu_gate,
        .rms_norm = cpu_rms_norm,
        .gather = cpu_gather,
        .scatter = cpu_scatter,
        .argmax = cpu_argmax,
    };
    *out = &cpu->backend;
    return 0;
}

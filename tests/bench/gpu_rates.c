/* SPDX-License-Identifier: MIT
 *
 * How fast a GPU multiplies, attends, is copied to, and reads the host's memory. Weights and keys take
 * more memory than its second cache holds, which has up to 128 MiB.
 */
#include "tests/bench/gpu_side.h"

#include <stdlib.h>

/* What rates are measured with. */
struct bench {
    struct backend *b;
    bool timed;
    uint32_t cols;
    size_t host_size; /* bytes of the host's memory, pinned and mapped: */
    uint8_t *host;
    void *mapped;
    size_t device_size; /* a multiple of it */
    void *device;
    struct event *from, *to;
};

struct task {
    int (*run)(const struct bench *t, const struct task *task);
    enum backend_queue queue;
    const struct matrix *w;
    const struct activations *a;
    float *out;
    size_t size; /* of a copy */
    uint32_t positions;
};

static double seconds_of(const struct bench *t, const struct task *task, int times)
{
    struct backend *b = t->b;
    must(b->event_record(b, t->from, task->queue), "an event");
    for (int i = 0; i < times; i++)
        must(task->run(t, task), "a launch");
    must(b->event_record(b, t->to, task->queue), "an event");
    must(b->event_wait(b, t->to), b->trouble ? b->trouble : "the GPU");
    return b->event_seconds(b, t->from, t->to) / times;
}

/* Of one time, the best of some rounds of a tenth of a second. */
static double measure(const struct bench *t, const struct task *task)
{
    enum { ROUNDS = 3, MOST = 2000 };
    double once = seconds_of(t, task, 1), best = 0;
    for (int round = 0; t->timed && round < ROUNDS; round++) {
        int times = once > 0.1 / MOST ? (int)(0.1 / once) + 1 : MOST;
        once = seconds_of(t, task, times);
        best = best > 0 && best < once ? best : once;
    }
    return best;
}

/* A rate, where there is a clock. */
static void put_rate(const struct bench *t, json_t *o, const char *key, double amount,
                     double seconds)
{
    json_object_set_new(o, key, t->timed ? json_real(amount / seconds) : json_null());
}

static void put_count(json_t *o, const char *key, uint64_t value)
{
    json_object_set_new(o, key, json_integer((json_int_t)value));
}

/* The host's memory full of packed units, of which a few differ; returns its rows. */
static uint64_t fill_host(const struct bench *t, const struct format *f)
{
    enum { DIFFERENT = 8 };
    uint32_t unit_rows;
    uint64_t unit_size;
    struct random r = {8};
    units_of(f, t->cols, &unit_rows, &unit_size);
    uint64_t units = t->host_size / unit_size;
    for (uint64_t u = 0; u < units; u++)
        if (u < DIFFERENT)
            pack_unit(f, &r, unit_rows, t->cols, t->host + u * unit_size);
        else
            memcpy(t->host + u * unit_size, t->host + (u - DIFFERENT) * unit_size, unit_size);
    return units * unit_rows;
}

/* As often as there is room on the device; returns how often. */
static uint64_t fill_device(const struct bench *t, uint64_t size)
{
    struct backend *b = t->b;
    uint64_t times = t->device_size / t->host_size;
    for (uint64_t i = 0; i < times; i++)
        must(b->copy_in(b, QUEUE_COMPUTE, (uint8_t *)t->device + i * size, t->host, size),
             "a copy");
    must(b->event_record(b, t->to, QUEUE_COMPUTE), "an event");
    must(b->event_wait(b, t->to), "a copy");
    return times;
}

static int run_product(const struct bench *t, const struct task *task)
{
    return t->b->matmul(t->b, task->w, 0, task->w->rows, task->a, task->out, task->w->rows);
}

/* Seconds of the product of all rows at `data` with so many columns. */
static double time_product(const struct bench *t, const struct format *f, const void *data,
                           uint64_t rows, uint32_t columns)
{
    struct side s = {.b = t->b};
    struct random r = {9};
    void *out;
    struct row_run run = {data, 0, rows};
    struct matrix w = {f, rows, t->cols, &run, 1};
    const float *x = floats(&s, &r, (size_t)t->cols * columns);
    struct activations *a = activations_of(&s, f, x, t->cols, columns, NULL);
    must(t->b->alloc(t->b, rows * columns * sizeof(float), &out), "memory");
    struct task task = {.run = run_product, .queue = QUEUE_COMPUTE, .w = &w, .a = a, .out = out};
    double seconds = measure(t, &task);
    t->b->free(t->b, out);
    t->b->activations_free(t->b, a);
    arrays_free(&s);
    return seconds;
}

static json_t *time_products(const struct bench *t)
{
    json_t *list = json_array();
    for (int i = 0; i < FORMATS; i++) {
        const struct format *f = format_number(i);
        uint32_t unit_rows;
        uint64_t unit_size;
        if (!t->b->multiplies(t->b, f, t->cols))
            continue;
        units_of(f, t->cols, &unit_rows, &unit_size);
        uint64_t host_rows = fill_host(t, f), size = host_rows / unit_rows * unit_size;
        uint64_t times = fill_device(t, size), rows = times * host_rows;
        double flop = 2.0 * (double)(rows * t->cols);
        json_t *o = json_pack("{s:s}", "format", f->title);
        put_count(o, "rows", rows);
        put_count(o, "cols", t->cols);
        put_count(o, "weights_bytes", times * size);
        put_rate(t, o, "bytes_s", (double)(times * size), time_product(t, f, t->device, rows, 1));
        put_rate(t, o, "flop_s_8", 8 * flop, time_product(t, f, t->device, rows, 8));
        put_rate(t, o, "flop_s_16", 16 * flop, time_product(t, f, t->device, rows, 16));
        put_count(o, "mapped_weights_bytes", size);
        put_rate(t, o, "mapped_bytes_s", (double)size, time_product(t, f, t->mapped, host_rows, 1));
        json_array_append_new(list, o);
    }
    return list;
}

static int run_copy(const struct bench *t, const struct task *task)
{
    int rc = 0;
    for (size_t at = 0; !rc && at < t->host_size; at += task->size)
        rc = t->b->copy_in(t->b, QUEUE_COPY, (uint8_t *)t->device + at, t->host + at, task->size);
    return rc;
}

static json_t *time_copies(const struct bench *t)
{
    json_t *list = json_array();
    for (size_t size = 256 << 10; size <= 16 << 20 && size <= t->host_size; size *= 4) {
        struct task task = {.run = run_copy, .queue = QUEUE_COPY, .size = size};
        json_t *o = json_object();
        put_count(o, "bytes", size);
        put_rate(t, o, "bytes_s", (double)t->host_size, measure(t, &task));
        json_array_append_new(list, o);
    }
    return list;
}

/* Heads as those of a model of 8 B weights, keys and values in the memory that weights were in. */
enum { KV_HEADS = 8, SHARED_BY = 4, DIM = 128 };

static int run_attend(const struct bench *t, const struct task *task)
{
    size_t head_stride = (size_t)task->positions * DIM;
    const uint16_t *keys = t->device, *values = keys + KV_HEADS * head_stride;
    float *q = task->out, *to = q + KV_HEADS * SHARED_BY * DIM,
          *scores = to + KV_HEADS * SHARED_BY * DIM;
    return t->b->attend(t->b, q, KV_HEADS, SHARED_BY, keys, values, head_stride, 0,
                        task->positions - 1, DIM, 0.088f, scores, to);
}

static json_t *time_attention(const struct bench *t)
{
    enum { HEADS = KV_HEADS * SHARED_BY };
    size_t position = 2 * KV_HEADS * DIM * sizeof(uint16_t);
    struct side s = {.b = t->b};
    struct task task = {.run = run_attend,
                        .queue = QUEUE_COMPUTE,
                        .positions = (uint32_t)(t->device_size / position)};
    task.out = array_send(&s, array_new(&s, HEADS * (2 * DIM + attend_room(task.positions, DIM)), sizeof(float)));
    memset(t->host, 0x30, t->host_size); /* small numbers, as halves */
    fill_device(t, t->host_size);
    json_t *o = json_object();
    put_count(o, "positions", task.positions);
    put_count(o, "bytes", task.positions * position);
    put_rate(t, o, "bytes_s", (double)(task.positions * position), measure(t, &task));
    arrays_free(&s);
    return o;
}

static int run_nothing(const struct bench *t, const struct task *task)
{
    (void)task;
    return t->b->clear(t->b, t->device, 1);
}

static void open_bench(struct bench *t, size_t host_size, uint32_t times)
{
    struct backend *b = t->b;
    t->host_size = host_size;
    t->device_size = times * host_size;
    t->host = must_have(aligned_alloc(4096, host_size));
    memset(t->host, 0, host_size);
    must(b->pin(b, t->host, host_size, &t->mapped), "pinning memory");
    must(b->alloc(b, t->device_size, &t->device), "memory of the GPU");
    must(b->event_new(b, &t->from), "an event");
    must(b->event_new(b, &t->to), "an event");
}

static void close_bench(struct bench *t)
{
    t->b->event_free(t->b, t->from);
    t->b->event_free(t->b, t->to);
    t->b->free(t->b, t->device);
    t->b->unpin(t->b, t->host);
    free(t->host);
}

void time_all(struct backend *b, bool timed, json_t *root)
{
    struct bench t = {.b = b, .timed = timed, .cols = timed ? 4096 : 1024};
    open_bench(&t, (size_t)256 << (timed ? 20 : 10), 2);
    json_object_set_new(root, "copies", time_copies(&t));
    json_object_set_new(root, "products", time_products(&t));
    json_object_set_new(root, "attention", time_attention(&t));
    double launch = measure(&t, &(struct task){.run = run_nothing, .queue = QUEUE_COMPUTE});
    json_object_set_new(root, "launch_seconds", timed ? json_real(launch) : json_null());
    close_bench(&t);
}

/* SPDX-License-Identifier: MIT
 *
 * The same inputs on a GPU and on the processor: the same bits come out, or they are counted.
 */
#include "tests/bench/gpu_side.h"

#include <stdlib.h>

/* ---- what is compared: each makes its own inputs, the same on both sides ---- */

/* rows, cols, columns: of a product; what the others make of them is told by each. */
struct test {
    const char *name;
    const struct format *format;
    uint32_t rows, cols, columns;
    struct array *(*run)(struct side *s, const struct test *t);
};

static const void *packed(struct side *s, struct random *r, const struct test *t)
{
    uint32_t unit_rows;
    uint64_t unit_size;
    units_of(t->format, t->cols, &unit_rows, &unit_size);
    struct array *a = array_new(s, (t->rows + unit_rows - 1) / unit_rows, unit_size);
    for (uint32_t row = 0; row < t->rows; row += unit_rows)
        pack_unit(t->format, r, t->rows - row < unit_rows ? t->rows - row : unit_rows, t->cols,
                  (uint8_t *)a->memory.host + row / unit_rows * unit_size);
    return array_send(s, a);
}

/* Columns backwards, of a format whose matrices have an order of them. */
static const uint32_t *order(struct side *s, const struct test *t)
{
    if (!t->format->stripe_bits)
        return NULL;
    struct array *a = array_new(s, t->cols, sizeof(uint32_t));
    for (uint32_t i = 0; i < t->cols; i++)
        ((uint32_t *)a->memory.host)[i] = t->cols - 1 - i;
    return array_send(s, a);
}

static struct array *product(struct side *s, const struct test *t)
{
    struct random r = {1 + t->columns};
    struct backend *b = s->b;
    struct row_run run = {packed(s, &r, t), 0, t->rows};
    struct matrix w = {t->format, t->rows, t->cols, &run, 1};
    const float *x = floats(s, &r, (size_t)t->cols * t->columns);
    struct array *out = array_new(s, (size_t)t->rows * t->columns, sizeof(float));
    struct activations *a = activations_of(s, t->format, x, t->cols, t->columns, order(s, t));
    must(b->matmul(b, &w, 0, t->rows, a, out->memory.device, t->rows), t->name);
    free(array_fetch(s, out)); /* so that the activations may go */
    b->activations_free(b, a);
    return out;
}

enum { KV_HEADS = 2, SHARED_BY = 3, DIM = 64, POSITIONS = 150 };

static struct array *attention(struct side *s, const struct test *t)
{
    enum { FIRST = 7, KEPT = KV_HEADS * POSITIONS * DIM, HEADS = KV_HEADS * SHARED_BY };
    struct random r = {2};
    struct backend *b = s->b;
    const float *q = gaussians(s, &r, HEADS * DIM);
    const float *k = gaussians(s, &r, KEPT), *v = gaussians(s, &r, KEPT);
    uint16_t *keys = array_new(s, KEPT, sizeof *keys)->memory.device;
    uint16_t *values = array_new(s, KEPT, sizeof *values)->memory.device;
    float *scores = array_new(s, HEADS * attend_room(POSITIONS, DIM), sizeof *scores)->memory.device;
    struct array *out = array_new(s, HEADS * DIM, sizeof(float));
    must(b->remember(b, k, v, POSITIONS, KV_HEADS, DIM, 0, POSITIONS * DIM, keys, values), t->name);
    must(b->attend(b, q, KV_HEADS, SHARED_BY, keys, values, POSITIONS * DIM, FIRST, POSITIONS - 1,
                   DIM, 0.125f, scores, out->memory.device),
         t->name);
    return out;
}

/* columns: 2 for halves, or gelu. */
static struct array *rope(struct side *s, const struct test *t)
{
    enum { HEADS = 5, PAIRS = 24 };
    struct random r = {3};
    const float *cosines = gaussians(s, &r, t->rows * PAIRS),
                *sines = gaussians(s, &r, t->rows * PAIRS);
    float *x = gaussians(s, &r, (size_t)t->rows * HEADS * t->cols);
    must(s->b->rope(s->b, x, cosines, sines, t->rows, HEADS, t->cols, PAIRS, t->columns == 2),
         t->name);
    return &s->arrays[s->count - 1];
}

static struct array *norm(struct side *s, const struct test *t)
{
    struct random r = {4};
    const float *weight = gaussians(s, &r, t->cols);
    float *x = floats(s, &r, (size_t)t->rows * t->cols);
    must(s->b->rms_norm(s->b, x, weight, t->rows, t->cols, 1e-5f, x), t->name);
    return &s->arrays[s->count - 1];
}

static struct array *gate(struct side *s, const struct test *t)
{
    struct random r = {5};
    const float *y = gaussians(s, &r, t->cols);
    float *x = gaussians(s, &r, t->cols);
    must(s->b->gate(s->b, t->columns == 2 ? GATE_GELU : GATE_SILU, x, y, t->cols), t->name);
    return &s->arrays[s->count - 1];
}

static struct array *sum(struct side *s, const struct test *t)
{
    struct random r = {6};
    const float *y = floats(s, &r, t->cols);
    float *x = floats(s, &r, (size_t)t->rows * t->cols);
    must(s->b->add(s->b, x, y, (size_t)t->rows * t->cols, t->cols), t->name);
    return &s->arrays[s->count - 1];
}

static struct array *argmax(struct side *s, const struct test *t)
{
    struct random r = {7};
    struct array *x = array_new(s, t->cols, sizeof(float)),
                 *out = array_new(s, 2, sizeof(uint32_t));
    for (uint32_t i = 0; i < t->cols; i++)
        ((float *)x->memory.host)[i] =
            (float)(random_bits(&r) % 1000); /* the largest several times */
    must(s->b->argmax(s->b, array_send(s, x), t->cols, out->memory.device), t->name);
    return out;
}

/* ---- comparing ---- */

/* Which NaN it is does not matter. */
static size_t differing(const float *a, const float *b, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += memcmp(&a[i], &b[i], sizeof a[i]) && !(isnan(a[i]) && isnan(b[i]));
    return n;
}

static float *result_of(struct backend *b, const struct test *t, size_t *count)
{
    struct side s = {.b = b};
    struct array *out = t->run(&s, t);
    float *found = array_fetch(&s, out);
    *count = out->size / sizeof *found;
    arrays_free(&s);
    return found;
}

static bool compare(struct backend *gpu, struct backend *cpu, const struct test *t, json_t *list)
{
    size_t count;
    float *got = result_of(gpu, t, &count), *wanted = result_of(cpu, t, &count);
    size_t wrong = differing(got, wanted, count);
    free(got);
    free(wanted);
    json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "what", t->name, "rows",
                                          (json_int_t)t->rows, "cols", (json_int_t)t->cols,
                                          "columns", (json_int_t)t->columns, "values",
                                          (json_int_t)count, "different", (json_int_t)wrong));
    return wrong == 0;
}

/* Odd numbers of rows, and as many columns as there are kernels for, and a few more. */
static bool compare_products(struct backend *gpu, struct backend *cpu, uint32_t rows, uint32_t cols,
                             json_t *list)
{
    static const uint32_t columns[] = {1, 3, 8, 16, 19};
    bool same = true;
    for (int i = 0; i < FORMATS; i++) {
        const struct format *f = format_number(i);
        /* The last block of SpQR's activations may be shorter. */
        uint32_t width = f->stripe_bits ? cols - 5 : cols;
        for (size_t c = 0; gpu->multiplies(gpu, f, width) && c < sizeof columns / sizeof *columns;
             c++)
            same &= compare(gpu, cpu, &(struct test){f->title, f, rows, width, columns[c], product},
                            list);
    }
    return same;
}

static bool compare_rest(struct backend *gpu, struct backend *cpu, json_t *list)
{
    static const struct test tests[] = {
        {"attention",    NULL, KV_HEADS * SHARED_BY, DIM,   1, attention},
        {"rope",         NULL, 3,                    DIM,   1, rope     },
        {"rope, halves", NULL, 3,                    DIM,   2, rope     },
        {"norm",         NULL, 3,                    1000,  1, norm     },
        {"silu",         NULL, 1,                    3001,  1, gate     },
        {"gelu",         NULL, 1,                    3001,  2, gate     },
        {"add",          NULL, 5,                    777,   1, sum      },
        {"argmax",       NULL, 1,                    32001, 1, argmax   },
    };
    bool same = true;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        same &= compare(gpu, cpu, &tests[i], list);
    return same;
}

bool compare_all(struct backend *gpu, struct backend *cpu, bool large, json_t *list)
{
    bool same = compare_products(gpu, cpu, 37, 1280, list);
    if (large)
        same &= compare_products(gpu, cpu, 515, 4096, list);
    return compare_rest(gpu, cpu, list) && same;
}

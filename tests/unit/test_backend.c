/* SPDX-License-Identifier: MIT
 *
 * What backend.h promises of a GPU, over the emulated driver: each function gives the bits of the
 * processor's, for any shape, batch and split into runs; what does not fit is refused; memory is
 * counted, and not exceeded.
 */
#include "kernels/cpu/backend.h"
#include "codec/spqr/format.h"
#include "tests/packed.h"
#include "tests/unit/emulated.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "tests/unit/stripes.h"

enum { PINNED = 8 << 20 };

static struct backend *cpu, *gpu;
static uint8_t *pinned; /* the host's side of copies */
static struct event *done;
static struct random r = {77};

static int set_up(void **state)
{
    (void)state;
    assert_int_equal(backend_cpu_open(&dot_set_c, 1, &cpu), 0);
    gpu = emulated_open((struct emu_api_options){.budget = 64 << 20, .seed = 3});
    pinned = mmap(NULL, PINNED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(gpu->pin(gpu, pinned, PINNED, NULL), 0);
    assert_int_equal(gpu->event_new(gpu, &done), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(gpu->allocated, 0); /* every test gave back what it took */
    gpu->event_free(gpu, done);
    gpu->unpin(gpu, pinned);
    munmap(pinned, PINNED);
    emulated_close(gpu);
    cpu->close(cpu);
    return 0;
}

/* ---- memory on both sides ---- */

static void wait_all(void)
{
    assert_int_equal(gpu->event_record(gpu, done, QUEUE_COMPUTE), 0);
    assert_int_equal(gpu->event_wait(gpu, done), 0);
}

/* size bytes on the GPU; NULL leaves what is fresh there, which is no number. */
static void *sent(const void *from, size_t size)
{
    void *to;
    assert_true(size <= PINNED);
    assert_int_equal(gpu->alloc(gpu, size ? size : 1, &to), 0);
    if (!from)
        return to;
    memcpy(pinned, from, size);
    assert_int_equal(gpu->copy_in(gpu, QUEUE_COMPUTE, to, pinned, size), 0);
    wait_all();
    return to;
}

static void gone(const void *memory)
{
    gpu->free(gpu, (void *)memory);
}

/* What is there must be what is wanted; NaN is NaN. */
static void same_floats(const char *what, const void *device, const float *wanted, size_t n)
{
    const float *got = (const float *)pinned;
    assert_int_equal(gpu->copy_out(gpu, QUEUE_COMPUTE, pinned, device, n * sizeof *got), 0);
    wait_all();
    for (size_t i = 0; i < n; i++)
        if (f32_bits(got[i]) != f32_bits(wanted[i]) && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s: element %zu of %zu is %a instead of %a", what, i, n, (double)got[i],
                     (double)wanted[i]);
}

static void same_bytes(const void *device, const void *wanted, size_t n)
{
    assert_int_equal(gpu->copy_out(gpu, QUEUE_COMPUTE, pinned, device, n), 0);
    wait_all();
    assert_memory_equal(pinned, wanted, n);
}

static float *gaussians(size_t n)
{
    float *x = allocate(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_gaussian(&r);
    return x;
}

/* ---- products ---- */

/* A matrix in two runs, of any codes. */
struct product {
    const struct format *format;
    uint64_t rows, cols, unit_rows, unit_size, units;
    uint8_t *packed;
    uint32_t *order; /* NULL: none */
};

static void stripes_make(struct product *p)
{
    struct spqr_layout l;
    struct spqr_stripe s;
    assert_int_equal(spqr_format_layout(p->format, p->cols, &l, NULL), 0);
    stripe_allocate(&l, &s);
    for (uint64_t i = 0; i < p->units; i++) {
        memset(s.outlier_rows, 0, l.padded * sizeof *s.outlier_rows);
        stripe_fill(&l, &r, l.slots, &s);
        spqr_pack(&l, &s, p->packed + i * p->unit_size);
    }
    stripe_free(&s);
    p->order = allocate(p->cols, sizeof *p->order);
    for (uint32_t i = 0; i < p->cols; i++)
        p->order[i] = (uint32_t)((i + 5) % p->cols);
}

static void floats_make(struct product *p)
{
    float *w = gaussians(p->rows * p->cols);
    p->format->encode(w, p->rows, p->cols, NULL, p->packed);
    free(w);
}

static struct product product_make(const struct format *f, uint64_t rows, uint64_t cols)
{
    struct product p = {.format = f, .rows = rows, .cols = cols};
    assert_true(format_unit(f, cols, &p.unit_rows, &p.unit_size));
    p.units = (rows + p.unit_rows - 1) / p.unit_rows;
    p.packed = allocate(p.units, p.unit_size);
    if (f->stripe_bits)
        stripes_make(&p);
    else if (f->plain_float)
        floats_make(&p);
    else
        packed_fill(f, &r, p.packed, p.units * (cols / f->block));
    return p;
}

static void put_activations(struct backend *b, struct activations *a, const struct product *p,
                            uint32_t batch, const uint32_t *order, const float *x)
{
    assert_int_equal(b->activations_begin(b, a, activation_kind_of(p->format), batch, order), 0);
    assert_int_equal(b->activations_put(b, a, x, 0, batch), 0);
}

/* first: units of the first run. */
static void multiply(struct backend *b, const struct product *p, const uint8_t *one,
                     const uint8_t *two, uint64_t first, const struct activations *a, float *out,
                     size_t stride)
{
    uint64_t cut = first * p->unit_rows;
    struct row_run runs[2] = {
        {one, 0,   cut          },
        {two, cut, p->rows - cut}
    };
    struct matrix w = {p->format, p->rows, p->cols, runs, 2};
    assert_int_equal(b->matmul(b, &w, 0, p->rows, a, out, stride), 0);
}

static void product_check(const struct format *f, uint64_t rows, uint64_t cols, uint32_t batch)
{
    char what[80];
    struct product p = product_make(f, rows, cols);
    uint64_t first = p.units / 2, at = first * p.unit_size, rest = p.units * p.unit_size - at;
    size_t stride = rows + 3;
    struct activations *a, *c;
    float *x = gaussians(batch * cols), *out = allocate(batch * stride, sizeof *out);
    snprintf(what, sizeof what, "%s, %u x %u, %u columns", f->title, (unsigned)rows, (unsigned)cols,
             batch);
    assert_int_equal(cpu->activations_new(cpu, cols, batch, &c), 0);
    assert_int_equal(gpu->activations_new(gpu, cols, batch + 1, &a), 0);
    const uint8_t *one = sent(p.packed, at), *two = sent(p.packed + at, rest);
    const float *device_x = sent(x, batch * cols * sizeof *x);
    uint32_t *order = p.order ? sent(p.order, cols * sizeof *order) : NULL;
    memset(out, 0xff, batch * stride * sizeof *out);
    float *got = sent(out, batch * stride * sizeof *out);
    put_activations(cpu, c, &p, batch, p.order, x);
    put_activations(gpu, a, &p, batch, order, device_x);
    multiply(cpu, &p, p.packed, p.packed + at, first, c, out, stride);
    multiply(gpu, &p, one, two, first, a, got, stride);
    same_floats(what, got, out, batch * stride); /* what lies between columns, too */
    const void *const all[] = {one, two, device_x, order, got};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        gone(all[i]);
    gpu->activations_free(gpu, a);
    cpu->activations_free(cpu, c);
    free(p.packed);
    free(p.order);
    free(x);
    free(out);
}

static void test_products(void **state)
{
    static const uint32_t batches[] = {1, 2, 7, 8, 9, 16, 17, 33};
    (void)state;
    for (int id = 0; id < FORMAT_COUNT; id++)
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
            const struct format *f = &formats[id];
            uint64_t cols = f->block == 256 ? 512 : f->plain_float ? 80 : 96;
            if (!gpu->multiplies(gpu, f, cols))
                fail_msg("%s is not multiplied", f->title);
            product_check(f, 37, cols, batches[b]);
        }
    for (int id = 0; id < SPQR_FORMAT_COUNT; id++)
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
            product_check(&spqr_formats[id], 53, 200, batches[b]);
}

static void test_refused_products(void **state)
{
    (void)state;
    struct product p = product_make(&formats[FORMAT_Q6_K], 6, 256);
    uint8_t *w = sent(p.packed, 6 * p.unit_size);
    float *x = sent(NULL, 512 * sizeof *x), *out = sent(NULL, 64 * sizeof *out);
    struct activations *a;
    assert_int_equal(gpu->activations_new(gpu, 256, 2, &a), 0);
    put_activations(gpu, a, &p, 1, NULL, x);
    struct row_run run =
                       {
                           w, 0, 6
    },
                   odd = {w + p.unit_size, 1, 5}, gap[2] = {{w, 0, 2}, {w, 3, 3}};
    struct matrix m = {p.format, 6, 256, &run, 1};
    assert_int_equal(gpu->matmul(gpu, &m, 0, 6, a, out, 6), 0);
    assert_int_equal(gpu->matmul(gpu, &m, 0, 7, a, out, 7), -EINVAL);
    assert_int_equal(gpu->matmul(gpu, &m, 1, 2, a, out, 6), -EINVAL); /* at a multiple of 2 bytes */
    struct matrix misaligned = {p.format, 6, 256, &odd, 1}, holes = {p.format, 6, 256, gap, 2},
                  other = {&formats[FORMAT_Q8_0], 6, 256, &run, 1},
                  wide = {p.format, 6, 512, &run, 1};
    assert_int_equal(gpu->matmul(gpu, &misaligned, 1, 5, a, out, 6), -EINVAL);
    assert_int_equal(gpu->matmul(gpu, &holes, 0, 6, a, out, 6), -EINVAL);
    assert_int_equal(gpu->matmul(gpu, &other, 0, 6, a, out, 6), -EINVAL);
    assert_int_equal(gpu->matmul(gpu, &wide, 0, 6, a, out, 6), -EINVAL);
    assert_int_equal(gpu->activations_begin(gpu, a, ACTIVATIONS_INT8_256, 3, NULL), -EINVAL);
    assert_int_equal(gpu->activations_begin(gpu, a, ACTIVATIONS_INT8_256, 1, (uint32_t *)x),
                     -EINVAL);
    assert_false(gpu->multiplies(gpu, &formats[FORMAT_Q4_K], 288));
    assert_false(gpu->multiplies(gpu, &formats[FORMAT_F16], 24));
    wait_all();
    gpu->activations_free(gpu, a);
    gone(w);
    gone(x);
    gone(out);
    free(p.packed);
}

/* ---- attention ---- */

static void attend_check(uint32_t kv_heads, uint32_t shared_by, uint32_t tokens, bool halves)
{
    enum { DIM = 48, CONTEXT = 140, START = 125, WINDOW = 20 };
    uint32_t heads = kv_heads * shared_by, pairs = DIM / 2;
    size_t stride = (size_t)CONTEXT * DIM, cache = kv_heads * stride;
    size_t nq = (size_t)tokens * heads * DIM, nk = (size_t)tokens * kv_heads * DIM;
    float *q = gaussians(nq), *k = gaussians(nk), *v = gaussians(nk),
          *cosines = gaussians(tokens * pairs), *sines = gaussians(tokens * pairs),
          *out = allocate(nq, sizeof *out),
          *scores = allocate(heads * attend_room(CONTEXT, DIM), sizeof *scores);
    uint16_t *keys = allocate(cache, 2), *values = allocate(cache, 2);
    for (size_t i = 0; i < cache; i++) {
        keys[i] = f16_from_f32(random_gaussian(&r));
        values[i] = f16_from_f32(random_gaussian(&r));
    }
    float *dq = sent(q, nq * 4), *dk = sent(k, nk * 4), *dv = sent(v, nk * 4),
          *dcosines = sent(cosines, tokens * pairs * 4), *dsines = sent(sines, tokens * pairs * 4),
          *dout = sent(NULL, nq * 4), *dscores = sent(NULL, heads * attend_room(CONTEXT, DIM) * 4);
    uint16_t *dkeys = sent(keys, cache * 2), *dvalues = sent(values, cache * 2);
    for (int g = 0; g < 2; g++) {
        struct backend *b = g ? gpu : cpu;
        assert_int_equal(b->rope(b, g ? dq : q, g ? dcosines : cosines, g ? dsines : sines, tokens,
                                 heads, DIM, pairs, halves),
                         0);
        assert_int_equal(b->remember(b, g ? dk : k, g ? dv : v, tokens, kv_heads, DIM, START,
                                     stride, g ? dkeys : keys, g ? dvalues : values),
                         0);
        for (uint32_t t = 0; t < tokens; t++) {
            size_t at = (size_t)t * heads * DIM;
            uint32_t last = START + t, first = t % 2 ? last - WINDOW + 1 : 0;
            assert_int_equal(b->attend(b, (g ? dq : q) + at, kv_heads, shared_by, g ? dkeys : keys,
                                       g ? dvalues : values, stride, first, last, DIM, 0.15f,
                                       g ? dscores : scores, (g ? dout : out) + at),
                             0);
        }
    }
    same_floats("queries", dq, q, nq);
    same_bytes(dkeys, keys, cache * 2);
    same_bytes(dvalues, values, cache * 2);
    same_floats("attention", dout, out, nq);
    assert_int_equal(
        gpu->attend(gpu, dq, 1, 1, dkeys, dvalues, stride, 3, 2, DIM, 1, dscores, dout), -EINVAL);
    void *const host[] = {q, k, v, cosines, sines, out, scores, keys, values},
                *const device[] = {dq, dk, dv, dcosines, dsines, dout, dscores, dkeys, dvalues};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) {
        free(host[i]);
        gone(device[i]);
    }
}

static void test_attention(void **state)
{
    (void)state;
    attend_check(1, 1, 1, false);
    attend_check(3, 2, 5, true);
    attend_check(2, 7, 4, false);
}

/* ---- vectors ---- */

static void test_vectors(void **state)
{
    enum { ROWS = 7, COLS = 333, N = ROWS * COLS, PICKED = 4 };
    static const uint32_t rows[PICKED] = {5, 0, 6, 3};
    static const float shares[PICKED] = {0.25f, 0.1f, 0.7f, -2};
    (void)state;
    float *x = gaussians(N), *y = gaussians(N), *out = gaussians(N), *weight = gaussians(COLS);
    float *dx = sent(x, N * 4), *dy = sent(y, N * 4), *dout = sent(out, N * 4),
          *dweight = sent(weight, COLS * 4), *dshares = sent(shares, sizeof shares);
    uint32_t *drows = sent(rows, sizeof rows);
    for (int g = 0; g < 2; g++) {
        struct backend *b = g ? gpu : cpu;
        float *bx = g ? dx : x, *by = g ? dy : y, *bout = g ? dout : out;
        assert_int_equal(b->add(b, bx, g ? dweight : weight, N, COLS), 0);
        assert_int_equal(b->gate(b, GATE_SILU, bx, by, N / 2), 0);
        assert_int_equal(b->gate(b, GATE_GELU, bx + N / 2, by, N / 2), 0);
        assert_int_equal(b->rms_norm(b, bx, g ? dweight : weight, ROWS, COLS, 1e-5f, bout), 0);
        assert_int_equal(
            b->scatter(b, by, g ? drows : rows, g ? dshares : shares, PICKED, COLS, bout), 0);
        assert_int_equal(b->gather(b, bout, g ? drows : rows, PICKED, COLS, by), 0);
        assert_int_equal(b->clear(b, bx, COLS), 0);
        assert_int_equal(b->rms_norm(b, bout, g ? dweight : weight, ROWS, COLS, 1e-5f, bout), 0);
    }
    same_floats("x", dx, x, N);
    same_floats("y", dy, y, N);
    same_floats("out", dout, out, N);
    void *const host[] = {x, y, out, weight}, *const device[] = {dx,      dy,      dout,
                                                                 dweight, dshares, drows};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        gone(device[i]);
}

static void argmax_check(const float *x, uint32_t n)
{
    uint32_t wanted[2], *out = sent(NULL, sizeof wanted);
    float *dx = sent(x, n * sizeof *x);
    assert_int_equal(cpu->argmax(cpu, x, n, wanted), 0);
    assert_int_equal(gpu->argmax(gpu, dx, n, out), 0);
    same_bytes(out, wanted, sizeof wanted);
    gone(dx);
    gone(out);
}

static void test_argmax(void **state)
{
    enum { N = 1500 };
    (void)state;
    float *x = gaussians(N);
    argmax_check(x, N);
    argmax_check(x, 1);
    x[700] = x[1400] = 9; /* the first of equal ones */
    argmax_check(x, N);
    x[3] = NAN;
    argmax_check(x, N);
    x[0] = NAN; /* which nothing is larger than */
    argmax_check(x, N);
    x[0] = x[3] = 0;
    x[1499] = INFINITY;
    argmax_check(x, N);
    free(x);
}

/* ---- memory ---- */

static void test_memory_is_counted(void **state)
{
    (void)state;
    void *one, *two;
    uint64_t before = gpu->room(gpu);
    assert_int_equal(gpu->alloc(gpu, 40 << 20, &one), 0);
    assert_int_equal(gpu->allocated, 40 << 20);
    assert_true(before - gpu->room(gpu) >= 40 << 20);
    assert_int_equal(gpu->alloc(gpu, 40 << 20, &two), -ENOMEM);
    assert_null(gpu->trouble); /* there is nothing wrong with it */
    gpu->free(gpu, one);
    gpu->free(gpu, NULL);
    assert_int_equal(gpu->allocated, 0);
    assert_true(gpu->room(gpu) == before);
}

/* What the driver says is kept, in its words. */
static void test_trouble_is_told(void **state)
{
    (void)state;
    assert_int_equal(gpu->pin(gpu, pinned, PINNED, NULL), -EIO);
    assert_non_null(gpu->trouble);
    assert_non_null(strstr(gpu->trouble, "pinning memory"));
    assert_non_null(strstr(gpu->trouble, "712"));
}

/* With a driver of its own, whose second operation fails: that is told by a wait for it at the latest,
 * and by all that is asked for from then on; and everything can still be given back. */
static void fail_check(uint64_t seed)
{
    enum { N = 64 };
    struct backend *b = emulated_open(
        (struct emu_api_options){.budget = 1 << 20, .seed = seed, .fail_at = 2});
    struct event *event;
    void *x, *more;
    assert_int_equal(b->alloc(b, N * sizeof(float), &x), 0);
    assert_int_equal(b->event_new(b, &event), 0);
    assert_int_equal(b->clear(b, x, N), 0);
    assert_int_equal(b->event_record(b, event, QUEUE_COMPUTE), 0);
    int asked = b->clear(b, x, N); /* it may have failed by now */
    assert_true(asked == 0 || asked == -EIO);
    assert_int_equal(b->event_wait(b, event), -EIO);
    assert_non_null(b->trouble);
    assert_non_null(strstr(b->trouble, "launch failed"));
    assert_non_null(strstr(b->trouble, "719"));
    char told[300];
    snprintf(told, sizeof told, "%s", b->trouble);
    assert_int_equal(b->clear(b, x, N), -EIO);
    assert_int_equal(b->event_record(b, event, QUEUE_COPY), -EIO);
    assert_int_equal(b->event_queue_wait(b, event, QUEUE_COPY), -EIO);
    assert_int_equal(b->event_done(b, event), -EIO);
    assert_int_equal(b->alloc(b, 1, &more), -EIO);
    assert_int_equal(b->room(b), 0);
    assert_string_equal(b->trouble, told); /* the first is kept */
    b->event_free(b, event);
    b->free(b, x);
    assert_int_equal(b->allocated, 0);
    emulated_close(b);
}

static void test_failure_is_told(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++)
        fail_check(seed);
}

#define WITH_BOTH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BOTH(test_products),
        WITH_BOTH(test_refused_products),
        WITH_BOTH(test_attention),
        WITH_BOTH(test_vectors),
        WITH_BOTH(test_argmax),
        WITH_BOTH(test_memory_is_counted),
        WITH_BOTH(test_trouble_is_told),
        cmocka_unit_test(test_failure_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

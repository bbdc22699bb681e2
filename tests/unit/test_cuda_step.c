/* SPDX-License-Identifier: MIT
 *
 * What a GPU's step has besides products: activations, attention and the small kernels. Each gives
 * the bits of the processor's or of what kernels.h says, for any shape, whatever the order of threads.
 */
#include "kernels/cpu/activations.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/exp.h"
#include "kernels/gate.h"
#include "tests/unit/cuda_rooms.h"

#include <float.h>

/* ---- activations ---- */

/* x: [batch][cols] */
static void planes_check(const float *x, uint32_t cols, uint32_t block, uint32_t batch,
                         const char *what)
{
    struct activations *a;
    struct activation_planes p = quantized(x, NULL, cols, block, batch);
    struct matmul_args s = strides_of(cols, block);
    assert_int_equal(activations_new(cols, batch, false, &a), 0);
    assert_int_equal(
        activations_begin(a, block == 32 ? ACTIVATIONS_INT8_32 : ACTIVATIONS_INT8_256, batch, NULL),
        0);
    assert_int_equal(activations_put(a, x, 0, batch), 0);
    for (uint32_t c = 0; c < batch; c++) {
        same(what, p.scales + c * s.scale_stride, a->scale + c * a->scale_stride, cols / block);
        assert_memory_equal(p.levels + c * s.level_stride, a->q + c * a->q_stride, cols);
        assert_memory_equal(p.sums + c * s.sum_stride, a->sums + c * a->sum_stride,
                            sums_of(cols, block) * sizeof *p.sums);
    }
    activations_free(a);
    planes_free(p);
}

static void test_activations(void **state)
{
    enum { COLS = 2304 };
    static const uint32_t blocks[] = {32, 256};
    static float x[COLS];
    struct random r = {31};
    (void)state;
    for (int b = 0; b < 2; b++)
        for (int kind = 0; kind < WEIGHTS_KINDS; kind++)
            for (uint32_t n = 1; n <= COLS / blocks[b]; n += n < 10 ? 1 : 7) {
                weights_fill(kind, &r, x, COLS);
                planes_check(x, n * blocks[b], blocks[b], 1, weights_kind_names[kind]);
                x[random_bits(&r) % COLS] = INFINITY;
                x[random_bits(&r) % COLS] = NAN;
                planes_check(x, n * blocks[b], blocks[b], 1, "not finite");
            }
}

static void test_activations_of_columns(void **state)
{
    enum { BATCH = 5, COLS = 2304 };
    static const uint32_t blocks[] = {32, 256}, counts[] = {1, 3, 4, 5, 9};
    static float x[BATCH * COLS];
    struct random r = {30};
    (void)state;
    for (int b = 0; b < 2; b++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            weights_fill(WEIGHTS_JUMPS, &r, x, BATCH * COLS);
            x[random_bits(&r) % (BATCH * 32)] = NAN;
            planes_check(x, counts[i] * blocks[b], blocks[b], BATCH, "columns");
        }
}

/* As that of each column with its elements moved. */
static void test_activations_in_another_order(void **state)
{
    enum { COLS = 1216, BATCH = 3 };
    float x[BATCH * COLS], moved[BATCH * COLS];
    uint32_t order[COLS];
    struct random r = {32};
    (void)state;
    weights_fill(WEIGHTS_JUMPS, &r, x, BATCH * COLS);
    for (uint32_t i = 0; i < COLS; i++) {
        order[i] = i * 37 % COLS;
        for (uint32_t c = 0; c < BATCH; c++)
            moved[c * COLS + i] = x[c * COLS + order[i]];
    }
    struct activation_planes got = quantized(x, order, COLS, 64, BATCH);
    struct activation_planes wanted = quantized(moved, NULL, COLS, 64, BATCH);
    struct matmul_args s = strides_of(COLS, 64);
    for (uint32_t c = 0; c < BATCH; c++) {
        size_t level = c * s.level_stride, scale = c * s.scale_stride, sum = c * s.sum_stride;
        same("in another order", got.scales + scale, wanted.scales + scale, COLS / 64);
        assert_memory_equal(got.levels + level, wanted.levels + level, COLS);
        assert_memory_equal(got.sums + sum, wanted.sums + sum, COLS / 16 * sizeof *got.sums);
    }
    planes_free(got);
    planes_free(wanted);
}

/* A block of 64 is that of 256 with nothing else in it. */
static void test_activations_in_blocks_of_64(void **state)
{
    enum { COLS = 64 * 7 - 13, BLOCKS = 7, BATCH = 2 };
    float x[BATCH * COLS];
    struct random r = {43};
    (void)state;
    weights_fill(WEIGHTS_JUMPS, &r, x, BATCH * COLS);
    x[64 * 3 + 5] = NAN;
    struct activation_planes p = quantized(x, NULL, COLS, 64, BATCH);
    struct matmul_args s = strides_of(COLS, 64);
    for (uint32_t b = 0; b < BATCH * BLOCKS; b++) {
        float alone[256] = {0};
        uint32_t c = b / BLOCKS, at = b % BLOCKS, left = COLS - 64 * at;
        memcpy(alone, x + c * COLS + 64 * at, (left < 64 ? left : 64) * sizeof *x);
        struct activation_planes wanted = quantized(alone, NULL, 256, 256, 1);
        same("scale of 64", p.scales + c * s.scale_stride + at, wanted.scales, 1);
        assert_memory_equal(p.levels + c * s.level_stride + 64 * at, wanted.levels, 64);
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(p.sums[c * s.sum_stride + 4 * at + i], wanted.sums[i % 2 * 8 + i / 2]);
        planes_free(wanted);
    }
    planes_free(p);
}

/* ---- attention ---- */

struct attention {
    uint32_t kv_heads, shared_by, dim, first, count;
};

static void attend_cpu(const struct attention *t, const float *q, const uint16_t *keys,
                       const uint16_t *values, size_t head_stride, float *out)
{
    struct backend *b;
    size_t heads = (size_t)t->kv_heads * t->shared_by;
    float *scores = malloc(heads * attend_room(t->count, t->dim) * sizeof *scores);
    assert_non_null(scores);
    assert_int_equal(backend_cpu_open(&dot_set_c, 1, &b), 0);
    assert_int_equal(b->attend(b, q, t->kv_heads, t->shared_by, keys, values, head_stride, t->first,
                               t->first + t->count - 1, t->dim, 0.125f, scores, out),
                     0);
    b->close(b);
    free(scores);
}

static void attend_check(const struct attention *t, struct random *r)
{
    uint32_t heads = t->kv_heads * t->shared_by, n = heads * t->dim;
    uint32_t chunks = blocks_of(t->count, ATTEND_CHUNK);
    size_t head_stride = (size_t)(t->first + t->count) * t->dim, kept = t->kv_heads * head_stride;
    uint16_t *keys = room(kept * 2), *values = room(kept * 2);
    float *q = room(n * sizeof *q), *out = room(n * sizeof *out), *wanted = malloc(n * sizeof *out);
    assert_non_null(wanted);
    for (size_t i = 0; i < kept; i++) {
        keys[i] = f16_from_f32(4 * random_gaussian(r));
        values[i] = f16_from_f32(random_gaussian(r));
    }
    for (uint32_t i = 0; i < n; i++)
        q[i] = 3 * random_gaussian(r);
    attend_cpu(t, q, keys, values, head_stride, wanted);
    struct attend_args args = {.q = q,
                               .keys = keys,
                               .values = values,
                               .scores = room(heads * t->count * sizeof(float)),
                               .totals = room(heads * sizeof(float)),
                               .chunks = room(n * chunks * sizeof(float)),
                               .heads = heads,
                               .out = out,
                               .head_stride = head_stride,
                               .shared_by = t->shared_by,
                               .dim = t->dim,
                               .first = t->first,
                               .count = t->count,
                               .scale = 0.125f};
    emu_launch(emu, attend_scores, t->kv_heads * blocks_of(t->count, ATTEND_POSITIONS),
               ATTEND_THREADS, &args);
    emu_launch(emu, attend_weights, heads, ATTEND_THREADS, &args);
    emu_launch(emu, attend_values, heads * chunks * blocks_of(t->dim, ATTEND_VALUE_THREADS),
               ATTEND_VALUE_THREADS, &args);
    emu_launch(emu, attend_sum, blocks_of(n, ATTEND_THREADS), ATTEND_THREADS, &args);
    char what[80];
    snprintf(what, sizeof what, "%u x %u heads of %u, %u positions from %u on", t->kv_heads,
             t->shared_by, t->dim, t->count, t->first);
    same(what, out, wanted, n);
    room_free(keys);
    room_free(values);
    room_free(q);
    room_free(out);
    room_free(args.scores);
    room_free(args.totals);
    room_free(args.chunks);
    free(wanted);
}

static void test_attention(void **state)
{
    static const struct attention cases[] = {
        {1, 1, 16,  0, 1  },
        {1, 1, 64,  0, 2  },
        {2, 3, 64,  0, 63 },
        {3, 4, 128, 5, 65 },
        {1, 7, 80,  1, 200},
        {2, 8, 96,  0, 17 },
        {1, 2, 256, 3, 130},
    };
    struct random r = {36};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        attend_check(&cases[i], &r);
}

static void test_keys_are_remembered(void **state)
{
    enum { TOKENS = 3, HEADS = 3, DIM = 48, N = TOKENS * HEADS * DIM };
    enum { CONTEXT = 7, POSITION = 2, ALL = HEADS * CONTEXT * DIM };
    float *k = room(N * sizeof *k), *v = room(N * sizeof *v);
    uint16_t *keys = room(2 * ALL), *values = room(2 * ALL);
    struct random r = {37};
    (void)state;
    weights_fill(WEIGHTS_UNDERFLOW, &r, k, N);
    weights_fill(WEIGHTS_JUMPS, &r, v, N);
    v[7] = 65520;
    struct remember_args args = {k, v, keys, values, CONTEXT * DIM, TOKENS, HEADS, DIM, POSITION};
    emu_launch(emu, remember, blocks_of(N, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    for (uint32_t i = 0; i < ALL; i++) {
        uint32_t head = i / DIM / CONTEXT, token = i / DIM % CONTEXT - POSITION;
        uint32_t at = (token * HEADS + head) * DIM + i % DIM;
        bool new = token < TOKENS;
        assert_int_equal(keys[i], new ? f16_from_f32(k[at]) : 0xffff);
        assert_int_equal(values[i], new ? f16_from_f32(v[at]) : 0xffff);
    }
    room_free(k);
    room_free(v);
    room_free(keys);
    room_free(values);
}

/* ---- numbers and pairs ---- */

static void pairs_launch(emu_kernel_fn *kernel, float *x, const float *y, uint32_t count,
                         uint32_t period)
{
    struct pair_args args = {x, y, count, period};
    emu_launch(emu, kernel, blocks_of(count, ELEMENT_THREADS), ELEMENT_THREADS, &args);
}

static void test_sums_of_vectors(void **state)
{
    enum { N = 300 };
    static const uint32_t periods[] = {N, 100, 7, 1};
    float *x = room(N * sizeof *x), wanted[N];
    struct random r = {38};
    (void)state;
    for (size_t p = 0; p < sizeof periods / sizeof *periods; p++) {
        float *y = room(periods[p] * sizeof *y);
        weights_fill(WEIGHTS_JUMPS, &r, x, N);
        weights_fill(WEIGHTS_JUMPS, &r, y, periods[p]);
        for (uint32_t i = 0; i < N; i++)
            wanted[i] = x[i] + y[i % periods[p]];
        pairs_launch(add, x, y, N, periods[p]);
        same("x + y", x, wanted, N);
        room_free(y);
    }
    room_free(x);
}

static void test_clear(void **state)
{
    enum { N = 300 };
    float *x = room(N * sizeof *x), zero[N] = {0};
    (void)state;
    pairs_launch(clear, x, NULL, N, 0);
    same("zeros", x, zero, N);
    room_free(x);
}

GATES(static, exp_c)

static double silu_exact(double v)
{
    return v / (1 + exp(-v));
}

static double gelu_exact(double v)
{
    return v / 2 * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
}

/* Close to the functions, and the bits of gate.h in C. Absolutely: what is allowed besides. */
static void gate_check(emu_kernel_fn *kernel, float (*plain)(float), double (*exact)(double),
                       double absolutely)
{
    enum { N = 1000 };
    static const float special[] = {0,      -0.0f,   200,      -200,      1e20f, -1e20f,
                                    1e-30f, -1e-30f, INFINITY, -INFINITY, NAN};
    enum { SPECIAL = sizeof special / sizeof *special };
    float *x = room(N * sizeof *x), *y = room(N * sizeof *y), before[N], wanted[N];
    struct random r = {39};
    for (int i = 0; i < N; i++) {
        before[i] = x[i] = i < SPECIAL ? special[i] : 10 * random_gaussian(&r);
        y[i] = random_gaussian(&r);
        wanted[i] = plain(x[i]) * y[i];
    }
    pairs_launch(kernel, x, y, N, 0);
    same("a gate", x, wanted, N);
    for (int i = 0; i < N; i++) {
        double v = (double)before[i], good = exact(v) * (double)y[i];
        double allowed = 5e-7 * fabs(good) + absolutely * fabs(v * (double)y[i]) + 1e-35;
        if (isfinite(v) && !(fabs((double)x[i] - good) <= allowed))
            fail_msg("of %g: %g instead of %g", v, (double)x[i], good);
    }
    assert_true(isnan(x[SPECIAL - 1]));
    room_free(x);
    room_free(y);
}

static void test_gates(void **state)
{
    (void)state;
    gate_check(silu_gate, silu, silu_exact, 0);
    /* w is made of several operations, and so exp(w) has a greater error. */
    gate_check(gelu_gate, gelu, gelu_exact, 0x1p-24);
}

static void rows_check(uint32_t count, uint32_t cols, struct random *r)
{
    enum { ROWS = 11 };
    uint32_t *rows = room(count * sizeof *rows), n = count * cols, all = ROWS * cols;
    float *x = room(all * sizeof *x), *some = room(n * sizeof *some), *wanted = malloc(all * 4);
    float *shares = room(count * sizeof *shares);
    assert_non_null(wanted);
    weights_fill(WEIGHTS_JUMPS, r, x, all);
    weights_fill(WEIGHTS_GAUSSIAN, r, shares, count);
    for (uint32_t i = 0; i < count; i++)
        rows[i] = (i * 7 + 3) % ROWS;
    struct rows_args args = {x, rows, NULL, some, count, cols};
    emu_launch(emu, gather, blocks_of(n, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    for (uint32_t i = 0; i < count; i++)
        same("gather", some + i * cols, x + rows[i] * cols, cols);
    memcpy(wanted, x, all * sizeof *x);
    weights_fill(WEIGHTS_JUMPS, r, some, n);
    for (uint32_t i = 0; i < n; i++)
        wanted[rows[i / cols] * cols + i % cols] += shares[i / cols] * some[i];
    args = (struct rows_args){some, rows, shares, x, count, cols};
    emu_launch(emu, scatter, blocks_of(n, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    same("scatter", x, wanted, all);
    free(wanted);
    room_free(rows);
    room_free(x);
    room_free(some);
    room_free(shares);
}

static void test_rows(void **state)
{
    struct random r = {35};
    (void)state;
    rows_check(1, 1, &r);
    rows_check(3, 50, &r);
    rows_check(11, 33, &r);
    rows_check(7, 256, &r);
}

static void rope_check(uint32_t tokens, uint32_t pairs, uint32_t halves, struct random *r)
{
    enum { HEADS = 3, DIM = 80 };
    uint32_t n = tokens * HEADS * DIM, count = tokens * pairs;
    float *x = room(n * sizeof *x), *wanted = malloc(n * sizeof *wanted);
    float *cosines = room(count * sizeof *cosines), *sines = room(count * sizeof *sines);
    assert_non_null(wanted);
    weights_fill(WEIGHTS_JUMPS, r, x, n);
    memcpy(wanted, x, n * sizeof *x);
    for (uint32_t i = 0; i < count; i++) {
        float *token = wanted + i / pairs * HEADS * DIM;
        cosines[i] = cosf((float)i);
        sines[i] = sinf((float)i);
        for (float *head = token; head < token + HEADS * DIM; head += DIM) {
            float *a = head + (halves ? i % pairs : 2 * (i % pairs));
            float *b = a + (halves ? pairs : 1), x0 = *a, x1 = *b;
            *a = x0 * cosines[i] - x1 * sines[i];
            *b = x0 * sines[i] + x1 * cosines[i];
        }
    }
    struct rope_args args = {x, cosines, sines, tokens, HEADS, DIM, pairs, halves};
    emu_launch(emu, rope, blocks_of(count * HEADS, ELEMENT_THREADS), ELEMENT_THREADS, &args);
    same("rope", x, wanted, n);
    free(wanted);
    room_free(x);
    room_free(cosines);
    room_free(sines);
}

static void test_rope(void **state)
{
    struct random r = {40};
    (void)state;
    for (uint32_t tokens = 1; tokens <= 5; tokens += 2)
        for (uint32_t pairs = 1; pairs <= 40; pairs += 13) {
            rope_check(tokens, pairs, 0, &r);
            rope_check(tokens, pairs, 1, &r);
        }
}

/* ---- whole rows ---- */

/* The sum of squares in the order of rms_norm.cu. */
static double squares_sum(const float *x, uint32_t n)
{
    double sums[256] = {0}, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sums[i % 256] += (double)(x[i] * x[i]);
    for (double *of_warp = sums; of_warp < sums + 256; of_warp += 32) {
        for (int half = 16; half; half /= 2)
            for (int l = 0; l < half; l++)
                of_warp[l] += of_warp[l + half];
        sum += of_warp[0];
    }
    return sum;
}

/* In place. */
static void norm_check(uint32_t rows, uint32_t cols, struct random *r)
{
    float eps = 1e-5f, *weight = room(cols * sizeof *weight), *x = room(rows * cols * sizeof *x);
    float *wanted = malloc(rows * cols * sizeof *wanted);
    assert_non_null(wanted);
    weights_fill(WEIGHTS_GAUSSIAN, r, weight, cols);
    weights_fill(WEIGHTS_JUMPS, r, x, rows * cols);
    for (uint32_t row = 0; row < rows; row++) {
        const float *from = x + row * cols;
        float scale = 1 / sqrtf((float)(squares_sum(from, cols) / cols) + eps);
        for (uint32_t i = 0; i < cols; i++)
            wanted[row * cols + i] = from[i] * scale * weight[i];
    }
    struct norm_args args = {x, weight, x, cols, eps};
    emu_launch(emu, rms_norm, rows, NORM_THREADS, &args);
    same("norm", x, wanted, rows * cols);
    free(wanted);
    room_free(weight);
    room_free(x);
}

static void test_norm(void **state)
{
    static const uint32_t cols[] = {1, 31, 64, 256, 257, 2048};
    struct random r = {41};
    (void)state;
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        norm_check(1, cols[i], &r);
        norm_check(3, cols[i], &r);
    }
}

static void argmax_check(const float *values, uint32_t n, uint32_t wanted)
{
    float *x = room_of(values, n * sizeof *x);
    uint32_t *out = room(2 * sizeof *out), finite = 1;
    struct argmax_args args = {x, out, n};
    emu_launch(emu, argmax, 1, ARGMAX_THREADS, &args);
    for (uint32_t i = 0; i < n; i++)
        finite &= isfinite(x[i]) != 0;
    assert_int_equal(out[0], wanted);
    assert_int_equal(out[1], finite);
    room_free(x);
    room_free(out);
}

static void test_argmax(void **state)
{
    enum { N = 1500 };
    static float x[N];
    (void)state;
    for (uint32_t at = 0; at < N; at += 37) {
        for (uint32_t i = 0; i < N; i++)
            x[i] = -(float)(i % 100) - 1;
        x[at] = 1;
        argmax_check(x, N, at);
        argmax_check(x, at + 1, at);
        x[N - 1 - at / 2] = 1; /* the first of equal ones */
        argmax_check(x, N, at < N - 1 - at / 2 ? at : N - 1 - at / 2);
        x[(at + 1) % N] = NAN;
        argmax_check(x, N, at == N - 1 ? 0 : at < N - 1 - at / 2 ? at : N - 1 - at / 2);
    }
    argmax_check((float[]){-INFINITY, -INFINITY}, 2, 0);
    argmax_check((float[]){-1, INFINITY}, 2, 1);
    argmax_check((float[]){NAN, 1}, 2, 0);
    argmax_check((float[]){-FLT_MAX, -0.0f}, 2, 1);
}

/* All kernels of a step that have shared memory. */
static void test_banks(void **state)
{
    const struct attention attention = {1, 2, 64, 0, 100};
    struct random r = {48};
    float x[600] = {0};
    (void)state;
    emu_record(emu, true);
    norm_check(1, 600, &r);
    argmax_check(x, 600, 0);
    attend_check(&attention, &r);
    banks_check(8);
    emu_record(emu, false);
}

static const struct CMUnitTest tests[] = {
    BOTH(test_activations),
    BOTH(test_activations_of_columns),
    BOTH(test_activations_in_another_order),
    BOTH(test_activations_in_blocks_of_64),
    BOTH(test_attention),
    BOTH(test_keys_are_remembered),
    BOTH(test_sums_of_vectors),
    BOTH(test_clear),
    BOTH(test_gates),
    BOTH(test_rows),
    BOTH(test_rope),
    BOTH(test_norm),
    BOTH(test_argmax),
    BOTH(test_banks),
};
RUN_FORWARD_AND_BACKWARD(tests)

/* SPDX-License-Identifier: MIT
 *
 * The kernels of a GPU, run by the emulator: each gives the bits of the processor's, for any shape,
 * whatever the order of threads. Memory is given to the emulator to the byte, so nothing around it
 * is read or written.
 */
#include "kernels/cpu/activations.h"
#include "kernels/cpu/backend.h"
#include "kernels/cuda/emu.h"
#include "kernels/cuda/kernels.h"
#include "tests/packed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

emu_kernel_fn quantize_256, quantize_32, gemv_q2_k, gemv_q3_k, gemv_q4_k, gemv_q5_k, gemv_q6_k,
    gemv_q4_0, gemv_q8_0;

static struct emu *emu;

static uint32_t blocks_of(uint32_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

/* Memory that kernels may use, filled with what is no number. */
static void *room(size_t size)
{
    void *p = malloc(size);
    assert_non_null(p);
    memset(p, 0xff, size);
    emu_give(emu, p, size);
    return p;
}

static void room_free(const void *p)
{
    emu_take(emu, p);
    free((void *)p);
}

static void same(const char *what, const float *got, const float *wanted, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(got[i]) != f32_bits(wanted[i]) && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s: element %zu of %zu is %a instead of %a", what, i, n, (double)got[i],
                     (double)wanted[i]);
}

/* ---- activations ---- */

static struct activation_planes planes_new(uint32_t cols, uint32_t block)
{
    return (struct activation_planes){room(cols), room(cols / block * sizeof(float)),
                                      room(cols / (block == 32 ? 32 : 16) * sizeof(int16_t))};
}

static void planes_free(struct activation_planes p)
{
    room_free(p.levels);
    room_free(p.scales);
    room_free(p.sums);
}

/* order: NULL, or where each element comes from. */
static struct activation_planes quantized(const float *values, const uint32_t *order, uint32_t cols,
                                          uint32_t block)
{
    float *x = room(cols * sizeof *x);
    uint32_t *from = order ? room(cols * sizeof *from) : NULL;
    memcpy(x, values, cols * sizeof *x);
    if (order)
        memcpy(from, order, cols * sizeof *from);
    struct quantize_args args = {x, from, planes_new(cols, block), cols};
    emu_launch(emu, block == 32 ? quantize_32 : quantize_256,
               blocks_of(cols, 256 * QUANTIZE_WARPS), QUANTIZE_THREADS, &args);
    room_free(x);
    if (order)
        room_free(from);
    return args.out;
}

static void planes_check(const float *x, uint32_t cols, uint32_t block, const char *what)
{
    struct activations *a;
    struct activation_planes p = quantized(x, NULL, cols, block);
    assert_int_equal(activations_new(cols, 1, false, &a), 0);
    assert_int_equal(
        activations_begin(a, block == 32 ? ACTIVATIONS_INT8_32 : ACTIVATIONS_INT8_256, 1), 0);
    assert_int_equal(activations_put(a, x, 0, 1), 0);
    same(what, p.scales, a->scale, cols / block);
    assert_memory_equal(p.levels, a->q, cols);
    assert_memory_equal(p.sums, a->sums, cols / (block == 32 ? 32 : 16) * sizeof *p.sums);
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
                planes_check(x, n * blocks[b], blocks[b], weights_kind_names[kind]);
                x[random_bits(&r) % COLS] = INFINITY;
                x[random_bits(&r) % COLS] = NAN;
                planes_check(x, n * blocks[b], blocks[b], "not finite");
            }
}

static void test_activations_in_another_order(void **state)
{
    enum { COLS = 512 };
    float x[COLS], moved[COLS];
    uint32_t order[COLS];
    struct random r = {32};
    (void)state;
    weights_fill(WEIGHTS_JUMPS, &r, x, COLS);
    for (uint32_t i = 0; i < COLS; i++) {
        order[i] = i * 37 % COLS;
        moved[i] = x[order[i]];
    }
    struct activation_planes got = quantized(x, order, COLS, 256);
    struct activation_planes wanted = quantized(moved, NULL, COLS, 256);
    same("in another order", got.scales, wanted.scales, COLS / 256);
    assert_memory_equal(got.levels, wanted.levels, COLS);
    assert_memory_equal(got.sums, wanted.sums, COLS / 16 * sizeof *got.sums);
    planes_free(got);
    planes_free(wanted);
}

/* ---- products ---- */

static const struct product {
    enum format_id format;
    emu_kernel_fn *gemv;
    uint32_t rows; /* of a block */
} products[] = {
    {FORMAT_Q2_K, gemv_q2_k, GEMV_ROWS_256},
    {FORMAT_Q3_K, gemv_q3_k, GEMV_ROWS_256},
    {FORMAT_Q4_K, gemv_q4_k, GEMV_ROWS_256},
    {FORMAT_Q5_K, gemv_q5_k, GEMV_ROWS_256},
    {FORMAT_Q6_K, gemv_q6_k, GEMV_ROWS_256},
    {FORMAT_Q4_0, gemv_q4_0, GEMV_ROWS_32},
    {FORMAT_Q8_0, gemv_q8_0, GEMV_ROWS_32},
};

static void multiply_cpu(const struct format *f, const uint8_t *packed, const float *x,
                         uint32_t rows, uint32_t cols, float *out)
{
    struct backend *b;
    struct activations *a;
    struct row_run run = {packed, 0, rows};
    struct matrix w = {f, rows, cols, &run, 1};
    assert_int_equal(backend_cpu_open(&dot_set_c, 1, &b), 0);
    assert_int_equal(b->activations_new(b, cols, 1, &a), 0);
    assert_int_equal(b->activations_begin(b, a, activation_kind_of(f), 1), 0);
    assert_int_equal(b->activations_put(b, a, x, 0, 1), 0);
    assert_int_equal(b->matmul(b, &w, 0, rows, a, out, rows), 0);
    b->activations_free(b, a);
    b->close(b);
}

static void multiply_check(const struct product *p, struct random *r, const float *x, uint32_t rows,
                           uint32_t cols)
{
    const struct format *f = &formats[p->format];
    size_t blocks = (size_t)rows * cols / f->block;
    uint8_t *packed = room(blocks * f->block_size);
    float *out = room(rows * sizeof *out), *wanted = malloc(rows * sizeof *wanted);
    assert_non_null(wanted);
    packed_fill(f, r, packed, blocks);
    multiply_cpu(f, packed, x, rows, cols, wanted);
    struct activation_planes planes = quantized(x, NULL, cols, f->block);
    struct gemv_args args = {packed, planes, out, rows, cols};
    emu_launch(emu, p->gemv, blocks_of(rows, p->rows), GEMV_THREADS, &args);
    char what[80];
    snprintf(what, sizeof what, "%s, %u x %u", f->title, rows, cols);
    same(what, out, wanted, rows);
    planes_free(planes);
    room_free(packed);
    room_free(out);
    free(wanted);
}

static void test_products(void **state)
{
    static const uint32_t rows[] = {1, 2, 5, 16, 35}, blocks[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 17};
    static float x[17 * 256];
    struct random r = {33};
    (void)state;
    for (size_t p = 0; p < sizeof products / sizeof *products; p++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (size_t k = 0; k < sizeof blocks / sizeof *blocks; k++) {
                weights_fill(WEIGHTS_JUMPS, &r, x, sizeof x / sizeof *x);
                multiply_check(&products[p], &r, x, rows[i],
                               blocks[k] * (uint32_t)formats[products[p].format].block);
            }
}

/* What is largest in magnitude does not overflow anywhere; what is no number stays so. */
static void test_products_of_extremes(void **state)
{
    enum { ROWS = 4, COLS = 256 };
    static const float levels[][2] = {
        {127,      127 },
        {-127,     -127},
        {127,      -127},
        {0,        127 },
        {INFINITY, 1   }
    };
    float x[COLS], wanted[ROWS];
    (void)state;
    for (size_t p = 0; p < sizeof products / sizeof *products; p++)
        for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
            for (int byte = 0; byte < 256; byte += 17) {
                const struct format *f = &formats[products[p].format];
                size_t size = ROWS * COLS / f->block * f->block_size;
                uint8_t *packed = room(size);
                float *out = room(ROWS * sizeof *out);
                memset(packed, byte, size);
                for (size_t b = 0; b < size; b += f->block_size)
                    scales_put(f, packed + b, 0.5f, -0.25f);
                for (int k = 0; k < COLS; k++)
                    x[k] = levels[i][k % 2];
                multiply_cpu(f, packed, x, ROWS, COLS, wanted);
                struct activation_planes planes = quantized(x, NULL, COLS, f->block);
                struct gemv_args args = {packed, planes, out, ROWS, COLS};
                emu_launch(emu, products[p].gemv, 1, GEMV_THREADS, &args);
                same(f->title, out, wanted, ROWS);
                planes_free(planes);
                room_free(packed);
                room_free(out);
            }
}

/* ---- all of it, forward and backward ---- */

static int forward(void **state)
{
    (void)state;
    emu_reverse(emu, false);
    return 0;
}

static int backward(void **state)
{
    (void)state;
    emu_reverse(emu, true);
    return 0;
}

#define BOTH(test)                                                                                 \
    {#test ", forward", test, forward, NULL, NULL}, {#test ", backward", test, backward, NULL, NULL}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_activations),
        BOTH(test_activations_in_another_order),
        BOTH(test_products),
        BOTH(test_products_of_extremes),
    };
    emu = emu_new();
    if (!emu)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    emu_free(emu);
    return failed;
}

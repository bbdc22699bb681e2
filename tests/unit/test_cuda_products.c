/* SPDX-License-Identifier: MIT
 *
 * A GPU's products of packed rows and of plain floats with one column, or a few: each gives the bits
 * of the processor's, for any shape, whatever the order of threads.
 */
#include "kernels/cpu/backend.h"
#include "tests/packed.h"
#include "tests/unit/cuda_rooms.h"

/* ---- one column ---- */

static const struct product {
    enum format_id format;
    emu_kernel_fn *gemv;
    uint32_t rows; /* of a block */
} products[] = {
    {FORMAT_Q2_K,   gemv_q2_k,   GEMV_ROWS_256},
    {FORMAT_Q3_K,   gemv_q3_k,   GEMV_ROWS_256},
    {FORMAT_Q4_K,   gemv_q4_k,   GEMV_ROWS_256},
    {FORMAT_Q5_K,   gemv_q5_k,   GEMV_ROWS_256},
    {FORMAT_Q6_K,   gemv_q6_k,   GEMV_ROWS_256},
    {FORMAT_Q4_0,   gemv_q4_0,   GEMV_ROWS_32 },
    {FORMAT_Q8_0,   gemv_q8_0,   GEMV_ROWS_32 },
    {FORMAT_Q4_1,   gemv_q4_1,   GEMV_ROWS_32 },
    {FORMAT_Q5_0,   gemv_q5_0,   GEMV_ROWS_32 },
    {FORMAT_Q5_1,   gemv_q5_1,   GEMV_ROWS_32 },
    {FORMAT_IQ4_NL, gemv_iq4_nl, GEMV_ROWS_32 },
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
    assert_int_equal(b->activations_begin(b, a, activation_kind_of(f), 1, NULL), 0);
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
    struct activation_planes planes = quantized(x, NULL, cols, f->block, 1);
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

/* ---- a few columns ---- */

static const struct tile {
    enum format_id format;
    emu_kernel_fn *of_8, *of_16;
} tiles[] = {
    {FORMAT_Q2_K,   matmul8_q2_k,   matmul16_q2_k  },
    {FORMAT_Q3_K,   matmul8_q3_k,   matmul16_q3_k  },
    {FORMAT_Q4_K,   matmul8_q4_k,   matmul16_q4_k  },
    {FORMAT_Q5_K,   matmul8_q5_k,   matmul16_q5_k  },
    {FORMAT_Q6_K,   matmul8_q6_k,   matmul16_q6_k  },
    {FORMAT_Q8_0,   matmul8_q8_0,   matmul16_q8_0  },
    {FORMAT_Q4_0,   matmul8_q4_0,   matmul16_q4_0  },
    {FORMAT_Q4_1,   matmul8_q4_1,   matmul16_q4_1  },
    {FORMAT_Q5_0,   matmul8_q5_0,   matmul16_q5_0  },
    {FORMAT_Q5_1,   matmul8_q5_1,   matmul16_q5_1  },
    {FORMAT_IQ4_NL, matmul8_iq4_nl, matmul16_iq4_nl},
};

static void tile_check(const struct tile *t, struct random *r, uint32_t rows, uint32_t cols,
                       uint32_t batch)
{
    const struct format *f = &formats[t->format];
    size_t blocks = (size_t)rows * cols / f->block, stride = rows + 3, n = batch * stride;
    struct matmul_args args = strides_of(cols, f->block);
    uint8_t *packed = room(blocks * f->block_size);
    float *x = malloc((size_t)batch * cols * sizeof *x), *wanted = malloc(n * sizeof *wanted);
    float *out = room(n * sizeof *out);
    assert_true(x && wanted);
    memset(wanted, 0xff, n * sizeof *wanted);
    packed_fill(f, r, packed, blocks);
    for (uint32_t c = 0; c < batch; c++) {
        weights_fill(WEIGHTS_JUMPS, r, x + c * cols, cols);
        multiply_cpu(f, packed, x + c * cols, rows, cols, wanted + c * stride);
    }
    args.rows = packed;
    args.x = quantized(x, NULL, cols, f->block, batch);
    args.out = out;
    args.out_stride = stride;
    args.row_count = rows;
    args.cols = cols;
    args.batch = batch;
    emu_launch(emu, batch <= 8 ? t->of_8 : t->of_16, blocks_of(rows, TILE_ROWS), TILE_THREADS,
               &args);
    char what[80];
    snprintf(what, sizeof what, "%s, %u x %u, batch %u", f->title, rows, cols, batch);
    same(what, out, wanted, n);
    planes_free(args.x);
    room_free(packed);
    room_free(out);
    free(x);
    free(wanted);
}

static void test_products_with_columns(void **state)
{
    static const uint32_t rows[] = {1, 9, 37}, blocks[] = {1, 3, 8, 17};
    static const uint32_t batches[] = {1, 2, 5, 8, 9, 16};
    struct random r = {46};
    (void)state;
    for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (size_t k = 0; k < sizeof blocks / sizeof *blocks; k++)
                for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
                    tile_check(&tiles[t], &r, rows[i],
                               blocks[k] * (uint32_t)formats[tiles[t].format].block, batches[b]);
}

/* ---- plain floats ---- */

static const struct floats {
    enum format_id format;
    emu_kernel_fn *gemv, *of_8;
} floats[] = {
    {FORMAT_F16,  gemv_f16,  matmul8_f16 },
    {FORMAT_BF16, gemv_bf16, matmul8_bf16},
    {FORMAT_F32,  gemv_f32,  matmul8_f32 },
};

/* Each column alone by the one kernel, and all of them by the other. */
static void floats_check(const struct floats *t, struct random *r, uint32_t rows, uint32_t cols,
                         uint32_t batch)
{
    const struct format *f = &formats[t->format];
    size_t n = (size_t)rows * cols, stride = rows + 3, outs = batch * stride;
    uint8_t *packed = room(n * f->block_size);
    float *weights = malloc(n * sizeof *weights), *wanted = malloc(outs * sizeof *wanted);
    assert_true(weights && wanted);
    float *x = room((size_t)batch * cols * sizeof *x), *out = room(outs * sizeof *out);
    float *one = room(rows * sizeof *one);
    char what[80];
    snprintf(what, sizeof what, "%s, %u x %u, batch %u", f->title, rows, cols, batch);
    memset(wanted, 0xff, outs * sizeof *wanted);
    weights_fill(WEIGHTS_JUMPS, r, x, (size_t)batch * cols);
    weights_fill(WEIGHTS_HEAVY_TAILS, r, weights, n);
    f->encode(weights, 1, n, NULL, packed);
    for (uint32_t c = 0; c < batch; c++) {
        const float *column = x + c * cols;
        struct gemv_floats_args args = {packed, column, one, rows, cols};
        multiply_cpu(f, packed, column, rows, cols, wanted + c * stride);
        emu_launch(emu, t->gemv, blocks_of(rows, GEMV_ROWS_FLOATS), GEMV_THREADS, &args);
        same(what, one, wanted + c * stride, rows);
    }
    struct matmul_floats_args args = {packed, x, out, stride, rows, cols, batch};
    emu_launch(emu, t->of_8, blocks_of(rows, GEMV_ROWS_FLOATS), GEMV_THREADS, &args);
    same(what, out, wanted, outs);
    room_free(packed);
    room_free(x);
    room_free(out);
    room_free(one);
    free(weights);
    free(wanted);
}

static void test_products_of_floats(void **state)
{
    static const uint32_t rows[] = {1, 3, 16, 65}, cols[] = {16, 32, 48, 576, 1040};
    static const uint32_t batches[] = {1, 2, 4, 5, 7, 8};
    struct random r = {34};
    (void)state;
    for (size_t t = 0; t < sizeof floats / sizeof *floats; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (size_t k = 0; k < sizeof cols / sizeof *cols; k++)
                floats_check(&floats[t], &r, rows[i], cols[k],
                             batches[(i + k) % (sizeof batches / sizeof *batches)]);
}

/* ---- extremes ---- */

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
                struct activation_planes planes = quantized(x, NULL, COLS, f->block, 1);
                struct gemv_args args = {packed, planes, out, ROWS, COLS};
                emu_launch(emu, products[p].gemv, 1, GEMV_THREADS, &args);
                same(f->title, out, wanted, ROWS);
                planes_free(planes);
                room_free(packed);
                room_free(out);
            }
}

/* ---- what memory has to do ---- */

/* At most one sector for 32 weights, of which the weights alone are 0.56. */
static void test_sectors(void **state)
{
    enum { ROWS = 16, COLS = 4096 };
    const struct format *f = &formats[FORMAT_Q4_K];
    size_t blocks = ROWS * COLS / f->block, count;
    uint64_t sectors = 0;
    static float x[COLS];
    struct random r = {42};
    (void)state;
    uint8_t *packed = room(blocks * f->block_size);
    packed_fill(f, &r, packed, blocks);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, COLS);
    float *out = room(ROWS * sizeof *out);
    struct activation_planes planes = quantized(x, NULL, COLS, 256, 1);
    struct gemv_args args = {packed, planes, out, ROWS, COLS};
    emu_record(emu, true);
    emu_launch(emu, gemv_q4_k, ROWS / GEMV_ROWS_256, GEMV_THREADS, &args);
    const struct emu_site *sites = emu_sites(emu, &count);
    for (size_t i = 0; i < count; i++)
        sectors += sites[i].sectors;
    emu_record(emu, false);
    assert_true(sectors <= ROWS * COLS / 32);
    planes_free(planes);
    room_free(packed);
    room_free(out);
}

/* All kernels of this kind that have shared memory are alike. */
static void test_banks(void **state)
{
    struct random r = {48};
    (void)state;
    emu_record(emu, true);
    tile_check(&tiles[0], &r, 16, 512, 16);
    banks_check(2);
    emu_record(emu, false);
}

static const struct CMUnitTest tests[] = {
    BOTH(test_products),
    BOTH(test_products_of_extremes),
    BOTH(test_products_with_columns),
    BOTH(test_products_of_floats),
    BOTH(test_sectors),
    BOTH(test_banks),
};
RUN_FORWARD_AND_BACKWARD(tests)

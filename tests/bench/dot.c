/* SPDX-License-Identifier: MIT
 *
 * dot [MIB [COLS]]: how fast packed rows are multiplied, for each instruction set, one thread, in
 * one run with what it is compared with. First GB/s of weights with one column of activations, and
 * what part that is of reading the same memory and doing nothing with it; medians of rounds that
 * take turns. Then GFLOP/s (two a weight and column) with 1, 4, 16 and 64 columns and the fastest
 * set, on weights that stay in the cache, as they do where a batch is worth its while. Time is that
 * of the thread's processor, so that what else goes on in the machine counts less.
 */
#include "kernels/cpu/backend.h"
#include "tests/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { ROUNDS = 5, SETS_MAX = 8, BATCH_MAX = 64, HUGE_PAGE = 2 << 20 };

static size_t cols = 4096;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Reads it all, with the widest vectors that there are. */
#ifdef __x86_64__
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
read_all(const uint8_t *p, size_t size)
{
    typedef uint64_t line __attribute__((vector_size(64), aligned(1)));
    line sum[4] = {0};
    for (size_t i = 0; i + sizeof sum <= size; i += sizeof sum)
        for (int j = 0; j < 4; j++)
            sum[j] |= ((const line *)(p + i))[j];
    sum[0] |= sum[1] | sum[2] | sum[3];
    return sum[0][0] ^ sum[0][7];
}

static double read_seconds(const uint8_t *p, size_t size)
{
    static volatile uint64_t sink;
    double start = seconds();
    sink = read_all(p, size);
    double took = seconds() - start;
    (void)sink;
    return took;
}

static double matmul_seconds(struct backend *b, const struct matrix *w, const float *x,
                             uint32_t batch, int times, float *out)
{
    struct activations *a;
    if (b->activations_new(b, w->cols, batch, &a) ||
        b->activations_begin(b, a, activation_kind_of(w->format), batch) ||
        b->activations_put(b, a, x, 0, batch))
        exit(1);
    double start = seconds();
    for (int i = 0; i < times; i++)
        if (b->matmul(b, w, 0, w->rows, a, out, w->rows))
            exit(1);
    double took = (seconds() - start) / times;
    b->activations_free(b, a);
    return took;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof *v, by_value);
    return v[ROUNDS / 2];
}

int main(int argc, char **argv)
{
    size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 256) << 20;
    cols = argc > 2 ? strtoul(argv[2], NULL, 10) : cols;
    if (!size || !cols || cols % 256)
        return 1;
    struct backend *backend[SETS_MAX];
    int sets = 0;
    for (const struct dot_set *const *set = dot_sets; *set; set++)
        if (dot_set_supported(*set) && backend_cpu_open(*set, 1, &backend[sets++]))
            return 1;

    struct random r = {1};
    uint8_t *blocks = aligned_alloc(HUGE_PAGE, (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    float *x = malloc(BATCH_MAX * cols * sizeof *x), *weights = malloc(cols * sizeof *weights);
    float *out = malloc((size / cols * 4 + BATCH_MAX) * BATCH_MAX * sizeof *out);
    if (!blocks || !x || !weights || !out)
        return 1;
    /* As memory for weights should be: with pages of 4 KiB all figures are lower. */
    madvise(blocks, size, MADV_HUGEPAGE);
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, BATCH_MAX * cols);
    weights_fill(WEIGHTS_GAUSSIAN, &r, weights, cols);

    printf("| format | read");
    for (int i = 0; i < sets; i++)
        printf(" | %-15s | part", backend[i]->name);
    puts(" | x1 | x4 | x16 | x64 |");
    for (int id = 0; id < FORMAT_COUNT; id++) {
        static const uint32_t batches[] = {1, 4, 16, 64};
        const struct format *f = &formats[id];
        uint64_t row_size;
        format_bytes(f, cols, &row_size);
        size_t rows = size / row_size, few = (1 << 19) / row_size + 1;
        f->encode(weights, 1, cols, NULL, blocks);
        for (size_t i = 1; i < rows; i++)
            memcpy(blocks + i * row_size, blocks, row_size);
        struct row_run run = {blocks, 0, rows};
        struct matrix w = {f, rows, cols, &run, 1};
        double reading[ROUNDS], dots[SETS_MAX][ROUNDS], batch[4][ROUNDS];
        for (int round = 0; round < ROUNDS; round++) {
            reading[round] = read_seconds(blocks, rows * row_size);
            for (int i = 0; i < sets; i++)
                /* Plain C is not waited for. */
                dots[i][round] = i + 1 == sets && round
                                     ? dots[i][0]
                                     : matmul_seconds(backend[i], &w, x, 1, 1, out);
            struct matrix cached = {f, few, cols, &run, 1};
            for (int i = 0; i < 4; i++)
                batch[i][round] = matmul_seconds(backend[0], &cached, x, batches[i], 20, out);
        }
        double read_rate = (double)(rows * row_size) / median(reading) / 1e9;
        printf("| %-6s | %5.2f", f->title, read_rate);
        for (int i = 0; i < sets; i++) {
            double rate = (double)(rows * row_size) / median(dots[i]) / 1e9;
            printf(" | %15.2f | %3.0f%%", rate, 100 * rate / read_rate);
        }
        for (int i = 0; i < 4; i++)
            printf(" | %6.1f", 2e-9 * (double)(few * cols) * batches[i] / median(batch[i]));
        puts(" |");
        fflush(stdout);
    }
    for (int i = 0; i < sets; i++)
        backend[i]->close(backend[i]);
    free(out);
    free(weights);
    free(x);
    free(blocks);
    return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * bench_scaled [MWEIGHTS [THREADS]]: how fast weights in BF16 become NF4, INT8, W4A16 and W8A16, as
 * a worker makes them: read, widened if need be, and encoded, a part at a time, every thread its
 * own rows. Prints GB/s of the source for each instruction set, and the share of what the memory
 * gives when as many threads only read, in the same run. Medians of some rounds; a thread's time is
 * that of its processor, so that what else goes on in the machine counts less.
 */
#include "codec/bnb/format.h"
#include "codec/compressed/format.h"
#include "codec/isa.h"
#include "tests/weights.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COLS = 4096, PART_ROWS = 16, ROUNDS = 7, THREADS_MAX = 256 };

/* One thread's rows. */
struct work {
    const struct format *format; /* NULL: only read */
    const struct isa *isa;
    const uint8_t *source;
    uint8_t *packed;
    size_t rows;
    uint64_t sum;   /* of what was read */
    double seconds; /* that it took */
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void read_all(struct work *w)
{
    uint64_t sum[8] = {0}, word[8];
    for (size_t at = 0; at < w->rows * COLS * 2; at += sizeof word) {
        memcpy(word, w->source + at, sizeof word);
        for (int i = 0; i < 8; i++)
            sum[i] += word[i];
    }
    for (int i = 0; i < 8; i++)
        w->sum += sum[i];
}

static void *run(void *work)
{
    static _Thread_local float weights[PART_ROWS * COLS];
    struct work *w = work;
    uint64_t size;
    double start = seconds();
    if (!w->format) {
        read_all(w);
        w->seconds = seconds() - start;
        return NULL;
    }
    format_packed_bytes(w->format, COLS, PART_ROWS * COLS, &size);
    for (size_t row = 0; row < w->rows; row += PART_ROWS) {
        const uint8_t *from = w->source + row * COLS * 2;
        uint8_t *to = w->packed + row / PART_ROWS * size;
        encode_bf16_fn *direct = w->isa->encode_bf16[w->format->encoder];
        if (direct) {
            direct(from, PART_ROWS * COLS, to);
            continue;
        }
        w->isa->decode[FORMAT_BF16](from, PART_ROWS * COLS, weights);
        isa_encoder(w->isa, w->format)(weights, PART_ROWS, COLS, NULL, to);
    }
    w->seconds = seconds() - start;
    return NULL;
}

/* GB/s of the source. */
static double measure(struct work w, unsigned threads)
{
    pthread_t thread[THREADS_MAX];
    struct work part[THREADS_MAX];
    size_t parts = w.rows / PART_ROWS;
    double slowest = 0;
    for (unsigned i = 0; i < threads; i++) {
        size_t from = parts * i / threads * PART_ROWS;
        part[i] = w;
        part[i].source += from * COLS * 2;
        part[i].packed += from * COLS * 2;
        part[i].rows = parts * (i + 1) / threads * PART_ROWS - from;
        pthread_create(&thread[i], NULL, run, &part[i]);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        slowest = part[i].seconds > slowest ? part[i].seconds : slowest;
    }
    return (double)(parts * PART_ROWS) * COLS * 2 / slowest / 1e9;
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

/* Reading and encoding take turns. */
static void compare(struct work w, unsigned threads)
{
    double speed[ROUNDS], bare[ROUNDS];
    struct work reading = w;
    reading.format = NULL;
    for (int i = 0; i < ROUNDS; i++) {
        bare[i] = measure(reading, threads);
        speed[i] = measure(w, threads);
    }
    double gbs = median(speed), memory = median(bare);
    printf("| %-14s | %-6s | %7u | %6.2f | %6.2f | %4.0f %% |\n", w.format->title, w.isa->name,
           threads, gbs, memory, 100 * gbs / memory);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct format *const list[] = {&bnb_formats[BNB_NF4], &compressed_formats[0],
                                                &bnb_formats[BNB_INT8], &compressed_formats[1],
                                                &compressed_formats[2]};
    size_t rows =
        (argc > 1 ? strtoul(argv[1], NULL, 10) : 256) * 1000000 / COLS / PART_ROWS * PART_ROWS;
    unsigned threads =
        argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    if (!threads || threads > THREADS_MAX || rows / PART_ROWS < threads)
        return 1;
    uint8_t *source = malloc(rows * COLS * 2), *packed = malloc(rows * COLS * 2);
    float *row = malloc(COLS * sizeof *row);
    if (!source || !packed || !row)
        return 1;
    struct random r = {1};
    for (size_t i = 0; i < rows; i++) {
        if (i < 64)
            weights_fill(WEIGHTS_GAUSSIAN, &r, row, COLS);
        encode_bf16(row, 1, COLS, NULL, source + i * COLS * 2);
    }
    memset(packed, 1, rows * COLS * 2);
    puts("| format         | set    | threads | GB/s   | memory | share  "
         "|\n|---|---|---|---|---|---|");
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        for (const struct isa *const *isa = isas; *isa; isa++)
            if (isa_supported(*isa))
                compare((struct work){list[i], *isa, source, packed, rows, 0, 0}, threads);
    free(row);
    free(packed);
    free(source);
    return 0;
}

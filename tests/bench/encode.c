/* SPDX-License-Identifier: MIT
 *
 * encode PATH-OF-libggml-base.so [MWEIGHTS [THREADS]]: encoders and decoders of every instruction
 * set against ggml's, in one run, taking turns. Prints a table in million weights a second, medians
 * of some rounds, with the ratio to ggml behind each; the last columns are the fastest set with
 * THREADS threads (2) and the ratio to one of its own. Every thread has its own rows, as workers
 * have; all read from memory rather than from a cache. A thread's time is that of its processor, so
 * that what else goes on in the machine counts less.
 */
#include "codec/isa.h"
#include "tests/ggml.h"
#include "tests/weights.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { COLS = 4096, ROUNDS = 5, ISAS_MAX = 4, SIDES = ISAS_MAX + 2, THREADS_MAX = 64 };

static struct ggml ggml;
static unsigned threads = 2;

/* One thing to measure: rows of one format, to blocks or back. */
struct work {
    const struct format *format;
    const struct isa *isa; /* NULL: ggml */
    bool decode;
    const float *importance;
    float *x;
    uint8_t *blocks;
    size_t rows;
    double seconds; /* that it took */
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *run(void *work)
{
    struct work *w = work;
    double start = seconds();
    int id = (int)(w->format - formats), type = (int)w->format->ggml_type;
    if (w->decode && w->isa)
        w->isa->decode[id](w->blocks, w->rows * COLS, w->x);
    else if (w->decode)
        ggml.traits(type)->to_float(w->blocks, w->x, (int64_t)(w->rows * COLS));
    else if (w->isa)
        w->isa->encode[id](w->x, w->rows, COLS, w->importance, w->blocks);
    else
        ggml.quantize(type, w->x, w->blocks, 0, (int64_t)w->rows, COLS, w->importance);
    w->seconds = seconds() - start;
    return NULL;
}

/* Million weights a second, with so many threads that share the rows; the slowest counts. */
static double measure(struct work w, unsigned count)
{
    pthread_t thread[THREADS_MAX];
    struct work part[THREADS_MAX];
    double slowest = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t from = w.rows * i / count;
        uint64_t offset;
        format_bytes(w.format, from * COLS, &offset);
        part[i] = w;
        part[i].x += from * COLS;
        part[i].blocks += offset;
        part[i].rows = w.rows * (i + 1) / count - from;
        if (i)
            pthread_create(&thread[i], NULL, run, &part[i]);
    }
    run(&part[0]);
    for (unsigned i = 0; i < count; i++) {
        if (i)
            pthread_join(thread[i], NULL);
        slowest = part[i].seconds > slowest ? part[i].seconds : slowest;
    }
    return (double)w.rows * COLS / slowest / 1e6;
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

/* ggml, the sets that this processor has from the slowest to the fastest, the fastest with more
 * threads: a row of the table. */
static void compare(struct work w, const struct isa *const *sets, int count)
{
    double speed[SIDES][ROUNDS], result[SIDES];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i <= count; i++) {
            w.isa = i ? sets[i - 1] : NULL;
            speed[i][round] = measure(w, 1);
        }
        speed[count + 1][round] = measure(w, threads);
    }
    for (int i = 0; i < count + 2; i++)
        result[i] = median(speed[i]);
    printf("| %-6s | %-7s | %8.1f", w.format->title,
           w.decode       ? "decode"
           : w.importance ? "imatrix"
                          : "plain",
           result[0]);
    for (int i = 1; i <= count; i++)
        printf(" | %8.1f | %5.1f", result[i], result[i] / result[0]);
    printf(" | %8.1f | %4.2f |\n", result[count + 1], result[count + 1] / result[count]);
    fflush(stdout);
}

static void print_head(const struct isa *const *sets, int count)
{
    printf("| format | path    | ggml    ");
    for (int i = 0; i < count; i++)
        printf(" | %-8s | ratio", sets[i]->name);
    printf(" | x%-7u | ratio|\n|---|---|---", threads);
    for (int i = 0; i <= count; i++)
        printf("|---|---");
    puts("|");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s PATH-OF-libggml-base.so [MWEIGHTS [THREADS]]\n", argv[0]);
        return 1;
    }
    if (!ggml_load(&ggml, argv[1])) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    size_t rows = (argc > 2 ? strtoul(argv[2], NULL, 10) : 16) * 1000000 / COLS + 1;
    if (argc > 3)
        threads = (unsigned)strtoul(argv[3], NULL, 10);
    if (!threads || threads > THREADS_MAX || threads > rows)
        return 1;
    const struct isa *sets[ISAS_MAX];
    int count = 0, all = 0;
    while (isas[all])
        all++;
    while (all--)
        if (isa_supported(isas[all]))
            sets[count++] = isas[all];

    float *x = malloc(rows * COLS * sizeof *x), *back = malloc(rows * COLS * sizeof *x);
    uint8_t *blocks = malloc(rows * COLS * sizeof *x);
    float importance[COLS];
    if (!x || !back || !blocks)
        return 1;
    struct random r = {1};
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, rows * COLS);
    memcpy(back, x, rows * COLS * sizeof *x);
    for (int i = 0; i < COLS; i++)
        importance[i] = expf(random_gaussian(&r));
    print_head(sets, count);
    for (int i = 0; i < FORMAT_COUNT; i++) {
        if (i == FORMAT_F32)
            continue;
        struct work w = {.format = &formats[i], .x = x, .blocks = blocks, .rows = rows};
        compare(w, sets, count);
        w.importance = importance;
        if (formats[i].importance)
            compare(w, sets, count);
        w.importance = NULL;
        w.x = back;
        w.decode = true;
        compare(w, sets, count);
    }
    free(blocks);
    free(back);
    free(x);
    return 0;
}

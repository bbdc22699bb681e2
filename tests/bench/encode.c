/* SPDX-License-Identifier: MIT
 *
 * Encoders against ggml's, one thread, in one run and alternating: encode PATH-OF-libggml-base.so
 * [MWEIGHTS]. Prints million weights a second of both and the ratio of the medians, as a table.
 */
#include "codec/format.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COLS = 4096, ROUNDS = 5 };

typedef size_t quantize_fn(int type, const float *src, void *dst, int64_t start, int64_t nrows,
                           int64_t n_per_row, const float *imatrix);

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t random_state = 1;

static float uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) * 0x1p-24f;
}

static float gaussian(void)
{
    float u = uniform() + 0x1p-25f;
    return sqrtf(-2 * logf(u)) * cosf(6.2831853f * uniform());
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

static void measure(const struct format *f, quantize_fn *quantize, const float *x, size_t rows,
                    const float *importance, uint8_t *out)
{
    double ours[ROUNDS], theirs[ROUNDS];
    double weights = (double)rows * COLS;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds();
        f->encode(x, rows, COLS, importance, out);
        double middle = seconds();
        quantize((int)f->ggml_type, x, out, 0, (int64_t)rows, COLS, importance);
        ours[round] = weights / (middle - start) / 1e6;
        theirs[round] = weights / (seconds() - middle) / 1e6;
    }
    double a = median(ours), b = median(theirs);
    printf("| %-6s | %-7s | %8.1f | %8.1f | %5.2f |\n", f->title, importance ? "imatrix" : "plain",
           a, b, a / b);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s PATH-OF-libggml-base.so [MWEIGHTS]\n", argv[0]);
        return 1;
    }
    void *library = dlopen(argv[1], RTLD_NOW);
    quantize_fn *quantize = NULL;
    if (library)
        *(void **)&quantize = dlsym(library, "ggml_quantize_chunk");
    if (!quantize) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    size_t rows = (argc > 2 ? strtoul(argv[2], NULL, 10) : 2) * 1000000 / COLS + 1;
    float *x = malloc(rows * COLS * sizeof *x), importance[COLS];
    uint8_t *out = malloc(rows * COLS * sizeof *x);
    if (!x || !out)
        return 1;
    for (size_t i = 0; i < rows * COLS; i++)
        x[i] = 0.02f * gaussian();
    for (int i = 0; i < COLS; i++)
        importance[i] = expf(gaussian());
    puts("| format | path    | quantfs  | ggml     | ratio |\n|---|---|---|---|---|");
    for (int i = 0; i < FORMAT_COUNT; i++) {
        if (i == FORMAT_F32)
            continue;
        measure(&formats[i], quantize, x, rows, NULL, out);
        if (formats[i].importance)
            measure(&formats[i], quantize, x, rows, importance, out);
    }
    free(out);
    free(x);
    return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * Encoders against ggml's, one thread, in one run and alternating: encode PATH-OF-libggml-base.so
 * [MWEIGHTS]. Prints million weights a second of both and the ratio of the medians, as a table.
 */
#include "codec/format.h"
#include "tests/ggml.h"
#include "tests/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { COLS = 4096, ROUNDS = 5 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
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

static void measure(const struct format *f, const struct ggml *ggml, const float *x,
                    size_t rows, const float *importance, uint8_t *out)
{
    double ours[ROUNDS], theirs[ROUNDS];
    double weights = (double)rows * COLS;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds();
        f->encode(x, rows, COLS, importance, out);
        double middle = seconds();
        ggml->quantize((int)f->ggml_type, x, out, 0, (int64_t)rows, COLS, importance);
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
    struct ggml ggml;
    if (!ggml_load(&ggml, argv[1])) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    size_t rows = (argc > 2 ? strtoul(argv[2], NULL, 10) : 2) * 1000000 / COLS + 1;
    float *x = malloc(rows * COLS * sizeof *x), importance[COLS];
    uint8_t *out = malloc(rows * COLS * sizeof *x);
    if (!x || !out)
        return 1;
    struct random r = {1};
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, rows * COLS);
    for (int i = 0; i < COLS; i++)
        importance[i] = expf(random_gaussian(&r));
    puts("| format | path    | quantfs  | ggml     | ratio |\n|---|---|---|---|---|");
    for (int i = 0; i < FORMAT_COUNT; i++) {
        if (i == FORMAT_F32)
            continue;
        measure(&formats[i], &ggml, x, rows, NULL, out);
        if (formats[i].importance)
            measure(&formats[i], &ggml, x, rows, importance, out);
    }
    free(out);
    free(x);
    return 0;
}

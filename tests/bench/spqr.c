/* SPDX-License-Identifier: MIT
 *
 * bench_spqr [ROWS [COLUMNS [THREADS]]]: the time that SpQR takes for a matrix (4096 by 4096),
 * under every instruction set, with 3 bits: without outliers, with a given threshold, and with a
 * budget of 1 %, for which a stripe is encoded more than once. The factor is at hand and shared;
 * threads take the stripes in turn, and the time is that of the slowest one's processor. Also the
 * outliers that came out, and how fast stripes are packed and decoded.
 */
#include "codec/isa.h"
#include "codec/spqr/prepare.h"
#include "tests/weights.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BITS = 3, THREADS_MAX = 64 };

static size_t rows = 4096, columns = 4096;
static unsigned threads = 1;
static float *weights, *factor;

/* What one run does with all stripes. */
struct work {
    spqr_encode_fn *encode;
    struct spqr_settings settings;
    atomic_size_t next, outliers;
    double slowest; /* under lock */
    pthread_mutex_t lock;
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void encode_stripe(struct work *w, size_t row, void *scratch)
{
    struct spqr_stripe stripe;
    size_t left = rows - row, count = 0;
    w->encode(&w->settings, weights + row * columns, left < SPQR_ROWS ? left : SPQR_ROWS, columns,
              factor, scratch, &stripe);
    for (size_t c = 0; c < columns; c++)
        count += (size_t)__builtin_popcount(stripe.outlier_rows[c]);
    w->outliers += count;
}

static void *run(void *work)
{
    struct work *w = work;
    void *scratch = aligned_alloc(64, spqr_scratch_size(columns));
    size_t row;
    double start = seconds();
    if (!scratch)
        abort();
    while ((row = atomic_fetch_add(&w->next, SPQR_ROWS)) < rows)
        encode_stripe(w, row, scratch);
    free(scratch);
    double time = seconds() - start;
    pthread_mutex_lock(&w->lock);
    w->slowest = time > w->slowest ? time : w->slowest;
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void measure(const struct isa *isa, const char *title, struct spqr_settings settings)
{
    pthread_t thread[THREADS_MAX];
    struct work w = {
        .encode = isa->spqr_encode, .settings = settings, .lock = PTHREAD_MUTEX_INITIALIZER};
    for (unsigned i = 1; i < threads; i++)
        pthread_create(&thread[i], NULL, run, &w);
    run(&w);
    for (unsigned i = 1; i < threads; i++)
        pthread_join(thread[i], NULL);
    printf("| %-6s | %-12s | %6.3f s | %5.2f %% |\n", isa->name, title, w.slowest,
           100. * (double)w.outliers / (double)(rows * columns));
    fflush(stdout);
}

/* The last stripe, over and over. */
static void measure_bytes(const struct spqr_layout *l, const struct spqr_stripe *s)
{
    uint8_t *bytes = malloc(l->stripe_size);
    float *out = malloc(SPQR_ROWS * columns * sizeof *out);
    struct error err;
    if (!bytes || !out)
        abort();
    double start = seconds();
    for (size_t row = 0; row < rows; row += SPQR_ROWS)
        spqr_pack(l, s, bytes);
    double packed = seconds();
    for (size_t row = 0; row < rows; row += SPQR_ROWS)
        spqr_decode(l, bytes, l->stripe_size, out, &err);
    printf("packed in %.3f s, decoded in %.3f s, %.3f bits a weight\n", packed - start,
           seconds() - packed, 8. * (double)l->stripe_size / (SPQR_ROWS * (double)columns));
    free(out);
    free(bytes);
}

int main(int argc, char **argv)
{
    rows = argc > 1 ? strtoul(argv[1], NULL, 10) : rows;
    columns = argc > 2 ? strtoul(argv[2], NULL, 10) : columns;
    threads = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : threads;
    struct spqr_layout layout;
    struct error err;
    if (!rows || !threads || threads > THREADS_MAX ||
        spqr_layout(BITS, columns, 0.01, &layout, &err)) {
        fprintf(stderr, "usage: %s [ROWS [COLUMNS [THREADS]]]\n", argv[0]);
        return 1;
    }
    size_t size = spqr_factor_size(columns);
    weights = malloc(rows * columns * sizeof *weights);
    factor = malloc(size * sizeof *factor);
    void *scratch = aligned_alloc(64, spqr_scratch_size(columns));
    if (!weights || !factor || !scratch)
        return 1;
    struct random r = {1};
    for (size_t i = 0; i < rows * columns; i++)
        weights[i] = 0.02f * random_gaussian(&r) * (random_bits(&r) % 50 ? 1 : 4);
    /* As of inputs that have little to do with each other: no column's error fills the rest. */
    float *panel = factor;
    for (size_t first = 0; first < columns; first += SPQR_GROUP)
        for (size_t row = 0; row < first + SPQR_GROUP; row++)
            for (size_t c = first; c < first + SPQR_GROUP; c++)
                *panel++ = row == c ? 1 : row < c ? 0.01f * random_gaussian(&r) : 0;

    float threshold = spqr_threshold(weights, rows, columns, factor, 0.2f);
    struct spqr_settings none = {.bits = BITS}, budget = {.bits = BITS, .slots = layout.slots},
                         given = {.bits = BITS, .reference = true, .threshold = threshold};
    puts("| set    | outliers     | time     | share   |\n|---|---|---|---|");
    for (const struct isa *const *isa = isas; *isa; isa++)
        if (isa_supported(*isa)) {
            measure(*isa, "none", none);
            measure(*isa, "threshold", given);
            measure(*isa, "budget 1 %", budget);
        }
    struct spqr_stripe stripe;
    isas[0]->spqr_encode(&budget, weights, rows < SPQR_ROWS ? rows : SPQR_ROWS, columns, factor,
                         scratch, &stripe);
    measure_bytes(&layout, &stripe);
    free(scratch);
    free(factor);
    free(weights);
    return 0;
}

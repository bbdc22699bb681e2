/* SPDX-License-Identifier: MIT
 *
 * dot [--size MIB] [--cols N] [--threads N] [--ggml PATH-OF-libggml-cpu.so] [FORMAT...]: how fast
 * packed rows are multiplied and heads attend, in one run with what it is compared with. Three
 * tables, of medians of rounds that take turns:
 *
 * - GB/s of weights with one column of activations, for each instruction set and for ggml's own
 *   row product, and what part that is of reading the same memory and doing nothing with it. The
 *   last column is the fastest set by ggml.
 * - GFLOP/s (two a weight and column) with 1 to 64 columns and the fastest set, on weights that
 *   stay in the cache, as they do where a batch is worth its while.
 * - Attention: GB/s of keys and values, for each instruction set, by how many heads share them and
 *   whether the keys of a head lie one behind the other or, as those of eight heads, in turns.
 *
 * Threads share memory by rows. A thread's time is that of its processor, so that what else goes on
 * in the machine counts less; the slowest counts.
 */
#include "codec/spqr/encode.h"
#include "codec/spqr/format.h"
#include "kernels/cpu/backend.h"
#include "tests/weights.h"

#include <dlfcn.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>

enum { ROUNDS = 7, SETS_MAX = 8, BATCH_MAX = 64, HUGE_PAGE = 2 << 20, THREADS_MAX = 64 };

/* struct ggml_type_traits_cpu of ggml-cpu.h. */
struct ggml_cpu_traits {
    void (*from_float)(const float *x, void *blocks, int64_t n);
    void (*vec_dot)(int n, float *out, size_t, const void *w, size_t, const void *x, size_t,
                    int columns);
    int dot_type; /* what it multiplies with */
    int64_t rows;
};

static const struct ggml_cpu_traits *(*ggml_traits)(int type); /* NULL: there is none */
static size_t cols = 4096, size = (size_t)256 << 20;
static unsigned threads = 1;
static struct backend *backend[SETS_MAX]; /* the fastest first */
static int sets;
static uint8_t *memory; /* size bytes */
static float *x, *out;  /* x: BATCH_MAX columns; of each as many out as there are rows */
static uint8_t *ggml_x; /* as ggml_traits has it */

static bool ggml_open(const char *path)
{
    void *library = dlopen(path, RTLD_NOW);
    void (*init)(void) = NULL;
    if (!library || !(*(void **)&init = dlsym(library, "ggml_cpu_init")) ||
        !(*(void **)&ggml_traits = dlsym(library, "ggml_get_type_traits_cpu")))
        return false;
    init();
    return true;
}

/* ---- what is timed: each with a share of the rows, the bytes or the heads ---- */

struct work {
    void (*run)(const struct work *w, size_t first, size_t count);
    size_t count; /* to be shared */
    const struct format *format;
    size_t row_size;
    struct backend *backend;
    struct activations *activations;
    uint32_t heads; /* of attention, that share keys */
    int times;
};

/* Reads it all, with the widest vectors that there are. */
#ifdef __x86_64__
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
read_all(const uint8_t *p, size_t n)
{
    typedef uint64_t line __attribute__((vector_size(64), aligned(1)));
    line sum[4] = {0};
    for (size_t i = 0; i + sizeof sum <= n; i += sizeof sum)
        for (int j = 0; j < 4; j++)
            sum[j] |= ((const line *)(p + i))[j];
    sum[0] |= sum[1] | sum[2] | sum[3];
    return sum[0][0] ^ sum[0][7];
}

static void run_read(const struct work *w, size_t first, size_t count)
{
    static _Thread_local volatile uint64_t sink;
    sink = read_all(memory + first * w->row_size, count * w->row_size);
    (void)sink;
}

static void run_matmul(const struct work *w, size_t first, size_t count)
{
    struct row_run run = {memory, 0, w->count};
    struct matrix m = {w->format, w->count, cols, &run, 1};
    for (int i = 0; i < w->times; i++)
        if (w->backend->matmul(w->backend, &m, first, count, w->activations, out, w->count))
            exit(1);
}

static void run_ggml(const struct work *w, size_t first, size_t count)
{
    const struct ggml_cpu_traits *t = ggml_traits((int)w->format->ggml_type);
    for (size_t row = first; row < first + count; row++)
        t->vec_dot((int)cols, out + row, 0, memory + row * w->row_size, 0, ggml_x, 0, 1);
}

enum { POSITIONS = 4096, DIM = 128, KV_HEADS = 8, PAIR = 2 * POSITIONS * DIM * sizeof(uint16_t) };

/* Keys and values of eight heads lie together: the keys of all, then the values. */
static void run_attend(const struct work *w, size_t first, size_t count)
{
    float *scores = malloc(w->heads * attend_room(POSITIONS, DIM) * sizeof *scores);
    float *to = malloc(w->heads * DIM * sizeof *to);
    for (size_t head = first; head < first + count; head++) {
        const uint16_t *keys =
            (uint16_t *)(memory + head / KV_HEADS * KV_HEADS * PAIR) + head % KV_HEADS * POSITIONS * DIM;
        if (w->backend->attend(w->backend, x, 1, w->heads, keys, keys + KV_HEADS * POSITIONS * DIM, 0,
                               0, POSITIONS - 1, DIM, 0.088f, scores, to))
            exit(1);
    }
    free(to);
    free(scores);
}

/* ---- time ---- */

struct share {
    const struct work *work;
    size_t first, count;
    double seconds;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *run(void *share)
{
    struct share *s = share;
    double start = now();
    s->work->run(s->work, s->first, s->count);
    s->seconds = now() - start;
    return NULL;
}

/* Where a share begins; stripes are not cut. */
static size_t cut(const struct work *w, unsigned i, unsigned n)
{
    size_t unit = w->format && w->format->stripe_bits ? SPQR_ROWS : 1;
    return i == n ? w->count : w->count * i / n / unit * unit;
}

static double measure(const struct work *w, unsigned n)
{
    pthread_t thread[THREADS_MAX];
    struct share share[THREADS_MAX];
    double slowest = 0;
    for (unsigned i = 0; i < n; i++) {
        size_t first = cut(w, i, n);
        share[i] = (struct share){w, first, cut(w, i + 1, n) - first, 0};
        if (i && pthread_create(&thread[i], NULL, run, &share[i]))
            exit(1);
    }
    run(&share[0]);
    for (unsigned i = 0; i < n; i++) {
        if (i)
            pthread_join(thread[i], NULL);
        slowest = share[i].seconds > slowest ? share[i].seconds : slowest;
    }
    return slowest;
}

static int by_value(const void *a, const void *b)
{
    double v = *(const double *)a, w = *(const double *)b;
    return (v > w) - (v < w);
}

/* The medians of some works that take turns; slow ones are not run again. */
static void measure_all(const struct work *works, int count, unsigned n, double *seconds)
{
    double took[2 * SETS_MAX][ROUNDS];
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++)
            took[i][round] = round && took[i][0] > 1 ? took[i][0] : measure(&works[i], n);
    for (int i = 0; i < count; i++) {
        qsort(took[i], ROUNDS, sizeof **took, by_value);
        seconds[i] = took[i][ROUNDS / 2];
    }
}

/* ---- tables ---- */

static struct activations *activations(struct backend *b, const struct format *f, uint32_t batch)
{
    struct activations *a;
    if (b->activations_new(b, cols, batch, &a) ||
        b->activations_begin(b, a, activation_kind_of(f), batch, NULL) ||
        b->activations_put(b, a, x, 0, batch))
        exit(1);
    return a;
}

static void make_stripe(const struct format *f)
{
    struct spqr_layout l;
    struct spqr_stripe stripe;
    void *scratch = aligned_alloc(64, spqr_scratch_size(cols));
    if (!scratch || spqr_format_layout(f, cols, &l, NULL))
        exit(1);
    struct spqr_settings settings = {.bits = l.bits, .slots = l.slots};
    spqr_encode(&settings, x, SPQR_ROWS, cols, NULL, scratch, &stripe);
    spqr_pack(&l, &stripe, memory);
    free(scratch);
}

/* All rows, or stripes of them, are the same, which takes no less time. */
static struct work rows_of(const struct format *f)
{
    uint64_t unit_rows, unit_size;
    format_unit(f, cols, &unit_rows, &unit_size);
    if (f->stripe_bits)
        make_stripe(f);
    else
        f->encode(x, 1, cols, NULL, memory);
    size_t units = size / unit_size;
    for (size_t i = 1; i < units; i++)
        memcpy(memory + i * unit_size, memory, unit_size);
    return (struct work){
        run_read, units * unit_rows, f, unit_size / unit_rows, NULL, NULL, 0, 1};
}

static void print_sets(const char *first)
{
    printf("\n| %-10s | read ", first);
    for (int i = 0; i < sets; i++)
        printf(" | %-15s | part", backend[i]->name);
}

static void print_parts(const double *seconds, double bytes)
{
    printf(" | %5.2f", bytes / seconds[0] / 1e9);
    for (int i = 0; i < sets; i++)
        printf(" | %15.2f | %3.0f%%", bytes / seconds[1 + i] / 1e9,
               100 * seconds[0] / seconds[1 + i]);
}

static void one_column(const struct format *f)
{
    struct work works[SETS_MAX + 2];
    double seconds[SETS_MAX + 2];
    int count = 1 + sets;
    works[0] = rows_of(f);
    for (int i = 0; i < sets; i++) {
        works[1 + i] = works[0];
        works[1 + i].run = run_matmul;
        works[1 + i].backend = backend[i];
        works[1 + i].activations = activations(backend[i], f, 1);
    }
    bool known = ggml_traits && !f->stripe_bits;
    const struct ggml_cpu_traits *t = known ? ggml_traits((int)f->ggml_type) : NULL;
    if (t) {
        const struct ggml_cpu_traits *of_x = ggml_traits(t->dot_type);
        if (of_x->from_float)
            of_x->from_float(x, ggml_x, (int64_t)cols);
        else
            memcpy(ggml_x, x, cols * sizeof *x);
        works[count] = works[0];
        works[count++].run = run_ggml;
    }
    measure_all(works, count, threads, seconds);
    double bytes = (double)(works[0].count * works[0].row_size);
    printf("| %-10s", f->title);
    print_parts(seconds, bytes);
    if (t)
        printf(" | %5.2f | %5.2f", bytes / seconds[1 + sets] / 1e9, seconds[1 + sets] / seconds[1]);
    puts(" |");
    fflush(stdout);
    for (int i = 0; i < sets; i++)
        backend[i]->activations_free(backend[i], works[1 + i].activations);
}

static void many_columns(const struct format *f)
{
    static const uint32_t batches[] = {1, 2, 4, 8, 16, 32, 64};
    enum { BATCHES = sizeof batches / sizeof *batches };
    struct work works[BATCHES];
    double seconds[BATCHES];
    for (int i = 0; i < BATCHES; i++) {
        works[i] = rows_of(f);
        works[i].run = run_matmul;
        works[i].count = ((1 << 19) / works[i].row_size / SPQR_ROWS + 1) * SPQR_ROWS;
        works[i].times = 20;
        works[i].backend = backend[0];
        works[i].activations = activations(backend[0], f, batches[i]);
    }
    measure_all(works, BATCHES, 1, seconds);
    printf("| %-10s", f->title);
    for (int i = 0; i < BATCHES; i++) {
        printf(" | %6.1f", 2e-9 * (double)(works[i].count * cols * 20) * batches[i] / seconds[i]);
        backend[0]->activations_free(backend[0], works[i].activations);
    }
    puts(" |");
    fflush(stdout);
}

static void attention(uint32_t heads)
{
    struct work works[SETS_MAX + 1];
    double seconds[SETS_MAX + 1];
    works[0] = (struct work){
        run_read, size / PAIR / KV_HEADS * KV_HEADS, NULL, PAIR, NULL, NULL, heads, 1};
    for (int i = 0; i < sets; i++) {
        works[1 + i] = works[0];
        works[1 + i].run = run_attend;
        works[1 + i].backend = backend[i];
    }
    measure_all(works, 1 + sets, threads, seconds);
    printf("| %u", heads);
    print_parts(seconds, (double)works[0].count * PAIR);
    puts(" |");
    fflush(stdout);
}

static bool wanted(const struct format *f, char **titles)
{
    bool any = false, it = false;
    for (; *titles; titles++) {
        any = true;
        it |= strcasecmp(*titles, f->title) == 0;
    }
    return it || !any;
}

static const struct format *format_number(int i)
{
    return i < FORMAT_COUNT ? &formats[i] : &spqr_formats[i - FORMAT_COUNT];
}

static void print_tables(char **titles)
{
    print_sets("format");
    puts(ggml_traits ? " | ggml  | by it |" : " |");
    for (int i = 0; i < FORMAT_COUNT + SPQR_FORMAT_COUNT; i++)
        if (wanted(format_number(i), titles))
            one_column(format_number(i));
    puts("\n| format     | x1     | x2     | x4     | x8     | x16    | x32    | x64    |");
    for (int i = 0; i < FORMAT_COUNT + SPQR_FORMAT_COUNT; i++)
        if (wanted(format_number(i), titles))
            many_columns(format_number(i));
    if (*titles)
        return;
    print_sets("heads");
    puts(" |");
    struct random r = {2};
    for (size_t i = 0; i < size / 2; i++)
        ((uint16_t *)memory)[i] = (uint16_t)(0x3000 | (random_bits(&r) & 0x8fff));
    for (uint32_t heads = 1; heads <= 8; heads *= 2)
        attention(heads);
}

/* ---- the program ---- */

static bool parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"size",    required_argument, NULL, 's'},
        {"cols",    required_argument, NULL, 'c'},
        {"threads", required_argument, NULL, 't'},
        {"ggml",    required_argument, NULL, 'g'},
        {NULL,      0,                 NULL, 0  },
    };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (c) {
        case 's':
            size = strtoul(optarg, NULL, 10) << 20;
            break;
        case 'c':
            cols = strtoul(optarg, NULL, 10);
            break;
        case 't':
            threads = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'g':
            if (!ggml_open(optarg))
                fprintf(stderr, "no ggml: %s\n", dlerror());
            break;
        default:
            return false;
        }
    return size && cols && cols % 256 == 0 && threads && threads <= THREADS_MAX;
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv))
        return 1;
    if (!ggml_traits)
        fprintf(stderr, "no ggml to compare with; --ggml names its libggml-cpu.so\n");
    for (const struct dot_set *const *set = dot_sets; *set; set++)
        if (dot_set_supported(*set) && backend_cpu_open(*set, threads, &backend[sets++]))
            return 1;
    /* As memory for weights should be: with pages of 4 KiB all figures are lower. */
    size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    memory = aligned_alloc(HUGE_PAGE, size);
    x = malloc(BATCH_MAX * cols * sizeof *x);
    ggml_x = malloc(cols * sizeof *x);
    out = malloc((size / cols * 4 + BATCH_MAX) * BATCH_MAX * sizeof *out);
    if (!memory || !x || !ggml_x || !out)
        return 1;
    madvise(memory, size, MADV_HUGEPAGE);
    struct random r = {1};
    weights_fill(WEIGHTS_GAUSSIAN, &r, x, BATCH_MAX * cols);
    print_tables(argv + optind);
    for (int i = 0; i < sets; i++)
        backend[i]->close(backend[i]);
    free(out);
    free(ggml_x);
    free(x);
    free(memory);
    return 0;
}

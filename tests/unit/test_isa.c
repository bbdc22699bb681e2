/* SPDX-License-Identifier: MIT
 *
 * Every instruction set gives the bytes of plain C: for all kinds of weights, for numbers of
 * blocks that do not fill the lanes of a vector, and without a look at what lies around them.
 */
#include "codec/float16.h"
#include "codec/isa.h"
#include "tests/weights.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { BATCH = 1 << 16, COLS_MAX = 16384 };

static float x[BATCH], importance[COLS_MAX];
static uint8_t reference[4 * BATCH], packed[4 * BATCH];
static float floats[BATCH], reference_floats[BATCH];
static const struct isa *plain_c;

struct batch {
    const char *kind;
    size_t rows, cols;
};

static void compare(const struct isa *isa, enum format_id id, const struct batch *batch,
                    const float *weights)
{
    uint64_t size;
    const struct format *f = &formats[id];
    assert_true(format_bytes(f, batch->rows * batch->cols, &size));
    memset(reference, 0xaa, size);
    memset(packed, 0x55, size);
    plain_c->encode[id](x, batch->rows, batch->cols, weights, reference);
    isa->encode[id](x, batch->rows, batch->cols, weights, packed);
    for (uint64_t block = 0; block < size / f->block_size; block++)
        if (memcmp(reference + block * f->block_size, packed + block * f->block_size,
                   f->block_size) != 0)
            fail_msg("%s %s with %s, %s, %zu rows of %zu: block %llu differs", f->title,
                     weights ? "imatrix" : "plain", isa->name, batch->kind, batch->rows,
                     batch->cols, (unsigned long long)block);
}

static void compare_formats(const struct isa *isa, const struct batch *batch)
{
    for (int id = 0; id < FORMAT_COUNT; id++) {
        if (batch->cols % formats[id].block)
            continue;
        compare(isa, id, batch, NULL);
        if (formats[id].importance)
            compare(isa, id, batch, importance);
    }
}

/* 16 kinds of 80 000 weights and more: over a million for each format and mode. */
static void test_all_kinds_of_weights(void **state)
{
    enum { EACH = 80000 };
    static const size_t widths[] = {4096, 256, 11008, 768};
    const struct isa *isa = *state;
    struct random r = {4};
    if (!isa_supported(isa))
        skip();
    for (enum weights_kind kind = 0; kind < WEIGHTS_KINDS; kind++) {
        size_t done = 0;
        for (unsigned i = 0; done < EACH; i++) {
            size_t cols = widths[i % 4], rows = BATCH / 2 / cols;
            weights_fill(kind, &r, x, rows * cols);
            importance_fill((int)(i % 6), &r, importance, cols);
            compare_formats(isa, &(struct batch){weights_kind_names[kind], rows, cols});
            done += rows * cols;
        }
    }
}

/* From one block to two vectors of 16 lanes and one more, as one row and as rows of a block. */
static void test_any_number_of_blocks(void **state)
{
    static const size_t blocks[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33};
    const struct isa *isa = *state;
    struct random r = {5};
    if (!isa_supported(isa))
        skip();
    for (size_t block = 32; block <= 256; block *= 8)
        for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
            size_t n = blocks[i];
            weights_fill(WEIGHTS_HEAVY_TAILS, &r, x, n * block);
            importance_fill(2, &r, importance, n * block);
            compare_formats(isa, &(struct batch){"one row", 1, n * block});
            compare_formats(isa, &(struct batch){"short rows", n, block});
            if (n % 3 == 0)
                compare_formats(isa, &(struct batch){"three rows", 3, n / 3 * block});
        }
}

/* Random bytes, among them scales that are no numbers; and from one block to three. */
static void test_decoders(void **state)
{
    const struct isa *isa = *state;
    struct random r = {7};
    if (!isa_supported(isa))
        skip();
    for (size_t i = 0; i < sizeof packed; i++)
        packed[i] = (uint8_t)random_bits(&r);
    for (int id = 0; id < FORMAT_COUNT; id++)
        for (size_t n = formats[id].block; n <= BATCH;
             n = n < 768 ? n + formats[id].block : n * 85) {
            isa->decode[id](packed, n, floats);
            plain_c->decode[id](packed, n, reference_floats);
            for (size_t i = 0; i < n; i++)
                if (f32_bits(floats[i]) != f32_bits(reference_floats[i]) &&
                    !(isnan(floats[i]) && isnan(reference_floats[i])))
                    fail_msg("%s with %s: weight %zu of %zu differs", formats[id].title, isa->name,
                             i, n);
        }
}

/* n bytes that end where the process may read no further. */
static void *at_the_edge(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (n + page - 1) / page * page;
    uint8_t *p =
        mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_int_equal(mprotect(p + size, page, PROT_NONE), 0);
    return p + size - n;
}

static void test_nothing_beyond_the_ends_is_touched(void **state)
{
    enum { COLS = 3 * 256 };
    const struct isa *isa = *state;
    struct random r = {6};
    if (!isa_supported(isa))
        skip();
    float *weights = at_the_edge(COLS * sizeof *weights);
    float *columns = at_the_edge(COLS * sizeof *columns);
    weights_fill(WEIGHTS_GAUSSIAN, &r, weights, COLS);
    importance_fill(1, &r, columns, COLS);
    for (int id = 0; id < FORMAT_COUNT; id++) {
        uint64_t size;
        assert_true(format_bytes(&formats[id], COLS, &size));
        uint8_t *out = at_the_edge(size);
        isa->encode[id](weights, 1, COLS, NULL, out);
        isa->encode[id](weights, 1, COLS, columns, out);
        uint8_t *blocks = at_the_edge(size);
        float *decoded = at_the_edge(COLS * sizeof *decoded);
        memcpy(blocks, out, size);
        isa->decode[id](blocks, COLS, decoded);
    }
}

static void test_the_choice(void **state)
{
    (void)state;
    const struct isa *isa;
    struct error err;
    assert_int_equal(isa_choose(NULL, &isa, &err), 0);
    assert_true(isa_supported(isa));
    for (const struct isa *const *i = isas; *i; i++) {
        int rc = isa_choose((*i)->name, &isa, &err);
        assert_int_equal(rc, isa_supported(*i) ? 0 : -ENOTSUP);
        if (!rc)
            assert_ptr_equal(isa, *i);
    }
    assert_int_equal(isa_choose("sse9", &isa, &err), -EINVAL);
    assert_non_null(strstr(err.text, "sse9"));
}

/* The tests of a set have its name behind theirs. */
int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction function;
    } of_a_set[] = {
        {"test_all_kinds_of_weights",               test_all_kinds_of_weights              },
        {"test_any_number_of_blocks",               test_any_number_of_blocks              },
        {"test_decoders",                           test_decoders                          },
        {"test_nothing_beyond_the_ends_is_touched", test_nothing_beyond_the_ends_is_touched},
    };
    enum { EACH = sizeof of_a_set / sizeof *of_a_set, ISAS_MAX = 8 };
    struct CMUnitTest tests[1 + EACH * ISAS_MAX] = {cmocka_unit_test(test_the_choice)};
    char names[1 + EACH * ISAS_MAX][80];
    size_t count = 1;
    struct error err;
    if (isa_choose("c", &plain_c, &err))
        return 1;
    for (const struct isa *const *isa = isas; *isa != plain_c; isa++)
        for (int i = 0; i < EACH; i++, count++) {
            snprintf(names[count], sizeof *names, "%s_with_%s", of_a_set[i].name, (*isa)->name);
            tests[count] =
                (struct CMUnitTest){names[count], of_a_set[i].function, NULL, NULL, (void *)*isa};
        }
    return _cmocka_run_group_tests("isa", tests, count, NULL, NULL);
}

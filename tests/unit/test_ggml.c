/* SPDX-License-Identifier: MIT
 *
 * Encoders and decoders against ggml's own, bit for bit, under every instruction set that the
 * processor has. QUANTFS_GGML is the path of
 * libggml-base.so; without it the test is skipped. QUANTFS_GGML_WEIGHTS: how many weights of the
 * stress mix each format and mode gets, 4000000 if not said.
 */
#include "codec/float16.h"
#include "codec/isa.h"
#include "tests/ggml.h"
#include "tests/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { BATCH = 1 << 17, COLS_MAX = 16384 };

static struct ggml ggml;
static uint64_t stress_weights = 4000000;

/* Buffers of one batch. F32 has the largest blocks. */
static float x[BATCH], importance[COLS_MAX], floats[BATCH], ggml_floats[BATCH];
static uint8_t packed[4 * BATCH], ggml_packed[4 * BATCH];

struct batch {
    const char *kind;
    size_t rows, cols;
};

static bool same_float(float a, float b)
{
    return f32_bits(a) == f32_bits(b) || (isnan(a) && isnan(b));
}

static void check_decoder(const struct format *f, const struct batch *batch, const void *blocks)
{
    const struct ggml_traits *traits = ggml.traits((int)f->ggml_type);
    size_t n = batch->rows * batch->cols;
    if (!traits->to_float)
        return;
    traits->to_float(blocks, ggml_floats, (int64_t)n);
    for (const struct isa *const *isa = isas; *isa; isa++) {
        if (!isa_supported(*isa))
            continue;
        (*isa)->decode[f - formats](blocks, n, floats);
        for (size_t i = 0; i < n; i++)
            if (!same_float(floats[i], ggml_floats[i]))
                fail_msg("%s with %s, %s: weight %zu of block %zu decodes to %a, in ggml to %a",
                         f->title, (*isa)->name, batch->kind, i % f->block, i / f->block,
                         (double)floats[i], (double)ggml_floats[i]);
    }
}

/* Encodes the batch in x and compares with what ggml has made of it. */
static void check_isa(const struct isa *isa, const struct format *f, const struct batch *batch,
                      const float *weights)
{
    uint64_t size, blocks = batch->rows * batch->cols / f->block, different = 0, first = 0;
    assert_true(format_bytes(f, batch->rows * batch->cols, &size));
    memset(packed, 0x55, size);
    isa->encode[f - formats](x, batch->rows, batch->cols, weights, packed);
    for (uint64_t i = blocks; i-- > 0;)
        if (memcmp(packed + i * f->block_size, ggml_packed + i * f->block_size, f->block_size)) {
            different++;
            first = i;
        }
    if (different)
        fail_msg("%s %s with %s, %s, rows of %zu: %llu of %llu blocks differ, the first is %llu",
                 f->title, weights ? "imatrix" : "plain", isa->name, batch->kind, batch->cols,
                 (unsigned long long)different, (unsigned long long)blocks,
                 (unsigned long long)first);
}

/* The buffers start out different: a byte that nobody writes differs. */
static void check_encoder(const struct format *f, const struct batch *batch, const float *weights)
{
    uint64_t size;
    assert_true(format_bytes(f, batch->rows * batch->cols, &size));
    memset(ggml_packed, 0xaa, size);
    ggml.quantize((int)f->ggml_type, x, ggml_packed, 0, (int64_t)batch->rows,
                  (int64_t)batch->cols, weights);
    for (const struct isa *const *isa = isas; *isa; isa++)
        if (isa_supported(*isa))
            check_isa(*isa, f, batch, weights);
}

/* Whether llama-quantize would take the blocks: it refuses scales that are not finite. */
static void check_verdict(const struct format *f, const struct batch *batch)
{
    uint64_t size, blocks = batch->rows * batch->cols / f->block;
    assert_true(format_bytes(f, batch->rows * batch->cols, &size));
    bool valid = format_first_invalid(f, packed, blocks) == blocks;
    if (valid != ggml.validate((int)f->ggml_type, packed, size))
        fail_msg("%s, %s: ggml calls the blocks %s", f->title, batch->kind,
                 valid ? "invalid" : "valid");
}

/* All formats that the width allows, plain and weighted. */
static void check_batch(const struct batch *batch)
{
    for (const struct format *f = formats; f < formats + FORMAT_COUNT; f++) {
        if (batch->cols % f->block)
            continue;
        check_encoder(f, batch, NULL);
        check_decoder(f, batch, packed);
        check_verdict(f, batch);
        check_encoder(f, batch, importance);
        check_decoder(f, batch, packed);
        check_verdict(f, batch);
    }
}

/* At least n weights of each of the kinds, in rows of the widths in turn. */
static void check_kinds(enum weights_kind from, enum weights_kind to, uint64_t n,
                        const size_t *widths, size_t width_count)
{
    struct random r = {1};
    for (enum weights_kind kind = from; kind < to; kind++) {
        uint64_t done = 0;
        for (unsigned i = 0; done < n; i++) {
            size_t cols = widths[i % width_count], rows = BATCH / cols;
            if (rows * cols > n - done)
                rows = (n - done) / cols + 1;
            weights_fill(kind, &r, x, rows * cols);
            importance_fill((int)(i % 6), &r, importance, cols);
            check_batch(&(struct batch){weights_kind_names[kind], rows, cols});
            done += rows * cols;
        }
    }
}

static void test_the_table_is_ggmls(void **state)
{
    (void)state;
    for (const struct format *f = formats; f < formats + FORMAT_COUNT; f++) {
        const struct ggml_traits *traits = ggml.traits((int)f->ggml_type);
        assert_ptr_equal(format_by_name(traits->name), f);
        assert_int_equal(f->block, traits->block);
        assert_int_equal(f->block_size, traits->block_size);
        assert_int_equal(f->plain_float, !traits->quantized);
    }
}

static void test_the_stress_mix(void **state)
{
    (void)state;
    static const size_t widths[] = {4096, 256, 11008, 512, 1024, 2048, 768};
    check_kinds(WEIGHTS_GAUSSIAN, WEIGHTS_STRESS, stress_weights / WEIGHTS_STRESS + 1, widths,
                sizeof widths / sizeof *widths);
}

static void test_other_weights(void **state)
{
    (void)state;
    static const size_t widths[] = {1024, 256};
    check_kinds(WEIGHTS_STRESS, WEIGHTS_KINDS, BATCH + 1, widths, sizeof widths / sizeof *widths);
}

static void test_rows_that_only_blocks_of_32_divide(void **state)
{
    (void)state;
    static const size_t widths[] = {576, 32, 896, 64, 160, 3168};
    check_kinds(WEIGHTS_GAUSSIAN, WEIGHTS_STRESS, BATCH, widths,
                sizeof widths / sizeof *widths);
}

/* Every bit pattern is a float: among them are infinities and NaN. */
static void test_plain_floats_of_all_magnitudes(void **state)
{
    (void)state;
    static const enum format_id plain[] = {FORMAT_F32, FORMAT_F16, FORMAT_BF16};
    struct random r = {2};
    for (int round = 0; round < 64; round++) {
        for (size_t i = 0; i < BATCH; i++)
            x[i] = f32_from_bits(random_bits(&r));
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            check_encoder(&formats[plain[i]], &(struct batch){"random bits", 1, BATCH}, NULL);
    }
}

static void test_decoders_on_random_blocks(void **state)
{
    (void)state;
    struct random r = {3};
    for (size_t i = 0; i < sizeof packed / sizeof(uint32_t); i++) {
        uint32_t bits = random_bits(&r);
        memcpy(packed + i * sizeof bits, &bits, sizeof bits);
    }
    for (const struct format *f = formats; f < formats + FORMAT_COUNT; f++)
        check_decoder(f, &(struct batch){"random blocks", 1, BATCH}, packed);
}

static void test_every_half_decodes_alike(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        memcpy(packed + 2 * i, &(uint16_t){(uint16_t)i}, 2);
    check_decoder(&formats[FORMAT_F16], &(struct batch){"all halves", 1, 65536}, packed);
    check_decoder(&formats[FORMAT_BF16], &(struct batch){"all halves", 1, 65536}, packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_table_is_ggmls),
        cmocka_unit_test(test_the_stress_mix),
        cmocka_unit_test(test_other_weights),
        cmocka_unit_test(test_rows_that_only_blocks_of_32_divide),
        cmocka_unit_test(test_plain_floats_of_all_magnitudes),
        cmocka_unit_test(test_decoders_on_random_blocks),
        cmocka_unit_test(test_every_half_decodes_alike),
    };
    const char *path = getenv("QUANTFS_GGML"), *count = getenv("QUANTFS_GGML_WEIGHTS");
    if (!path) {
        puts("1..0 # SKIP QUANTFS_GGML does not name a libggml-base.so to compare with");
        return 0;
    }
    if (!ggml_load(&ggml, path)) {
        printf("Bail out! %s\n", dlerror());
        return 1;
    }
    if (count)
        stress_weights = strtoull(count, NULL, 10);
    return cmocka_run_group_tests_name("ggml", tests, NULL, NULL);
}

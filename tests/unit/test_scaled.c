/* SPDX-License-Identifier: MIT
 *
 * The encoders of bnb/ and compressed/ against what the libraries themselves make of known weights,
 * with every instruction set; and all sets against plain C, with weights of all kinds.
 */
#include "codec/bnb/format.h"
#include "codec/bytes.h"
#include "codec/compressed/format.h"
#include "codec/float16.h"
#include "codec/isa.h"
#include "codec/repack.h"
#include "tests/weights.h"

#include <math.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ROWS = 64, COLS = 512, BLOCKS = ROWS * COLS / NF4_BLOCK };

static float weights[1 << 16];
static uint8_t packed[1 << 18], reference[1 << 18];

/* ---- known weights ---- */

static void generate(uint32_t seed, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        out[i] = (float)((int)(seed >> 8) - 8388608) / 8388608;
    }
}

static void round_all(enum format_id type, float factor, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
    format_round(&formats[type], x, n);
}

static void assert_hash(const void *data, size_t n, const char *want)
{
    uint8_t digest[crypto_hash_sha256_BYTES];
    char hex[17];
    crypto_hash_sha256(digest, data, n);
    sodium_bin2hex(hex, sizeof hex, digest, 8);
    assert_string_equal(hex, want);
}

static void assert_bf16_hash(const float *x, size_t n, const char *want)
{
    uint8_t *halves = malloc(2 * n);
    assert_non_null(halves);
    encode_bf16(x, 1, n, NULL, halves);
    assert_hash(halves, 2 * n, want);
    free(halves);
}

/* The matrix of most vectors. */
static void generate_matrix(void)
{
    generate(1, weights, ROWS * COLS);
    round_all(FORMAT_BF16, 1, weights, ROWS * COLS);
    round_all(FORMAT_BF16, 0.05f, weights, ROWS * COLS);
    assert_bf16_hash(weights, ROWS * COLS, "bc9555abe4fdb502");
}

/* A whole tensor of a layout. */
static void repack(const struct repack *list, int count, const char *name,
                   const struct repack_matrix *m, const uint8_t *bytes, uint8_t *out, size_t size)
{
    struct error err;
    const struct repack *r = list;
    while (strcmp(r->name, name) != 0)
        assert_true(++r < list + count);
    assert_int_equal(repack_size(r, m), size);
    struct repack_units need = {0, 0};
    if (r->need)
        need = r->need(m, 0, size);
    assert_int_equal(r->put(m, bytes, need, &(struct repack_window){out, 0, size}, &err), 0);
}

#define REPACK(list, name, m, out)                                                                 \
    repack(list, sizeof(list) / sizeof *(list), name, m, packed, (uint8_t *)(out), sizeof(out))

/* ---- NF4 ---- */

static void test_nf4_block(void **state)
{
    const struct isa *isa = *state;
    uint8_t want[NF4_BLOCK / 2];
    float absmax;
    if (!isa_supported(isa))
        skip();
    generate(7, weights, NF4_BLOCK);
    round_all(FORMAT_BF16, 0.1f, weights, NF4_BLOCK);
    assert_bf16_hash(weights, NF4_BLOCK, "a9ff06ba7359f081");
    isa_encoder(isa, &bnb_formats[BNB_NF4])(weights, 1, NF4_BLOCK, NULL, packed);
    memcpy(&absmax, packed, sizeof absmax);
    assert_true(absmax == 0.099609375f);
    sodium_hex2bin(want, sizeof want,
                   "2eae0e400ff868add56e471ce41f16611ad1ae29437c31ea4f712e971610bd18", 64, NULL,
                   NULL, NULL);
    assert_memory_equal(packed + sizeof absmax, want, sizeof want);
}

static void test_nf4_matrix(void **state)
{
    static const uint8_t codes[] = {36, 124, 4, 216, 10, 37, 158, 47};
    static uint8_t weight[ROWS * COLS / 2];
    static float absmax[BLOCKS];
    const struct isa *isa = *state;
    const struct repack_matrix m = {
        .format = &bnb_formats[BNB_NF4], .rows = ROWS, .cols = COLS, .type = FORMAT_BF16};
    if (!isa_supported(isa))
        skip();
    generate_matrix();
    isa_encoder(isa, m.format)(weights, ROWS, COLS, NULL, packed);
    REPACK(nf4_repacks, "weight", &m, weight);
    assert_memory_equal(weight, codes, sizeof codes);
    assert_hash(weight, sizeof weight, "c0cf7f0375141a2e");
    REPACK(nf4_repacks, "weight.absmax", &m, absmax);
    assert_hash(absmax, sizeof absmax, "7bcf1e54321fe4e9");
    m.format->decode(packed, ROWS * COLS, weights);
    assert_bf16_hash(weights, ROWS * COLS, "52bf4bef79c57c56");
}

static float mean_of_blocks(void)
{
    return (float)(nf4_add_absmax(0, packed, BLOCKS) / BLOCKS);
}

static void test_nf4_nested(void **state)
{
    static const uint8_t first[] = {169, 200, 53, 200, 169, 193, 206, 200};
    const struct isa *isa = *state;
    uint8_t absmax[BLOCKS], json[200];
    float scales[BLOCKS / NF4_NESTED], values[256];
    if (!isa_supported(isa))
        skip();
    generate_matrix();
    isa_encoder(isa, &bnb_formats[BNB_NF4])(weights, ROWS, COLS, NULL, packed);
    const struct repack_matrix m = {.format = &bnb_formats[BNB_NF4],
                                    .rows = ROWS,
                                    .cols = COLS,
                                    .type = FORMAT_BF16,
                                    .mean = mean_of_blocks()};
    assert_true(m.mean == 0.04921150207519531f);
    REPACK(nf4_dq_repacks, "weight.absmax", &m, absmax);
    assert_memory_equal(absmax, first, sizeof first);
    assert_hash(absmax, sizeof absmax, "fcea8c8f4a2b1ae4");
    REPACK(nf4_dq_repacks, "weight.nested_absmax", &m, scales);
    assert_hash(scales, sizeof scales, "f87979e7fe4c08c7");
    REPACK(nf4_dq_repacks, "weight.nested_quant_map", &m, values);
    assert_hash(values, sizeof values, "e732639a65f497b4");
    REPACK(nf4_dq_repacks, "weight.quant_state.bitsandbytes__nf4", &m, json);
    assert_hash(json, 169, "bc0963bab4ab13dd");
    for (size_t i = 169; i < sizeof json; i++)
        assert_int_equal(json[i], ' ');
    for (size_t i = 0; i < BLOCKS; i++) {
        float decoded = values[absmax[i]] * scales[i / NF4_NESTED];
        decoded += m.mean;
        memcpy(packed + i * NF4_SIZE, &decoded, sizeof decoded);
    }
    m.format->decode(packed, ROWS * COLS, weights);
    assert_bf16_hash(weights, ROWS * COLS, "2049e3cd020a1c4c");
}

/* How python prints what a mean can be. */
static void test_nf4_offsets(void **state)
{
    static const struct {
        float mean;
        const char *text;
    } cases[] = {
        {0,        " 0.0}"                   },
        {1,        " 1.0}"                   },
        {12,       " 12.0}"                  },
        {100,      " 100.0}"                 },
        {0.5f,     " 0.5}"                   },
        {0.1f,     " 0.10000000149011612}"   },
        {1e-5f,    " 9.999999747378752e-06}" },
        {0x1p-20f, " 9.5367431640625e-07}"   },
        {0x1p-13f, " 0.0001220703125}"       },
        {1e30f,    " 1.0000000150474662e+30}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[201] = "";
        const struct repack_matrix m = {.format = &bnb_formats[BNB_NF4],
                                        .rows = 1000000000,
                                        .cols = 1000000000,
                                        .type = FORMAT_BF16,
                                        .mean = cases[i].mean};
        const struct repack *state_of = &nf4_dq_repacks[3];
        state_of->put(&m, NULL, (struct repack_units){0, 0},
                      &(struct repack_window){(uint8_t *)json, 0, 200}, NULL);
        char *end = strchr(json, '}');
        assert_non_null(end);
        end[1] = 0;
        assert_string_equal(end + 1 - strlen(cases[i].text), cases[i].text);
    }
}

/* Blocks run on, the last one is short: it is divided, and what it lacks is zero. */
static void test_nf4_short_block(void **state)
{
    const struct isa *isa = *state;
    uint8_t weight[50];
    float absmax[2];
    if (!isa_supported(isa))
        skip();
    generate(5, weights, 100);
    round_all(FORMAT_BF16, 1, weights, 100);
    const struct repack_matrix m = {
        .format = &bnb_formats[BNB_NF4], .rows = 5, .cols = 20, .type = FORMAT_BF16};
    isa_encoder(isa, m.format)(weights, 1, 100, NULL, packed);
    REPACK(nf4_repacks, "weight", &m, weight);
    assert_hash(weight, sizeof weight, "031848f861375857");
    REPACK(nf4_repacks, "weight.absmax", &m, absmax);
    assert_true(absmax[0] == 0.99609375f && absmax[1] == 0.9765625f);
    for (size_t i = NF4_SIZE + sizeof(float) + 18; i < 2 * NF4_SIZE; i++)
        assert_int_equal(packed[i], 0x77);
}

static void test_nf4_zeros(void **state)
{
    const struct isa *isa = *state;
    if (!isa_supported(isa))
        skip();
    memset(weights, 0, NF4_BLOCK * sizeof *weights);
    isa_encoder(isa, &bnb_formats[BNB_NF4])(weights, 1, NF4_BLOCK, NULL, packed);
    for (size_t i = 0; i < NF4_SIZE; i++)
        assert_int_equal(packed[i], i < sizeof(float) ? 0 : 0x77);
    weights[3] = -0x1p-140f; /* 1 / absmax is infinite */
    isa_encoder(isa, &bnb_formats[BNB_NF4])(weights, 1, NF4_BLOCK, NULL, packed);
    assert_int_equal(packed[sizeof(float)], 0x77);
    assert_int_equal(packed[sizeof(float) + 1], 0x70);
}

/* ---- INT8 ---- */

static void test_int8(void **state)
{
    static const int8_t first[] = {-67, -33, 1, 52, -114, -33, 70, 14};
    static int8_t weight[ROWS * COLS];
    const struct isa *isa = *state;
    float greatest[ROWS];
    uint8_t layout[1] = {1};
    const struct repack_matrix m = {
        .format = &bnb_formats[BNB_INT8], .rows = ROWS, .cols = COLS, .type = FORMAT_BF16};
    if (!isa_supported(isa))
        skip();
    generate_matrix();
    isa_encoder(isa, m.format)(weights, ROWS, COLS, NULL, packed);
    REPACK(int8_repacks, "weight", &m, weight);
    assert_memory_equal(weight, first, sizeof first);
    assert_hash(weight, sizeof weight, "9092866935b70c45");
    REPACK(int8_repacks, "SCB", &m, greatest);
    assert_hash(greatest, sizeof greatest, "a7c49e17b339d600");
    REPACK(int8_repacks, "weight_format", &m, layout);
    assert_int_equal(layout[0], 0);
}

/* ---- compressed-tensors ---- */

enum { NARROW = 128, GOLDEN_GROUP = 32, GOLDEN_GROUPS = ROWS * NARROW / GOLDEN_GROUP };

static void generate_narrow(void)
{
    generate(1, weights, ROWS * NARROW);
    round_all(FORMAT_BF16, 0.1f, weights, ROWS * NARROW);
    assert_bf16_hash(weights, ROWS * NARROW, "be77f8f1ca07ffb9");
}

/* Known are groups of 32: four times the same one is a group of 128 with that scale. */
static void test_w4(void **state)
{
    const struct isa *isa = *state;
    static float group[COMPRESSED_GROUP], decoded[ROWS * NARROW];
    static uint8_t words[ROWS * NARROW / 2], scales[2 * GOLDEN_GROUPS];
    static int8_t codes[ROWS * NARROW];
    const struct format *f = &compressed_formats[0];
    if (!isa_supported(isa))
        skip();
    generate_narrow();
    for (size_t g = 0; g < GOLDEN_GROUPS; g++) {
        for (size_t i = 0; i < COMPRESSED_GROUP; i++)
            group[i] = weights[g * GOLDEN_GROUP + i % GOLDEN_GROUP];
        isa_encoder(isa, f)(group, 1, COMPRESSED_GROUP, NULL, packed);
        memcpy(scales + 2 * g, packed, 2);
        memcpy(words + g * GOLDEN_GROUP / 2, packed + 2, GOLDEN_GROUP / 2);
        f->decode(packed, COMPRESSED_GROUP, group);
        memcpy(decoded + g * GOLDEN_GROUP, group, GOLDEN_GROUP * sizeof *decoded);
    }
    for (size_t i = 0; i < ROWS * NARROW; i++)
        codes[i] = (int8_t)((words[i / 2] >> i % 2 * 4 & 15) - 8);
    assert_hash(scales, sizeof scales, "e79480d3cd9597ff");
    assert_hash(codes, sizeof codes, "cd840b34f908de0a");
    assert_hash(words, sizeof words, "f64ef226817842a3");
    assert_bf16_hash(decoded, ROWS * NARROW, "1875d20868eee131");
}

static void test_w8(void **state)
{
    static const int8_t first[] = {-68, -34, 1, 52, -115, -34, 70, 14};
    static int8_t weight[ROWS * NARROW];
    const struct isa *isa = *state;
    uint8_t scales[2 * ROWS];
    const struct repack_matrix m = {
        .format = &compressed_formats[1], .rows = ROWS, .cols = NARROW, .type = FORMAT_BF16};
    if (!isa_supported(isa))
        skip();
    generate_narrow();
    isa_encoder(isa, m.format)(weights, ROWS, NARROW, NULL, packed);
    REPACK(w8_repacks, "weight_scale", &m, scales);
    assert_hash(scales, sizeof scales, "e769b138b1a94b49");
    REPACK(w8_repacks, "weight", &m, weight);
    assert_memory_equal(weight, first, sizeof first);
    assert_hash(weight, sizeof weight, "baece8f282e87e02");
    for (size_t row = 0; row < ROWS; row++)
        m.format->decode(packed + row * (2 + NARROW), NARROW, weights + row * NARROW);
    assert_bf16_hash(weights, ROWS * NARROW, "ae82d0afbaa38fe4");
}

/* The least that there is: all zeros have the type's epsilon for a scale. */
static void test_compressed_zeros(void **state)
{
    static const uint32_t epsilons[] = {0x3c00, 0x1400, 0x34000000}; /* BF16, F16, F32 */
    const struct isa *isa = *state;
    if (!isa_supported(isa))
        skip();
    memset(weights, 0, COMPRESSED_GROUP * sizeof *weights);
    for (int i = 0; i < COMPRESSED_FORMAT_COUNT; i++) {
        const struct format *f = &compressed_formats[i];
        size_t head = f->type->block_size;
        uint32_t scale = 0;
        isa_encoder(isa, f)(weights, 1, COMPRESSED_GROUP, NULL, packed);
        memcpy(&scale, packed, head);
        assert_int_equal(scale, epsilons[i / 2]);
        for (size_t k = 0; k < (f->row_head ? COMPRESSED_GROUP : COMPRESSED_GROUP / 2); k++)
            assert_int_equal(packed[head + k], f->row_head ? 0 : 0x88);
    }
}

/* Every quotient of two numbers of BF16, but for their exponents, against division. */
static void test_all_quotients(void **state)
{
    const struct isa *isa = *state, *const *plain = isas;
    if (!isa_supported(isa))
        skip();
    while (plain[1])
        plain++;
    for (uint32_t scale = 0x3f80; scale < 0x4000; scale++)
        for (uint32_t from = 0; from < 0x0800; from += COMPRESSED_GROUP - 1) {
            /* the greatest, which makes the scale; then magnitudes up to it, of either sign */
            weights[0] = f32_from_bf16((uint16_t)scale) * 7.5f;
            format_round(&formats[FORMAT_BF16], weights, 1);
            uint32_t most = f32_bits(weights[0]) >> 16;
            for (uint32_t i = 1; i < COMPRESSED_GROUP; i++)
                weights[i] = f32_from_bf16((uint16_t)((most - from - i) | (i & 1) << 15));
            for (int i = 0; i < 2; i++) {
                const struct format *f = &compressed_formats[i];
                isa_encoder(*plain, f)(weights, 1, COMPRESSED_GROUP, NULL, reference);
                isa_encoder(isa, f)(weights, 1, COMPRESSED_GROUP, NULL, packed);
                assert_memory_equal(packed, reference, i ? 2 + COMPRESSED_GROUP : f->block_size);
                encode_bf16(weights, 1, COMPRESSED_GROUP, NULL, reference + 512);
                if (i == 0)
                    isa->encode_bf16[f->encoder](reference + 512, COMPRESSED_GROUP, packed);
                assert_memory_equal(packed, reference, i ? 2 + COMPRESSED_GROUP : f->block_size);
            }
        }
}

/* ---- all sets ---- */

static void compare(const struct format *f, const struct isa *isa, size_t rows, size_t cols,
                    const char *kind)
{
    const struct isa *const *plain = isas;
    while (plain[1])
        plain++;
    uint64_t size;
    assert_true(format_packed_bytes(f, cols, rows * cols, &size));
    assert_true(size <= sizeof packed);
    memset(reference, 0xaa, size + 64);
    memset(packed, 0xaa, size + 64);
    isa_encoder(*plain, f)(weights, rows, cols, NULL, reference);
    isa_encoder(isa, f)(weights, rows, cols, NULL, packed);
    if (memcmp(packed, reference, size + 64) != 0)
        fail_msg("%s with %s, %s: %zu rows of %zu differ", f->title, isa->name, kind, rows, cols);
}

/* As they are stored, and widened. */
static void compare_stored(const struct isa *isa, int encoder, const struct format *f, size_t n,
                           const char *kind)
{
    static uint8_t halves[2 << 16];
    uint64_t size;
    format_packed_bytes(f, n, n, &size);
    memset(packed, 0xaa, size + 64);
    memset(reference, 0xaa, size + 64);
    encode_bf16(weights, 1, n, NULL, halves);
    format_round(&formats[FORMAT_BF16], weights, n);
    isa_encoder(isa, f)(weights, 1, n, NULL, reference);
    isa->encode_bf16[encoder](halves, n, packed);
    if (memcmp(packed, reference, size + 64) != 0)
        fail_msg("%s with %s, %s: %zu stored in BF16 differ", f->title, isa->name, kind, n);
}

static void test_stored_weights(void **state)
{
    const struct isa *isa = *state;
    struct random r = {10};
    if (!isa_supported(isa))
        skip();
    for (enum weights_kind kind = 0; kind < WEIGHTS_KINDS; kind++)
        for (int i = 0; i < 4; i++) {
            size_t n = 1 << 15;
            weights_fill(kind, &r, weights, n);
            compare_stored(isa, ENCODER_NF4, &bnb_formats[BNB_NF4], n - (size_t)i * 37,
                           weights_kind_names[kind]);
            compare_stored(isa, ENCODER_W4_BF16, &compressed_formats[0], n,
                           weights_kind_names[kind]);
        }
}

static void test_all_kinds_of_weights(void **state)
{
    static const size_t widths[] = {128, 4096, 256, 11008, 768, 100, 63, 1};
    const struct isa *isa = *state;
    struct random r = {9};
    if (!isa_supported(isa))
        skip();
    for (enum weights_kind kind = 0; kind < WEIGHTS_KINDS; kind++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            size_t cols = widths[w], rows = (1 << 15) / cols;
            weights_fill(kind, &r, weights, rows * cols);
            for (int i = 0; i < BNB_FORMAT_COUNT + COMPRESSED_FORMAT_COUNT; i++) {
                const struct format *f = i < BNB_FORMAT_COUNT
                                             ? &bnb_formats[i]
                                             : &compressed_formats[i - BNB_FORMAT_COUNT];
                bool small = true;
                for (size_t k = 0; k < rows * cols; k++)
                    small &= f->limit == 0 || fabsf(weights[k]) < f->limit;
                if (small && (f->run || cols % f->block == 0))
                    compare(f, isa, rows, cols, weights_kind_names[kind]);
            }
        }
}

static void test_names_and_sizes(void **state)
{
    uint64_t size;
    (void)state;
    assert_string_equal(compressed_of_type(&compressed_formats[0], &formats[FORMAT_F32])->name,
                        "w4a16-g128-f32");
    assert_string_equal(compressed_of_type(&compressed_formats[3], &formats[FORMAT_BF16])->name,
                        "w8a16");
    assert_true(format_packed_bytes(&bnb_formats[BNB_NF4], 20, 100, &size) && size == 72);
    assert_true(format_packed_bytes(&bnb_formats[BNB_INT8], 20, 100, &size) && size == 120);
    assert_true(format_packed_bytes(&compressed_formats[0], 256, 1024, &size) && size == 528);
    assert_true(format_packed_bytes(&compressed_formats[5], 256, 1024, &size) && size == 1040);
    assert_false(format_packed_bytes(&bnb_formats[BNB_INT8], 1, UINT64_MAX / 2, &size));
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction function;
    } of_a_set[] = {
        {"test_nf4_block",            test_nf4_block           },
        {"test_nf4_matrix",           test_nf4_matrix          },
        {"test_nf4_nested",           test_nf4_nested          },
        {"test_nf4_short_block",      test_nf4_short_block     },
        {"test_nf4_zeros",            test_nf4_zeros           },
        {"test_int8",                 test_int8                },
        {"test_w4",                   test_w4                  },
        {"test_w8",                   test_w8                  },
        {"test_compressed_zeros",     test_compressed_zeros    },
        {"test_all_quotients",        test_all_quotients       },
        {"test_stored_weights",       test_stored_weights      },
        {"test_all_kinds_of_weights", test_all_kinds_of_weights},
    };
    enum { EACH = sizeof of_a_set / sizeof *of_a_set, ISAS_MAX = 8 };
    struct CMUnitTest tests[2 + EACH * ISAS_MAX] = {cmocka_unit_test(test_nf4_offsets),
                                                    cmocka_unit_test(test_names_and_sizes)};
    char names[2 + EACH * ISAS_MAX][80];
    size_t count = 2;
    for (const struct isa *const *isa = isas; *isa; isa++)
        for (int i = 0; i < EACH; i++, count++) {
            snprintf(names[count], sizeof *names, "%s_with_%s", of_a_set[i].name, (*isa)->name);
            tests[count] =
                (struct CMUnitTest){names[count], of_a_set[i].function, NULL, NULL, (void *)*isa};
        }
    return _cmocka_run_group_tests("scaled", tests, count, NULL, NULL);
}

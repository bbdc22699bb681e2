/* SPDX-License-Identifier: MIT
 *
 * The golden vectors: 64 rows of 1024 made-up weights, with rows of special blocks among them, and
 * FNV-1a hashes of what ggml makes of them, plain and with an importance matrix, under every
 * instruction set.
 */
#include "codec/float16.h"
#include "codec/isa.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { ROWS = 64, COLS = 1024 };

static float weights[ROWS * COLS], importance[COLS];

static uint32_t lcg_state;

static uint32_t draw(void)
{
    lcg_state = lcg_state * 1664525u + 1013904223u;
    return lcg_state >> 16;
}

/* Every 16th row has blocks of its own kind, eight kinds in turn. */
static float special(int kind, int col, float x)
{
    switch (kind) {
    case 0: return 0;
    case 1: return 0x1p-7f;
    case 2: return -fabsf(x);
    case 3: return fabsf(x);
    case 4: return x * 0x1p-30f;
    case 5: return col % 32 == 5 ? x * 64 : x;
    case 6: return x * 1024;
    default: return col % 2 ? -0x1p-5f : 0x1p-5f;
    }
}

static int make_vectors(void **state)
{
    (void)state;
    lcg_state = 1;
    for (int row = 0; row < ROWS; row++)
        for (int col = 0; col < COLS; col++) {
            float sum = (float)draw();
            sum += (float)draw();
            sum += (float)draw();
            sum += (float)draw();
            float x = (sum - 131070) * 0x1p-20f;
            weights[row * COLS + col] = row % 16 == 15 ? special(col / 32 % 8, col, x) : x;
        }
    for (int col = 0; col < COLS; col++) {
        float w = (float)(draw() + 1) * 0x1p-16f;
        importance[col] = col % 64 == 7 ? 0 : w;
    }
    return 0;
}

static uint64_t fnv1a(const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 1099511628211u;
    return hash;
}

static const struct {
    enum format_id format;
    size_t size;
    uint64_t plain, weighted;
} golden[] = {
    {FORMAT_Q2_K, 21504, 0x08288ce5a388816c, 0x4d6b6393dfbe2a1d},
    {FORMAT_Q3_K, 28160, 0x12542ff65ce9a818, 0x6aa022d0e02fdcdf},
    {FORMAT_Q4_K, 36864, 0xedee5211ad0da930, 0xba054aa97fff7c7c},
    {FORMAT_Q5_K, 45056, 0xaa0dbb8aae7f6fca, 0xc6f7e4521c87f8ba},
    {FORMAT_Q6_K, 53760, 0xbbb66cd27cb0fe8e, 0xcb1058bcac97363d},
    {FORMAT_Q4_0, 36864, 0x914788dfeb0e59a0, 0xdab6a8b2a50a30e8},
    {FORMAT_Q4_1, 40960, 0xbfa0fb3b9f3be72f, 0x74073a7527bbb58c},
    {FORMAT_Q5_0, 45056, 0x0061eb9ca0f8b3af, 0x36cd2f28199fdee3},
    {FORMAT_Q5_1, 49152, 0xb4e5279a58235d45, 0x850a7d182cf9f3e2},
    {FORMAT_Q8_0, 69632, 0x04492f235fd94238, 0x04492f235fd94238},
    {FORMAT_IQ4_NL, 36864, 0x7d68c172e0e9520c, 0x7942ee1e4ccbc6c0},
    {FORMAT_F16, 131072, 0x112d1f705740b9f6, 0x112d1f705740b9f6},
    {FORMAT_BF16, 131072, 0x5f70ae8cea84ccb0, 0x5f70ae8cea84ccb0},
};

static void test_the_vectors_are_the_published_ones(void **state)
{
    (void)state;
    assert_int_equal(fnv1a(weights, sizeof weights), 0x1022c0ba5f02c464);
    assert_int_equal(fnv1a(importance, sizeof importance), 0xaac91581c513cc3f);
}

static void check(const struct isa *isa, const float *importance_or_null)
{
    if (!isa_supported(isa))
        skip();
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        const struct format *f = &formats[golden[i].format];
        uint64_t size;
        assert_true(format_bytes(f, ROWS * COLS, &size));
        assert_int_equal(size, golden[i].size);
        uint8_t *out = malloc(size);
        isa->encode[golden[i].format](weights, ROWS, COLS, importance_or_null, out);
        uint64_t hash = fnv1a(out, size);
        free(out);
        if (hash != (importance_or_null ? golden[i].weighted : golden[i].plain))
            fail_msg("%s differs with %s", f->title, isa->name);
    }
}

static void test_plain(void **state) { check(*state, NULL); }

static void test_with_importance(void **state) { check(*state, importance); }

/* Two tests for each instruction set, whose names say which. */
int main(void)
{
    enum { ISAS_MAX = 8 };
    struct CMUnitTest tests[1 + 2 * ISAS_MAX] = {
        cmocka_unit_test(test_the_vectors_are_the_published_ones)};
    char names[1 + 2 * ISAS_MAX][64];
    size_t count = 1;
    for (const struct isa *const *isa = isas; *isa; isa++)
        for (int weighted = 0; weighted < 2; weighted++, count++) {
            snprintf(names[count], sizeof *names, "test_%s_with_%s",
                     weighted ? "importance" : "plain", (*isa)->name);
            tests[count] = (struct CMUnitTest){names[count],
                                               weighted ? test_with_importance : test_plain, NULL,
                                               NULL, (void *)*isa};
        }
    return _cmocka_run_group_tests("golden", tests, count, make_vectors, NULL);
}

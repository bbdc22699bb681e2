/* SPDX-License-Identifier: MIT
 *
 * Adapters: the published library's bits for a merged weight, on every instruction set and in any
 * piece; ranks and alphas of layers; what is refused.
 */
#include "codec/float16.h"
#include "codec/isa.h"
#include "codec/lora.h"

#include <errno.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 64, COLS = 128, RANK = 6 };

static uint16_t w[ROWS * COLS];
static float a[RANK * COLS], b[ROWS * RANK];

/* The generator that the golden values were made with. */
static void generate(uint32_t seed, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        out[i] = (float)((int32_t)(seed >> 8) - 8388608) / 8388608 * 0.1f;
    }
}

static int set_up(void **state)
{
    static float weights[ROWS * COLS];
    (void)state;
    generate(1, weights, ROWS * COLS);
    generate(2, a, RANK * COLS);
    generate(3, b, ROWS * RANK);
    for (size_t i = 0; i < ROWS * COLS; i++)
        w[i] = bf16_from_f32(weights[i]);
    return sodium_init() < 0;
}

static int read_part(void *context, uint32_t part, uint64_t at, void *out, size_t n,
                     struct error *err)
{
    static const void *const parts[] = {w, a, b};
    static const size_t sizes[] = {sizeof w, sizeof a, sizeof b};
    (void)context;
    if (part > 2 || at > sizes[part] || n > sizes[part] - at)
        return error_set(err, -EIO, "outside of part %u", part);
    memcpy(out, (const uint8_t *)parts[part] + at, n);
    return 0;
}

static const struct derived_reader reader = {read_part, NULL};

static struct tensor tensor(const char *name, const char *type, const uint64_t *shape)
{
    const struct dtype *t = dtype_by_name(type);
    uint64_t n = shape[0] * shape[1];
    return (struct tensor){.name = name,
                           .dtype = t,
                           .shape = shape,
                           .ndim = 2,
                           .elements = n,
                           .size = n * t->block_size};
}

static const uint64_t w_shape[] = {ROWS, COLS}, a_shape[] = {RANK, COLS}, b_shape[] = {ROWS, RANK};

/* Merges by a config; the merged tensor stays as long as *out. */
static int merge(const char *text, struct tensor_list *out, struct error *err)
{
    struct lora l;
    struct tensor of_base = tensor("m.q.weight", "BF16", w_shape);
    struct tensor of_adapter[] = {tensor("base_model.model.m.q.lora_A.weight", "F32", a_shape),
                                  tensor("base_model.model.m.q.lora_B.weight", "F32", b_shape)};
    static struct tensor kept[3];
    memcpy(kept, &of_base, sizeof of_base);
    memcpy(kept + 1, of_adapter, sizeof of_adapter);
    struct tensor_list base = {.items = kept, .count = 1}, adapter = {.items = kept + 1, .count = 2};
    *out = (struct tensor_list){0};
    int rc = lora_parse((struct blob){text, strlen(text)}, &l, err);
    if (rc)
        return rc;
    rc = lora_merge(&l, &base, &adapter, 1, false, out, err);
    lora_free(&l);
    return rc;
}

/* The start of the digest of the merged weights, taken in pieces of so many. */
static void merged(const struct derived *d, const struct isa *isa, size_t piece, char out[17])
{
    static uint16_t packed[ROWS * COLS];
    static float floats[ROWS * COLS];
    uint8_t digest[crypto_hash_sha256_BYTES];
    struct error err;
    for (size_t at = 0; at < ROWS * COLS;) {
        size_t left = COLS - at % COLS, n = piece;
        n = piece % COLS == 0 && at % COLS == 0 ? piece : n < left ? n : left;
        n = n < ROWS * COLS - at ? n : ROWS * COLS - at;
        assert_int_equal(d->method->weights(d, isa, &reader, at, n, floats + at, &err), 0);
        at += n;
    }
    for (size_t i = 0; i < ROWS * COLS; i++)
        packed[i] = bf16_from_f32(floats[i]);
    crypto_hash_sha256(digest, (const uint8_t *)packed, sizeof packed);
    for (int i = 0; i < 8; i++)
        sprintf(out + 2 * i, "%02x", digest[i]);
}

static void check(const char *config, const char *wanted)
{
    static const size_t pieces[] = {ROWS * COLS, 5 * COLS, COLS, 50, 1};
    struct tensor_list out;
    struct error err;
    char got[17];
    if (merge(config, &out, &err))
        fail_msg("%s", err.text);
    assert_int_equal(out.count, 1);
    assert_non_null(out.items[0].derived);
    for (const struct isa *const *isa = isas; *isa; isa++)
        for (size_t p = 0; isa_supported(*isa) && p < sizeof pieces / sizeof *pieces; p++) {
            merged(out.items[0].derived, *isa, pieces[p], got);
            if (strcmp(got, wanted) != 0)
                fail_msg("%s in pieces of %zu: %s", (*isa)->name, pieces[p], got);
        }
    tensor_list_free(&out);
}

static void test_golden(void **state)
{
    (void)state;
    check("{\"peft_type\": \"LORA\", \"r\": 6, \"lora_alpha\": 10}", "b23af18f051bbe23");
    check("{\"peft_type\": \"LORA\", \"r\": 6, \"lora_alpha\": 10, \"use_rslora\": true}",
          "a3a375fbf86468e2");
}

/* The first pattern that applies says it; a rank alone changes the scale, too. */
static void test_patterns(void **state)
{
    (void)state;
    check("{\"peft_type\": \"LORA\", \"r\": 99, \"lora_alpha\": 10, \"rank_pattern\": {\"k\": 4, \"q\": 6}}",
          "b23af18f051bbe23");
    check("{\"peft_type\": \"LORA\", \"r\": 6, \"lora_alpha\": 1, \"alpha_pattern\": {\"m.q\": 10, \"q\": 5}}",
          "b23af18f051bbe23");
    check("{\"peft_type\": \"LORA\", \"r\": 6, \"lora_alpha\": 10, \"alpha_pattern\": {\".q\": 5, \"qq\": 4}}",
          "b23af18f051bbe23");
}

static void test_refusals(void **state)
{
    static const struct {
        const char *config, *sentence;
    } cases[] = {
        {"{\"peft_type\": \"IA3\"}",                                               "IA3"          },
        {"{}",                                                                     "(none)"       },
        {"[]",                                                                     "no object"    },
        {"{\"peft_type\": \"LORA\", \"layer_replication\": [[0, 2]]}",             "layer_repl"   },
        {"{\"peft_type\": \"LORA\", \"lora_bias\": true}",                         "lora_bias"    },
        {"{\"peft_type\": \"LORA\", \"r\": 0}",                                    "r: no rank"   },
        {"{\"peft_type\": \"LORA\", \"lora_alpha\": \"8\"}",                       "lora_alpha"   },
        {"{\"peft_type\": \"LORA\", \"r\": 8}",                                    "its rank is 8"},
        {"{\"peft_type\": \"LORA\", \"r\": 6, \"rank_pattern\": {\"(\": 6}}",      "no pattern"   },
        {"{\"peft_type\": \"LORA\", \"r\": 6, \"rank_pattern\": {\"q\": -1}}",     "rank_pattern" },
        {"{\"peft_type\": \"LORA\", \"r\": 6, \"use_dora\": true}",                "use_dora"     },
        {"{\"peft_type\": \"LORA\", \"r\": 6, \"fan_in_fan_out\": true}",          "do not fit"   },
    };
    struct tensor_list out;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(merge(cases[i].config, &out, &err) < 0);
        if (!strstr(err.text, cases[i].sentence))
            fail_msg("%s: %s", cases[i].config, err.text);
        tensor_list_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

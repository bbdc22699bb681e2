/* SPDX-License-Identifier: MIT
 *
 * llama-quantize's choice of formats, spelled out: which layers of a 32-layer model get what from
 * each recipe, and what widths, ties, grouped heads, experts and importance matrices change.
 */
#include "codec/guided.h"
#include "codec/recipe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a model's tensors, in file order ---- */

enum { LAYERS_MAX = 80, PER_LAYER = 11, TENSORS_MAX = 3 + LAYERS_MAX * PER_LAYER };

static struct recipe_tensor tensors[TENSORS_MAX];
static char names[TENSORS_MAX][64];
static const struct format *chosen[TENSORS_MAX];
static size_t count;

static void add(const char *name, uint32_t ndim, uint64_t cols)
{
    assert_true(count < TENSORS_MAX);
    snprintf(names[count], sizeof names[count], "%s", name);
    tensors[count] = (struct recipe_tensor){names[count], ndim, cols};
    count++;
}

/* ffn_down has a width of its own: that of the feed-forward layer. */
static void make_model(uint32_t layers, bool tied, uint64_t width, uint64_t ffn_width)
{
    static const struct {
        const char *name;
        uint32_t ndim;
    } layer[PER_LAYER] = {
        {"attn_k.weight", 2},   {"attn_norm.weight", 1}, {"attn_output.weight", 2},
        {"attn_q.weight", 2},   {"attn_v.bias", 1},      {"attn_v.weight", 2},
        {"ffn_down.weight", 2}, {"ffn_gate.weight", 2},  {"ffn_norm.weight", 1},
        {"ffn_up.weight", 2},   {"attn_q_norm.weight", 2},
    };
    count = 0;
    if (!tied)
        add("output.weight", 2, width);
    add("output_norm.weight", 1, width);
    add("token_embd.weight", 2, width);
    for (uint32_t i = 0; i < layers; i++)
        for (int j = 0; j < PER_LAYER; j++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s", i, layer[j].name);
            add(name, layer[j].ndim, strstr(name, "ffn_down") ? ffn_width : width);
        }
}

static void assign(const char *recipe, const struct recipe_facts *facts)
{
    const struct recipe *r = recipe_by_name(recipe);
    assert_non_null(r);
    recipe_assign(r, facts, tensors, count, chosen);
}

/* The title of the chosen format; "kept" where the tensor keeps its type. */
static const char *choice(const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(tensors[i].name, name) == 0)
            return chosen[i] ? chosen[i]->title : "kept";
    fail_msg("the model has no %s", name);
    return NULL;
}

static const char *layer_choice(uint32_t layer, const char *kind)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, kind);
    return choice(name);
}

/* Whether a list like "0-3 6 9" has the layer. */
static bool listed(const char *list, uint32_t layer)
{
    while (*list) {
        char *end;
        unsigned long from = strtoul(list, &end, 10), to = from;
        if (*end == '-')
            to = strtoul(end + 1, &end, 10);
        if (layer >= from && layer <= to)
            return true;
        list = end + strspn(end, " ");
    }
    return false;
}

/* The layers in the list have one format, the others another. */
static void check_layers(const char *recipe, uint32_t layers, const char *kind, const char *list,
                         const char *in_list, const char *elsewhere)
{
    for (uint32_t i = 0; i < layers; i++) {
        const char *want = listed(list, i) ? in_list : elsewhere, *is = layer_choice(i, kind);
        if (strcmp(is, want) != 0)
            fail_msg("%s: %s of layer %u of %u is %s, not %s", recipe, kind, i, layers, is, want);
    }
}

/* ---- the recipes ---- */

#define ALL  "0-31"
#define NONE ""
#define MORE "0-3 6 9 12 15 18 21 24 27 28-31"

/* When a row holds; without a flag, always. */
enum { GQA = 1, NO_GQA = 2, IMATRIX = 4, NO_IMATRIX = 8 };

/* clang-format off */
static const struct {
    const char *recipe;
    uint32_t ftype;
    unsigned when;
    const char *base, *output, *attn_output;
    struct { const char *layers, *in_list, *elsewhere; } attn_v, ffn_down;
} table[] = {
    {"F32",    0,  0,          "F32",    "F32",  "F32",    {NONE,  NULL,   "F32"},    {NONE,  NULL,   "F32"}},
    {"BF16",   32, 0,          "BF16",   "BF16", "BF16",   {NONE,  NULL,   "BF16"},   {NONE,  NULL,   "BF16"}},
    {"F16",    1,  0,          "F16",    "F16",  "F16",    {NONE,  NULL,   "F16"},    {NONE,  NULL,   "F16"}},
    {"Q8_0",   7,  0,          "Q8_0",   "Q8_0", "Q8_0",   {NONE,  NULL,   "Q8_0"},   {NONE,  NULL,   "Q8_0"}},
    {"Q6_K",   18, 0,          "Q6_K",   "Q6_K", "Q6_K",   {NONE,  NULL,   "Q6_K"},   {NONE,  NULL,   "Q6_K"}},
    {"Q5_K_M", 17, 0,          "Q5_K",   "Q6_K", "Q5_K",   {MORE,  "Q6_K", "Q5_K"},   {MORE,  "Q6_K", "Q5_K"}},
    {"Q5_K_S", 16, 0,          "Q5_K",   "Q6_K", "Q5_K",   {NONE,  NULL,   "Q5_K"},   {NONE,  NULL,   "Q5_K"}},
    {"Q5_1",   9,  0,          "Q5_1",   "Q6_K", "Q5_1",   {NONE,  NULL,   "Q5_1"},   {NONE,  NULL,   "Q5_1"}},
    {"Q5_0",   8,  NO_IMATRIX, "Q5_0",   "Q6_K", "Q5_0",   {NONE,  NULL,   "Q5_0"},   {NONE,  NULL,   "Q5_0"}},
    {"Q5_0",   8,  IMATRIX,    "Q5_0",   "Q6_K", "Q5_0",   {NONE,  NULL,   "Q5_0"},   {"0-3", "Q5_1", "Q5_0"}},
    {"Q4_K_M", 15, 0,          "Q4_K",   "Q6_K", "Q4_K",   {MORE,  "Q6_K", "Q4_K"},   {MORE,  "Q6_K", "Q4_K"}},
    {"Q4_K_S", 14, 0,          "Q4_K",   "Q6_K", "Q4_K",   {"0-3", "Q5_K", "Q4_K"},   {"0-3", "Q5_K", "Q4_K"}},
    {"Q4_1",   3,  0,          "Q4_1",   "Q6_K", "Q4_1",   {NONE,  NULL,   "Q4_1"},   {NONE,  NULL,   "Q4_1"}},
    {"Q4_0",   2,  NO_IMATRIX, "Q4_0",   "Q6_K", "Q4_0",   {NONE,  NULL,   "Q4_0"},   {NONE,  NULL,   "Q4_0"}},
    {"Q4_0",   2,  IMATRIX,    "Q4_0",   "Q6_K", "Q4_0",   {NONE,  NULL,   "Q4_0"},   {"0-3", "Q4_1", "Q4_0"}},
    {"IQ4_NL", 25, NO_GQA | NO_IMATRIX,
                               "IQ4_NL", "Q6_K", "IQ4_NL", {NONE,  NULL,   "IQ4_NL"}, {"0-3", "Q5_K", "IQ4_NL"}},
    {"IQ4_NL", 25, NO_GQA | IMATRIX,
                               "IQ4_NL", "Q6_K", "IQ4_NL", {NONE,  NULL,   "IQ4_NL"}, {NONE,  NULL,   "IQ4_NL"}},
    {"IQ4_NL", 25, GQA | NO_IMATRIX,
                               "IQ4_NL", "Q6_K", "IQ4_NL", {ALL,   "Q5_K", NULL},     {"0-3", "Q5_K", "IQ4_NL"}},
    {"IQ4_NL", 25, GQA | IMATRIX,
                               "IQ4_NL", "Q6_K", "IQ4_NL", {ALL,   "Q5_K", NULL},     {NONE,  NULL,   "IQ4_NL"}},
    {"Q3_K_L", 13, 0,          "Q3_K",   "Q6_K", "Q5_K",   {ALL,   "Q5_K", NULL},     {ALL,   "Q5_K", NULL}},
    {"Q3_K_M", 12, 0,          "Q3_K",   "Q6_K", "Q4_K",   {"0-1", "Q5_K", "Q4_K"},   {"0-1", "Q5_K", "Q4_K"}},
    {"Q3_K_S", 11, 0,          "Q3_K",   "Q6_K", "Q3_K",   {NONE,  NULL,   "Q3_K"},   {NONE,  NULL,   "Q3_K"}},
    {"Q2_K",   10, NO_GQA,     "Q2_K",   "Q6_K", "Q3_K",   {ALL,   "Q3_K", NULL},     {ALL,   "Q3_K", NULL}},
    {"Q2_K",   10, GQA,        "Q2_K",   "Q6_K", "Q3_K",   {ALL,   "Q4_K", NULL},     {ALL,   "Q3_K", NULL}},
};
/* clang-format on */

static bool row_holds(unsigned when, const struct recipe_facts *facts)
{
    bool gqa = facts->kv_heads && facts->heads / facts->kv_heads >= 4;
    return !(when & (gqa ? NO_GQA : GQA)) && !(when & (facts->imatrix ? NO_IMATRIX : IMATRIX));
}

static void check_recipes(const struct recipe_facts *facts)
{
    int rows = 0;
    make_model(32, false, 4096, 11008);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const char *recipe = table[i].recipe;
        if (!row_holds(table[i].when, facts))
            continue;
        rows++;
        assign(recipe, facts);
        assert_int_equal(recipe_by_name(recipe)->ftype, table[i].ftype);
        assert_string_equal(choice("output.weight"), table[i].output);
        assert_string_equal(choice("token_embd.weight"), table[i].base);
        static const char *const plain[] = {"attn_q", "attn_k", "ffn_gate", "ffn_up"};
        for (size_t j = 0; j < sizeof plain / sizeof *plain; j++)
            check_layers(recipe, 32, plain[j], ALL, table[i].base, NULL);
        check_layers(recipe, 32, "attn_output", ALL, table[i].attn_output, NULL);
        check_layers(recipe, 32, "attn_v", table[i].attn_v.layers, table[i].attn_v.in_list,
                     table[i].attn_v.elsewhere);
        check_layers(recipe, 32, "ffn_down", table[i].ffn_down.layers, table[i].ffn_down.in_list,
                     table[i].ffn_down.elsewhere);
    }
    assert_int_equal(rows, RECIPE_LLAMA_COUNT);
}

static void test_every_recipe_on_32_layers(void **state)
{
    (void)state;
    static const uint32_t kv_heads[] = {32, 16, 9, 8, 4, 1, 0};
    for (size_t i = 0; i < sizeof kv_heads / sizeof *kv_heads; i++)
        for (int imatrix = 0; imatrix < 2; imatrix++)
            check_recipes(&(struct recipe_facts){
                .layers = 32, .heads = 32, .kv_heads = kv_heads[i], .imatrix = imatrix});
}

static void test_more_bits_for_other_depths(void **state)
{
    (void)state;
    static const struct {
        uint32_t layers;
        const char *more;
    } depths[] = {
        {1, "0"},
        {2, "1"},
        {7, "2 5 6"},
        {8, "0 3 6 7"},
        {22, "0-1 4 7 10 13 16 19-21"},
        {24, "0-2 5 8 11 14 17 20-23"},
        {30, "0-2 5 8 11 14 17 20 23 26-29"},
        {80, "0-9 12 15 18 21 24 27 30 33 36 39 42 45 48 51 54 57 60 63 66 69-79"},
    };
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        uint32_t n = depths[i].layers;
        make_model(n, true, 2048, 5632);
        assign("Q4_K_M", &(struct recipe_facts){.layers = n, .heads = 32, .kv_heads = 4});
        check_layers("Q4_K_M", n, "attn_v", depths[i].more, "Q6_K", "Q4_K");
        check_layers("Q4_K_M", n, "ffn_down", depths[i].more, "Q6_K", "Q4_K");
    }
}

/* Counts of layers are fixed for values, shares of the depth for ffn_down. */
static void test_first_layers_of_other_depths(void **state)
{
    (void)state;
    static const struct {
        uint32_t layers;
        const char *recipe;
        bool imatrix;
        const char *values, *down, *in_values, *in_down, *elsewhere;
    } cases[] = {
        {7,  "Q4_K_S", false, "0-3", NONE,  "Q5_K", NULL,   "Q4_K"},
        {80, "Q4_K_S", false, "0-3", "0-9", "Q5_K", "Q5_K", "Q4_K"},
        {15, "Q3_K_M", false, "0-1", NONE,  "Q5_K", NULL,   "Q4_K"},
        {16, "Q3_K_M", false, "0-1", "0",   "Q5_K", "Q5_K", "Q4_K"},
        {80, "Q3_K_M", false, "0-1", "0-4", "Q5_K", "Q5_K", "Q4_K"},
        {80, "Q4_0",   true,  NONE,  "0-9", NULL,   "Q4_1", "Q4_0"},
        {80, "Q5_0",   true,  NONE,  "0-9", NULL,   "Q5_1", "Q5_0"},
        {7,  "Q4_0",   true,  NONE,  NONE,  NULL,   NULL,   "Q4_0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t n = cases[i].layers;
        make_model(n, false, 4096, 11008);
        assign(cases[i].recipe, &(struct recipe_facts){.layers = n, .imatrix = cases[i].imatrix});
        check_layers(cases[i].recipe, n, "attn_v", cases[i].values, cases[i].in_values,
                     cases[i].elsewhere);
        check_layers(cases[i].recipe, n, "ffn_down", cases[i].down, cases[i].in_down,
                     cases[i].elsewhere);
    }
}

/* Values are counted as they come, and against as many as there are; ffn_down against the depth. */
static void test_what_is_counted(void **state)
{
    (void)state;
    count = 0;
    for (uint32_t i = 8; i < 16; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.attn_v.weight", i);
        add(name, 2, 4096);
        snprintf(name, sizeof name, "blk.%u.ffn_down.weight", i);
        add(name, 2, 4096);
    }
    assign("Q4_K_M", &(struct recipe_facts){.layers = 32});
    static const char *const values[] = {"Q6_K", "Q4_K", "Q4_K", "Q6_K", /* 8: 0 3 6 7 */
                                         "Q4_K", "Q4_K", "Q6_K", "Q6_K"};
    static const char *const down[] = {"Q6_K", "Q6_K", "Q6_K", "Q6_K", /* 32: 0-3 6 */
                                       "Q4_K", "Q4_K", "Q6_K", "Q4_K"};
    for (uint32_t i = 0; i < 8; i++) {
        assert_string_equal(layer_choice(8 + i, "attn_v"), values[i]);
        assert_string_equal(layer_choice(8 + i, "ffn_down"), down[i]);
    }
}

static void test_a_tied_embedding_is_the_output(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        make_model(2, true, 4096, 11008);
        assign(table[i].recipe, &(struct recipe_facts){.layers = 2});
        assert_string_equal(choice("token_embd.weight"), table[i].output);
    }
}

static void check_kept(const char *name, uint32_t ndim, bool kept)
{
    for (size_t r = 0; r < RECIPE_COUNT; r++) {
        count = 0;
        add(name, ndim, 256);
        assign(recipes[r].name, &(struct recipe_facts){.layers = 1});
        if (!chosen[0] != kept)
            fail_msg("%s: %s with %u extents", recipes[r].name, name, ndim);
    }
}

static void test_norms_biases_and_vectors_keep_their_type(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t ndim;
        bool kept;
    } cases[] = {
        {"output_norm.weight", 1, true},
        {"rope_freqs.weight", 1, true},
        {"blk.0.attn_norm.weight", 1, true},
        {"blk.0.attn_norm.weight", 2, true}, /* a norm whatever its shape */
        {"blk.0.attn_q_norm.weight", 2, true},
        {"blk.0.attn_q.bias", 1, true},
        {"blk.0.attn_q.bias", 2, true},
        {"blk.0.attn_q.weight", 1, true},
        {"blk.0.attn_q.weights", 2, true},
        {"blk.0.eight", 2, true},
        {"weight", 2, false},
        {"blk.0.attn_q.weight", 2, false},
        {"blk.0.attn_q.weight", 3, false},
        {"something.else.weight", 2, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_kept(cases[i].name, cases[i].ndim, cases[i].kept);
}

/* Small matrices, or such that suffer: one name for each pattern that llama-quantize looks for. */
static void test_matrices_that_are_spared(void **state)
{
    (void)state;
    static const char *const spared[] = {
        "blk.0.ffn_gate_inp.weight",
        "blk.0.ffn_gate_tid2eid.weight",
        "blk.0.altup_router.weight",
        "blk.0.laurel_l.weight",
        "per_layer_model_proj.weight",
        "position_embd.weight",
        "token_types.weight",
        "blk.0.ssm_conv1d.weight",
        "blk.0.ssm_conv1d_q.weight",
        "blk.0.shortconv.conv.weight",
        "blk.0.indexer.k_proj.weight",
        "blk.0.indexer.q_proj.weight",
        "blk.0.time_mix_first.weight",
        "blk.0.time_mix_w0.weight",
        "blk.0.time_mix_w1.weight",
        "blk.0.time_mix_w2.weight",
        "blk.0.time_mix_v0.weight",
        "blk.0.time_mix_v1.weight",
        "blk.0.time_mix_v2.weight",
        "blk.0.time_mix_a0.weight",
        "blk.0.time_mix_a1.weight",
        "blk.0.time_mix_a2.weight",
        "blk.0.time_mix_g1.weight",
        "blk.0.time_mix_g2.weight",
        "blk.0.time_mix_decay_w1.weight",
        "blk.0.time_mix_decay_w2.weight",
        "blk.0.time_mix_lerp_fused.weight",
        "enc.blk.0.attn_rel_b.weight",
        "v.position_embd.weight",
        "v.sam.pos_embd.weight",
        "v.sam.neck.0.weight",
        "v.sam.net_2.weight",
        "v.sam.blk.0.attn.rel_pos_h.weight",
        "v.patch_embd.weight",
        "mm.patch_merger.weight",
        "a.rvq.codebook.0.weight",
        "mm.a.code_embd.weight",
    };
    static const char *const neighbours[] = {
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "blk.0.per_layer_inp_gate.weight",
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_gate_inp_shexp.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.0.ssm_in.weight",
        "blk.0.shortconv.in_proj.weight",
        "blk.0.indexer.attn_k.weight",
        "blk.0.time_mix_key.weight",
        "blk.0.attn_rel_a.weight",
        "v.blk.0.attn_q.weight",
    };
    for (size_t i = 0; i < sizeof spared / sizeof *spared; i++)
        check_kept(spared[i], 2, true);
    for (size_t i = 0; i < sizeof neighbours / sizeof *neighbours; i++)
        check_kept(neighbours[i], 2, false);
}

static void test_widths_that_the_block_does_not_divide(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *base[2], *output[2]; /* at 576 and at 300 */
    } cases[] = {
        {"F32",    {"F32",    "F32"},  {"F32",  "F32"}},
        {"BF16",   {"BF16",   "BF16"}, {"BF16", "BF16"}},
        {"F16",    {"F16",    "F16"},  {"F16",  "F16"}},
        {"Q8_0",   {"Q8_0",   "F16"},  {"Q8_0", "F16"}},
        {"Q6_K",   {"Q8_0",   "F16"},  {"Q8_0", "F16"}},
        {"Q5_K_S", {"Q5_1",   "F16"},  {"Q8_0", "F16"}},
        {"Q5_1",   {"Q5_1",   "F16"},  {"Q8_0", "F16"}},
        {"Q5_0",   {"Q5_0",   "F16"},  {"Q8_0", "F16"}},
        {"Q4_K_M", {"Q5_0",   "F16"},  {"Q8_0", "F16"}},
        {"Q4_1",   {"Q4_1",   "F16"},  {"Q8_0", "F16"}},
        {"Q4_0",   {"Q4_0",   "F16"},  {"Q8_0", "F16"}},
        {"IQ4_NL", {"IQ4_NL", "F16"},  {"Q8_0", "F16"}},
        {"Q3_K_S", {"Q4_0",   "F16"},  {"Q8_0", "F16"}},
        {"Q2_K",   {"Q4_0",   "F16"},  {"Q8_0", "F16"}},
    };
    static const uint64_t widths[] = {576, 300};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int w = 0; w < 2; w++)
            for (int tied = 0; tied < 2; tied++) {
                make_model(1, tied, widths[w], 1536);
                assign(cases[i].recipe, &(struct recipe_facts){.layers = 1});
                assert_string_equal(layer_choice(0, "attn_q"), cases[i].base[w]);
                assert_string_equal(choice(tied ? "token_embd.weight" : "output.weight"),
                                    cases[i].output[w]);
                if (!tied)
                    assert_string_equal(choice("token_embd.weight"), cases[i].base[w]);
            }
}

/* Each tensor falls back by its own width, from what the recipe chose for it. */
static void test_widths_count_per_tensor(void **state)
{
    (void)state;
    make_model(24, true, 896, 4864);
    const struct recipe_facts facts = {.layers = 24, .heads = 14, .kv_heads = 2};
    assign("Q4_K_M", &facts);
    check_layers("Q4_K_M", 24, "attn_v", "0-2 5 8 11 14 17 20-23", "Q8_0", "Q5_0");
    check_layers("Q4_K_M", 24, "ffn_down", "0-2 5 8 11 14 17 20-23", "Q6_K", "Q4_K");
    check_layers("Q4_K_M", 24, "attn_q", "0-23", "Q5_0", NULL);
    assign("Q3_K_L", &facts);
    check_layers("Q3_K_L", 24, "attn_output", "0-23", "Q5_1", NULL);
    assert_string_equal(choice("token_embd.weight"), "Q8_0");
}

static void test_a_70b_gets_better_values(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *layers, *in_list, *elsewhere;
    } cases[] = {
        {"Q2_K",   "0-79", "Q5_K", NULL},   {"Q3_K_S", "0-79", "Q5_K", NULL},
        {"Q3_K_M", "0-79", "Q5_K", NULL},   {"Q4_K_S", "0-79", "Q5_K", NULL},
        {"Q4_K_M", "0-9 12 15 18 21 24 27 30 33 36 39 42 45 48 51 54 57 60 63 66 69-79",
         "Q6_K", "Q5_K"},
        {"Q5_K_S", "0-79", "Q5_K", NULL},   {"Q6_K",   "0-79", "Q6_K", NULL},
        {"Q4_0",   "0-79", "Q4_0", NULL},   {"F16",    "0-79", "F16",  NULL},
    };
    const struct recipe_facts facts = {.layers = 80, .heads = 64, .kv_heads = 8, .large = true};
    make_model(80, false, 8192, 28672);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assign(cases[i].recipe, &facts);
        check_layers(cases[i].recipe, 80, "attn_v", cases[i].layers, cases[i].in_list,
                     cases[i].elsewhere);
    }
    assign("Q4_K_S", &facts);
    check_layers("Q4_K_S", 80, "ffn_down", "0-9", "Q5_K", "Q4_K");
}

/* ---- values by other names, and experts ---- */

/* attn_qkv and attn_kv_b are values, too, and are counted with them. */
static void test_fused_values_are_values(void **state)
{
    (void)state;
    static const char *const fused[] = {"attn_qkv", "attn_kv_b", "attn_v"};
    count = 0;
    for (uint32_t i = 0; i < 6; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.%s.weight", i, fused[i % 3]);
        add(name, 2, 4096);
    }
    assign("Q4_K_S", &(struct recipe_facts){.layers = 6}); /* four are better */
    for (uint32_t i = 0; i < 6; i++)
        assert_string_equal(layer_choice(i, fused[i % 3]), i < 4 ? "Q5_K" : "Q4_K");
    assign("Q4_K_M", &(struct recipe_facts){.layers = 32}); /* of six: 2, and 5 at the end */
    for (uint32_t i = 0; i < 6; i++)
        assert_string_equal(layer_choice(i, fused[i % 3]), i == 2 || i == 5 ? "Q6_K" : "Q4_K");
    assign("Q3_K_S", &(struct recipe_facts){.layers = 6, .large = true});
    for (uint32_t i = 0; i < 6; i++)
        assert_string_equal(layer_choice(i, fused[i % 3]), "Q5_K");
}

/* Eight experts share few keys and values: they get eight bits, and attn_output a rule of its own.
 * Any other number of experts changes nothing about them. */
static void test_attention_of_eight_experts(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *keys_and_values, *attn_output;
    } cases[RECIPE_LLAMA_COUNT] = {
        {"F32",    "F32",  "F32"},    {"BF16",   "BF16", "BF16"}, {"F16",    "F16",  "F16"},
        {"Q8_0",   "Q8_0", "Q8_0"},   {"Q6_K",   "Q8_0", "Q6_K"}, {"Q5_K_M", "Q8_0", "Q5_K"},
        {"Q5_K_S", "Q8_0", "Q5_K"},   {"Q5_1",   "Q8_0", "Q5_1"}, {"Q5_0",   "Q8_0", "Q5_0"},
        {"Q4_K_M", "Q8_0", "Q5_K"},   {"Q4_K_S", "Q8_0", "Q5_K"}, {"Q4_1",   "Q8_0", "Q4_1"},
        {"Q4_0",   "Q8_0", "Q4_0"},   {"IQ4_NL", "Q8_0", "Q5_K"}, {"Q3_K_L", "Q8_0", "Q3_K"},
        {"Q3_K_M", "Q8_0", "Q5_K"},   {"Q3_K_S", "Q8_0", "Q5_K"}, {"Q2_K",   "Q8_0", "Q5_K"},
    };
    static const struct recipe_facts eight[] = {
        {.layers = 32, .heads = 32, .kv_heads = 32, .experts = 8},
        {.layers = 32, .heads = 32, .kv_heads = 8, .experts = 8, .imatrix = true},
        {.layers = 32, .heads = 32, .kv_heads = 8, .experts = 8, .large = true},
    };
    make_model(32, false, 4096, 14336);
    for (size_t i = 0; i < RECIPE_LLAMA_COUNT; i++)
        for (size_t j = 0; j < sizeof eight / sizeof *eight; j++) {
            assign(cases[i].recipe, &eight[j]);
            check_layers(cases[i].recipe, 32, "attn_k", ALL, cases[i].keys_and_values, NULL);
            check_layers(cases[i].recipe, 32, "attn_v", ALL, cases[i].keys_and_values, NULL);
            check_layers(cases[i].recipe, 32, "attn_output", ALL, cases[i].attn_output, NULL);
        }
    static const uint32_t others[] = {1, 2, 7, 9, 16, 128};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assign("Q4_K_M", &(struct recipe_facts){.layers = 32, .experts = others[i]});
        check_layers("Q4_K_M", 32, "attn_k", ALL, "Q4_K", NULL);
        check_layers("Q4_K_M", 32, "attn_v", MORE, "Q6_K", "Q4_K");
        check_layers("Q4_K_M", 32, "attn_output", ALL, "Q4_K", NULL);
    }
}

/* Where there are experts the number in a ffn_down's name counts, not how many came before. */
static void test_layers_of_experts(void **state)
{
    (void)state;
    static const char *const kinds[] = {"ffn_down_exps", "ffn_down_shexp"};
    static const struct {
        uint32_t experts;
        const char *more[2]; /* of layers 8 to 15, by kind */
    } cases[] = {
        {0, {"8 9 11 14", "8 9 12 15"}}, /* counted: _exps 0 2 4 ..., _shexp 1 3 5 ... */
        {1, {"8 9 11 14", "8 9 12 15"}},
        {2, {"9 12 15", "9 12 15"}},
        {8, {"9 12 15", "9 12 15"}},
        {64, {"9 12 15", "9 12 15"}},
    };
    count = 0;
    for (uint32_t layer = 8; layer < 16; layer++)
        for (int k = 0; k < 2; k++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s.weight", layer, kinds[k]);
            add(name, 3, 4096);
        }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assign("Q4_K_M", &(struct recipe_facts){.layers = 32, .experts = cases[i].experts});
        for (uint32_t layer = 8; layer < 16; layer++)
            for (int k = 0; k < 2; k++)
                assert_string_equal(layer_choice(layer, kinds[k]),
                                    listed(cases[i].more[k], layer) ? "Q6_K" : "Q4_K");
    }
}

/* Everything but embedding and output is in stripes, whatever its width. */
static void test_recipes_of_stripes(void **state)
{
    (void)state;
    static const char *const recipes_of[] = {"SPQR4", "SPQR3"};
    static const char *const kinds[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down"};
    for (size_t i = 0; i < 2; i++) {
        make_model(4, false, 320, 1000);
        assign(recipes_of[i], &(struct recipe_facts){.layers = 4, .experts = 8, .imatrix = true});
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
            check_layers(recipes_of[i], 4, kinds[k], ALL, recipes_of[i], NULL);
        assert_string_equal(choice("blk.0.attn_norm.weight"), "kept");
        assert_string_equal(choice("output.weight"), "Q8_0"); /* 320 is no multiple of 256 */
        assert_string_equal(choice("token_embd.weight"), "Q8_0");
        make_model(4, true, 4096, 11008);
        assign(recipes_of[i], &(struct recipe_facts){.layers = 4});
        assert_string_equal(choice("token_embd.weight"), "Q6_K");
        assert_int_equal(recipe_by_name(recipes_of[i])->ftype, 1004 - i);
    }
}

/* A guided recipe is the plain one with an importance matrix, but for the choice of codes. */
static void test_guided_recipes(void **state)
{
    (void)state;
    const struct format *guided[TENSORS_MAX];
    int recipes_seen = 0, tensors_seen = 0;
    make_model(32, false, 4096, 11008);
    for (size_t i = 0; i < RECIPE_COUNT; i++) {
        char plain[32];
        if (!recipes[i].guided)
            continue;
        recipes_seen++;
        snprintf(plain, sizeof plain, "%s", recipes[i].name);
        *strchr(plain, '-') = '\0';
        assert_int_equal(recipes[i].ftype, recipe_by_name(plain)->ftype);
        assign(recipes[i].name, &(struct recipe_facts){.layers = 32, .heads = 32, .kv_heads = 8});
        memcpy(guided, chosen, sizeof guided);
        assign(plain, &(struct recipe_facts){
                          .layers = 32, .heads = 32, .kv_heads = 8, .imatrix = true});
        for (size_t t = 0; t < count; t++) {
            const struct format *other = chosen[t] ? guided_format_of(chosen[t]) : NULL;
            bool linear = strncmp(tensors[t].name, "blk.", 4) == 0;
            assert_ptr_equal(guided[t], linear && other ? other : chosen[t]);
            tensors_seen += linear && other;
        }
    }
    assert_int_equal(recipes_seen, 8);
    assert_true(tensors_seen > 8 * 32 * 5);
}

static void test_recipes_by_name(void **state)
{
    (void)state;
    assert_ptr_equal(recipe_by_name("q4_k_m"), recipe_by_name("Q4_K_M"));
    assert_string_equal(recipe_by_name("iq4_nl")->name, "IQ4_NL");
    static const char *const unknown[] = {"", "Q4_K", "Q3_K", "Q2_K_S", "Q4_K_M ", "IQ4_XS", "COPY"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        assert_null(recipe_by_name(unknown[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_recipe_on_32_layers),
        cmocka_unit_test(test_more_bits_for_other_depths),
        cmocka_unit_test(test_first_layers_of_other_depths),
        cmocka_unit_test(test_what_is_counted),
        cmocka_unit_test(test_a_tied_embedding_is_the_output),
        cmocka_unit_test(test_norms_biases_and_vectors_keep_their_type),
        cmocka_unit_test(test_matrices_that_are_spared),
        cmocka_unit_test(test_widths_that_the_block_does_not_divide),
        cmocka_unit_test(test_widths_count_per_tensor),
        cmocka_unit_test(test_a_70b_gets_better_values),
        cmocka_unit_test(test_fused_values_are_values),
        cmocka_unit_test(test_attention_of_eight_experts),
        cmocka_unit_test(test_layers_of_experts),
        cmocka_unit_test(test_recipes_of_stripes),
        cmocka_unit_test(test_guided_recipes),
        cmocka_unit_test(test_recipes_by_name),
    };
    return cmocka_run_group_tests_name("recipe", tests, NULL, NULL);
}

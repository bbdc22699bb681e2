/* SPDX-License-Identifier: MIT */
#include "codec/recipe.h"

#include "codec/guided.h"
#include "codec/spqr/format.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define F(name) FORMAT_##name

/* clang-format off */
/* The mixes that two recipes have. */
/*          name    base       output      values                                 ffn_down                                          attn_output, and of 8 experts */
#define MIX_Q5_K_M F(Q5_K),   F(Q6_K),   {WHEN_MORE_BITS, F(Q6_K), F(Q5_K)},     {WHEN_MORE_BITS, F(Q6_K), F(Q5_K)},               {0}, F(Q5_K)
#define MIX_Q5_K_S F(Q5_K),   F(Q6_K),   {0},                                    {0},                                              {0}, F(Q5_K)
#define MIX_Q4_K_M F(Q4_K),   F(Q6_K),   {WHEN_MORE_BITS, F(Q6_K), F(Q4_K)},     {WHEN_MORE_BITS, F(Q6_K), F(Q4_K)},               {0}, F(Q5_K)
#define MIX_Q4_K_S F(Q4_K),   F(Q6_K),   {WHEN_FIRST_4, F(Q5_K), F(Q4_K)},       {WHEN_FIRST_8TH, F(Q5_K), F(Q4_K)},               {0}, F(Q5_K)
#define MIX_Q3_K_L F(Q3_K),   F(Q6_K),   {WHEN_ALWAYS, F(Q5_K), F(Q5_K)},        {WHEN_ALWAYS, F(Q5_K), F(Q5_K)},                  {WHEN_ALWAYS, F(Q5_K), F(Q5_K)}, F(Q3_K)
#define MIX_Q3_K_M F(Q3_K),   F(Q6_K),   {WHEN_FIRST_2, F(Q5_K), F(Q4_K)},       {WHEN_FIRST_16TH, F(Q5_K), F(Q4_K)},              {WHEN_ALWAYS, F(Q4_K), F(Q4_K)}, F(Q5_K)
#define MIX_Q3_K_S F(Q3_K),   F(Q6_K),   {0},                                    {0},                                              {0}, F(Q5_K)
#define MIX_Q2_K   F(Q2_K),   F(Q6_K),   {WHEN_GQA_4, F(Q4_K), F(Q3_K)},         {WHEN_ALWAYS, F(Q3_K), F(Q3_K)},                  {WHEN_ALWAYS, F(Q3_K), F(Q3_K)}, F(Q5_K)

#define ROW(name, ftype, ...) {name, ftype, __VA_ARGS__, NULL, false}
const struct recipe recipes[RECIPE_COUNT] = {
    ROW("F32",     0,  F(F32),    F(F32),    {0},                                    {0},                                              {0}, F(F32)),
    ROW("BF16",    32, F(BF16),   F(BF16),   {0},                                    {0},                                              {0}, F(BF16)),
    ROW("F16",     1,  F(F16),    F(F16),    {0},                                    {0},                                              {0}, F(F16)),
    ROW("Q8_0",    7,  F(Q8_0),   F(Q8_0),   {0},                                    {0},                                              {0}, F(Q8_0)),
    ROW("Q6_K",    18, F(Q6_K),   F(Q6_K),   {0},                                    {0},                                              {0}, F(Q6_K)),
    ROW("Q5_K_M",  17, MIX_Q5_K_M),
    ROW("Q5_K_S",  16, MIX_Q5_K_S),
    ROW("Q5_1",    9,  F(Q5_1),   F(Q6_K),   {0},                                    {0},                                              {0}, F(Q5_1)),
    ROW("Q5_0",    8,  F(Q5_0),   F(Q6_K),   {0},                                    {WHEN_IMATRIX_8TH, F(Q5_1), F(Q5_0)},             {0}, F(Q5_0)),
    ROW("Q4_K_M",  15, MIX_Q4_K_M),
    ROW("Q4_K_S",  14, MIX_Q4_K_S),
    ROW("Q4_1",    3,  F(Q4_1),   F(Q6_K),   {0},                                    {0},                                              {0}, F(Q4_1)),
    ROW("Q4_0",    2,  F(Q4_0),   F(Q6_K),   {0},                                    {WHEN_IMATRIX_8TH, F(Q4_1), F(Q4_0)},             {0}, F(Q4_0)),
    ROW("IQ4_NL",  25, F(IQ4_NL), F(Q6_K),   {WHEN_GQA_4, F(Q5_K), F(IQ4_NL)},       {WHEN_NO_IMATRIX_8TH, F(Q5_K), F(IQ4_NL)},        {0}, F(Q5_K)),
    ROW("Q3_K_L",  13, MIX_Q3_K_L),
    ROW("Q3_K_M",  12, MIX_Q3_K_M),
    ROW("Q3_K_S",  11, MIX_Q3_K_S),
    ROW("Q2_K",    10, MIX_Q2_K),
    {"SPQR4",   SPQR_GGML_TYPE + 4, F(Q6_K), F(Q6_K), .matrices = &spqr_formats[0]},
    {"SPQR3",   SPQR_GGML_TYPE + 3, F(Q6_K), F(Q6_K), .matrices = &spqr_formats[1]},
    {"Q5_K_M-guided", 17, MIX_Q5_K_M, NULL, true},
    {"Q5_K_S-guided", 16, MIX_Q5_K_S, NULL, true},
    {"Q4_K_M-guided", 15, MIX_Q4_K_M, NULL, true},
    {"Q4_K_S-guided", 14, MIX_Q4_K_S, NULL, true},
    {"Q3_K_L-guided", 13, MIX_Q3_K_L, NULL, true},
    {"Q3_K_M-guided", 12, MIX_Q3_K_M, NULL, true},
    {"Q3_K_S-guided", 11, MIX_Q3_K_S, NULL, true},
    {"Q2_K-guided", 10, MIX_Q2_K, NULL, true},
};
/* clang-format on */

const struct recipe *recipe_by_name(const char *name)
{
    for (int i = 0; i < RECIPE_COUNT; i++)
        if (strcasecmp(name, recipes[i].name) == 0)
            return &recipes[i];
    return NULL;
}

enum category { OUTPUT, TOKEN_EMBD, ATTN_V, ATTN_K, ATTN_OUTPUT, FFN_DOWN, OTHER };

static enum category categorize(const char *name)
{
    static const struct {
        const char *part;
        enum category category;
    } parts[] = {
        {"attn_qkv.weight", ATTN_V},  {"attn_kv_b.weight", ATTN_V},
        {"attn_v.weight", ATTN_V},    {"attn_k.weight", ATTN_K},
        {"attn_q.weight", OTHER},     {"attn_output.weight", ATTN_OUTPUT},
        {"ffn_up", OTHER},            {"ffn_gate", OTHER},
        {"ffn_down", FFN_DOWN},
    };
    if (strcmp(name, "output.weight") == 0)
        return OUTPUT;
    if (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "per_layer_token_embd.weight") == 0)
        return TOKEN_EMBD;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(name, parts[i].part))
            return parts[i].category;
    return OTHER;
}

/* Matrices are quantized; norms, routers and a number of small ones are not. */
static bool quantizable(const struct recipe_tensor *t)
{
    static const char *const spared[] = {
        "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel",
        "per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight",
        "indexer.q_proj.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd",
        "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook",
        "mm.a.code_embd", "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight",
        "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
        "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight",
        "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
        "time_mix_lerp_fused.weight",
    };
    size_t n = strlen(t->name);
    if (t->ndim < 2 || n < 6 || strcmp(t->name + n - 6, "weight") != 0 ||
        strcmp(t->name, "position_embd.weight") == 0 || strcmp(t->name, "token_types.weight") == 0)
        return false;
    for (size_t i = 0; i < sizeof spared / sizeof *spared; i++)
        if (strstr(t->name, spared[i]))
            return false;
    return true;
}

/* N of "blk.N.", 0 without one. */
static uint32_t layer_of(const char *name)
{
    return strncmp(name, "blk.", 4) == 0 ? (uint32_t)strtoul(name + 4, NULL, 10) : 0;
}

static bool holds(enum recipe_when when, const struct recipe_facts *facts, uint32_t i, uint32_t n)
{
    switch (when) {
    case WHEN_NEVER: return false;
    case WHEN_ALWAYS: return true;
    case WHEN_GQA_4: return facts->kv_heads && facts->heads / facts->kv_heads >= 4;
    case WHEN_FIRST_2: return i < 2;
    case WHEN_FIRST_4: return i < 4;
    case WHEN_FIRST_8TH: return i < n / 8;
    case WHEN_FIRST_16TH: return i < n / 16;
    case WHEN_MORE_BITS: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case WHEN_IMATRIX_8TH: return facts->imatrix && i < n / 8;
    case WHEN_NO_IMATRIX_8TH: return !facts->imatrix && i < n / 8;
    }
    return false;
}

static enum format_id apply(const struct recipe_rule *rule, enum format_id base,
                            const struct recipe_facts *facts, uint32_t i, uint32_t n)
{
    if (rule->when == WHEN_NEVER)
        return base;
    return holds(rule->when, facts, i, n) ? rule->then : rule->otherwise;
}

/* Where the width is no multiple of the block, a relative with blocks of 32 takes over; where it
 * is not even a multiple of 32, F16 does. */
static enum format_id fit(enum format_id id, uint64_t cols)
{
    static const enum format_id relative[FORMAT_COUNT] = {
        [FORMAT_Q2_K] = FORMAT_Q4_0, [FORMAT_Q3_K] = FORMAT_Q4_0, [FORMAT_Q4_K] = FORMAT_Q5_0,
        [FORMAT_Q5_K] = FORMAT_Q5_1, [FORMAT_Q6_K] = FORMAT_Q8_0,
    };
    if (cols % formats[id].block == 0)
        return id;
    /* index 0 is F32, which divides everything: no row above names it */
    id = relative[id] ? relative[id] : FORMAT_F16;
    return cols % formats[id].block == 0 ? id : FORMAT_F16;
}

/* What a matrix of a guided recipe has in place of a plain format. */
static const struct format *guide(const struct format *plain)
{
    const struct format *guided = guided_format_of(plain);
    return guided ? guided : plain;
}

void recipe_assign(const struct recipe *r, const struct recipe_facts *given,
                   const struct recipe_tensor *tensors, size_t count, const struct format **out)
{
    struct recipe_facts copy = *given, *facts = &copy;
    facts->imatrix |= r->guided;
    bool tied = true;
    uint32_t values = 0, value = 0, down = 0;
    for (size_t i = 0; i < count; i++) {
        enum category c = categorize(tensors[i].name);
        tied &= c != OUTPUT;
        values += c == ATTN_V;
    }
    for (size_t i = 0; i < count; i++) {
        const struct recipe_tensor *t = &tensors[i];
        enum category c = categorize(t->name);
        enum format_id id = r->base;
        out[i] = NULL;
        if (!quantizable(t))
            continue;
        if (formats[r->base].plain_float) {
            out[i] = &formats[id];
            continue;
        }
        if (r->matrices && c != OUTPUT && c != TOKEN_EMBD) {
            out[i] = r->matrices;
            continue;
        }
        if (c == OUTPUT || (tied && c == TOKEN_EMBD)) {
            id = t->cols % formats[r->base].block ? FORMAT_Q8_0 : r->output;
        } else if (c == ATTN_V) {
            id = apply(&r->attn_v, id, facts, value++, values);
            if (facts->large && (id == FORMAT_Q3_K || id == FORMAT_Q4_K))
                id = FORMAT_Q5_K;
            if (facts->experts == 8)
                id = FORMAT_Q8_0;
        } else if (c == ATTN_K && facts->experts == 8) {
            id = FORMAT_Q8_0;
        } else if (c == ATTN_OUTPUT) {
            id = facts->experts == 8 ? r->attn_output_8
                                     : apply(&r->attn_output, id, facts, 0, facts->layers);
        } else if (c == FFN_DOWN) {
            uint32_t layer = facts->experts > 1 ? layer_of(t->name) : down++;
            id = apply(&r->ffn_down, id, facts, layer, facts->layers);
        }
        out[i] = &formats[fit(id, t->cols)];
        if (r->guided && c != OUTPUT && c != TOKEN_EMBD)
            out[i] = guide(out[i]);
    }
}

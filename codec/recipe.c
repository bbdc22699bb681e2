/* SPDX-License-Identifier: MIT */
#include "codec/recipe.h"

#include <string.h>
#include <strings.h>

#define F(name) FORMAT_##name

/* clang-format off */
const struct recipe recipes[RECIPE_COUNT] = {
    /* name     ftype  base       output      values                                 ffn_down                                          attn_output */
    {"F32",     0,  F(F32),    F(F32),    {0},                                    {0},                                              {0}},
    {"BF16",    32, F(BF16),   F(BF16),   {0},                                    {0},                                              {0}},
    {"F16",     1,  F(F16),    F(F16),    {0},                                    {0},                                              {0}},
    {"Q8_0",    7,  F(Q8_0),   F(Q8_0),   {0},                                    {0},                                              {0}},
    {"Q6_K",    18, F(Q6_K),   F(Q6_K),   {0},                                    {0},                                              {0}},
    {"Q5_K_M",  17, F(Q5_K),   F(Q6_K),   {WHEN_MORE_BITS, F(Q6_K), F(Q5_K)},     {WHEN_MORE_BITS, F(Q6_K), F(Q5_K)},               {0}},
    {"Q5_K_S",  16, F(Q5_K),   F(Q6_K),   {0},                                    {0},                                              {0}},
    {"Q5_1",    9,  F(Q5_1),   F(Q6_K),   {0},                                    {0},                                              {0}},
    {"Q5_0",    8,  F(Q5_0),   F(Q6_K),   {0},                                    {WHEN_IMATRIX_8TH, F(Q5_1), F(Q5_0)},             {0}},
    {"Q4_K_M",  15, F(Q4_K),   F(Q6_K),   {WHEN_MORE_BITS, F(Q6_K), F(Q4_K)},     {WHEN_MORE_BITS, F(Q6_K), F(Q4_K)},               {0}},
    {"Q4_K_S",  14, F(Q4_K),   F(Q6_K),   {WHEN_FIRST_4, F(Q5_K), F(Q4_K)},       {WHEN_FIRST_8TH, F(Q5_K), F(Q4_K)},               {0}},
    {"Q4_1",    3,  F(Q4_1),   F(Q6_K),   {0},                                    {0},                                              {0}},
    {"Q4_0",    2,  F(Q4_0),   F(Q6_K),   {0},                                    {WHEN_IMATRIX_8TH, F(Q4_1), F(Q4_0)},             {0}},
    {"IQ4_NL",  25, F(IQ4_NL), F(Q6_K),   {WHEN_GQA_4, F(Q5_K), F(IQ4_NL)},       {WHEN_NO_IMATRIX_8TH, F(Q5_K), F(IQ4_NL)},        {0}},
    {"Q3_K_L",  13, F(Q3_K),   F(Q6_K),   {WHEN_ALWAYS, F(Q5_K), F(Q5_K)},        {WHEN_ALWAYS, F(Q5_K), F(Q5_K)},                  {WHEN_ALWAYS, F(Q5_K), F(Q5_K)}},
    {"Q3_K_M",  12, F(Q3_K),   F(Q6_K),   {WHEN_FIRST_2, F(Q5_K), F(Q4_K)},       {WHEN_FIRST_16TH, F(Q5_K), F(Q4_K)},              {WHEN_ALWAYS, F(Q4_K), F(Q4_K)}},
    {"Q3_K_S",  11, F(Q3_K),   F(Q6_K),   {0},                                    {0},                                              {0}},
    {"Q2_K",    10, F(Q2_K),   F(Q6_K),   {WHEN_GQA_4, F(Q4_K), F(Q3_K)},         {WHEN_ALWAYS, F(Q3_K), F(Q3_K)},                  {WHEN_ALWAYS, F(Q3_K), F(Q3_K)}},
};
/* clang-format on */

const struct recipe *recipe_by_name(const char *name)
{
    for (int i = 0; i < RECIPE_COUNT; i++)
        if (strcasecmp(name, recipes[i].name) == 0)
            return &recipes[i];
    return NULL;
}

enum category { OUTPUT, TOKEN_EMBD, ATTN_V, ATTN_OUTPUT, FFN_DOWN, OTHER };

static enum category categorize(const char *name)
{
    if (strcmp(name, "output.weight") == 0)
        return OUTPUT;
    if (strcmp(name, "token_embd.weight") == 0)
        return TOKEN_EMBD;
    if (strstr(name, "attn_v.weight"))
        return ATTN_V;
    if (strstr(name, "attn_output.weight"))
        return ATTN_OUTPUT;
    if (strstr(name, "ffn_down"))
        return FFN_DOWN;
    return OTHER;
}

/* Matrices are quantized, norms are not. */
static bool quantizable(const struct recipe_tensor *t)
{
    size_t n = strlen(t->name);
    return t->ndim >= 2 && n >= 6 && strcmp(t->name + n - 6, "weight") == 0 &&
           !strstr(t->name, "_norm.weight");
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

void recipe_assign(const struct recipe *r, const struct recipe_facts *facts,
                   const struct recipe_tensor *tensors, size_t count, const struct format **out)
{
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
        if (c == OUTPUT || (tied && c == TOKEN_EMBD)) {
            id = t->cols % formats[r->base].block ? FORMAT_Q8_0 : r->output;
        } else if (c == ATTN_V) {
            id = apply(&r->attn_v, id, facts, value++, values);
            if (facts->large && (id == FORMAT_Q3_K || id == FORMAT_Q4_K))
                id = FORMAT_Q5_K;
        } else if (c == ATTN_OUTPUT) {
            id = apply(&r->attn_output, id, facts, 0, facts->layers);
        } else if (c == FFN_DOWN) {
            id = apply(&r->ffn_down, id, facts, down++, facts->layers);
        }
        out[i] = &formats[fit(id, t->cols)];
    }
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/facts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

static const struct habits habits[] = {
    {.arch = "llama"},
    {.arch = "qwen2", .halves = true},
    {.arch = "qwen3", .halves = true},
    {.arch = "gemma3", .halves = true, .gelu = true, .scaled_input = true, .windows = true},
};

enum { GEMMA3_LARGE_LAYERS = 62 }; /* whose queries are scaled by another rule */

const struct habits *habits_by_arch(struct gguf_string arch)
{
    for (size_t i = 0; i < sizeof habits / sizeof *habits; i++)
        if (gguf_string_is(arch, habits[i].arch))
            return &habits[i];
    return NULL;
}

struct reader_of_keys {
    const struct gguf_header *header;
    const char *arch;
};

static double number(const struct reader_of_keys *r, const char *key, double otherwise)
{
    char name[128];
    double v;
    snprintf(name, sizeof name, "%s.%s", r->arch, key);
    return gguf_find_number(r->header, name, &v) ? v : otherwise;
}

static uint32_t whole(const struct reader_of_keys *r, const char *key, uint32_t otherwise)
{
    double v = number(r, key, otherwise);
    return v >= 0 && v <= UINT32_MAX ? (uint32_t)v : 0;
}

static int read_scaling(const struct reader_of_keys *r, struct facts *f, struct error *err)
{
    char name[128];
    struct gguf_string type;
    snprintf(name, sizeof name, "%s.rope.scaling.type", r->arch);
    f->rope_scale = 1;
    if (!gguf_find_text(r->header, name, &type) || gguf_string_is(type, "none"))
        return 0;
    if (!gguf_string_is(type, "linear"))
        return error_set(err, -ENOTSUP, "%s \"%.*s\" is not known", name,
                         (int)(type.size < 60 ? type.size : 60), type.data);
    f->rope_scale = (float)number(r, "rope.scaling.factor", 1);
    return f->rope_scale > 0 ? 0 : error_set(err, -EINVAL, "%s.rope.scaling.factor is invalid", r->arch);
}

int facts_read(const struct gguf_header *h, struct facts *f, struct error *err)
{
    struct gguf_string arch = {"", 0};
    gguf_find_text(h, "general.architecture", &arch);
    *f = (struct facts){.habits = habits_by_arch(arch)};
    if (!f->habits)
        return error_set(err, -ENOTSUP, "architecture \"%.*s\" cannot be run",
                         (int)(arch.size < 60 ? arch.size : 60), arch.data);
    struct reader_of_keys r = {h, f->habits->arch};
    f->layers = whole(&r, "block_count", 0);
    f->width = whole(&r, "embedding_length", 0);
    f->heads = whole(&r, "attention.head_count", 0);
    f->kv_heads = whole(&r, "attention.head_count_kv", f->heads);
    f->ffn = whole(&r, "feed_forward_length", 0);
    f->trained_context = whole(&r, "context_length", 0);
    f->head_dim = whole(&r, "attention.key_length", f->heads ? f->width / f->heads : 0);
    f->rope_dim = whole(&r, "rope.dimension_count", f->head_dim);
    f->experts = whole(&r, "expert_count", 0);
    f->experts_used = whole(&r, "expert_used_count", 0);
    f->window = whole(&r, "attention.sliding_window", 0);
    f->eps = (float)number(&r, "attention.layer_norm_rms_epsilon", 1e-5);
    f->rope_base = (float)number(&r, "rope.freq_base", 10000);
    f->rope_base_window = (float)number(&r, "rope.freq_base_swa", 10000);
    f->softcap = (float)number(&r, "final_logit_softcapping", 0);
    if (!f->layers || f->layers > LAYERS_MAX || !f->width || !f->heads || !f->kv_heads || !f->ffn ||
        !f->head_dim || f->head_dim % 2 || f->heads % f->kv_heads || f->rope_dim > f->head_dim ||
        f->rope_dim % 2 || f->experts > EXPERTS_MAX || f->experts_used > f->experts ||
        (f->experts && !f->experts_used) || f->width > WIDTH_MAX || f->ffn > WIDTH_MAX ||
        (uint64_t)f->heads * f->head_dim > WIDTH_MAX ||
        whole(&r, "attention.value_length", f->head_dim) != f->head_dim)
        return error_set(err, -EINVAL, "the sizes in the keys of %s contradict each other", r.arch);
    bool large = f->habits->windows && f->layers == GEMMA3_LARGE_LAYERS;
    f->query_scale = 1 / sqrtf((float)(large ? f->width / f->heads : f->head_dim));
    return read_scaling(&r, f, err);
}

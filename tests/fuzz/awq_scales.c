/* SPDX-License-Identifier: MIT
 *
 * A calibration's scales of AWQ, and whether they fit a model of one layer with four columns.
 */
#include "codec/awq/scales.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdio.h>

enum { COLS = 4 };

static const char *const names[] = {
    "attn_norm.weight", "attn_q.weight",      "attn_k.weight",   "attn_v.weight",
    "attn_v.bias",      "attn_output.weight", "ffn_norm.weight", "ffn_gate.weight",
    "ffn_up.weight",    "ffn_up.bias",        "ffn_down.weight", "attn_q_norm.weight",
};

enum { COUNT = sizeof names / sizeof *names };

static bool is_vector(const char *name)
{
    return strstr(name, "norm") || strstr(name, "bias");
}

static void make_model(struct tensor sources[COUNT], struct model_tensor tensors[COUNT])
{
    static const uint64_t shape[] = {COLS, COLS};
    for (size_t i = 0; i < COUNT; i++) {
        struct model_tensor *t = &tensors[i];
        sources[i] = (struct tensor){.name = names[i],
                                     .dtype = dtype_by_name("BF16"),
                                     .shape = shape,
                                     .ndim = is_vector(names[i]) ? 1 : 2,
                                     .elements = is_vector(names[i]) ? COLS : COLS * COLS};
        *t = (struct model_tensor){
            .ndim = sources[i].ndim,
            .ne = {COLS, is_vector(names[i]) ? 1 : COLS, 1, 1},
            .view = view_make(&sources[i])
        };
        snprintf(t->name, sizeof t->name, "blk.0.%s", names[i]);
    }
}

static void use_scaled(const struct awq_scales *s, const struct model_tensor *t)
{
    struct awq_scaled scaled;
    if (!awq_scale(s, t, &t->view, &scaled))
        return;
    const struct derived *d = &scaled.derived;
    assert(d->rows * d->cols == t->view.tensor->elements && (d->col_scale || d->row_scale));
    if (d->col_scale)
        use_bytes((const uint8_t *)d->col_scale, d->cols * sizeof *d->col_scale);
    if (d->row_scale)
        use_bytes((const uint8_t *)d->row_scale, d->rows * sizeof *d->row_scale);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct awq_scales s;
    struct tensor sources[COUNT];
    struct model_tensor tensors[COUNT];
    const struct model m = {.tensors = tensors, .count = COUNT};
    if (awq_scales_parse((struct blob){data, size}, &s, &err))
        return 0;
    for (size_t i = 0; i < s.count; i++)
        for (uint64_t k = 0; k < s.vectors[i].count; k++)
            assert(isfinite(s.vectors[i].values[k]) && s.vectors[i].values[k] > 0);
    make_model(sources, tensors);
    if (awq_scales_check(&s, &m, &err) == 0)
        for (size_t i = 0; i < COUNT; i++)
            use_scaled(&s, &tensors[i]);
    else
        use_text(err.text);
    awq_scales_free(&s);
    return 0;
}

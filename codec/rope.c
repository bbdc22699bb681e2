/* SPDX-License-Identifier: MIT */
#include "codec/rope.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <strings.h>

enum { DIM_MAX = 1 << 16 };

static double number_at(const json_t *rope, const char *name, double otherwise)
{
    const json_t *v = json_object_get(rope, name);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static const char *type_of(const json_t *rope)
{
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    return type ? type : "";
}

static int out_of_memory(struct error *err) { return error_set(err, -ENOMEM, "out of memory"); }

/* ---- llama3 ---- */

static float reciprocal(float v) { return 1 / v; }

/* One factor of llama3's frequency scaling. The converter computes it with 32-bit tensors, where
 * a scalar divided by a tensor is the tensor's reciprocal times the scalar; so is it here. */
static float llama3_factor(uint32_t j, uint32_t dim, double theta, double factor, double low,
                           double high, double context)
{
    float exponent = (float)j / (float)dim;
    float frequency = reciprocal(powf((float)theta, exponent));
    float wavelength = reciprocal(frequency) * 6.2831855f;
    if (wavelength < (float)(context / high))
        return 1;
    if (wavelength > (float)(context / low))
        return (float)factor;
    float smooth = reciprocal(wavelength) * (float)context;
    smooth = (smooth - (float)low) / (float)(high - low);
    return reciprocal((1 - smooth) / (float)factor + smooth);
}

static int llama3_factors(const struct config *c, const json_t *rope, struct arena *arena,
                          struct rope_factors *out, struct error *err)
{
    uint32_t dim;
    int rc = config_head_dim(c, &dim, err);
    if (rc)
        return rc;
    if (dim > DIM_MAX)
        return error_set(err, -EINVAL, "head_dim %" PRIu32 " is too large", dim);
    float *factors = arena_array(arena, dim / 2 + 1, sizeof *factors);
    if (!factors)
        return out_of_memory(err);
    for (uint32_t j = 0; j < dim; j += 2)
        factors[j / 2] = llama3_factor(
            j, dim, number_at(rope, "rope_theta", 10000), number_at(rope, "factor", 8),
            number_at(rope, "low_freq_factor", 1), number_at(rope, "high_freq_factor", 4),
            number_at(rope, "original_max_position_embeddings", 8192));
    *out = (struct rope_factors){factors, (dim + 1) / 2};
    return 0;
}

int rope_llama3_factors(const struct config *c, struct arena *arena, struct rope_factors *out,
                        struct error *err)
{
    *out = (struct rope_factors){0};
    json_t *rope = config_rope(c);
    if (!rope)
        return out_of_memory(err);
    const json_t *full = config_rope_full(rope);
    int rc = strcasecmp(type_of(full), "llama3") == 0 ? llama3_factors(c, full, arena, out, err)
                                                      : 0;
    json_decref(rope);
    return rc;
}

/* ---- longrope ---- */

int rope_dimensions(const struct config *c, uint32_t *out, struct error *err)
{
    uint32_t hidden, heads;
    int rc = config_u32(c, "hidden_size", &hidden, err);
    rc = rc ? rc : config_u32(c, "num_attention_heads", &heads, err);
    if (rc)
        return rc;
    json_t *rope = config_rope(c);
    if (!rope)
        return out_of_memory(err);
    double part = number_at(rope, "partial_rotary_factor", 1);
    json_decref(rope);
    if (!(part >= 0 && part <= 1))
        return error_set(err, -EINVAL, "partial_rotary_factor is not between 0 and 1");
    *out = (uint32_t)(part * hidden) / heads;
    return 0;
}

static int read_factors(const json_t *rope, const char *name, uint32_t dim, struct arena *arena,
                        struct rope_factors *out, struct error *err)
{
    const json_t *list = json_object_get(rope, name), *v;
    size_t n = json_array_size(list), i;
    if (n != dim / 2 || dim % 2)
        return error_set(err, -EINVAL, "%s has %zu factors for %" PRIu32 " rotary dimensions", name,
                         n, dim);
    float *factors = arena_array(arena, n, sizeof *factors);
    if (!factors)
        return out_of_memory(err);
    json_array_foreach(list, i, v)
    {
        if (!json_is_number(v))
            return error_set(err, -EINVAL, "%s: factor %zu is not a number", name, i);
        factors[i] = (float)json_number_value(v);
    }
    *out = (struct rope_factors){factors, (uint32_t)n};
    return 0;
}

int rope_long_factors(const struct config *c, struct arena *arena, struct rope_factors *longs,
                      struct rope_factors *shorts, struct error *err)
{
    uint32_t dim;
    *longs = *shorts = (struct rope_factors){0};
    int rc = rope_dimensions(c, &dim, err);
    if (rc)
        return rc;
    json_t *rope = config_rope(c);
    if (!rope)
        return out_of_memory(err);
    if (json_array_size(json_object_get(rope, "long_factor"))) {
        rc = read_factors(rope, "long_factor", dim, arena, longs, err);
        rc = rc ? rc : read_factors(rope, "short_factor", dim, arena, shorts, err);
    }
    json_decref(rope);
    return rc;
}

/* transformers reads "su" and "yarn" of older Phi-3 configs as "longrope". */
int rope_attn_factor(const struct config *c, double *out, struct error *err)
{
    static const char *const types[] = {"longrope", "su", "yarn"};
    json_t *rope = config_rope(c);
    if (!rope)
        return out_of_memory(err);
    int rc = error_set(err, -ENOTSUP, "rope scaling \"%.50s\" is not known", type_of(rope));
    for (size_t i = 0; rc && i < sizeof types / sizeof *types; i++)
        if (strcasecmp(type_of(rope), types[i]) == 0)
            rc = 0;
    double original = number_at(rope, "original_max_position_embeddings", 0);
    double scale = number_at(c->full, "max_position_embeddings", 0) / original;
    if (!rc && !(original > 1 && scale > 0))
        rc = error_set(err, -EINVAL, "longrope needs max_position_embeddings and "
                                     "original_max_position_embeddings");
    json_decref(rope);
    if (!rc)
        *out = scale > 1 ? sqrt(1 + log(scale) / log(original)) : 1;
    return rc;
}

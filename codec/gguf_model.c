/* SPDX-License-Identifier: MIT */
#include "codec/gguf_model.h"

#include "codec/spqr/format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* ---- tensors ---- */

static int list_tensor(const struct gguf_tensor_info *info, uint32_t alignment, uint64_t file_size,
                       struct tensor_list *list, struct tensor *t, struct error *err)
{
    int shown = (int)(info->name.size < GGUF_NAME_MAX ? info->name.size : GGUF_NAME_MAX);
    uint64_t *shape = arena_array(&list->arena, GGUF_DIMS_MAX, sizeof *shape);
    t->name = arena_strndup(&list->arena, info->name.data, info->name.size);
    if (!shape || !t->name)
        return error_set(err, -ENOMEM, "out of memory");
    if (!info->name.size || info->name.size > GGUF_NAME_MAX ||
        memchr(info->name.data, 0, info->name.size))
        return error_set(err, -EINVAL, "the name of tensor \"%.*s\" is invalid", shown,
                         info->name.data);
    t->dtype = dtype_by_ggml_type(info->ggml_type);
    if (!t->dtype)
        return error_set(err, -ENOTSUP, "tensor \"%s\": type %" PRIu32 " is not known", t->name,
                         info->ggml_type);
    t->elements = 1;
    t->ndim = info->ndim;
    t->shape = shape;
    for (uint32_t d = 0; d < info->ndim; d++) {
        shape[info->ndim - 1 - d] = info->ne[d];
        if (__builtin_mul_overflow(t->elements, info->ne[d], &t->elements))
            return error_set(err, -EINVAL, "tensor \"%s\" is too large", t->name);
    }
    const struct format *format = t->dtype->format;
    if (format && format->stripe_bits) {
        if (!matrices_size(format, info->ne[2] * info->ne[3], info->ne[1], info->ne[0], &t->size))
            return error_set(err, -EINVAL, "tensor \"%s\" has a shape that no %s has", t->name,
                             t->dtype->name);
    } else if (info->ne[0] % t->dtype->block || !dtype_bytes(t->dtype, t->elements, &t->size)) {
        return error_set(err, -EINVAL,
                         "tensor \"%s\": its width is no multiple of %s's block of %u", t->name,
                         t->dtype->name, t->dtype->block);
    }
    t->offset = info->offset;
    if (info->offset % alignment)
        return error_set(err, -EINVAL, "tensor \"%s\" is not aligned to %" PRIu32, t->name,
                         alignment);
    if (t->offset > file_size || t->size > file_size - t->offset)
        return error_set(err, -EINVAL, "tensor \"%s\" ends behind the file: truncated", t->name);
    return 0;
}

int gguf_list_tensors(const struct gguf_header *h, uint64_t file_size, uint32_t file,
                      struct tensor_list *list, struct error *err)
{
    uint64_t expected = h->data_offset;
    for (size_t i = 0; i < h->tensor_count; i++) {
        struct tensor *t = tensor_list_add(list);
        if (!t)
            return error_set(err, -ENOMEM, "out of memory");
        int rc = list_tensor(&h->tensors[i], h->alignment, file_size, list, t, err);
        if (rc)
            return rc;
        if (t->offset != expected)
            return error_set(err, -EINVAL,
                             "tensor \"%s\" starts at byte %" PRIu64 ", not at %" PRIu64
                             ": tensors overlap or leave a hole",
                             t->name, t->offset, expected);
        expected += (t->size + h->alignment - 1) & ~(uint64_t)(h->alignment - 1);
        t->file = file;
    }
    return 0;
}

/* ---- what recipes need to know ---- */

/* A number of "<arch>.<key>", of an array its first; 0 if there is none. */
static uint32_t arch_number(const struct gguf_header *h, struct gguf_string arch, const char *key)
{
    char name[128];
    double number;
    struct gguf_string text;
    snprintf(name, sizeof name, "%.*s.%s", (int)(arch.size < 60 ? arch.size : 60), arch.data, key);
    const struct gguf_value *v = gguf_find(h, name);
    if (!v || !v->count || v->type == GGUF_STRING)
        return 0;
    struct reader r = reader_make(v->data, v->size);
    return gguf_next_element(&r, v->type, &number, &text) && number >= 0 && number <= UINT32_MAX
               ? (uint32_t)number
               : 0;
}

/* llama.cpp's model type 70B, which it tells from the number of layers. */
static bool is_large(struct gguf_string arch, const struct recipe_facts *f, uint32_t layers)
{
    static const char *const whatever_heads[] = {"qwen2", "deci", "olmo"};
    if (gguf_string_is(arch, "jais2"))
        return layers == 68;
    if (layers != 80)
        return false;
    if (gguf_string_is(arch, "llama"))
        return f->experts != 8 && f->heads != f->kv_heads;
    for (size_t i = 0; i < sizeof whatever_heads / sizeof *whatever_heads; i++)
        if (gguf_string_is(arch, whatever_heads[i]))
            return true;
    return false;
}

static int read_facts(const struct gguf_header *h, struct recipe_facts *f, struct error *err)
{
    static const char *const own_mixes[] = {"falcon", "glm5-next"};
    struct gguf_string arch;
    if (!gguf_find_text(h, "general.architecture", &arch))
        return error_set(err, -EINVAL, "general.architecture is missing");
    for (size_t i = 0; i < sizeof own_mixes / sizeof *own_mixes; i++)
        if (gguf_string_is(arch, own_mixes[i]))
            return error_set(err, -ENOTSUP, "architecture %s has mixes of its own, which are not "
                                            "known here",
                             own_mixes[i]);
    f->layers = arch_number(h, arch, "block_count");
    f->heads = arch_number(h, arch, "attention.head_count");
    f->kv_heads = arch_number(h, arch, "attention.head_count_kv");
    if (!f->kv_heads)
        f->kv_heads = f->heads;
    f->experts = arch_number(h, arch, "expert_count");
    uint32_t predicting = arch_number(h, arch, "nextn_predict_layers");
    f->large = is_large(arch, f, f->layers - (predicting < f->layers ? predicting : 0));
    return 0;
}

/* ---- the model ---- */

static int add_tensor(struct model *m, const struct tensor *t, bool requantize, struct error *err)
{
    struct model_tensor *out = &m->tensors[m->count];
    *out = (struct model_tensor){.view = view_make(t), .stored = t->dtype->format};
    if (!out->stored)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is stored as %s, which cannot be decoded",
                         t->name, t->dtype->name);
    if (dtype_is_quantized(t->dtype) && !requantize)
        return error_set(err, -ENOTSUP,
                         "tensor \"%s\" is quantized already (%s); the option requantize makes "
                         "recipes of it all the same",
                         t->name, t->dtype->name);
    if (!t->elements)
        return error_set(err, -ENOTSUP, "tensor \"%s\" is empty", t->name);
    strcpy(out->name, t->name); /* at most GGUF_NAME_MAX, as listed */
    for (uint32_t d = 0; d < GGUF_DIMS_MAX; d++)
        out->ne[d] = d < t->ndim ? t->shape[t->ndim - 1 - d] : 1;
    for (out->ndim = t->ndim; out->ndim > 1 && out->ne[out->ndim - 1] == 1;)
        out->ndim--;
    out->view.matrices = out->ne[2];
    m->count++;
    return 0;
}

int gguf_model_map(const struct gguf_header *h, const struct tensor_list *tensors, bool requantize,
                   struct model *m, struct error *err)
{
    *m = (struct model){0};
    if (h->alignment != GGUF_ALIGNMENT)
        return error_set(err, -ENOTSUP, "general.alignment is %" PRIu32 ", not %d", h->alignment,
                         GGUF_ALIGNMENT);
    int rc = read_facts(h, &m->facts, err);
    m->tensors = calloc(tensors->count + 1, sizeof *m->tensors);
    if (!rc && !m->tensors)
        rc = error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < tensors->count; i++)
        rc = add_tensor(m, &tensors->items[i], requantize, err);
    rc = rc ? rc : model_sort(m, err);
    if (rc)
        model_free(m);
    return rc;
}

/* ---- metadata ---- */

static bool has_nul(const struct gguf_value *v)
{
    if (v->type != GGUF_STRING)
        return false;
    struct reader r = reader_make(v->data, v->size);
    double number;
    struct gguf_string s;
    for (uint64_t i = 0; i < v->count; i++)
        if (gguf_next_element(&r, GGUF_STRING, &number, &s) && s.size &&
            memchr(s.data, 0, s.size))
            return true;
    return false;
}

/* Keys that are set anew, which moves them to the end, or that only split files have. */
static bool is_dropped(struct gguf_string name, bool imatrix)
{
    static const char *const dropped[] = {
        "general.quantization_version", "general.file_type",
        "split.no", "split.count", "split.tensors.count",
    };
    static const char imatrix_prefix[] = "quantize.imatrix.";
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
        if (gguf_string_is(name, dropped[i]))
            return true;
    return imatrix && name.size > sizeof imatrix_prefix - 1 &&
           memcmp(name.data, imatrix_prefix, sizeof imatrix_prefix - 1) == 0;
}

int gguf_model_put_keys(const struct gguf_header *h, bool imatrix, struct gguf_keys *keys,
                        struct error *err)
{
    for (size_t i = 0; i < h->key_count; i++) {
        const struct gguf_key *k = &h->keys[i];
        if (is_dropped(k->name, imatrix))
            continue;
        if (has_nul(&k->value))
            return error_set(err, -ENOTSUP, "a text of %.*s has a NUL in it",
                             (int)(k->name.size < 100 ? k->name.size : 100), k->name.data);
        buffer_add(&keys->bytes, k->raw, k->raw_size);
        keys->count++;
    }
    return keys->bytes.failed ? error_set(err, -ENOMEM, "out of memory") : 0;
}

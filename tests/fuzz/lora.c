/* SPDX-License-Identifier: MIT
 *
 * An adapter: adapter_config.json after a line "--- adapter_config.json", and its tensors after one of
 * "--- tensors.json", as {NAME: [TYPE, EXTENT, ...]}; merged onto a small model, whose weights are then
 * asked for, and mapped to a file of its own.
 */
#include "codec/bnb/format.h"
#include "codec/encode_scaled.h"
#include "codec/isa.h"
#include "codec/lora_gguf.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

enum { ROOM = 1 << 20 }; /* bytes of weights that are looked at */

static struct tensor base[] = {
    {.name = "lm_head.weight", .shape = (uint64_t[]){32, 64}, .ndim = 2},
    {.name = "model.embed_tokens.weight", .shape = (uint64_t[]){32, 64}, .ndim = 2},
    {.name = "model.layers.0.input_layernorm.weight", .shape = (uint64_t[]){64}, .ndim = 1},
    {.name = "model.layers.0.mlp.down_proj.weight", .shape = (uint64_t[]){64, 128}, .ndim = 2},
    {.name = "model.layers.0.self_attn.k_proj.weight", .shape = (uint64_t[]){32, 64}, .ndim = 2},
    {.name = "model.layers.0.self_attn.q_proj.bias", .shape = (uint64_t[]){64}, .ndim = 1},
    {.name = "model.layers.0.self_attn.q_proj.weight", .shape = (uint64_t[]){64, 64}, .ndim = 2},
    {.name = "model.norm.weight", .shape = (uint64_t[]){64}, .ndim = 1},
};

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64,"
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    "\"intermediate_size\": 128, \"vocab_size\": 32}";

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* Parts hold the number of a byte everywhere, and must be asked for nothing that they lack. */
static int read_part(void *context, uint32_t part, uint64_t at, void *out, size_t n,
                     struct error *err)
{
    const struct derived *d = context;
    (void)err;
    assert(part < d->part_count && d->parts[part]);
    assert(at <= d->parts[part]->size && n <= d->parts[part]->size - at);
    memset(out, 0x3c, n);
    return 0;
}

/* Plain C, which alone is sanitized. */
static const struct isa *plain(void)
{
    static struct isa isa = {.name = "c", .lora_add = lora_add_c};
    static decode_fn *decoders[FORMAT_COUNT];
    for (size_t i = 0; i < FORMAT_COUNT; i++) {
        isa.encode[i] = formats[i].encode;
        decoders[i] = formats[i].decode;
    }
    isa.encode[ENCODER_NF4] = SCALED(nf4);
    isa.decode = decoders;
    return &isa;
}

static void use_weights(const struct derived *d)
{
    struct error err;
    const struct isa *isa = plain();
    uint64_t all = d->rows * d->cols;
    if (!all || all > ROOM / sizeof(float) || d->rank > 4096)
        return;
    float *w = malloc(all * sizeof *w);
    struct derived_reader reader = {read_part, (void *)d};
    if (w && d->method->weights(d, isa, &reader, 0, (size_t)all, w, &err) == 0)
        use_bytes(w, all * sizeof *w);
    size_t piece = d->cols > 2 ? (size_t)d->cols - 2 : 1; /* a piece of the last row */
    if (w && d->method->weights(d, isa, &reader, all - piece, piece, w, &err) == 0)
        use_bytes(w, piece * sizeof *w);
    free(w);
}

static void use_file(const struct lora *l, const struct tensor_list *merged, struct files *files)
{
    struct error err;
    struct config config;
    struct model m;
    struct lora_gguf g;
    if (config_parse((struct blob){config_text, sizeof config_text - 1}, &config, &err))
        return;
    if (model_map(&config, merged, &m, &err) == 0) {
        struct gguf_keys keys = {0};
        struct model_files source = {.get = files_get, .context = files};
        use_model(&m);
        if (lora_gguf_map(l->alpha, &m, merged, 1, &g, &err) == 0) {
            for (size_t i = 0; i < g.count; i++)
                if (g.tensors[i].view.tensor->derived)
                    use_weights(g.tensors[i].view.tensor->derived);
            if (model_put_adapter_keys(&m, g.parameters, (float)g.alpha, "Demo-8B-lora", &source,
                                       &keys, &err) == 0)
                use_keys(&keys);
            buffer_free(&keys.bytes);
            lora_gguf_free(&g);
        }
        model_free(&m);
    }
    config_free(&config);
}

static void use_adapter(const struct lora *l, const struct tensor_list *adapter, bool onto_nf4,
                        struct files *files)
{
    struct error err;
    struct tensor_list merged = {0};
    struct tensor_list onto = {.items = base, .count = sizeof base / sizeof *base};
    if (lora_merge(l, &onto, adapter, 1, onto_nf4, &merged, &err) == 0) {
        for (size_t i = 0; i < merged.count; i++)
            if (merged.items[i].derived)
                use_weights(merged.items[i].derived);
        use_file(l, &merged, files);
    }
    tensor_list_free(&merged);
}

/* One behind the other, as in a file; what no file could hold is left out. */
static void list_tensors(const json_t *all, struct tensor_list *out)
{
    const char *name;
    json_t *entry;
    uint64_t at = 0, size;
    json_object_foreach((json_t *)all, name, entry)
    {
        size_t ndim = json_array_size(entry) ? json_array_size(entry) - 1 : 0;
        const char *type = json_string_value(json_array_get(entry, 0));
        const struct dtype *dtype = type ? dtype_by_name(type) : NULL;
        uint64_t elements = 1, *shape = arena_array(&out->arena, ndim + 1, sizeof *shape);
        bool fits = dtype && shape;
        for (size_t i = 0; fits && i < ndim; i++) {
            json_int_t extent = json_integer_value(json_array_get(entry, i + 1));
            shape[i] = extent > 0 ? (uint64_t)extent : 0;
            fits = !__builtin_mul_overflow(elements, shape[i], &elements);
        }
        struct tensor *t = fits && dtype_bytes(dtype, elements, &size) && size < INT64_MAX / 2 &&
                                   at < INT64_MAX / 2
                               ? tensor_list_add(out)
                               : NULL;
        if (!t)
            continue;
        *t = (struct tensor){.name = arena_strdup(&out->arena, name),
                             .dtype = dtype,
                             .shape = shape,
                             .ndim = (uint32_t)ndim,
                             .elements = elements,
                             .offset = at,
                             .size = size};
        assert(t->name);
        at += size;
    }
    if (out->count)
        qsort(out->items, out->count, sizeof *out->items, by_name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct files files;
    struct blob config;
    struct lora l;
    struct tensor_list adapter = {0};
    for (size_t i = 0; i < sizeof base / sizeof *base; i++) {
        base[i].dtype = dtype_by_name("BF16");
        base[i].elements = base[i].shape[0] * (base[i].ndim > 1 ? base[i].shape[1] : 1);
        base[i].size = base[i].elements * 2;
    }
    files_split(data, size, &files);
    files_get(&files, "adapter_config.json", &config, &err);
    json_t *tensors = files_json(&files, "tensors.json");
    if (config.data && tensors && lora_parse(config, &l, &err) == 0) {
        list_tensors(tensors, &adapter);
        use_adapter(&l, &adapter, false, &files);
        use_adapter(&l, &adapter, true, &files);
        tensor_list_free(&adapter);
        lora_free(&l);
    }
    json_decref(tensors);
    files_free(&files);
    return 0;
}

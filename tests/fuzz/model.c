/* SPDX-License-Identifier: MIT
 *
 * A checkpoint's small files, each after a line "--- NAME": config.json with the tensors of a
 * small model, and all that the metadata is made from.
 */
#include "tests/fuzz/fuzz.h"

/* What the tensors are called and shaped like; the folder has no room for their bytes. */
static struct tensor tensors[] = {
    {.name = "lm_head.weight", .shape = (uint64_t[]){1024, 256}, .ndim = 2},
    {.name = "model.embed_tokens.weight", .shape = (uint64_t[]){1024, 256}, .ndim = 2},
    {.name = "model.layers.0.input_layernorm.weight", .shape = (uint64_t[]){256}, .ndim = 1},
    {.name = "model.layers.0.mlp.down_proj.weight", .shape = (uint64_t[]){256, 512}, .ndim = 2},
    {.name = "model.layers.0.self_attn.k_proj.weight", .shape = (uint64_t[]){128, 256}, .ndim = 2},
    {.name = "model.layers.0.self_attn.q_proj.bias", .shape = (uint64_t[]){256}, .ndim = 1},
    {.name = "model.layers.0.self_attn.q_proj.weight", .shape = (uint64_t[]){256, 256}, .ndim = 2},
    {.name = "model.layers.0.self_attn.rotary_emb.inv_freq", .shape = (uint64_t[]){32}, .ndim = 1},
    {.name = "model.norm.weight", .shape = (uint64_t[]){256}, .ndim = 1},
};

static void put_keys(const struct model *m, const struct config *config, struct files *files)
{
    struct error err;
    struct gguf_keys keys = {0};
    const struct model_files source = {.get = files_get, .context = files};
    if (model_put_keys(m, config, "Demo-Llama-3.1-8B-Instruct", &source, &keys, &err) == 0)
        use_keys(&keys);
    buffer_free(&keys.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct files files;
    struct blob file;
    struct config config;
    struct model m;
    struct tensor_list list = {.items = tensors, .count = sizeof tensors / sizeof *tensors};
    for (size_t i = 0; i < list.count; i++) {
        tensors[i].dtype = dtype_by_name(tensors[i].ndim == 1 ? "F32" : "BF16");
        tensors[i].elements = tensors[i].shape[0] * (tensors[i].ndim > 1 ? tensors[i].shape[1] : 1);
    }
    files_split(data, size, &files);
    files_get(&files, "config.json", &file, &err);
    if (file.data && config_parse(file, &config, &err) == 0) {
        if (model_map(&config, &list, &m, &err) == 0) {
            use_model(&m);
            put_keys(&m, &config, &files);
            model_free(&m);
        }
        config_free(&config);
    }
    files_free(&files);
    return 0;
}

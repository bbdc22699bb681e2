/* SPDX-License-Identifier: MIT */
#include "fs/lora_file.h"

#include "fs/encoded.h"
#include "fs/key_files.h"

#include <errno.h>

enum { QUANTIZATION_VERSION = 2 };

const char lora_file_kind[] = "lora-F16";

void lora_file_map(struct checkpoint *c)
{
    if (!c->onto || !c->mapped)
        return;
    if (lora_gguf_map(c->lora_alpha, &c->model, &c->tensors, (uint32_t)c->onto->shard_count,
                      &c->lora, &c->lora_problem) == 0)
        c->lora_problem.text[0] = '\0';
}

static int put_keys(const struct checkpoint *c, struct gguf_keys *keys, struct error *err)
{
    struct key_files from = {.checkpoint = c, .own = true};
    struct model_files files = key_files(&from);
    int rc = model_put_adapter_keys(&c->model, c->lora.parameters, (float)c->lora.alpha, c->base,
                                    &files, keys, err);
    key_files_free(&from);
    gguf_put_u32(keys, "general.quantization_version", QUANTIZATION_VERSION);
    return rc;
}

static uint64_t tensor_size(const struct lora_gguf_tensor *t)
{
    return t->ne[0] * t->ne[1] * t->format->block_size;
}

static int add_header(const struct checkpoint *c, struct image *image, struct error *err)
{
    struct gguf_keys keys = {0};
    struct buffer header = {0};
    uint64_t offset = 0;
    int rc = put_keys(c, &keys, err);
    gguf_add_head(&header, c->lora.count, keys.count);
    buffer_add(&header, keys.bytes.data, keys.bytes.size);
    for (size_t i = 0; i < c->lora.count; i++) {
        const struct lora_gguf_tensor *t = &c->lora.tensors[i];
        gguf_add_tensor_info(&header, t->name, t->ndim, t->ne, t->format->ggml_type, offset);
        offset += gguf_pad(tensor_size(t));
    }
    struct bytes *bytes =
        rc || header.failed || keys.bytes.failed ? NULL : bytes_new(header.data, header.size);
    if (!rc && !bytes)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        image_add_bytes(image, bytes, 0, bytes->size);
        image_add_zeros(image, gguf_pad(image->size) - image->size);
    }
    bytes_unref(bytes);
    buffer_free(&keys.bytes);
    buffer_free(&header);
    return rc;
}

static int make_image(struct checkpoint *c, struct image **out, struct error *err)
{
    struct image *image = image_new();
    int rc = image ? add_header(c, image, err) : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < c->lora.count; i++) {
        const struct lora_gguf_tensor *t = &c->lora.tensors[i];
        struct encoded what = {.view = &t->view, .format = t->format};
        rc = encoded_add(c, &what, image, err);
        image_add_zeros(image, gguf_pad(image->size) - image->size);
    }
    rc = image_finish(image, rc, out, err);
    if (!rc)
        c->footprint += image_footprint(*out);
    return rc;
}

int lora_file_get(struct checkpoint *c, struct image **out, struct error *err)
{
    if (!lora_file_offered(c))
        return error_set(err, -ENOTSUP, "%s: there is no %s: %s", c->name, lora_file_kind,
                         *c->lora_problem.text ? c->lora_problem.text : "it is no adapter");
    pthread_mutex_lock(&c->lock);
    int rc = c->lora_image ? 0 : make_image(c, &c->lora_image, err);
    if (!rc) {
        *out = image_ref(c->lora_image);
        c->lora_size = c->lora_image->size;
    }
    pthread_mutex_unlock(&c->lock);
    return rc ? error_prefix(err, rc, "%s", c->name) : 0;
}

int lora_file_size(struct checkpoint *c, uint64_t *size, struct error *err)
{
    pthread_mutex_lock(&c->lock);
    *size = c->lora_size;
    pthread_mutex_unlock(&c->lock);
    if (*size)
        return 0;
    struct image *image;
    int rc = lora_file_get(c, &image, err);
    if (!rc) {
        *size = image->size;
        image_unref(image);
    }
    return rc;
}

void lora_file_forget(struct checkpoint *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->lora_image)
        c->footprint -= image_footprint(c->lora_image);
    image_unref(c->lora_image);
    c->lora_image = NULL;
    pthread_mutex_unlock(&c->lock);
}

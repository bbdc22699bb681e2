/* SPDX-License-Identifier: MIT */
#include "fs/gguf_file.h"

#include "codec/gguf_model.h"
#include "daemon/build_id.h"
#include "fs/encoded.h"
#include "fs/key_files.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum {
    QUANTIZATION_VERSION = 2,
    KEY_TEXT_MAX = 127,          /* llama-quantize cuts file and dataset names here */
    KEYS_KEPT_MIN = 256 << 10,   /* bytes of keys that are worth a place in the cache */
    KEYS_MAX = 256 << 20,
};

/* ---- the keys that all recipes share ---- */

static int put_folder_keys(struct checkpoint *c, struct gguf_keys *keys, struct error *err)
{
    struct key_files from = {.checkpoint = c};
    struct model_files files = key_files(&from);
    int rc = model_put_keys(&c->model, &c->config, c->base, &files, keys, err);
    key_files_free(&from);
    return rc;
}

/* A GGUF's own keys stay as they are. */
static int put_gguf_keys(struct checkpoint *c, struct gguf_keys *keys, struct error *err)
{
    struct container_gguf g;
    int rc = container_read_gguf(c->shards[0], &g, err);
    rc = rc ? rc : gguf_model_put_keys(&g.header, c->calibration != NULL, keys, err);
    container_free_gguf(&g);
    return rc;
}

/* ---- the cache of keys ---- */

static void hash_text(crypto_hash_sha256_state *state, const char *s)
{
    crypto_hash_sha256_update(state, (const uint8_t *)s, strlen(s) + 1);
}

static void hash_files(crypto_hash_sha256_state *state, const struct checkpoint *c)
{
    for (size_t i = 1; i < c->file_count; i++) {
        const struct checkpoint_file *f = &c->files[i];
        hash_text(state, f->path);
        crypto_hash_sha256_update(state, (const uint8_t *)&f->identity, sizeof f->identity);
    }
}

/* All that the keys follow from: this program, the name, and what tells the model's files. */
static void keys_key(const struct checkpoint *c, uint8_t key[KEY_SIZE])
{
    uint8_t id[64] = {0};
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    hash_text(&state, "quantfs keys 1");
    crypto_hash_sha256_update(&state, id, build_id(id, sizeof id));
    hash_text(&state, c->base);
    hash_files(&state, c);
    if (c->onto)
        hash_files(&state, c->onto);
    for (size_t i = 0; i < c->shard_count; i++) {
        uint64_t filesystem = source_filesystem(c->shards[i]);
        crypto_hash_sha256_update(&state, (const uint8_t *)&filesystem, sizeof filesystem);
    }
    crypto_hash_sha256_final(&state, key);
}

/* The number of keys, then the keys. */
static bool load_keys(struct checkpoint *c, struct cache *cache, const uint8_t key[KEY_SIZE])
{
    uint8_t *data;
    size_t size;
    if (!cache_load_whole(cache, key, KEYS_MAX, &data, &size))
        return false;
    if (size > sizeof c->key_count) {
        memcpy(&c->key_count, data, sizeof c->key_count);
        c->keys = bytes_new(data + sizeof c->key_count, size - sizeof c->key_count);
    }
    free(data);
    return c->keys != NULL;
}

static void store_keys(const struct gguf_keys *keys, struct cache *cache,
                       const uint8_t key[KEY_SIZE])
{
    struct buffer whole = {0};
    buffer_add_u64(&whole, keys->count);
    buffer_add(&whole, keys->bytes.data, keys->bytes.size);
    if (!whole.failed)
        cache_store_whole(cache, key, whole.data, whole.size);
    buffer_free(&whole);
}

/* By c->lock. */
static int make_keys(struct checkpoint *c, struct cache *cache, struct error *err)
{
    uint8_t key[KEY_SIZE];
    if (c->keys)
        return 0;
    bool own = c->container == CONTAINER_GGUF; /* copied from the file, which is quick */
    if (cache && !own) {
        keys_key(c, key);
        if (load_keys(c, cache, key)) {
            c->footprint += c->keys->size;
            return 0;
        }
    }
    struct gguf_keys keys = {0};
    int rc = own ? put_gguf_keys(c, &keys, err) : put_folder_keys(c, &keys, err);
    if (!rc && cache && !own && keys.bytes.size >= KEYS_KEPT_MIN)
        store_keys(&keys, cache, key);
    if (!rc) {
        c->keys = bytes_new(keys.bytes.data, keys.bytes.size);
        c->key_count = keys.count;
        c->footprint += keys.bytes.size;
        if (!c->keys)
            rc = error_set(err, -ENOMEM, "out of memory");
    }
    buffer_free(&keys.bytes);
    return rc;
}

/* ---- a recipe's image ---- */

/* The format of every tensor under a recipe; out has room for all. */
static int assign(const struct checkpoint *c, const struct recipe *recipe,
                  const struct format **out, struct error *err)
{
    const struct model *m = &c->model;
    struct recipe_tensor *tensors = calloc(m->count, sizeof *tensors);
    if (!tensors)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < m->count; i++)
        tensors[i] = (struct recipe_tensor){
            .name = m->tensors[i].name, .ndim = m->tensors[i].ndim, .cols = m->tensors[i].ne[0]};
    recipe_assign(recipe, &m->facts, tensors, m->count, out);
    for (size_t i = 0; i < m->count; i++)
        if (!out[i])
            out[i] = m->tensors[i].stored;
    free(tensors);
    return 0;
}

static int tensor_size(const struct model_tensor *t, const struct format *f, uint64_t *size,
                       struct error *err)
{
    if (!matrices_size(f, t->ne[2] * t->ne[3], t->ne[1], t->ne[0], size))
        return error_set(err, -EINVAL, "tensor %s cannot be packed as %s", t->name, f->title);
    return 0;
}

static void put_recipe_keys(const struct checkpoint *c, const struct recipe *recipe,
                            struct gguf_keys *keys)
{
    gguf_put_u32(keys, "general.quantization_version", QUANTIZATION_VERSION);
    gguf_put_u32(keys, "general.file_type", recipe->ftype);
    if (!c->calibration || recipe->guided) /* files are as large as those that are not guided */
        return;
    const struct imatrix *m = &c->calibration->imatrix;
    gguf_put_string_n(keys, "quantize.imatrix.file", c->calibration->name,
                      strnlen(c->calibration->name, KEY_TEXT_MAX));
    if (m->dataset)
        gguf_put_string_n(keys, "quantize.imatrix.dataset", m->dataset,
                          strnlen(m->dataset, KEY_TEXT_MAX));
    gguf_put_u32(keys, "quantize.imatrix.entries_count", (uint32_t)m->count);
    if (m->chunks > 0)
        gguf_put_u32(keys, "quantize.imatrix.chunks_count", (uint32_t)m->chunks);
}

/* The header: head, shared keys, recipe's keys, tensor infos, padding. */
static int add_header(const struct checkpoint *c, const struct recipe *recipe,
                      const struct format **formats_of, struct image *image, struct error *err)
{
    const struct model *m = &c->model;
    struct gguf_keys own = {0};
    struct buffer header = {0};
    put_recipe_keys(c, recipe, &own);
    gguf_add_head(&header, m->count, c->key_count + own.count);
    buffer_add(&header, own.bytes.data, own.bytes.size);
    uint64_t offset = 0;
    int rc = 0;
    for (size_t i = 0; !rc && i < m->count; i++) {
        uint64_t size = 0;
        gguf_add_tensor_info(&header, m->tensors[i].name, m->tensors[i].ndim, m->tensors[i].ne,
                             formats_of[i]->ggml_type, offset);
        rc = tensor_size(&m->tensors[i], formats_of[i], &size, err);
        offset += gguf_pad(size);
    }
    if (!rc && (header.failed || own.bytes.failed))
        rc = error_set(err, -ENOMEM, "out of memory");
    struct bytes *bytes = rc ? NULL : bytes_new(header.data, header.size);
    if (!rc && !bytes)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        image_add_bytes(image, bytes, 0, GGUF_HEAD_SIZE);
        image_add_bytes(image, c->keys, 0, c->keys->size);
        image_add_bytes(image, bytes, GGUF_HEAD_SIZE, bytes->size - GGUF_HEAD_SIZE);
        image_add_zeros(image, gguf_pad(image->size) - image->size);
    }
    bytes_unref(bytes);
    buffer_free(&own.bytes);
    buffer_free(&header);
    return rc;
}

static int add_generated(const struct model_tensor *t, struct image *image, struct error *err)
{
    struct bytes *bytes = bytes_new(t->generated, t->ne[0] * sizeof *t->generated);
    if (!bytes)
        return error_set(err, -ENOMEM, "out of memory");
    image_add_bytes(image, bytes, 0, bytes->size);
    bytes_unref(bytes);
    return 0;
}

/* What keeps its type is not weighed. */
static int add_tensor(const struct checkpoint *c, const struct recipe *recipe,
                      const struct model_tensor *t, const struct format *f, struct image *image,
                      struct error *err)
{
    struct encoded what = {
        .view = &t->view, .format = f, .mapped = f == t->stored ? NULL : t, .own = recipe->guided};
    int rc = t->view.tensor ? encoded_add(c, &what, image, err) : add_generated(t, image, err);
    image_add_zeros(image, gguf_pad(image->size) - image->size);
    return rc;
}

static int make_image(struct checkpoint *c, struct cache *cache, const struct recipe *recipe,
                      struct image **out, struct error *err)
{
    const struct format **formats_of = calloc(c->model.count, sizeof *formats_of);
    struct image *image = image_new();
    int rc = formats_of && image ? assign(c, recipe, formats_of, err)
                                 : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : make_keys(c, cache, err);
    rc = rc ? rc : add_header(c, recipe, formats_of, image, err);
    for (size_t i = 0; !rc && i < c->model.count; i++)
        rc = add_tensor(c, recipe, &c->model.tensors[i], formats_of[i], image, err);
    free(formats_of);
    rc = image_finish(image, rc, out, err);
    if (!rc)
        c->footprint += image_footprint(image);
    return rc;
}

/* What is quantized already can be had as plain floats, as anything else only by request. */
static int check_quantized(const struct checkpoint *c, const struct recipe *recipe,
                           struct error *err)
{
    bool plain = formats[recipe->base].plain_float && !recipe->matrices;
    return plain ? 0 : checkpoint_may_quantize(c, err);
}

bool gguf_file_offered(const struct checkpoint *c, const struct recipe *recipe)
{
    return c->mapped && (!recipe->guided || c->factor_folder) && !check_quantized(c, recipe, NULL);
}

int gguf_file_get(struct checkpoint *c, struct cache *cache, const struct recipe *recipe,
                  struct image **out, struct error *err)
{
    if (!c->mapped) {
        error_set(err, -ENOTSUP, "%s", c->problem.text);
        return error_prefix(err, -ENOTSUP, "%s", c->name);
    }
    if (check_quantized(c, recipe, err))
        return error_prefix(err, -ENOTSUP, "%s", c->name);
    if (!gguf_file_offered(c, recipe))
        return error_set(err, -ENOTSUP, "%s: %s needs a calibration", c->name, recipe->name);
    long i = recipe - recipes;
    pthread_mutex_lock(&c->lock);
    int rc = c->images[i] ? 0 : make_image(c, cache, recipe, &c->images[i], err);
    if (!rc) {
        *out = image_ref(c->images[i]);
        c->sizes[i] = c->images[i]->size;
    }
    pthread_mutex_unlock(&c->lock);
    return rc ? error_prefix(err, rc, "%s", c->name) : 0;
}

int gguf_file_size(struct checkpoint *c, struct cache *cache, const struct recipe *recipe,
                   uint64_t *size, struct error *err)
{
    pthread_mutex_lock(&c->lock);
    *size = c->sizes[recipe - recipes];
    pthread_mutex_unlock(&c->lock);
    if (*size)
        return 0;
    struct image *image;
    int rc = gguf_file_get(c, cache, recipe, &image, err);
    if (!rc) {
        *size = image->size;
        image_unref(image);
    }
    return rc;
}

int gguf_file_data_size(struct checkpoint *c, const struct recipe *recipe, uint64_t *size,
                        struct error *err)
{
    const struct format **formats_of = calloc(c->model.count + 1, sizeof *formats_of);
    int rc = formats_of ? assign(c, recipe, formats_of, err)
                        : error_set(err, -ENOMEM, "out of memory");
    *size = 0;
    for (size_t i = 0; !rc && i < c->model.count; i++) {
        uint64_t n = 0;
        rc = tensor_size(&c->model.tensors[i], formats_of[i], &n, err);
        *size += gguf_pad(n);
    }
    free(formats_of);
    return rc;
}

void gguf_file_forget(struct checkpoint *c)
{
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < RECIPE_COUNT; i++) {
        if (c->images[i])
            c->footprint -= image_footprint(c->images[i]);
        image_unref(c->images[i]);
        c->images[i] = NULL;
    }
    if (c->keys)
        c->footprint -= c->keys->size;
    bytes_unref(c->keys);
    c->keys = NULL;
    pthread_mutex_unlock(&c->lock);
}

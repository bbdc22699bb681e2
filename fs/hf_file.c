/* SPDX-License-Identifier: MIT */
#include "fs/hf_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The files that are made; behind them come the checkpoint's own, by their number. */
enum { CONFIG, WEIGHTS, MADE_COUNT };

static const char *const made_names[MADE_COUNT] = {"config.json", "model.safetensors"};

bool hf_offered(const struct checkpoint *c)
{
    return !*c->unreadable.text && !c->incomplete && c->config.raw;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

/* Files of a checkpoint that go along: all that is small and no weights, in any framework's form. */
static bool goes_along(const struct checkpoint_file *f)
{
    static const char *const endings[] = {".index.json", ".gguf", ".h5",  ".msgpack",
                                          ".onnx",       ".ot",   ".npz", ".tflite"};
    if (f->folder || f->outside || f->missing || strchr(f->path, '/') ||
        container_kind(f->path) != CONTAINER_NONE || strcmp(f->path, made_names[CONFIG]) == 0)
        return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(f->path, endings[i]))
            return false;
    return true;
}

const char *hf_file_name(const struct checkpoint *c, uint32_t item)
{
    if (item < MADE_COUNT)
        return made_names[item];
    item -= MADE_COUNT;
    if (item >= c->file_count)
        return NULL;
    return goes_along(&c->files[item]) ? c->files[item].path : "";
}

static int make_model(const struct checkpoint *c, struct hf_model *m, struct error *err)
{
    return hf_model_of_checkpoint(&c->config, &c->tensors, m, err);
}

static int add_text(struct image *image, char *text, struct error *err)
{
    struct bytes *bytes = text ? bytes_new(text, strlen(text)) : NULL;
    free(text);
    if (!bytes)
        return error_set(err, -ENOMEM, "out of memory");
    image_add_bytes(image, bytes, 0, bytes->size);
    bytes_unref(bytes);
    return 0;
}

static int add_header(const struct hf_model *m, const struct hf_form *form, struct image *image,
                      struct error *err)
{
    struct buffer header = {0};
    int rc = hf_model_put_header(m, form, &header, err);
    struct bytes *bytes = rc ? NULL : bytes_new(header.data, header.size);
    buffer_free(&header);
    if (!rc && !bytes)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (!rc)
        image_add_bytes(image, bytes, 0, bytes->size);
    bytes_unref(bytes);
    return rc;
}

/* What is stored in the form's type already comes from the file itself. */
static int add_tensor(const struct checkpoint *c, const struct hf_tensor *t,
                      const struct hf_form *form, struct image *image, struct error *err)
{
    const struct tensor *source = t->view.tensor;
    const struct format *format = &formats[form->format];
    if (t->kept || (source->dtype->format == format && view_is_whole(&t->view))) {
        image_add_file(image, c->shards[source->file], source->offset, source->size);
        return 0;
    }
    if (!t->view.rows || !t->view.cols)
        return 0;
    struct encoding *e;
    int rc = encoding_new(format, &t->view, c->shards, NULL, NULL, &e, err);
    if (!rc) {
        image_add_tensor(image, e);
        encoding_unref(e);
    }
    return rc;
}

static int add_weights(const struct checkpoint *c, const struct hf_model *m,
                       const struct hf_form *form, struct image *image, struct error *err)
{
    int rc = add_header(m, form, image, err);
    for (size_t i = 0; !rc && i < m->count; i++)
        rc = add_tensor(c, &m->tensors[i], form, image, err);
    return rc;
}

static int add_own_file(const struct checkpoint *c, uint32_t file, struct image *image,
                        struct error *err)
{
    struct source *s;
    int rc = checkpoint_open(c, c->files[file].path, &s, err);
    if (rc)
        return rc;
    image_add_file(image, s, 0, source_identity(s)->size);
    source_unref(s);
    return 0;
}

int hf_file_get(const struct checkpoint *c, const struct hf_form *form, uint32_t item,
                struct image **out, struct error *err)
{
    struct hf_model m = {0};
    struct image *image = image_new();
    int rc = image ? 0 : error_set(err, -ENOMEM, "out of memory");
    if (!rc && item >= MADE_COUNT) {
        rc = add_own_file(c, item - MADE_COUNT, image, err);
    } else if (!rc) {
        rc = make_model(c, &m, err);
        if (!rc)
            rc = item == CONFIG ? add_text(image, hf_model_config(&m, form), err)
                                : add_weights(c, &m, form, image, err);
        hf_model_free(&m);
    }
    if (!rc && image->failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc)
        image_unref(image);
    else
        *out = image;
    return rc;
}

int hf_file_size(const struct checkpoint *c, const struct hf_form *form, uint32_t item,
                 uint64_t *size, struct error *err)
{
    struct image *image;
    if (item >= MADE_COUNT) {
        *size = c->files[item - MADE_COUNT].identity.size;
        return 0;
    }
    int rc = hf_file_get(c, form, item, &image, err);
    if (!rc) {
        *size = image->size;
        image_unref(image);
    }
    return rc;
}

/* SPDX-License-Identifier: MIT */
#include "fs/hf_file.h"

#include "codec/affix.h"
#include "codec/arch.h"
#include "codec/hf_gguf.h"
#include "codec/hf_quant.h"
#include "codec/hf_tokenizer.h"
#include "fs/adapter.h"
#include "fs/tensor_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The files that are made, the last two for GGUF files; behind them come a checkpoint's own, by their
 * number. */
enum { CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, MADE_COUNT };

static const char *const made_names[MADE_COUNT] = {"config.json", "model.safetensors",
                                                   "tokenizer.json", "tokenizer_config.json"};

bool hf_offered(const struct checkpoint *c)
{
    return !*c->unreadable.text && !c->incomplete &&
           (c->file ? arch_by_gguf(c->architecture, strlen(c->architecture)) != NULL
                    : c->config.raw != NULL);
}

/* What is quantized needs what recipes need: which tensor is what, and that nothing is wrong with it. */
int hf_form_offered(const struct checkpoint *c, const struct hf_form *form, struct error *err)
{
    if (!form->method)
        return 0;
    if (!c->mapped)
        return error_set(err, -ENOTSUP, "%s", c->problem.text);
    if (form->scaled && !c->awq && !*c->awq_problem.text)
        return error_set(err, -ENOTSUP, "there is no calibration with AWQ's scales");
    int rc = checkpoint_may_quantize(c, err);
    return rc ? rc : hf_form_check(form, &c->model, err);
}

unsigned hf_form_shown_as(const struct hf_form *form)
{
    return form_of(form->method ? hf_form_packed(form) : &formats[form->format]);
}

const char *hf_form_calibration(const struct checkpoint *c, const struct hf_form *form)
{
    if (!form->method)
        return NULL;
    if (form->scaled)
        return c->awq ? c->awq->digest : NULL;
    if (form->method == &hf_methods[HF_AWQ])
        return "none";
    return c->factor_folder || !tensor_form_is_calibrated(hf_form_shown_as(form)) ? NULL : "none";
}

/* Beside config.json, for older loaders: how the weights are packed, which they are no longer. */
static bool tells_packing(const char *path)
{
    return strcmp(path, "quantize_config.json") == 0 || strcmp(path, "quant_config.json") == 0;
}

/* Files of a checkpoint that go along: all that is small and no weights, in any framework's form. */
static bool goes_along(const struct checkpoint_file *f)
{
    static const char *const endings[] = {".index.json", ".gguf", ".h5",  ".msgpack",
                                          ".onnx",       ".ot",   ".npz", ".tflite"};
    if (f->folder || f->outside || f->missing || strchr(f->path, '/') ||
        container_kind(f->path) != CONTAINER_NONE || strcmp(f->path, made_names[CONFIG]) == 0 ||
        tells_packing(f->path))
        return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(f->path, endings[i]))
            return false;
    return true;
}

/* Own file `item`, from 0 on: the checkpoint's, then those of what it adapts. NULL behind the last. */
static const struct checkpoint_file *own_file(const struct checkpoint *c, uint32_t item,
                                              const struct checkpoint **owner)
{
    *owner = c;
    if (item < c->file_count)
        return &c->files[item];
    *owner = c->onto;
    item -= (uint32_t)c->file_count;
    return c->onto && item < c->onto->file_count ? &c->onto->files[item] : NULL;
}

const char *hf_file_name(const struct checkpoint *c, uint32_t item)
{
    const struct checkpoint *owner, *first;
    if (item < MADE_COUNT)
        return item < TOKENIZER || c->file ? made_names[item] : "";
    const struct checkpoint_file *f = own_file(c, item - MADE_COUNT, &owner);
    if (!f)
        return NULL;
    return !c->file && goes_along(f) && adapter_find_file(c, f->path, &first) == f ? f->path : "";
}

/* ---- what is made once and kept; by c->lock ---- */

static int read_values(void *context, const struct tensor *t, float *out, struct error *err)
{
    const struct checkpoint *c = context;
    uint8_t *raw = malloc(t->size + 1);
    int rc = raw && t->dtype->widen ? source_read(c->shards[t->file], raw, t->offset, t->size, err)
                                    : error_set(err, -ENOMEM, "out of memory");
    if (!rc)
        t->dtype->widen(raw, t->elements, out);
    free(raw);
    return rc;
}

static int keep_text(struct checkpoint *c, int which, char *text, struct error *err)
{
    c->hf_texts[which] = text ? bytes_new(text, strlen(text)) : NULL;
    free(text);
    if (!c->hf_texts[which])
        return error_set(err, -ENOMEM, "out of memory");
    c->footprint += c->hf_texts[which]->size;
    return 0;
}

static int make_of_gguf(struct checkpoint *c, struct hf_model *m, struct error *err)
{
    struct container_gguf g;
    struct hf_values values = {read_values, c};
    char *text;
    int rc = container_read_gguf(c->shards[0], &g, err);
    if (rc)
        return rc;
    rc = hf_model_of_gguf(&g.header, &c->tensors, &values, m, err);
    rc = rc ? rc : hf_tokenizer_json(&g.header, &text, err);
    rc = rc ? rc : keep_text(c, 0, text, err);
    rc = rc ? rc : hf_tokenizer_config(&g.header, &text, err);
    rc = rc ? rc : keep_text(c, 1, text, err);
    container_free_gguf(&g);
    return rc;
}

static void drop(struct checkpoint *c)
{
    for (int i = 0; i < 2; i++) {
        if (c->hf_texts[i])
            c->footprint -= c->hf_texts[i]->size;
        bytes_unref(c->hf_texts[i]);
        c->hf_texts[i] = NULL;
    }
    if (c->hf) {
        c->footprint -= c->hf->arena.total;
        hf_model_free(c->hf);
    }
    free(c->hf);
    c->hf = NULL;
}

static int make_model(struct checkpoint *c, struct error *err)
{
    if (c->hf)
        return 0;
    c->hf = calloc(1, sizeof *c->hf);
    if (!c->hf)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = c->file ? make_of_gguf(c, c->hf, err)
                     : hf_model_of_checkpoint(&c->config, &c->tensors, c->hf, err);
    c->footprint += c->hf->arena.total;
    if (rc)
        drop(c);
    else if (c->mapped)
        hf_model_mark_linear(c->hf, &c->model);
    return rc;
}

void hf_file_forget(struct checkpoint *c)
{
    pthread_mutex_lock(&c->lock);
    drop(c);
    pthread_mutex_unlock(&c->lock);
}

/* ---- files ---- */

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

static int add_header(const struct hf_layout *l, const struct hf_form *form, struct image *image,
                      struct error *err)
{
    struct buffer header = {0};
    int rc = hf_layout_put_header(l, form, &header, err);
    struct bytes *bytes = rc ? NULL : bytes_new(header.data, header.size);
    buffer_free(&header);
    if (!rc && !bytes)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (!rc)
        image_add_bytes(image, bytes, 0, bytes->size);
    bytes_unref(bytes);
    return rc;
}

/* Of a tensor as the form has it: as it is, or scaled. factors: as for encoding_new. */
static int make_encoding(const struct checkpoint *c, const struct hf_tensor *t,
                         const struct hf_form *form, const struct format *format,
                         struct factor *const *factors, struct encoding **out, struct error *err)
{
    struct awq_scaled scaled;
    bool is_scaled = form->scaled && awq_scale(&c->awq->scales, t->mapped, &t->view, &scaled);
    return encoding_new(format, is_scaled ? &scaled.view : &t->view, c->shards,
                        is_scaled ? c->awq : NULL, NULL, factors, out, err);
}

/* Whether a tensor's bytes are those of its file. */
static bool is_stored(const struct checkpoint *c, const struct hf_tensor *t,
                      const struct hf_form *form)
{
    struct awq_scaled scaled;
    const struct dtype *type = t->view.tensor->dtype;
    return t->kept || (type->format == &formats[form->format] && view_is_whole(&t->view) &&
                       !(form->scaled && awq_scale(&c->awq->scales, t->mapped, &t->view, &scaled)));
}

static int add_whole(const struct checkpoint *c, const struct hf_tensor *t,
                     const struct hf_form *form, struct image *image, struct error *err)
{
    const struct tensor *source = t->view.tensor;
    if (is_stored(c, t, form)) {
        image_add_file(image, c->shards[source->file], source->offset, source->size);
        return 0;
    }
    if (!t->view.rows || !t->view.cols)
        return 0;
    struct encoding *e;
    int rc = make_encoding(c, t, form, &formats[form->format], NULL, &e, err);
    if (!rc) {
        image_add_tensor(image, e);
        encoding_unref(e);
    }
    return rc;
}

/* The encoding of a tensor that is repacked: that of tensors/, where the tensor is the same. A folder
 * that has models' own types has weights that were of its type before they were quantized. */
static int packed_encoding(const struct checkpoint *c, const struct hf_tensor *t,
                           const struct hf_form *form, struct encoding **out, struct error *err)
{
    struct factor *factor;
    const struct format *format = hf_form_packed(form);
    int rc = tensor_factor(c, t->view.tensor, form_of(format), &factor, err);
    if (rc)
        return rc;
    struct hf_tensor rounded = *t;
    if (form->keeps != HF_KEEPS_NONE && !format->type &&
        (t->view.tensor->dtype->format != &formats[form->format] || !view_keeps_values(&t->view)))
        rounded.view.round = &formats[form->format];
    rc = make_encoding(c, &rounded, form, format, &factor, out, err);
    factor_unref(factor);
    return rc;
}

/* The parts that are made of a tensor and stand beside each other; *count becomes their number. */
static int add_repacked(const struct checkpoint *c, const struct hf_part *parts, size_t left,
                        size_t *count, const struct hf_form *form, struct image *image,
                        struct error *err)
{
    struct encoding *e;
    int rc = packed_encoding(c, parts->tensor, form, &e, err);
    if (rc)
        return rc;
    for (*count = 0; *count < left && parts[*count].tensor == parts->tensor; ++*count)
        image_add_repacked(image, e, parts[*count].repack, form->format);
    encoding_unref(e);
    return 0;
}

static int add_parts(const struct checkpoint *c, const struct hf_layout *l,
                     const struct hf_form *form, struct image *image, struct error *err)
{
    int rc = add_header(l, form, image, err);
    for (size_t i = 0, count = 1; !rc && i < l->count; i += count) {
        const struct hf_part *part = &l->parts[i];
        count = 1;
        rc = part->repack ? add_repacked(c, part, l->count - i, &count, form, image, err)
                          : add_whole(c, part->tensor, form, image, err);
    }
    return rc;
}

static int add_weights(const struct checkpoint *c, const struct hf_model *m,
                       const struct hf_form *form, struct image *image, struct error *err)
{
    struct hf_layout l;
    int rc = form->scaled && *c->awq_problem.text
                 ? error_set(err, -EINVAL, "%s", c->awq_problem.text)
                 : hf_layout_make(m, form, &l, err);
    if (rc)
        return rc;
    rc = add_parts(c, &l, form, image, err);
    hf_layout_free(&l);
    return rc;
}

static int add_own_file(const struct checkpoint *c, uint32_t file, struct image *image,
                        struct error *err)
{
    struct source *s;
    const struct checkpoint *owner;
    const struct checkpoint_file *f = own_file(c, file, &owner);
    int rc = checkpoint_open(owner, f->path, &s, err);
    if (rc)
        return rc;
    image_add_file(image, s, 0, source_identity(s)->size);
    source_unref(s);
    return 0;
}

static int add_made(struct checkpoint *c, const struct hf_form *form, uint32_t item,
                    struct image *image, struct error *err)
{
    pthread_mutex_lock(&c->lock);
    int rc = make_model(c, err);
    struct hf_form own = rc ? *form : hf_form_of_model(form, c->hf);
    if (!rc && item == CONFIG)
        rc = add_text(image, hf_model_config(c->hf, &own), err);
    else if (!rc && item == WEIGHTS)
        rc = add_weights(c, c->hf, &own, image, err);
    else if (!rc)
        image_add_bytes(image, c->hf_texts[item - TOKENIZER], 0,
                        c->hf_texts[item - TOKENIZER]->size);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

int hf_file_get(struct checkpoint *c, const struct hf_form *form, uint32_t item, struct image **out,
                struct error *err)
{
    struct image *image = image_new();
    int rc = !image              ? error_set(err, -ENOMEM, "out of memory")
             : item < MADE_COUNT ? add_made(c, form, item, image, err)
                                 : add_own_file(c, item - MADE_COUNT, image, err);
    return image_finish(image, rc, out, err);
}

/* From header and layout; nothing that the weights are made from is opened. */
static int weights_size(struct checkpoint *c, const struct hf_form *form, uint64_t *size,
                        struct error *err)
{
    struct hf_layout l;
    struct buffer header = {0};
    pthread_mutex_lock(&c->lock);
    int rc = make_model(c, err);
    struct hf_form own = rc ? *form : hf_form_of_model(form, c->hf);
    rc = rc ? rc : hf_layout_make(c->hf, &own, &l, err);
    if (!rc) {
        rc = hf_layout_put_header(&l, &own, &header, err);
        *size = header.size + l.size;
        buffer_free(&header);
        hf_layout_free(&l);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

int hf_file_size(struct checkpoint *c, const struct hf_form *form, uint32_t item, uint64_t *size,
                 struct error *err)
{
    struct image *image;
    if (item >= MADE_COUNT) {
        const struct checkpoint *owner;
        *size = own_file(c, item - MADE_COUNT, &owner)->identity.size;
        return 0;
    }
    if (item == WEIGHTS)
        return weights_size(c, form, size, err);
    int rc = hf_file_get(c, form, item, &image, err);
    if (!rc) {
        *size = image->size;
        image_unref(image);
    }
    return rc;
}

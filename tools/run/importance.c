/* SPDX-License-Identifier: MIT */
#include "tools/run/importance.h"

#include "codec/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static struct sums *sums_of(const struct importance *m, uint32_t layer, enum layer_input input)
{
    return &m->sums[(size_t)layer * INPUT_COUNT + input];
}

uint64_t importance_bytes(const struct facts *f)
{
    uint64_t layer = 0;
    for (enum layer_input i = 0; i < INPUT_COUNT; i++)
        layer += input_parts(f, i) * (input_cols(f, i) * sizeof(double) + sizeof(uint64_t));
    return f->layers * layer;
}

int importance_new(struct importance *m, const struct facts *f, struct error *err)
{
    *m = (struct importance){.facts = f};
    bool ok = (m->sums = calloc((size_t)f->layers * INPUT_COUNT, sizeof *m->sums));
    for (uint32_t l = 0; ok && l < f->layers; l++)
        for (enum layer_input i = 0; ok && i < INPUT_COUNT; i++) {
            struct sums *s = sums_of(m, l, i);
            size_t parts = input_parts(f, i);
            if (!parts)
                continue;
            s->squares = calloc(parts * input_cols(f, i), sizeof *s->squares);
            s->tokens = calloc(parts, sizeof *s->tokens);
            ok = s->squares && s->tokens;
        }
    if (ok)
        return 0;
    importance_free(m);
    return error_set(err, -ENOMEM, "out of memory");
}

void importance_free(struct importance *m)
{
    for (size_t i = 0; m->sums && i < (size_t)m->facts->layers * INPUT_COUNT; i++) {
        free(m->sums[i].squares);
        free(m->sums[i].tokens);
    }
    free(m->sums);
    *m = (struct importance){0};
}

void importance_add(struct importance *m, uint32_t layer, enum layer_input input, uint32_t part,
                    const float *x, uint32_t tokens)
{
    struct sums *s = sums_of(m, layer, input);
    size_t cols = input_cols(m->facts, input);
    double *squares = s->squares + part * cols;
    s->tokens[part] += tokens;
    for (uint32_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < cols; c++)
            squares[c] += (double)x[t * cols + c] * (double)x[t * cols + c];
}

void importance_weights(const struct importance *m, uint32_t layer, enum layer_input input,
                        uint32_t part, float *out)
{
    const struct sums *s = sums_of(m, layer, input);
    size_t cols = input_cols(m->facts, input);
    float tokens = (float)s->tokens[part];
    for (size_t c = 0; c < cols; c++)
        out[c] = tokens == 0 ? 1 : (float)s->squares[part * cols + c] / tokens;
}

/* ---- the file ---- */

/* A matrix, and the sums that its columns have. */
struct entry {
    char name[GGUF_NAME_MAX + 1];
    const struct sums *sums;
    uint64_t cols, parts;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* In the order of their names, as llama-imatrix has them. NULL: out of memory. */
static struct entry *list_entries(const struct importance *m, size_t *count)
{
    struct entry *all =
        calloc((size_t)m->facts->layers * INPUT_COUNT, INPUT_MATRICES_MAX * sizeof *all);
    *count = 0;
    for (uint32_t l = 0; all && l < m->facts->layers; l++)
        for (enum layer_input i = 0; i < INPUT_COUNT; i++) {
            const struct input_names *names = &input_names[i];
            uint32_t parts = input_parts(m->facts, i);
            const char *suffix = names->experts && m->facts->experts ? "_exps" : "";
            for (int n = 0; parts && n < INPUT_MATRICES_MAX && names->matrices[n]; n++) {
                struct entry *e = &all[(*count)++];
                *e = (struct entry){
                    .sums = sums_of(m, l, i), .cols = input_cols(m->facts, i), .parts = parts};
                snprintf(e->name, sizeof e->name, "blk.%" PRIu32 ".%s%s.weight", l,
                         names->matrices[n], suffix);
            }
        }
    if (all)
        qsort(all, *count, sizeof *all, by_name);
    return all;
}

/* Tells of a tensor of [parts][cols], and returns where the next one begins. */
static uint64_t add_info(struct buffer *out, const struct entry *e, const char *what, uint64_t cols,
                         uint64_t offset)
{
    char name[sizeof e->name + 16];
    snprintf(name, sizeof name, "%s.%s", e->name, what);
    gguf_add_tensor_info(out, name, e->parts > 1 ? 2 : 1, (uint64_t[]){cols, e->parts},
                         formats[FORMAT_F32].ggml_type, offset);
    return offset + gguf_pad(cols * e->parts * sizeof(float));
}

static void add_float(struct buffer *out, double value)
{
    float v = (float)value;
    buffer_add(out, &v, sizeof v);
}

static void pad(struct buffer *out)
{
    static const uint8_t zeros[GGUF_ALIGNMENT];
    buffer_add(out, zeros, (size_t)gguf_pad(out->size) - out->size);
}

static int add_values(struct buffer *out, const struct entry *e, struct error *err)
{
    for (uint64_t i = 0; i < e->parts * e->cols; i++) {
        if (!isfinite((float)e->sums->squares[i]))
            return error_set(err, -EIO,
                             "%s: what column %" PRIu64 " is multiplied with is not finite",
                             e->name, i % e->cols);
        add_float(out, e->sums->squares[i]);
    }
    pad(out);
    for (uint64_t i = 0; i < e->parts; i++)
        add_float(out, (double)e->sums->tokens[i]);
    pad(out);
    return 0;
}

static void add_header(struct buffer *out, const struct importance_origin *from,
                       const struct entry *entries, size_t count)
{
    struct gguf_keys keys = {0};
    uint64_t offset = 0;
    gguf_put_string(&keys, "general.type", "imatrix");
    gguf_put_array(&keys, "imatrix.datasets", GGUF_STRING, 1);
    gguf_add_string(&keys.bytes, from->dataset, strlen(from->dataset));
    gguf_put_u32(&keys, "imatrix.chunk_count", from->chunks);
    gguf_put_u32(&keys, "imatrix.chunk_size", from->chunk_size);
    gguf_add_head(out, 2 * count, keys.count);
    buffer_add(out, keys.bytes.data, keys.bytes.size);
    out->failed |= keys.bytes.failed;
    buffer_free(&keys.bytes);
    for (size_t i = 0; i < count; i++) {
        offset = add_info(out, &entries[i], "in_sum2", entries[i].cols, offset);
        offset = add_info(out, &entries[i], "counts", 1, offset);
    }
    pad(out);
}

int importance_encode(const struct importance *m, const struct importance_origin *from,
                      struct buffer *out, struct error *err)
{
    size_t count;
    struct entry *entries = list_entries(m, &count);
    *out = (struct buffer){.failed = !entries};
    int rc = 0;
    if (entries)
        add_header(out, from, entries, count);
    for (size_t i = 0; !rc && entries && i < count; i++)
        rc = add_values(out, &entries[i], err);
    free(entries);
    if (!rc && out->failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc)
        buffer_free(out);
    return rc;
}

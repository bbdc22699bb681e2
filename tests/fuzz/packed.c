/* SPDX-License-Identifier: MIT
 *
 * A packed checkpoint: config.json after a line "--- config.json", and after "--- model.safetensors" the
 * file of its tensors. What is found is unpacked, as a whole and in windows.
 */
#include "codec/derived.h"
#include "codec/packed.h"
#include "codec/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <stdlib.h>

enum { WEIGHTS_MAX = 1 << 14 }; /* of a tensor that are unpacked */

struct file {
    const uint8_t *data;
    size_t size;
    const struct derived *derived; /* whose parts are read */
};

static int read_start(void *context, const struct tensor *t, void *out, size_t n, struct error *err)
{
    const struct file *f = context;
    (void)err;
    assert(n <= t->size && t->offset <= f->size && n <= f->size - t->offset);
    memcpy(out, f->data + t->offset, n);
    return 0;
}

static int read_part(void *context, uint32_t part, uint64_t at, void *out, size_t n,
                     struct error *err)
{
    const struct file *f = context;
    (void)err;
    assert(part < f->derived->part_count && f->derived->parts[part]);
    const struct tensor *t = f->derived->parts[part];
    assert(at <= t->size && n <= t->size - at);
    memcpy(out, f->data + t->offset + at, n);
    return 0;
}

static void use_window(const struct file *f, uint64_t first, size_t n, const float *whole)
{
    struct error err;
    const struct derived_reader r = {read_part, (void *)f};
    float *out = malloc(n * sizeof *out);
    assert(out);
    int rc = f->derived->method->weights(f->derived, NULL, &r, first, n, out, &err);
    assert(rc == 0 || rc == -EINVAL);
    assert(rc || !whole || memcmp(out, whole + first, n * sizeof *out) == 0);
    free(out);
}

static void use_derived(struct file *f, const struct tensor *t)
{
    struct error err;
    const struct derived *d = f->derived = t->derived;
    assert(t->ndim == 2 && t->shape[0] == d->rows && t->shape[1] == d->cols);
    assert(t->elements == d->rows * d->cols && t->dtype == d->type && d->parts[0]);
    uint64_t rows = d->cols <= WEIGHTS_MAX ? WEIGHTS_MAX / d->cols : 0;
    rows = rows < d->rows ? rows : d->rows;
    size_t n = (size_t)(rows * d->cols);
    float *whole = rows ? malloc(n * sizeof *whole) : NULL;
    const struct derived_reader r = {read_part, f};
    if (whole && d->method->weights(d, NULL, &r, 0, n, whole, &err)) {
        free(whole);
        whole = NULL;
    }
    for (uint64_t row = 0; row < rows; row += rows / 3 + 1) {
        size_t col = (size_t)(d->cols / 3);
        use_window(f, row * d->cols, (size_t)d->cols, whole);
        use_window(f, row * d->cols + col, (size_t)d->cols - col, whole);
        use_window(f, row * d->cols + col, 1, whole);
    }
    uint64_t last = t->elements - 1;
    use_window(f, last, 1, last < n ? whole : NULL);
    free(whole);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* As a checkpoint has them: no name twice. */
static bool sort(struct tensor_list *list)
{
    if (list->count)
        qsort(list->items, list->count, sizeof *list->items, by_name);
    for (size_t i = 1; i < list->count; i++)
        if (by_name(&list->items[i - 1], &list->items[i]) == 0)
            return false;
    return true;
}

static void use(struct config *config, struct file *f)
{
    struct error err;
    struct tensor_list list = {0};
    uint64_t header_size;
    const struct packed_reader r = {read_start, f};
    if (safetensors_header_size(f->data, f->size, f->size, &header_size, &err) == 0 &&
        safetensors_parse((const char *)f->data + SAFETENSORS_PREFIX, (size_t)header_size, f->size,
                          0, &list, &err) == 0 &&
        sort(&list)) {
        size_t before = list.count;
        int rc = packed_find(config, &list, &r, &err);
        assert(list.count <= before && (!rc || list.count == before));
        for (size_t i = 0; i < list.count; i++) {
            use_text(list.items[i].name);
            assert(i == 0 || by_name(&list.items[i - 1], &list.items[i]) < 0);
            if (list.items[i].derived)
                use_derived(f, &list.items[i]);
        }
    }
    tensor_list_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct files files;
    struct blob json, weights;
    struct config config;
    files_split(data, size, &files);
    files_get(&files, "config.json", &json, &err);
    files_get(&files, "model.safetensors", &weights, &err);
    if (json.data && weights.data && config_parse(json, &config, &err) == 0) {
        struct file f = {weights.data, weights.size, NULL};
        use(&config, &f);
        config_free(&config);
    }
    files_free(&files);
    return 0;
}

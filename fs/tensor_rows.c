/* SPDX-License-Identifier: MIT */
#include "fs/tensor_rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tensor_rows {
    const struct format *format;
    struct image *image;
    uint64_t rows;
    size_t columns;
    size_t band_size;           /* bytes of BAND_ROWS packed rows */
    struct spqr_layout stripes; /* of a format that has them */
    uint32_t *order;            /* likewise: its columns; NULL: not read yet */
    uint8_t *packed;            /* a band */
    float *permuted;            /* a band of a format that has an order of columns; else NULL */
};

void tensor_rows_close(struct tensor_rows *r)
{
    if (!r)
        return;
    image_unref(r->image);
    free(r->order);
    free(r->packed);
    free(r->permuted);
    free(r);
}

static int set_band(struct tensor_rows *r, struct error *err)
{
    uint64_t size;
    if (r->format->stripe_bits) {
        int rc = spqr_format_layout(r->format, r->columns, &r->stripes, err);
        if (rc)
            return rc;
        size = r->stripes.stripe_size;
        r->permuted = calloc(BAND_ROWS * r->columns, sizeof *r->permuted);
    } else {
        format_packed_bytes(r->format, r->columns, BAND_ROWS * r->columns, &size);
    }
    r->band_size = (size_t)size;
    r->packed = malloc(r->band_size);
    return r->packed && (!r->format->stripe_bits || r->permuted)
               ? 0
               : error_set(err, -ENOMEM, "out of memory");
}

/* Takes the image over. */
static int rows_new(const struct tensor *t, const struct format *format, struct image *image,
                    struct tensor_rows **out, struct error *err)
{
    struct tensor_rows *r = calloc(1, sizeof *r);
    if (!r) {
        image_unref(image);
        return error_set(err, -ENOMEM, "out of memory");
    }
    *r = (struct tensor_rows){
        .format = format, .image = image, .rows = t->shape[0], .columns = (size_t)t->shape[1]};
    int rc = set_band(r, err);
    if (rc)
        tensor_rows_close(r);
    else
        *out = r;
    return rc;
}

int tensor_rows_open(const struct checkpoint *c, const struct tensor *t, unsigned form,
                     struct tensor_rows **out, struct error *err)
{
    struct image *image;
    int rc = tensor_file_get(c, t, form, &image, err);
    return rc ? rc : rows_new(t, form_format(form), image, out, err);
}

int tensor_rows_open_source(const struct checkpoint *c, const struct tensor *t,
                            struct tensor_rows **out, struct error *err)
{
    const struct format *f32 = &formats[FORMAT_F32];
    struct encoding *e;
    struct view view = view_make(t);
    struct image *image = image_new();
    if (!image)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = encoding_new(f32, &view, c->shards, NULL, NULL, NULL, &e, err);
    if (!rc) {
        image_add_tensor(image, e);
        encoding_unref(e);
    }
    rc = image_finish(image, rc, &image, err);
    return rc ? rc : rows_new(t, f32, image, out, err);
}

static int read_at(struct tensor_rows *r, struct tiles *tiles, uint64_t at, size_t size, void *out,
                   struct error *err)
{
    size_t done;
    return image_read(r->image, tiles, at, size, false, out, &done, err);
}

/* The order of columns, which ends the file. */
static int read_order(struct tensor_rows *r, struct tiles *tiles, struct error *err)
{
    size_t width = r->stripes.index_size, size = r->columns * width;
    uint8_t *data = malloc(size);
    uint32_t *order = calloc(r->columns, sizeof *order);
    int rc = data && order ? read_at(r, tiles, r->image->size - size, size, data, err)
                           : error_set(err, -ENOMEM, "out of memory");
    for (size_t c = 0; !rc && c < r->columns; c++)
        memcpy(&order[c], data + c * width, width);
    free(data);
    if (rc)
        free(order);
    else
        r->order = order;
    return rc;
}

static int decode_stripe(struct tensor_rows *r, struct tiles *tiles, size_t rows, float *out,
                         struct error *err)
{
    int rc = r->order ? 0 : read_order(r, tiles, err);
    rc = rc ? rc : spqr_decode(&r->stripes, r->packed, r->band_size, r->permuted, err);
    for (size_t row = 0; !rc && row < rows; row++)
        for (size_t c = 0; c < r->columns; c++)
            out[row * r->columns + r->order[c]] = r->permuted[row * r->columns + c];
    return rc;
}

int tensor_rows_read(struct tensor_rows *r, struct tiles *tiles, uint64_t first, float *out,
                     struct error *err)
{
    size_t rows = r->rows - first < BAND_ROWS ? (size_t)(r->rows - first) : BAND_ROWS;
    bool stripes = r->format->stripe_bits;
    size_t size = stripes ? r->band_size : r->band_size / BAND_ROWS * rows;
    int rc = read_at(r, tiles, first / BAND_ROWS * r->band_size, size, r->packed, err);
    if (rc)
        return rc;
    if (stripes)
        return decode_stripe(r, tiles, rows, out, err);
    size_t each = r->format->row_head ? r->columns : rows * r->columns;
    for (size_t done = 0; done < rows * r->columns; done += each)
        r->format->decode(r->packed + done / r->columns * (r->band_size / BAND_ROWS), each, out + done);
    return 0;
}

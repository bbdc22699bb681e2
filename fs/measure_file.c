/* SPDX-License-Identifier: MIT */
#include "fs/measure_file.h"

#include "codec/deviation.h"
#include "codec/picture.h"
#include "codec/sensitivity.h"
#include "codec/spqr/prepare.h"
#include "fs/made.h"
#include "fs/tensor_rows.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const suffixes[] = {
    [MEASURE_SENSITIVITY] = "sensitivity.png",
    [MEASURE_ERROR_PICTURE] = ".error.png",
    [MEASURE_ERROR_FIGURES] = ".error.json",
};

bool measure_exists(const struct checkpoint *c, const struct tensor *t, unsigned form,
                    enum measure measure)
{
    if (!tensor_is_matrix(t) || t->shape[1] > BAND_COLUMNS_MAX)
        return false;
    return measure == MEASURE_SENSITIVITY || (form != FORM_STORED && tensor_has_form(c, t, form) &&
                                              !form_format(form)->plain_float);
}

void measure_name(const struct tensor *t, unsigned form, enum measure measure,
                  char out[MEASURE_NAME_MAX])
{
    bool of_form = measure != MEASURE_SENSITIVITY;
    snprintf(out, MEASURE_NAME_MAX, "%s%s", of_form ? tensor_form_name(t, form) : "",
             suffixes[measure]);
}

static void picture_of(const struct tensor *t, unsigned form, enum measure measure,
                       struct picture *p)
{
    char title[PICTURE_TITLE_MAX + 1] = "sensitivity";
    if (measure == MEASURE_ERROR_PICTURE)
        snprintf(title, sizeof title, "absolute error of %s", tensor_form_name(t, form));
    picture_init(p, t->shape[0], t->shape[1], title);
}

/* ---- figures ---- */

struct figures {
    double bpw, rms, mse, relative_rmse, greatest, weighted; /* weighted < 0: it is not known */
    uint64_t row, column;
};

/* Numbers have a fixed width, in front of which there is room; JSON minds no blanks. */
static size_t print_figures(const char *format, const struct figures *f, char *out, size_t room)
{
    char weighted[24] = "null";
    if (f->weighted >= 0)
        snprintf(weighted, sizeof weighted, "%.9e", f->weighted);
    return (size_t)snprintf(out, room,
                            "{\n"
                            " \"format\": \"%s\",\n"
                            " \"bpw\": %16.9e,\n"
                            " \"rms\": %16.9e,\n"
                            " \"mse\": %16.9e,\n"
                            " \"relative_rmse\": %16.9e,\n"
                            " \"max_error\": %16.9e,\n"
                            " \"max_error_row\": %20" PRIu64 ",\n"
                            " \"max_error_column\": %20" PRIu64 ",\n"
                            " \"weighted_loss\": %16s\n"
                            "}\n",
                            format, f->bpw, f->rms, f->mse, f->relative_rmse, f->greatest, f->row,
                            f->column, weighted);
}

uint64_t measure_size(const struct tensor *t, unsigned form, enum measure measure)
{
    struct picture picture;
    if (measure == MEASURE_ERROR_FIGURES)
        return print_figures(tensor_form_name(t, form), &(struct figures){.bpw = 0}, NULL, 0);
    picture_of(t, form, measure, &picture);
    return picture_size(&picture);
}

static struct figures figures_of(const struct tensor *t, unsigned form, const struct deviation *d,
                                 bool weighted)
{
    double n = (double)t->elements, squares = d->squares / n, source = d->source / n;
    return (struct figures){
        .bpw = 8 * (double)tensor_form_size(t, form) / n,
        .rms = sqrt(source),
        .mse = squares,
        .relative_rmse = source > 0 ? sqrt(squares / source) : 0,
        .greatest = d->greatest,
        .weighted = weighted ? d->weighted : -1,
        .row = d->row,
        .column = d->column,
    };
}

/* ---- making ---- */

/* All that is needed when it is read. */
struct measuring {
    struct checkpoint *checkpoint;
    const struct tensor *tensor;
    unsigned form;
    enum measure measure;
    struct tensor_rows *source;
    struct tensor_rows *packed; /* of an error */
    const float *importance;    /* likewise, or NULL */
    struct factor *factor;      /* of a sensitivity, or NULL */
};

static void measuring_free(void *context)
{
    struct measuring *m = context;
    tensor_rows_close(m->source);
    tensor_rows_close(m->packed);
    factor_unref(m->factor);
    checkpoint_unref(m->checkpoint);
    free(m);
}

/* Of each column, in the matrix's order, the diagonal element of the inverse Hessian. */
static int read_inverse(struct factor *f, float *inverse, struct error *err)
{
    const float *packed;
    const uint8_t *dead;
    size_t columns = (size_t)f->layout.columns;
    float *permuted = calloc(columns, sizeof *permuted);
    if (!permuted)
        return error_set(err, -ENOMEM, "out of memory");
    int rc = factor_take(f, &packed, &dead, err);
    if (!rc) {
        spqr_factor_inverse(packed, columns, permuted);
        for (size_t c = 0; c < columns; c++)
            inverse[f->order[c]] = dead[c] ? INFINITY : permuted[c];
        factor_give(f);
    }
    free(permuted);
    return rc;
}

/* What is made on the way through the matrix. */
struct bands {
    float *weights, *decoded; /* a band each */
    float *numbers;           /* of a row */
    float *inverse;           /* of each column; NULL: not known */
    float *points;            /* of the picture; NULL: there is none */
    struct picture picture;
    struct deviation deviation;
};

static void bands_free(struct bands *b)
{
    free(b->weights);
    free(b->decoded);
    free(b->numbers);
    free(b->inverse);
    free(b->points);
}

static int bands_allocate(const struct measuring *m, struct bands *b, struct error *err)
{
    size_t columns = (size_t)m->tensor->shape[1], band = BAND_ROWS * columns;
    b->weights = calloc(band, sizeof *b->weights);
    b->decoded = m->packed ? calloc(band, sizeof *b->decoded) : NULL;
    b->numbers = calloc(columns, sizeof *b->numbers);
    b->inverse = m->factor ? calloc(columns, sizeof *b->inverse) : NULL;
    bool drawn = m->measure != MEASURE_ERROR_FIGURES;
    if (drawn) {
        picture_of(m->tensor, m->form, m->measure, &b->picture);
        b->points = calloc((size_t)b->picture.map_height * b->picture.map_width, sizeof *b->points);
    }
    bool good = b->weights && (b->decoded || !m->packed) && b->numbers &&
                (b->inverse || !m->factor) && (b->points || !drawn);
    return good ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static void add_row(const struct measuring *m, struct bands *b, uint64_t row)
{
    size_t columns = (size_t)m->tensor->shape[1], at = row % BAND_ROWS * columns;
    if (m->packed)
        deviation_add_row(&b->deviation, row, b->weights + at, b->decoded + at, columns,
                          m->importance, b->numbers);
    else
        sensitivity_row(b->weights + at, columns, b->inverse, b->numbers);
    if (b->points)
        picture_add_row(&b->picture, row, b->numbers, b->points);
}

static int add_rows(const struct measuring *m, struct tiles *tiles, struct bands *b,
                    struct error *err)
{
    uint64_t rows = m->tensor->shape[0];
    for (uint64_t first = 0; first < rows; first += BAND_ROWS) {
        int rc = tensor_rows_read(m->source, tiles, first, b->weights, err);
        if (!rc && m->packed)
            rc = tensor_rows_read(m->packed, tiles, first, b->decoded, err);
        if (rc)
            return rc;
        for (uint64_t row = first; row < rows && row < first + BAND_ROWS; row++)
            add_row(m, b, row);
    }
    return 0;
}

static int write_picture(const struct bands *b, uint8_t *out, struct error *err)
{
    uint8_t *pixels = malloc((size_t)b->picture.height * b->picture.width);
    if (!pixels)
        return error_set(err, -ENOMEM, "out of memory");
    picture_write(&b->picture, b->points, pixels, out);
    free(pixels);
    return 0;
}

static int write_figures(const struct measuring *m, const struct bands *b, uint8_t *out,
                         struct error *err)
{
    const char *format = tensor_form_name(m->tensor, m->form);
    struct figures figures = figures_of(m->tensor, m->form, &b->deviation, m->importance);
    size_t size = print_figures(format, &figures, NULL, 0);
    char *text = malloc(size + 1);
    if (!text)
        return error_set(err, -ENOMEM, "out of memory");
    print_figures(format, &figures, text, size + 1);
    memcpy(out, text, size);
    free(text);
    return 0;
}

static int make(void *context, struct tiles *tiles, uint8_t *out, struct error *err)
{
    const struct measuring *m = context;
    struct bands b = {.weights = NULL};
    int rc = bands_allocate(m, &b, err);
    if (!rc && m->factor)
        rc = read_inverse(m->factor, b.inverse, err);
    rc = rc ? rc : add_rows(m, tiles, &b, err);
    if (!rc)
        rc = b.points ? write_picture(&b, out, err) : write_figures(m, &b, out, err);
    bands_free(&b);
    return rc;
}

static int open_parts(struct measuring *m, struct error *err)
{
    const struct checkpoint *c = m->checkpoint;
    int rc = tensor_rows_open_source(c, m->tensor, &m->source, err);
    if (rc)
        return rc;
    if (m->measure == MEASURE_SENSITIVITY)
        return tensor_factor(c, m->tensor, form_of(&spqr_formats[0]), &m->factor, err);
    rc = tensor_importance(c, m->tensor, &m->importance, err);
    return rc ? rc : tensor_rows_open(c, m->tensor, m->form, &m->packed, err);
}

int measure_file_get(struct checkpoint *c, const struct tensor *t, unsigned form,
                     enum measure measure, struct image **out, struct error *err)
{
    static const struct made_kind kind = {make, measuring_free};
    struct measuring *m = calloc(1, sizeof *m);
    struct image *image = image_new();
    if (!m || !image) {
        free(m);
        image_unref(image);
        return error_set(err, -ENOMEM, "out of memory");
    }
    *m = (struct measuring){checkpoint_ref(c), t, form, measure, NULL, NULL, NULL, NULL};
    int rc = open_parts(m, err);
    if (rc) {
        measuring_free(m);
        image_unref(image);
        return rc;
    }
    struct made *made = made_new(&kind, m, (size_t)measure_size(t, form, measure));
    if (made)
        image_add_made(image, made);
    else
        rc = error_set(err, -ENOMEM, "out of memory");
    made_unref(made);
    return image_finish(image, rc, out, err);
}

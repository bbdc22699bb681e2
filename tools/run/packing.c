/* SPDX-License-Identifier: MIT */
#include "tools/run/packing.h"

#include "daemon/encoding.h"
#include "fs/form.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

const struct format *packing_format(const char *name)
{
    return form_format(form_by_name(name));
}

int packing_check(const struct format *f, const struct facts *facts, struct error *err)
{
    for (enum layer_input i = 0; !f->stripe_bits && i < INPUT_COUNT; i++) {
        uint64_t cols = input_cols(facts, i);
        if (i != INPUT_ROUTER && cols % f->block)
            return error_set(err, -ENOTSUP,
                             "rows of %" PRIu64 " weights cannot be packed as %s, whose blocks have"
                             " %" PRIu32,
                             cols, f->name, f->block);
    }
    return 0;
}

/* ---- a tile ---- */

struct tile {
    const struct packing *packing;
    const struct encoding *encoding;
    uint64_t index;
    uint8_t *bytes;
    float *out; /* of all of the matrix */
    _Atomic int rc;
    struct error *err;
};

/* A stripe's columns go back to where they were; rows that pad it go nowhere. */
static int decode_stripe(const struct encoding *e, const uint8_t *bytes, uint64_t first, float *out,
                         struct error *err)
{
    size_t cols = (size_t)e->view.cols;
    uint64_t left = e->view.rows - first;
    size_t rows = left < SPQR_ROWS ? (size_t)left : SPQR_ROWS;
    const struct factor *factor = e->factors[0];
    float *permuted = calloc(SPQR_ROWS * cols, sizeof *permuted);
    int rc = permuted ? spqr_decode(&e->stripes, bytes, e->stripes.stripe_size, permuted, err)
                      : error_set(err, -ENOMEM, "out of memory");
    out += first * cols;
    for (size_t r = 0; !rc && r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            out[r * cols + factor->order[c]] = permuted[r * cols + c];
    free(permuted);
    return rc;
}

static int decode_part(const struct tile *t, uint32_t part, struct error *err)
{
    const struct encoding *e = t->encoding;
    const struct format *f = e->format;
    uint64_t start = part * e->part_weights;
    uint64_t left = encoding_tile_weights(e, t->index) - start;
    uint64_t n = left < e->part_weights ? left : e->part_weights;
    uint64_t first = t->index * e->tile_weights + start;
    if (f->stripe_bits)
        return decode_stripe(e, t->bytes + part * e->stripes.stripe_size, first / e->view.cols,
                             t->out, err);
    f->decode(t->bytes + start / f->block * f->block_size, (size_t)n, t->out + first);
    return 0;
}

static void tile_share(void *context, unsigned i, unsigned shares)
{
    struct tile *t = context;
    struct scratch scratch = {0};
    struct error err;
    uint32_t parts = encoding_parts(t->encoding, t->index);
    uint32_t part = (uint32_t)((uint64_t)parts * i / shares);
    uint32_t end = (uint32_t)((uint64_t)parts * (i + 1) / shares);
    int rc = 0, none = 0;
    for (; !rc && part < end; part++) {
        rc = encoding_make_part(t->encoding, t->packing->isa, t->index, part, t->bytes, &scratch,
                                &err);
        rc = rc ? rc : decode_part(t, part, &err);
    }
    if (rc && atomic_compare_exchange_strong(&t->rc, &none, rc))
        *t->err = err;
    scratch_free(&scratch);
}

/* ---- a matrix ---- */

/* What is encoded, and of which input. */
struct subject {
    const struct tensor *tensor;
    struct view view;
    struct factor_input input;
    const float *importance; /* [cols], NULL: none */
    struct factor *factor;   /* likewise */
};

static int run_tiles(const struct packing *p, const struct encoding *e, float *out,
                     struct error *err)
{
    struct tile t = {.packing = p, .encoding = e, .out = out, .err = err};
    t.bytes = malloc(e->tile_size);
    if (!t.bytes)
        return error_set(err, -ENOMEM, "out of memory");
    for (; !t.rc && t.index < e->tile_count; t.index++)
        team_run(p->team, tile_share, &t);
    free(t.bytes);
    return t.rc;
}

static int encode(const struct packing *p, const struct subject *s, struct held *h,
                  struct held_matrix *m, struct error *err)
{
    struct encoding *e;
    int rc = encoding_new(p->format, &s->view, &h->weights->file, NULL, s->importance, &s->factor,
                          &e, err);
    if (rc)
        return rc;
    rc = run_tiles(p, e, held_replace(m), err);
    encoding_unref(e);
    return rc;
}

static const struct tensor *tensor_of(const struct weights *w, const struct weight *m)
{
    const struct tensor *t = w->tensors.items;
    while (m->offset < t->offset || m->offset - t->offset >= t->size)
        t++;
    return t;
}

/* Opens the factor before it lets go of the last one: matrices that share an input read it once. */
static int take_factor(const struct packing *p, struct factor_set *set, struct subject *s,
                       struct error *err)
{
    const struct factor_kind kind = {p->format->damping, p->format->natural};
    struct factor *before = s->factor;
    char path[PATH_MAX];
    s->factor = NULL;
    int rc = 0;
    if (kind.damping > 0) {
        rc = factor_path(p->folder, p->facts, &s->input, kind, path, err);
        rc = rc ? rc : factor_open(set, path, s->view.cols, &s->factor, err);
    }
    factor_unref(before);
    return rc;
}

static int pack(const struct packing *p, struct factor_set *set, struct subject *s, struct held *h,
                struct held_matrix *m, struct error *err)
{
    float *weights = calloc(m->stored->cols, sizeof *weights);
    if (!weights)
        return error_set(err, -ENOMEM, "out of memory");
    importance_weights(p->importance, s->input.layer, m->input, m->part, weights);
    s->importance = weights;
    s->tensor = tensor_of(h->weights, m->stored);
    s->view = view_make(s->tensor);
    s->view.first_row = m->part * m->stored->rows;
    s->view.rows = m->stored->rows;
    s->view.matrices = 1;
    s->input.input = m->input;
    s->input.part = m->part;
    int rc = take_factor(p, set, s, err);
    rc = rc ? rc : encode(p, s, h, m, err);
    free(weights);
    return rc;
}

int packing_apply(const struct packing *p, uint32_t layer, struct held *h, struct error *err)
{
    struct factor_set set;
    struct subject s = {.input.layer = layer};
    int rc = 0;
    factor_set_init(&set);
    for (size_t i = 0; !rc && i < h->count; i++)
        if (h->matrices[i].input != INPUT_ROUTER)
            rc = pack(p, &set, &s, h, &h->matrices[i], err);
    factor_unref(s.factor);
    factor_set_destroy(&set);
    return rc;
}

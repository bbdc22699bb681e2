/* SPDX-License-Identifier: MIT */
#include "fs/encoded.h"

#include "codec/bytes.h"
#include "fs/guidance.h"

#include <errno.h>
#include <stdlib.h>

static void add_order(const struct spqr_layout *l, const struct factor *factor, struct buffer *out)
{
    for (size_t i = 0; i < l->columns; i++) {
        uint32_t column = factor ? factor->order[i] : (uint32_t)i;
        buffer_add(out, &column, l->index_size);
    }
}

static int add_orders(const struct encoding *e, struct image *image, struct error *err)
{
    struct buffer orders = {0};
    for (uint64_t i = 0; i < e->view.matrices; i++)
        add_order(&e->stripes, e->factors[i], &orders);
    struct bytes *bytes = orders.failed ? NULL : bytes_new(orders.data, orders.size);
    buffer_free(&orders);
    if (!bytes)
        return error_set(err, -ENOMEM, "out of memory");
    image_add_bytes(image, bytes, 0, bytes->size);
    bytes_unref(bytes);
    return 0;
}

static int importance_of(const struct checkpoint *c, const struct encoded *what,
                         const float **importance, struct error *err)
{
    *importance = NULL;
    if (!what->format->importance || !what->mapped)
        return 0;
    int rc = guidance_importance(c, what->mapped, what->own, importance, err);
    if (*importance)
        *importance += what->first * what->mapped->ne[0];
    return rc;
}

static int make_encoding(const struct checkpoint *c, const struct encoded *what,
                         struct factor **factors, struct encoding **out, struct error *err)
{
    const float *importance;
    int rc = importance_of(c, what, &importance, err);
    if (!rc && what->mapped)
        rc = guidance_factors(c, what->mapped, what->first, what->view->matrices, what->format,
                              factors, err);
    return rc ? rc
              : encoding_new(what->format, what->view, c->shards,
                             guidance_calibration(c, what->own), importance, factors, out, err);
}

int encoded_add(const struct checkpoint *c, const struct encoded *what, struct image *image,
                struct error *err)
{
    struct encoding *e;
    uint64_t matrices = what->view->matrices;
    struct factor **factors = calloc(matrices, sizeof *factors);
    int rc = factors ? make_encoding(c, what, factors, &e, err)
                     : error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        image_add_tensor(image, e);
        if (what->format->stripe_bits)
            rc = add_orders(e, image, err);
        encoding_unref(e);
    }
    for (uint64_t i = 0; factors && i < matrices; i++)
        factor_unref(factors[i]);
    free(factors);
    return rc;
}

/* SPDX-License-Identifier: MIT */
#include "fs/column_order.h"

#include "codec/bytes.h"

#include <errno.h>

static void add_order(const struct spqr_layout *l, const struct factor *factor, struct buffer *out)
{
    for (size_t i = 0; i < l->columns; i++) {
        uint32_t column = factor ? factor->order[i] : (uint32_t)i;
        buffer_add(out, &column, l->index_size);
    }
}

int column_orders_add(struct image *image, const struct spqr_layout *l,
                      struct factor *const *factors, uint64_t matrices, struct error *err)
{
    struct buffer orders = {0};
    for (uint64_t i = 0; i < matrices; i++)
        add_order(l, factors ? factors[i] : NULL, &orders);
    struct bytes *bytes = orders.failed ? NULL : bytes_new(orders.data, orders.size);
    buffer_free(&orders);
    if (!bytes)
        return error_set(err, -ENOMEM, "out of memory");
    image_add_bytes(image, bytes, 0, bytes->size);
    bytes_unref(bytes);
    return 0;
}

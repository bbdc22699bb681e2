/* SPDX-License-Identifier: MIT
 *
 * The orders of columns that stand behind the stripes of matrices (codec/spqr/FORMAT.md).
 */
#ifndef FS_COLUMN_ORDER_H
#define FS_COLUMN_ORDER_H

#include "codec/spqr/stripe.h"
#include "daemon/factor.h"
#include "fs/image.h"

/* Appends those of so many matrices. factors: one for each, NULL where nothing is known of it;
 * NULL: for none. */
int column_orders_add(struct image *image, const struct spqr_layout *l,
                      struct factor *const *factors, uint64_t matrices, struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The file of a factor (../CALIBRATION.md), as its readers need it: where its parts are, and the
 * order of the columns.
 */
#ifndef CODEC_SPQR_FACTOR_H
#define CODEC_SPQR_FACTOR_H

#include "codec/error.h"
#include "codec/layer_input.h"

#include <stddef.h>
#include <stdint.h>

enum { FACTOR_HEADER = 88, FACTOR_DIGEST = 32 };

struct factor_layout {
    uint64_t columns;
    uint64_t triangle, digest; /* where in the file these begin; the order is behind the header */
};

/* The name of the file of an input's factor: of that damping, its columns in their own order (natural)
 * or by activation. expert: which one of those of an input of experts. Writes and returns what
 * snprintf would. */
int factor_file_name(const struct layer_input_id *id, uint64_t expert, float damping, bool natural,
                     char *out, size_t size);

/* The header, of a file of file_size bytes. -EINVAL where it is none of a factor, or the file has
 * another size than it should. */
int factor_parse(const uint8_t *data, size_t size, uint64_t file_size, struct factor_layout *out,
                 struct error *err);

/* Whether columns numbers of 4 bytes are each of 0 to columns - 1 once. order: room for them.
 * -EINVAL, -ENOMEM. */
int factor_order_parse(const uint8_t *data, uint64_t columns, uint32_t *order, struct error *err);

#endif

/* SPDX-License-Identifier: MIT */
#include "codec/spqr/factor.h"

#include "codec/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, KIND_FACTOR = 1, COLUMNS_MAX = 1 << 20 };

int factor_file_name(const struct layer_input_id *id, uint64_t expert, float damping, bool natural,
                     char *out, size_t size)
{
    char part[24] = "";
    if (id->experts)
        snprintf(part, sizeof part, ".%" PRIu64, expert);
    return snprintf(out, size, "blk.%" PRIu32 ".%s%s.damp%g%s.factor", id->layer,
                    input_names[id->input].input, part, (double)damping, natural ? ".natural" : "");
}

int factor_parse(const uint8_t *data, size_t size, uint64_t file_size, struct factor_layout *out,
                 struct error *err)
{
    if (size < FACTOR_HEADER || memcmp(data, "QFSCALIB", 8) != 0)
        return error_set(err, -EINVAL, "this is no file of a calibration");
    uint32_t version = load_u32(data + 8), kind = load_u32(data + 12);
    uint64_t n = load_u64(data + 32);
    if (version != VERSION || kind != KIND_FACTOR)
        return error_set(err, -EINVAL, "version %u, kind %u: this is no factor of version %d",
                         version, kind, VERSION);
    if (n == 0 || n > COLUMNS_MAX)
        return error_set(err, -EINVAL, "a factor of %llu columns", (unsigned long long)n);
    *out = (struct factor_layout){.columns = n, .triangle = FACTOR_HEADER + 4 * n};
    out->digest = out->triangle + n * (n + 1) / 2 * sizeof(float);
    return out->digest + FACTOR_DIGEST == file_size
               ? 0
               : error_set(err, -EINVAL, "a factor of %llu columns has %llu bytes, not %llu",
                           (unsigned long long)n,
                           (unsigned long long)(out->digest + FACTOR_DIGEST),
                           (unsigned long long)file_size);
}

int factor_order_parse(const uint8_t *data, uint64_t columns, uint32_t *order, struct error *err)
{
    uint8_t *seen = calloc(columns, 1);
    int rc = seen ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (uint64_t i = 0; !rc && i < columns; i++) {
        order[i] = load_u32(data + 4 * i);
        if (order[i] >= columns || seen[order[i]]++)
            rc = error_set(err, -EINVAL, "place %llu: column %u stands there twice, or is none",
                           (unsigned long long)i, order[i]);
    }
    free(seen);
    return rc;
}

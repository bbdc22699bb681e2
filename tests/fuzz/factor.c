/* SPDX-License-Identifier: MIT
 *
 * The file of a calibration's factor: its header, and the order of its columns.
 */
#include "codec/spqr/factor.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct factor_layout l;
    if (factor_parse(data, size, size, &l, &err))
        return 0;
    assert(l.columns && l.digest + FACTOR_DIGEST == size && l.triangle < l.digest);
    uint32_t *order = calloc(l.columns, sizeof *order);
    assert(order);
    if (factor_order_parse(data + FACTOR_HEADER, l.columns, order, &err) == 0) {
        uint64_t sum = 0;
        for (uint64_t i = 0; i < l.columns; i++)
            sum += order[i];
        assert(sum == l.columns * (l.columns - 1) / 2);
    }
    free(order);
    return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * An importance matrix, of whichever layout.
 */
#include "codec/imatrix.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct imatrix m;
    if (imatrix_parse((struct blob){data, size}, &m, &err))
        return 0;
    for (size_t i = 0; i < m.count; i++) {
        const struct imatrix_entry *e = &m.entries[i];
        assert(imatrix_find(&m, e->name) == e);
        for (size_t k = 0; k < e->count; k++)
            assert(isfinite(e->weights[k]));
    }
    if (m.dataset)
        use_text(m.dataset);
    imatrix_free(&m);
    return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * Where a mount's tiles lie on disk.
 */
#include "codec/extents.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct extents e;
    if (extents_parse((const char *)data, size, &e, &err))
        return 0;
    assert(e.size <= INT64_MAX);
    for (size_t i = 0; i < e.object_count; i++) {
        assert(e.objects[i][0] == '/');
        use_text(e.objects[i]);
    }
    uint64_t end = 0;
    for (size_t i = 0; i < e.count; i++) {
        const struct extent *x = &e.items[i];
        assert(x->length && x->offset >= end && x->offset <= e.size - x->length);
        assert(x->object < e.object_count || x->object == EXTENT_NOWHERE);
        assert(x->at <= INT64_MAX - x->length);
        end = x->offset + x->length;
    }
    extents_free(&e);
    return 0;
}

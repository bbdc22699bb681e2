/* SPDX-License-Identifier: MIT
 *
 * Parses an extents file from stdin and writes what was understood in the same form to stdout.
 */
#include "codec/extents.h"

#include "codec/bytes.h"

#include <inttypes.h>
#include <stdio.h>

int main(void)
{
    struct error err;
    struct extents e;
    struct buffer text = {0};
    char chunk[1 << 16];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, stdin));)
        buffer_add(&text, chunk, n);
    if (text.failed || extents_parse((char *)text.data, text.size, &e, &err)) {
        fprintf(stderr, "extents: %s\n", text.failed ? "out of memory" : err.text);
        return 1;
    }
    printf("quantfs extents 1\nsize %" PRIu64 "\n", e.size);
    for (size_t i = 0; i < e.object_count; i++)
        printf("object %zu %s\n", i, e.objects[i]);
    for (size_t i = 0; i < e.count; i++) {
        const struct extent *x = &e.items[i];
        printf("tile %" PRIu64 " %" PRIu64, x->offset, x->length);
        if (x->object == EXTENT_NOWHERE)
            puts(" -");
        else
            printf(" %" PRIu32 " %" PRIu64 " %016" PRIx64 " %016" PRIx64 "\n", x->object, x->at,
                   x->checksum, x->seed);
    }
    extents_free(&e);
    buffer_free(&text);
    return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * A config.json as quantfs-run plan reads it: the sizes of all matrices, packed in every way.
 */
#include "tools/run/sketch.h"

#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

/* What planning rests on: whole rows, whose bytes can be added up. */
static void use_packed(const struct sketch *s, struct packing p)
{
    struct error err;
    uint64_t bytes = 0;
    struct weight *packed = calloc(s->count, sizeof *packed);
    assert(packed);
    assert(sketch_pack(s, p, packed, &err) == 0);
    for (size_t i = 0; i < s->count; i++) {
        const struct weight *m = &packed[i];
        uint64_t own;
        assert(m->rows && m->cols && m->unit_size && m->layer <= s->facts.layers);
        assert(!m->format || m->unit_rows > 1 || m->cols % m->format->block == 0);
        assert(!__builtin_mul_overflow(m->units, m->unit_size, &own));
        assert(!__builtin_add_overflow(bytes, own, &bytes));
        assert(i == 0 || m->layer >= packed[i - 1].layer);
    }
    free(packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct sketch s;
    if (sketch_parse((struct blob){data, size}, &s, &err)) {
        use_text(err.text);
        return 0;
    }
    for (size_t i = 0; i < s.count; i++)
        use_text(s.tensors[i].name);
    for (size_t i = 0; s.facts.layers < 200 && i < RECIPE_COUNT; i++)
        use_packed(&s, (struct packing){&recipes[i], 0});
    use_packed(&s, (struct packing){&recipes[0], 3.94});
    sketch_free(&s);
    return 0;
}

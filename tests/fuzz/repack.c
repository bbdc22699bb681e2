/* SPDX-License-Identifier: MIT
 *
 * Canonical bytes that are repacked, behind seven bytes that say how: the format, rows and columns
 * (in the units that loaders want), and a window in thousandths of each tensor. What is not there of
 * the bytes is zeros.
 */
#include "codec/bytes.h"
#include "codec/gptq/format.h"
#include "codec/repack.h"
#include "codec/spqr/format.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

enum { HEAD = 7, UNITS_MAX = 4, GPTQ_GROUP = 128, GPTQ_ROWS = 32 };

static void *allocate(size_t n)
{
    void *p = calloc(n + 1, 1);
    assert(p);
    return p;
}

/* spqr3, or one of GPTQ's, if loaders take its groups. */
static const struct format *format_of(uint8_t number)
{
    const struct format *f = spqr_formats;
    number %= 1 + GPTQ_FORMAT_COUNT;
    if (number)
        f = &gptq_formats[number - 1];
    else
        while (f->stripe_bits != 3)
            f++;
    return f->stripe_bits || f->block == GPTQ_GROUP ? f : NULL;
}

/* As the mount reads a window: out of the units that it needs, and of no other byte. */
static int read_window(const struct repack *r, const struct repack_matrix *m, const uint8_t *bytes,
                       uint64_t unit_count, const struct repack_window *w)
{
    struct error err;
    struct repack_units need = {0, 0};
    size_t unit = repack_unit_size(m);
    if (r->need) {
        need = r->need(m, w->at, w->size);
        assert(need.count && need.first < unit_count && need.count <= unit_count - need.first);
    }
    uint8_t *own = allocate(need.count * unit);
    memcpy(own, bytes + need.first * unit, need.count * unit);
    int rc = r->put(m, own, need, w, &err);
    if (rc)
        use_text(err.text);
    free(own);
    return rc;
}

static void use_repack(const struct repack *r, const struct repack_matrix *m, const uint8_t *bytes,
                       uint64_t unit_count, const uint8_t *head)
{
    size_t size = (size_t)repack_size(r, m);
    size_t at = size * (load_u16(head + 3) % 1000) / 1000;
    size_t n = 1 + (size - at - 1) * (load_u16(head + 5) % 1000) / 1000;
    struct repack_window all = {allocate(size), 0, size}, part = {allocate(n), at, n};
    int rc = read_window(r, m, bytes, unit_count, &all);
    if (rc == 0) {
        use_bytes(all.out, size);
        rc = read_window(r, m, bytes, unit_count, &part);
        assert(rc == 0 && memcmp(part.out, all.out + at, n) == 0);
    }
    free(all.out);
    free(part.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct format *f = size < HEAD ? NULL : format_of(data[0]);
    if (!f)
        return 0;
    uint64_t rows = (f->stripe_bits ? SPQR_ROWS : GPTQ_ROWS) * (1 + data[1] % UNITS_MAX);
    uint64_t cols = (f->stripe_bits ? SPQR_GROUP : GPTQ_GROUP) * (1 + data[2] % UNITS_MAX);
    const struct repack_matrix m = {f, rows, cols, NULL};
    const struct repack *repacks = f->stripe_bits ? spqr_repacks : gptq_repacks;
    int count = f->stripe_bits ? SPQR_REPACK_COUNT : GPTQ_REPACK_COUNT;
    uint64_t units = f->stripe_bits ? rows / SPQR_ROWS : rows;
    size_t all = (size_t)units * repack_unit_size(&m), given = size - HEAD;
    uint8_t *bytes = allocate(all);
    memcpy(bytes, data + HEAD, given < all ? given : all);
    for (int i = 0; i < count; i++)
        use_repack(&repacks[i], &m, bytes, units, data);
    free(bytes);
    return 0;
}

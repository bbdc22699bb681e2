/* SPDX-License-Identifier: MIT
 *
 * Canonical bytes that are repacked, behind seven bytes that say how: the format, rows and columns
 * (in the units that loaders want), and a window in thousandths of each tensor. What is not there of
 * the bytes is zeros.
 */
#include "codec/awq/format.h"
#include "codec/bnb/format.h"
#include "codec/bytes.h"
#include "codec/compressed/format.h"
#include "codec/gptq/format.h"
#include "codec/repack.h"
#include "codec/spqr/format.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>

enum { HEAD = 7, UNITS_MAX = 4, GPTQ_GROUP = 128, GPTQ_ROWS = 32, ODD_ROWS = 5, ODD_COLS = 61 };

static void *allocate(size_t n)
{
    void *p = calloc(n + 1, 1);
    assert(p);
    return p;
}

/* spqr3, or one of GPTQ's, if loaders take its groups, or AWQ's. */
static const struct format *format_of(uint8_t number)
{
    const struct format *f = spqr_formats;
    number %= 1 + GPTQ_FORMAT_COUNT + AWQ_FORMAT_COUNT;
    if (number > GPTQ_FORMAT_COUNT)
        return &awq_formats[number - 1 - GPTQ_FORMAT_COUNT];
    if (number)
        f = &gptq_formats[number - 1];
    else
        while (f->stripe_bits != 3)
            f++;
    return f->stripe_bits || f->block == GPTQ_GROUP ? f : NULL;
}

/* What stands for a matrix of a format. */
static const struct repack *repacks_of(const struct format *f, int *count)
{
    if (f == &awq_formats[0]) {
        *count = AWQ_REPACK_COUNT;
        return awq_repacks;
    }
    *count = f->stripe_bits ? SPQR_REPACK_COUNT : GPTQ_REPACK_COUNT;
    return f->stripe_bits ? spqr_repacks : gptq_repacks;
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

/* Layouts of bnb/ and compressed/. */
static const struct {
    const struct format *format;
    const struct repack *repacks;
    int count;
    uint64_t cols;
} scaled[] = {
    {&bnb_formats[BNB_NF4],  nf4_repacks,    NF4_REPACK_COUNT,    ODD_COLS        },
    {&bnb_formats[BNB_NF4],  nf4_dq_repacks, NF4_DQ_REPACK_COUNT, 64 * ODD_COLS   },
    {&bnb_formats[BNB_INT8], int8_repacks,   INT8_REPACK_COUNT,   ODD_COLS        },
    {&compressed_formats[0], w4_repacks,     W4_REPACK_COUNT,     COMPRESSED_GROUP},
    {&compressed_formats[1], w8_repacks,     W8_REPACK_COUNT,     ODD_COLS        },
    {&compressed_formats[4], w4_repacks,     W4_REPACK_COUNT,     COMPRESSED_GROUP},
    {&compressed_formats[5], w8_repacks,     W8_REPACK_COUNT,     ODD_COLS        },
};

enum { OTHERS = 1 + GPTQ_FORMAT_COUNT + AWQ_FORMAT_COUNT, SCALED_COUNT = sizeof scaled / sizeof *scaled };

static int use_scaled(unsigned which, const uint8_t *data, size_t size)
{
    struct repack_matrix m = {.format = scaled[which].format,
                              .rows = ODD_ROWS * (1 + data[1] % UNITS_MAX),
                              .cols = scaled[which].cols * (1 + data[2] % UNITS_MAX),
                              .type = FORMAT_BF16};
    uint64_t packed = 0;
    format_packed_bytes(m.format, m.cols, m.rows * m.cols, &packed);
    memcpy(&m.mean, data + 3, sizeof m.mean);
    m.mean = isfinite(m.mean) ? m.mean : 0;
    uint64_t units = (packed - 1) / repack_unit_size(&m) + 1;
    size_t all = (size_t)units * repack_unit_size(&m), given = size - HEAD;
    uint8_t *bytes = allocate(all);
    memcpy(bytes, data + HEAD, given < packed ? given : (size_t)packed);
    for (int i = 0; i < scaled[which].count; i++)
        use_repack(&scaled[which].repacks[i], &m, bytes, units, data);
    free(bytes);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= HEAD && data[0] % (OTHERS + SCALED_COUNT) >= OTHERS)
        return use_scaled(data[0] % (OTHERS + SCALED_COUNT) - OTHERS, data, size);
    const struct format *f =
        size < HEAD ? NULL : format_of((uint8_t)(data[0] % (OTHERS + SCALED_COUNT)));
    if (!f)
        return 0;
    uint64_t rows = (f->stripe_bits ? SPQR_ROWS : GPTQ_ROWS) * (1 + data[1] % UNITS_MAX);
    uint64_t cols = (f->stripe_bits ? SPQR_GROUP : GPTQ_GROUP) * (1 + data[2] % UNITS_MAX);
    const struct repack_matrix m = {.format = f, .rows = rows, .cols = cols};
    int count;
    const struct repack *repacks = repacks_of(f, &count);
    uint64_t units = f->stripe_bits ? rows / SPQR_ROWS : rows;
    size_t all = (size_t)units * repack_unit_size(&m), given = size - HEAD;
    uint8_t *bytes = allocate(all);
    memcpy(bytes, data + HEAD, given < all ? given : all);
    for (int i = 0; i < count; i++)
        use_repack(&repacks[i], &m, bytes, units, data);
    free(bytes);
    return 0;
}

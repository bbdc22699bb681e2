/* SPDX-License-Identifier: MIT
 *
 * The file of a base run: its head and its rows, which a model is compared with whose logits are
 * those of the row in front; what was read is packed again.
 */
#include "tests/fuzz/fuzz.h"
#include "tools/run/divergence.h"

#include <math.h>

enum { FIGURES = 43 }; /* with their errors */

struct comparison {
    const struct baseline *layout;
    struct divergence divergence;
    float *logits;
    uint8_t *packed;
};

static void use_row(struct comparison *c, const struct baseline_row *row, uint32_t token)
{
    uint32_t vocab = c->layout->vocab;
    struct baseline_row again;
    struct error err;
    divergence_add(&c->divergence, c->logits, vocab, row, token);
    for (uint32_t i = 0; i < vocab; i++) {
        c->logits[i] = baseline_ln(row, i);
        assert(isfinite(c->logits[i]));
    }
    baseline_row_pack(c->layout, c->logits, c->packed);
    int rc = baseline_row_parse(c->packed, c->layout->row_size, vocab, &again, &err);
    assert(rc == 0);
}

/* Those in front of the first that is none. */
static uint64_t use_rows(struct comparison *c, const uint8_t *rows)
{
    const struct baseline *b = c->layout;
    uint64_t count = (uint64_t)b->rows * b->chunks;
    for (uint64_t i = 0; i < count; i++) {
        struct baseline_row row;
        struct error err;
        const uint8_t *data = rows + i * b->row_size;
        assert(baseline_row_parse(data, b->row_size - 4, b->vocab, &row, &err));
        if (baseline_row_parse(data, b->row_size, b->vocab, &row, &err))
            return i;
        use_row(c, &row, (uint32_t)(i % b->vocab));
    }
    return count;
}

static void use_figures(struct divergence *d)
{
    json_t *root = json_object();
    divergence_report(d, root);
    assert(json_object_size(root) == FIGURES); /* a number that JSON has not would be missing */
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct baseline b;
    size_t head = size < BASELINE_HEAD ? size : BASELINE_HEAD;
    uint8_t again[BASELINE_HEAD];
    if (baseline_parse(data, head, size, &b, &err))
        return 0;
    baseline_put_head(&b, again);
    assert(memcmp(data, again, BASELINE_HEAD) == 0);
    struct comparison c = {.layout = &b};
    if (divergence_new(&c.divergence, (uint64_t)b.rows * b.chunks, &err))
        return 0;
    c.logits = calloc(b.vocab, sizeof *c.logits);
    c.packed = malloc(b.row_size);
    assert(c.logits && c.packed);
    if (use_rows(&c, data + b.rows_offset) >= DIVERGENCE_TOKENS_MIN)
        use_figures(&c.divergence);
    divergence_free(&c.divergence);
    free(c.logits);
    free(c.packed);
    return 0;
}

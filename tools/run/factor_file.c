/* SPDX-License-Identifier: MIT */
#include "tools/run/factor_file.h"

#include "codec/bytes.h"
#include "tools/output.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>

enum { HEADER_SIZE = 88, VERSION = 1 };

enum { KIND_FACTOR = 1, KIND_HESSIAN = 2 };

int factor_path(const char *folder, const struct facts *f, const struct factor_input *input,
                struct factor_kind kind, char path[PATH_MAX], struct error *err)
{
    char expert[16] = "", end[48] = ".hessian";
    if (f->experts && input_names[input->input].experts)
        snprintf(expert, sizeof expert, ".%" PRIu32, input->part);
    if (kind.damping > 0)
        snprintf(end, sizeof end, ".damp%g%s.factor", (double)kind.damping,
                 kind.natural ? ".natural" : "");
    int n = snprintf(path, PATH_MAX, "%s/blk.%" PRIu32 ".%s%s%s", folder, input->layer,
                     input_names[input->input].input, expert, end);
    return n < PATH_MAX ? 0 : error_set(err, -ENAMETOOLONG, "%s: the name is too long", folder);
}

uint64_t factor_size(uint64_t cols, struct factor_kind kind)
{
    uint64_t order = kind.damping > 0 ? cols : 0, triangle = cols * (cols + 1) / 2;
    return HEADER_SIZE + (order + triangle) * sizeof(float) + crypto_hash_sha256_BYTES;
}

/* A file whose end is the digest of what is before. */
struct writer {
    struct output out;
    crypto_hash_sha256_state digest;
    float *row;
};

static int put(struct writer *w, const void *data, uint64_t n, struct error *err)
{
    crypto_hash_sha256_update(&w->digest, data, n);
    return output_write(&w->out, data, n, err);
}

static int put_header(struct writer *w, uint32_t kind, float damping, const struct origin *from,
                      const struct factor_input *input, const struct hessian *h, struct error *err)
{
    struct buffer b = {0};
    buffer_add(&b, "QFSCALIB", 8);
    buffer_add_u32(&b, VERSION);
    buffer_add_u32(&b, kind);
    buffer_add(&b, &damping, sizeof damping);
    buffer_add_u32(&b, input->layer);
    buffer_add_u32(&b, input->input);
    buffer_add_u32(&b, input->part);
    buffer_add_u64(&b, h->cols);
    buffer_add_u32(&b, from->chunk_size);
    buffer_add_u32(&b, from->chunks);
    buffer_add(&b, from->digest, sizeof from->digest);
    buffer_add_u64(&b, h->tokens);
    int rc = b.failed ? error_set(err, -ENOMEM, "out of memory") : put(w, b.data, b.size, err);
    buffer_free(&b);
    return rc;
}

static int put_digest(struct writer *w, struct error *err)
{
    uint8_t digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(&w->digest, digest);
    return output_write(&w->out, digest, sizeof digest, err);
}

static int put_factor(struct writer *w, uint64_t n, const struct factor_parts *factor,
                      struct error *err)
{
    int rc = put(w, factor->order, n * sizeof *factor->order, err);
    for (uint64_t i = 0; !rc && i < n; i++) {
        hessian_factor_row(factor->work, n, i, w->row);
        rc = put(w, w->row, (n - i) * sizeof *w->row, err);
    }
    return rc;
}

static int put_hessian(struct writer *w, const struct hessian *h, struct error *err)
{
    uint64_t n = h->cols;
    int rc = 0;
    for (uint64_t i = 0; !rc && i < n; i++)
        rc = put(w, h->h + i * n + i, (n - i) * sizeof *h->h, err);
    return rc;
}

int factor_write(const char *path, const struct origin *from, const struct factor_input *input,
                 const struct hessian *h, const struct factor_parts *factor, struct error *err)
{
    struct writer w = {.row = calloc(h->cols, sizeof *w.row)};
    int rc = w.row ? output_open(&w.out, path, err) : error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        crypto_hash_sha256_init(&w.digest);
        rc = put_header(&w, factor ? KIND_FACTOR : KIND_HESSIAN, factor ? factor->damping : 0, from,
                        input, h, err);
        if (!rc)
            rc = factor ? put_factor(&w, h->cols, factor, err) : put_hessian(&w, h, err);
        rc = rc ? rc : put_digest(&w, err);
        rc = output_close(&w.out, rc, true, err);
    }
    free(w.row);
    return rc;
}

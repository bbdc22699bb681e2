/* SPDX-License-Identifier: MIT */
#include "tools/run/baseline_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct beneath anywhere = {AT_FDCWD, true};

/* ---- reading ---- */

static int read_head(struct baseline_reader *r, struct error *err)
{
    uint8_t head[BASELINE_HEAD];
    uint64_t size = source_identity(r->file)->size;
    size_t n = size < sizeof head ? (size_t)size : sizeof head;
    int rc = source_read(r->file, head, 0, n, err);
    if (rc)
        return rc;
    rc = baseline_parse(head, n, size, &r->layout, err);
    return rc ? error_prefix(err, rc, "%s", source_path(r->file)) : 0;
}

int baseline_open(struct baseline_reader *r, const char *path, struct error *err)
{
    *r = (struct baseline_reader){.set = source_set_new(1, &r->stats)};
    int rc = r->set ? source_open(r->set, &anywhere, path, &r->file, err)
                    : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : read_head(r, err);
    if (!rc && !(r->row = malloc(r->layout.row_size)))
        rc = error_set(err, -ENOMEM, "out of memory");
    if (rc)
        baseline_close(r);
    return rc;
}

int baseline_read_ids(struct baseline_reader *r, struct token_ids *ids, struct error *err)
{
    const struct baseline *b = &r->layout;
    size_t count = (size_t)b->context * b->chunks;
    *ids = (struct token_ids){.ids = reallocarray(NULL, count, sizeof *ids->ids), .count = count};
    int rc = ids->ids ? source_read(r->file, ids->ids, BASELINE_HEAD, count * sizeof *ids->ids, err)
                      : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < count; i++)
        if (ids->ids[i] >= b->vocab)
            rc = error_set(err, -EINVAL,
                           "%s: chunk %zu, token %zu: there is no id %" PRIu32
                           " in a vocabulary of %" PRIu32,
                           source_path(r->file), i / b->context, i % b->context, ids->ids[i],
                           b->vocab);
    if (!rc)
        return 0;
    free(ids->ids);
    *ids = (struct token_ids){0};
    return rc;
}

int baseline_read_row(struct baseline_reader *r, uint32_t chunk, uint32_t number,
                      struct baseline_row *row, struct error *err)
{
    const struct baseline *b = &r->layout;
    uint64_t at = b->rows_offset + ((uint64_t)chunk * b->rows + number) * b->row_size;
    int rc = source_read(r->file, r->row, at, b->row_size, err);
    if (rc)
        return rc;
    rc = baseline_row_parse(r->row, b->row_size, b->vocab, row, err);
    return rc ? error_prefix(err, rc, "%s: chunk %" PRIu32 ", row %" PRIu32, source_path(r->file),
                             chunk, number)
              : 0;
}

void baseline_close(struct baseline_reader *r)
{
    free(r->row);
    source_unref(r->file);
    source_set_free(r->set);
    *r = (struct baseline_reader){0};
}

/* ---- writing ---- */

int baseline_create(struct baseline_writer *w, const char *path, struct error *err)
{
    *w = (struct baseline_writer){0};
    if (access(path, F_OK) == 0)
        return error_set(err, -EEXIST, "%s is there already", path);
    return output_open(&w->out, path, err);
}

int baseline_begin(struct baseline_writer *w, struct baseline layout, const uint32_t *ids,
                   struct error *err)
{
    uint8_t head[BASELINE_HEAD];
    w->layout = layout;
    w->row = malloc(layout.row_size);
    if (!w->row)
        return error_set(err, -ENOMEM, "out of memory");
    baseline_put_head(&layout, head);
    int rc = output_write(&w->out, head, sizeof head, err);
    return rc ? rc : output_write(&w->out, ids, layout.rows_offset - BASELINE_HEAD, err);
}

int baseline_write_row(struct baseline_writer *w, const float *logits, struct error *err)
{
    baseline_row_pack(&w->layout, logits, w->row);
    return output_write(&w->out, w->row, w->layout.row_size, err);
}

int baseline_finish(struct baseline_writer *w, int rc, struct error *err)
{
    free(w->row);
    return output_close(&w->out, rc, false, err);
}

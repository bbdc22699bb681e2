/* SPDX-License-Identifier: MIT */
#include "codec/repack.h"

#include "codec/spqr/format.h"

#include <string.h>

size_t repack_unit_size(const struct repack_matrix *m)
{
    const struct format *f = m->format;
    uint64_t rows, size;
    if (f->run)
        return (size_t)(f->run / f->block) * f->block_size;
    if (f->encoder && !f->row_head)
        return f->block_size;
    return format_unit(m->format, m->cols, &rows, &size) ? (size_t)size : 0;
}

const char *repack_dtype(const struct repack *r, const struct repack_matrix *m)
{
    return r->dtype ? r->dtype : m->format->type->title;
}

uint32_t repack_width(const struct repack *r, const struct repack_matrix *m)
{
    return r->dtype ? r->width : m->format->type->block_size;
}

uint64_t repack_size(const struct repack *r, const struct repack_matrix *m)
{
    uint64_t shape[REPACK_DIMS], size = repack_width(r, m);
    r->shape(m, shape);
    for (uint32_t i = 0; i < r->ndim; i++)
        size *= shape[i];
    return size;
}

void repack_copy(const struct repack_window *w, uint64_t at, const void *data, size_t n)
{
    uint64_t from = at > w->at ? at : w->at;
    uint64_t end = at + n < w->at + w->size ? at + n : w->at + w->size;
    if (from < end)
        memcpy(w->out + (from - w->at), (const uint8_t *)data + (from - at), (size_t)(end - from));
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/baseline.h"

#include "codec/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>

static const char magic[8] = "_logits_";

enum { ROW_HEAD = 8, CODE_MAX = UINT16_MAX, LN_RANGE = 16 };

bool baseline_lay_out(struct baseline *b)
{
    uint64_t ids, rows;
    if (b->context < BASELINE_CONTEXT_MIN || b->context > BASELINE_CONTEXT_MAX || !b->vocab ||
        b->vocab > INT32_MAX || !b->chunks)
        return false;
    b->rows = b->context - 1 - b->context / 2;
    b->row_size = ROW_HEAD + 2 * (((size_t)b->vocab + 1) / 2 * 2);
    return !__builtin_mul_overflow((uint64_t)b->context * b->chunks, sizeof(uint32_t), &ids) &&
           !__builtin_mul_overflow((uint64_t)b->rows * b->chunks, b->row_size, &rows) &&
           !__builtin_add_overflow(BASELINE_HEAD, ids, &b->rows_offset) &&
           !__builtin_add_overflow(b->rows_offset, rows, &b->size);
}

int baseline_parse(const void *data, size_t size, uint64_t file_size, struct baseline *b,
                   struct error *err)
{
    struct reader r = reader_make(data, size);
    const uint8_t *start;
    *b = (struct baseline){0};
    if (!read_bytes(&r, sizeof magic, &start) || memcmp(start, magic, sizeof magic) != 0)
        return error_set(err, -EINVAL, "no file of a base run: it does not begin with \"%.8s\"",
                         magic);
    if (!read_u32(&r, &b->context) || !read_u32(&r, &b->vocab) || !read_u32(&r, &b->chunks))
        return error_set(err, -EINVAL, "the file ends within its head");
    if (!baseline_lay_out(b))
        return error_set(err, -EINVAL,
                         "the head is invalid: %" PRIu32 " chunks of %" PRIu32
                         " tokens of a vocabulary of %" PRIu32,
                         b->chunks, b->context, b->vocab);
    if (file_size != b->size)
        return error_set(err, -EINVAL,
                         "the file has %" PRIu64 " bytes, and %" PRIu32 " chunks of %" PRIu32
                         " tokens of a vocabulary of %" PRIu32 " take %" PRIu64,
                         file_size, b->chunks, b->context, b->vocab, b->size);
    return 0;
}

void baseline_put_head(const struct baseline *b, void *out)
{
    const uint32_t numbers[] = {b->context, b->vocab, b->chunks};
    memcpy(out, magic, sizeof magic);
    memcpy((uint8_t *)out + sizeof magic, numbers, sizeof numbers);
}

int baseline_row_parse(const void *data, size_t size, uint32_t vocab, struct baseline_row *row,
                       struct error *err)
{
    struct reader r = reader_make(data, size);
    const float tolerance = 0.01f, most_even = -logf((float)vocab);
    if (!read_copy(&r, &row->scale, 4) || !read_copy(&r, &row->least, 4) ||
        !read_bytes(&r, 2 * (uint64_t)vocab, &row->codes))
        return error_set(err, -EINVAL, "the row is too short");
    if (!(row->scale >= 0) || !(row->least >= most_even - LN_RANGE - tolerance) ||
        !(row->least + row->scale * CODE_MAX <= tolerance))
        return error_set(err, -EINVAL, "the row has no probabilities");
    return 0;
}

float baseline_ln(const struct baseline_row *row, uint32_t id)
{
    return row->least + row->scale * load_u16(row->codes + 2 * (size_t)id);
}

void baseline_row_pack(const struct baseline *b, const float *logits, void *out)
{
    float most = logits[0], least = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < b->vocab; i++) {
        most = fmaxf(most, logits[i]);
        least = fminf(least, logits[i]);
    }
    for (uint32_t i = 0; i < b->vocab; i++)
        sum += (double)expf(logits[i] - most);
    least = fmaxf(least, most - LN_RANGE);
    const float head[] = {(most - least) / CODE_MAX, least - most - (float)log(sum)};
    uint8_t *codes = (uint8_t *)out + ROW_HEAD;
    memset(out, 0, b->row_size);
    memcpy(out, head, sizeof head);
    for (uint32_t i = 0; head[0] > 0 && i < b->vocab; i++)
        if (logits[i] > least)
            store_u16(codes + 2 * (size_t)i,
                      (uint16_t)fminf(rintf((logits[i] - least) / head[0]), CODE_MAX));
}

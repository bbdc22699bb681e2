/* SPDX-License-Identifier: MIT */
#include "codec/sentencepiece.h"

#include "codec/utf8.h"

#include <errno.h>

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct field {
    uint64_t number, value; /* value: of a varint or a fixed field */
    enum wire_type type;
    struct reader bytes; /* of a length-delimited field */
};

static bool read_varint(struct reader *r, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        const uint8_t *p;
        if (!read_bytes(r, 1, &p))
            return false;
        *out |= (uint64_t)(*p & 0x7f) << shift;
        if (!(*p & 0x80))
            return true;
    }
    return false;
}

static bool read_field(struct reader *r, struct field *f)
{
    uint64_t tag, size;
    const uint8_t *p;
    if (!read_varint(r, &tag))
        return false;
    f->number = tag >> 3;
    f->type = (enum wire_type)(tag & 7);
    f->value = 0;
    switch (f->type) {
    case WIRE_VARINT: return read_varint(r, &f->value);
    case WIRE_FIXED64: return read_copy(r, &f->value, 8);
    case WIRE_FIXED32: return read_copy(r, &f->value, 4);
    case WIRE_BYTES:
        if (!read_varint(r, &size) || !read_bytes(r, size, &p))
            return false;
        f->bytes = reader_make(p, (size_t)size);
        return true;
    }
    return false;
}

/* SentencePiece { string piece = 1; float score = 2; Type type = 3; } */
static bool parse_piece(struct reader r, struct piece *piece)
{
    *piece = (struct piece){.type = PIECE_NORMAL};
    while (reader_left(&r)) {
        struct field f;
        if (!read_field(&r, &f))
            return false;
        if (f.number == 1 && f.type == WIRE_BYTES) {
            piece->text = (const char *)f.bytes.pos;
            piece->size = reader_left(&f.bytes);
        } else if (f.number == 2 && f.type == WIRE_FIXED32) {
            memcpy(&piece->score, &f.value, sizeof piece->score);
        } else if (f.number == 3 && f.type == WIRE_VARINT) {
            if (f.value < PIECE_NORMAL || f.value > PIECE_BYTE)
                return false;
            piece->type = (int32_t)f.value;
        }
    }
    return piece->text && utf8_valid(piece->text, piece->size) &&
           !memchr(piece->text, 0, piece->size);
}

int sentencepiece_parse(struct blob file, struct piece **pieces, size_t *count, struct error *err)
{
    struct reader r = reader_make(file.data, file.size);
    size_t capacity = 0;
    *pieces = NULL;
    *count = 0;
    int rc = 0;
    while (!rc && reader_left(&r)) {
        size_t at = file.size - reader_left(&r);
        struct field f;
        if (!read_field(&r, &f)) {
            rc = error_set(err, -EINVAL, "byte %zu: not a SentencePiece model", at);
            break;
        }
        if (f.number != 1 || f.type != WIRE_BYTES) /* ModelProto.pieces = 1 */
            continue;
        if (*count == capacity) {
            capacity = capacity ? 2 * capacity : 256;
            struct piece *grown = reallocarray(*pieces, capacity, sizeof *grown);
            if (!grown) {
                rc = error_set(err, -ENOMEM, "out of memory");
                break;
            }
            *pieces = grown;
        }
        if (!parse_piece(f.bytes, &(*pieces)[*count]))
            rc = error_set(err, -EINVAL, "byte %zu: piece %zu is invalid", at, *count);
        else
            ++*count;
    }
    if (!rc && *count == 0)
        rc = error_set(err, -EINVAL, "no pieces: not a SentencePiece model");
    if (rc) {
        free(*pieces);
        *pieces = NULL;
    }
    return rc;
}

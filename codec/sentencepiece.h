/* SPDX-License-Identifier: MIT
 *
 * SentencePiece models (tokenizer.model): of the protobuf message ModelProto only the list of
 * pieces is read. A bounded reader of that wire format: it knows varints, fixed-width fields and
 * length-delimited ones, skips what it does not need, and refuses the rest.
 */
#ifndef CODEC_SENTENCEPIECE_H
#define CODEC_SENTENCEPIECE_H

#include "codec/bytes.h"
#include "codec/error.h"

/* The types that a piece can have; GGUF's token types use the same numbers. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER_DEFINED = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6,
};

struct piece {
    const char *text; /* in the file's bytes, not terminated; valid UTF-8 without NUL */
    size_t size;
    float score;
    int32_t type;
};

/* Parses the pieces, in order of their ids. *pieces is allocated, free() it. -EINVAL or -ENOMEM. */
int sentencepiece_parse(struct blob file, struct piece **pieces, size_t *count, struct error *err);

#endif

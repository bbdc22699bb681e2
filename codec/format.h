/* SPDX-License-Identifier: MIT
 *
 * A format is a way to pack weights. Everything that distinguishes one from another stands in
 * one row of one table; nobody switches over types.
 *
 * Rows of a tensor are packed one after the other; a row is ncols / block blocks of block_size
 * bytes. A tensor whose width is no multiple of the block cannot be packed in that format.
 */
#ifndef CODEC_FORMAT_H
#define CODEC_FORMAT_H

#include "codec/decode.h"
#include "codec/encode.h"

#include <stdbool.h>
#include <stdint.h>

enum format_id {
    FORMAT_F32,
    FORMAT_F16,
    FORMAT_BF16,
    FORMAT_Q8_0,
    FORMAT_Q6_K,
    FORMAT_Q5_K,
    FORMAT_Q5_1,
    FORMAT_Q5_0,
    FORMAT_Q4_K,
    FORMAT_Q4_1,
    FORMAT_Q4_0,
    FORMAT_IQ4_NL,
    FORMAT_Q3_K,
    FORMAT_Q2_K,
    FORMAT_COUNT
};

/* Where an instruction set (isa.h) has the encoders of formats that stand in other tables; those of
 * the first one have their own place there. */
enum encoder_id {
    ENCODER_NF4 = FORMAT_COUNT,
    ENCODER_INT8,
    ENCODER_W4_BF16,
    ENCODER_W4_F16,
    ENCODER_W4_F32,
    ENCODER_W8_BF16,
    ENCODER_W8_F16,
    ENCODER_W8_F32,
    ENCODER_COUNT
};

struct format {
    const char *name;    /* in file names: "q4_k" */
    const char *title;   /* ggml's name: "Q4_K" */
    uint32_t ggml_type;  /* id in a GGUF tensor info */
    uint32_t block;      /* weights in a block */
    uint32_t block_size; /* bytes in a block */
    bool plain_float;    /* F32, F16, BF16: nothing to search, never cached */
    bool importance;     /* an importance matrix changes the bytes */
    bool whole_rows;     /* with an importance matrix a row must be encoded in one piece */
    uint32_t version;    /* of our encoder; a change of its bytes raises it (cache keys) */
    encode_fn *encode;
    decode_fn *decode;
    /* Where in a block the binary16 scales lie, and how many; for F16 and BF16 the weight itself.
     * exponent is the mask whose bits are all set in infinity and NaN. */
    uint8_t halves, half_offset[2];
    uint16_t exponent;
    uint8_t stripe_bits; /* of a weight, where matrices are packed in stripes (spqr/format.h); else 0 */
    /* Formats that look at the inputs of a matrix take a factor (CALIBRATION.md) of this damping; 0:
     * none. Its columns are in their own order (natural), or by activation. */
    float damping;
    bool natural;
    encode_rows_fn *encode_rows; /* of formats whose codes feed back; then encode is NULL */
    const struct format *plain;  /* what it is without a calibration, and better than; or NULL */
    uint8_t encoder;             /* of encoder_id; then encode is NULL. 0: none of these */
    uint8_t row_head;            /* bytes in front of the blocks of a row, which is encoded whole */
    /* So many weights stay together in a tile; then blocks run over the ends of rows, and the last one
     * of a matrix may be short, though not in bytes. 0: blocks stay in a row. */
    uint32_t run;
    /* F32, F16 or BF16: what weights are rounded to before all else, and what scales are. NULL: they
     * are taken as they are. */
    const struct format *type;
    float limit; /* weights are below it in magnitude, or too large for the format; 0: none is */
};

extern const struct format formats[FORMAT_COUNT];

/* By name ("q4_k") or title ("Q4_K"), any case; NULL if there is none. */
const struct format *format_by_name(const char *name);

/* By ggml's id; NULL if we do not have it. */
const struct format *format_by_ggml_type(uint32_t ggml_type);

/* Bits per weight. */
double format_bpw(const struct format *f);

/* Bytes of n weights; n is a multiple of the block. False on overflow. */
bool format_bytes(const struct format *f, uint64_t n, uint64_t *bytes);

/* Bytes of n weights of rows that have cols: of whole rows where these have heads, of whole blocks
 * where these stay in rows. False on overflow. */
bool format_packed_bytes(const struct format *f, uint64_t cols, uint64_t n, uint64_t *bytes);

/* Each of n floats as a plain float has it. */
void format_round(const struct format *f, float *v, size_t n);

/* What torch calls a plain float: "bfloat16". */
const char *format_torch_name(const struct format *f);

/* The first of n blocks whose scales are not finite, or n if all are. A scale too large for
 * binary16 ends up here: llama-quantize rejects such a tensor, and so do we. */
uint64_t format_first_invalid(const struct format *f, const void *blocks, uint64_t n);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The encoders and decoders for an instruction set. All sets give the same bytes; which one a
 * program uses is chosen once, by the program, and handed down.
 */
#ifndef CODEC_ISA_H
#define CODEC_ISA_H

#include "codec/error.h"
#include "codec/feedback.h"
#include "codec/format.h"
#include "codec/lora_add.h"
#include "codec/spqr/encode.h"

struct isa {
    const char *name; /* "c", "avx2", "avx512" */
    encode_fn *encode[ENCODER_COUNT];
    encode_bf16_fn *encode_bf16[ENCODER_COUNT]; /* likewise; NULL where they are to be widened */
    decode_fn *const *decode; /* of the first FORMAT_COUNT */
    spqr_encode_fn *spqr_encode;
    feedback_fn *feedback;
    lora_add_fn *lora_add;
};

/* The encoder of a format that has one, in any table. */
static inline encode_fn *isa_encoder(const struct isa *isa, const struct format *f)
{
    return isa->encode[f->encoder ? f->encoder : f - formats];
}

/* The sets that this program was built with, the fastest first and the one in plain C last, then
 * NULL. */
extern const struct isa *const isas[];

/* Whether this processor can run it. */
bool isa_supported(const struct isa *isa);

/* The fastest set, or the one of that name. -EINVAL for a name that is not there, -ENOTSUP where
 * the processor cannot run it, with a sentence. */
int isa_choose(const char *name, const struct isa **out, struct error *err);

#endif

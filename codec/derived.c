/* SPDX-License-Identifier: MIT */
#include "codec/derived.h"

#include "codec/isa.h"

bool tensor_is_quantized(const struct tensor *t)
{
    bool quantized = dtype_is_quantized(t->dtype);
    for (const struct derived *d = t->derived; d; d = d->base)
        quantized |= d->method->quantized;
    return quantized;
}

/* By the way of its encoder and decoder, which are fast. */
void derived_round(const struct derived *d, const struct isa *isa, float *v, size_t n)
{
    enum { TOGETHER = 1024 };
    uint16_t stored[TOGETHER];
    const struct format *f = d->type->format;
    encode_fn *encode = isa ? isa->encode[f - formats] : f->encode;
    decode_fn *decode = isa ? isa->decode[f - formats] : f->decode;
    for (size_t at = 0; d->type->block_size == sizeof *stored && at < n; at += TOGETHER) {
        size_t count = n - at < TOGETHER ? n - at : TOGETHER;
        encode(v + at, 1, count, NULL, stored);
        decode(stored, count, v + at);
    }
}

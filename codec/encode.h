/* SPDX-License-Identifier: MIT
 *
 * The encoders, one per format: nrows rows of ncols floats, one after the other, become packed
 * blocks, one after the other. ncols is a multiple of the format's block; importance is NULL or
 * holds ncols weights that serve every row. Where a format marks whole_rows (format.h) ncols must
 * be the tensor's full width whenever importance is given, since one power per row enters every
 * block of it. The output is byte for byte what ggml_quantize_chunk writes (ggml 0.21 to 0.25,
 * compiled without FMA contraction); input must be finite.
 */
#ifndef CODEC_ENCODE_H
#define CODEC_ENCODE_H

#include <stddef.h>
#include <stdint.h>

typedef void encode_fn(const float *x, size_t nrows, size_t ncols, const float *importance,
                       void *out);

/* Likewise, of n weights in BF16 as they are stored, end to end: what would take as long to widen as to
 * encode. n is a multiple of the block, but where the last one may be short. */
typedef void encode_bf16_fn(const void *weights, size_t n, void *out);

struct feedback;
struct format;
struct isa;

/* How formats whose codes feed errors back (feedback.h) are encoded: 1 to 16 whole rows of a matrix,
 * which may be changed. importance as above; feedback: what is known of the inputs, or NULL; scratch:
 * feedback_scratch_size(ncols) bytes. */
typedef void encode_rows_fn(const struct format *f, const struct isa *isa, float *x, size_t nrows,
                            size_t ncols, const float *importance, const struct feedback *feedback,
                            void *scratch, void *out);

encode_fn encode_f32, encode_f16, encode_bf16;
encode_fn encode_q8_0, encode_q4_0, encode_q4_1, encode_q5_0, encode_q5_1, encode_iq4_nl;
encode_fn encode_q2_k, encode_q3_k, encode_q4_k, encode_q5_k, encode_q6_k;

#endif

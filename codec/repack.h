/* SPDX-License-Identifier: MIT
 *
 * Layouts that are not row by row, as transformers loads them, made of the bytes that a mount makes
 * anyway (canonical ones). The codes stay and only move, so nothing is quantized twice, and sizes
 * follow from the matrix alone.
 *
 * Canonical bytes are cut into units: a stripe of 16 rows where the format has stripes; what stays in a
 * tile where blocks run over the ends of rows, which the last unit may fill in part; else a row, or a
 * block of formats whose rows may be cut anywhere between two.
 * Any window of a layout can be made, out of the units that it needs. They are given run by run, in
 * any order, and each run writes what comes from it.
 */
#ifndef CODEC_REPACK_H
#define CODEC_REPACK_H

#include "codec/error.h"
#include "codec/format.h"

enum { REPACK_DIMS = 2 };

/* A matrix that is repacked. */
struct repack_matrix {
    const struct format *format; /* of the canonical bytes */
    uint64_t rows, cols;
    const uint32_t *order; /* of the columns, where the format has one; NULL: as they stand */
    enum format_id type;   /* of the floats that the loader makes of it */
    float mean;            /* of the scales of all of it, for tensors that need it */
};

struct repack_units {
    uint64_t first, count;
};

/* Bytes [at, at + size) of a layout, and where they go. */
struct repack_window {
    uint8_t *out;
    uint64_t at;
    size_t size;
};

/* One tensor of a layout. All functions are for matrices that the layout can take (hf_quant.h). */
struct repack {
    const char *name;  /* of the tensor, in place of "weight" */
    const char *dtype; /* of its elements, as safetensors calls it; NULL: the type of the format */
    uint32_t width;    /* bytes of one; likewise 0 */
    uint32_t ndim;     /* 0 to 2 */
    void (*shape)(const struct repack_matrix *m, uint64_t shape[REPACK_DIMS]);

    /* The units that a window of at least one byte needs. NULL: no layout of codes, it needs none. */
    struct repack_units (*need)(const struct repack_matrix *m, uint64_t at, size_t size);

    /* Writes what the window has of a run of units, whose bytes lie end to end; without need, all of
     * it. -EINVAL, with a sentence, where the canonical bytes break the rules of their format. */
    int (*put)(const struct repack_matrix *m, const uint8_t *bytes, struct repack_units run,
               const struct repack_window *w, struct error *err);

    bool mean; /* it needs the mean of all scales */
};

/* What SpQR's kernels take (Vahe1994/SpQR, inference_lib), in CSR form: dense_weights, in_perm,
 * col_vals, row_offsets. Outliers are added to the dense weight, as the kernels do. */
enum { SPQR_REPACK_COUNT = 4 };
extern const struct repack spqr_repacks[SPQR_REPACK_COUNT];

/* What GPTQ's loaders take (AutoGPTQ, GPTQModel; version 1): qweight, qzeros, scales, g_idx. */
enum { GPTQ_REPACK_COUNT = 4 };
extern const struct repack gptq_repacks[GPTQ_REPACK_COUNT];

/* What bitsandbytes' loaders take: NF4 with absmax as floats, and quantized in turn; INT8. */
enum { NF4_REPACK_COUNT = 4, NF4_DQ_REPACK_COUNT = 6, INT8_REPACK_COUNT = 3 };
extern const struct repack nf4_repacks[NF4_REPACK_COUNT], nf4_dq_repacks[NF4_DQ_REPACK_COUNT],
    int8_repacks[INT8_REPACK_COUNT];

/* What compressed-tensors loads: pack-quantized in groups, int-quantized in rows. */
enum { W4_REPACK_COUNT = 3, W8_REPACK_COUNT = 2 };
extern const struct repack w4_repacks[W4_REPACK_COUNT], w8_repacks[W8_REPACK_COUNT];

/* What AWQ's loaders take (AutoAWQ, GPTQModel; version "gemm"): qweight, qzeros, scales. */
enum { AWQ_REPACK_COUNT = 3 };
extern const struct repack awq_repacks[AWQ_REPACK_COUNT];

/* Its elements in a layout of the matrix: what safetensors calls them, and the bytes of one. */
const char *repack_dtype(const struct repack *r, const struct repack_matrix *m);
uint32_t repack_width(const struct repack *r, const struct repack_matrix *m);

/* Bytes of a unit. */
size_t repack_unit_size(const struct repack_matrix *m);

/* Bytes of the tensor. */
uint64_t repack_size(const struct repack *r, const struct repack_matrix *m);

/* Copies n bytes to their place in the layout, as far as that is in the window. */
void repack_copy(const struct repack_window *w, uint64_t at, const void *data, size_t n);

#endif

/* SPDX-License-Identifier: MIT
 *
 * Activations as the CPU's kernels read them. Levels and scales of a column lie in planes of their
 * own, padded with zeros to whole groups of eight blocks, for kernels take eight scales at a time.
 *
 * Where there are many columns, sixteen of them make a tile, in which what one instruction
 * multiplies lies together: four levels of one column, the same four of the next, and so on.
 */
#ifndef KERNELS_CPU_ACTIVATIONS_H
#define KERNELS_CPU_ACTIVATIONS_H

#include "kernels/backend.h"

enum {
    GROUP = 256,    /* padding of columns, in weights */
    SUM_LANES = 8,  /* blocks k, k + 8, k + 16, ... are added up together: see dot.h */
    TILE = 16,      /* columns */
    TILE_LEAST = 6, /* fewer columns than this are multiplied one by one */
    FINE = 16,      /* weights that the K formats' smallest groups have */
};

struct activations {
    enum activation_kind kind;
    uint32_t batch, batch_max;
    uint64_t cols;
    size_t block, blocks;                      /* weights in a block; blocks in a column */
    size_t q_stride, scale_stride, sum_stride; /* elements from column to column */
    uint32_t tiles; /* the first tiles * TILE columns are in tiles, too */
    bool tiled;     /* whether the kernels want any */
    float *x;       /* F32: column c at x + c * cols; INT8_64: levels times scales, [cols][batch] */
    int8_t *q;
    float *scale;
    int16_t *sums; /* of 32 levels; of FINE in blocks of 64 and, even ones before odd ones, 256 */
    float *lsum;   /* INT8_64: the same sums as floats */
    const uint32_t *order; /* the activation at each place; NULL: as they come */
    int8_t *tile_q;        /* [tile][q_stride / 4][TILE][4] */
    float *tile_scale;     /* [tile][scale_stride][TILE] */
    int16_t *tile_sums;    /* [tile][sum_stride][TILE]; of 256: [][sum_stride / 2][TILE][2] */
    void *memory;          /* that all of them point into */
};

/* tiled: whether kernels will read tiles. -ENOMEM, -EOVERFLOW. */
int activations_new(uint64_t cols, uint32_t batch, bool tiled, struct activations **out);
void activations_free(struct activations *a);
int activations_begin(struct activations *a, enum activation_kind kind, uint32_t batch,
                      const uint32_t *order);
int activations_put(struct activations *a, const float *x, uint32_t first, uint32_t count);

#endif

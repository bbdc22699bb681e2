/* SPDX-License-Identifier: MIT
 *
 * Codes for rows whose scales are fixed already. Columns are quantized one after the other, and what
 * each loses is taken from those that are still to come, in the measure that a factor of the inverse
 * Hessian says: the loop of GPTQ (Frantar and others, 2022), row by row. Rows know nothing of each
 * other; 16 are done at a time.
 *
 * A struct isa (isa.h) has the function of its set; all give the same codes.
 */
#ifndef CODEC_FEEDBACK_H
#define CODEC_FEEDBACK_H

#include <stddef.h>
#include <stdint.h>

enum {
    FEEDBACK_ROWS = 16,  /* that are done together */
    FEEDBACK_GROUP = 16, /* columns of a panel of the factor */
};

/* What is known of the inputs of a matrix, from a factor (CALIBRATION.md). */
struct feedback {
    const float *factor;   /* packed (spqr/prepare.h) */
    const uint32_t *order; /* the column at each place of the factor */
    const uint8_t *dead;   /* by place: whether no input reaches that column */
};

/* Up to 16 rows in the making. The weight of a level is scale * level - min; its code is the level
 * less the least one. */
struct feedback_rows {
    const float *x; /* [rows][columns], finite */
    size_t rows, columns;
    float low, high; /* the least and the greatest level */
    size_t group;    /* columns that share a row's scale and min, at least 16 */
    float (*scales)[FEEDBACK_ROWS], (*mins)[FEEDBACK_ROWS]; /* [columns / group] */
    float (*errors)[FEEDBACK_ROWS];                         /* [columns], by place */
    uint8_t *codes;                                         /* [rows][columns] */
};

/* Bytes that rows of so many columns are done in; they must begin at a multiple of 64. */
size_t feedback_scratch_size(size_t columns);

/* Gives the rows their arrays; mins are 0. columns: a multiple of 16. */
void feedback_begin(struct feedback_rows *rows, void *scratch);

/* Makes the codes. Where a scale is 0 a code stays as it was. feedback: NULL where nothing is known
 * of the inputs; then each weight gets the level next to it. */
typedef void feedback_fn(const struct feedback_rows *rows, const struct feedback *feedback);

feedback_fn feedback_quantize;

#endif

/* SPDX-License-Identifier: MIT
 *
 * The Hessian of a matrix's error: H = 2 / N * the sum of x x^T over all tokens x of N sequences,
 * and what encoders with error feedback need of it: an order of the columns, and the upper Cholesky
 * factor U of the inverse, U^T U = H'^-1, where H' is H in that order and damped.
 *
 * U is not found by way of the inverse. Where H' is factored from its last column to its first,
 * H' = R R^T with R upper triangular, U is R^-1: half the work, and nothing is lost by inverting
 * first.
 *
 * The only module that knows BLAS and LAPACK. One thread calls them, for not every build of them
 * bears more. How many they take themselves is said beforehand, and the last bits of what they give
 * depend on it.
 */
#ifndef TOOLS_RUN_HESSIAN_H
#define TOOLS_RUN_HESSIAN_H

#include "codec/error.h"

#include <stdint.h>

struct hessian {
    uint64_t cols, tokens;
    float *h;           /* [cols][cols], of which the upper triangle is used */
    double *magnitudes; /* [cols]: sums of |x| */
};

/* Bytes that BLAS itself takes. */
enum { HESSIAN_BLAS = 32 << 20 };

/* From now on BLAS takes so many threads, if it was built for more than one. */
void hessian_threads(unsigned count);

/* Bytes of the matrix, which is also what hessian_factor works in. */
uint64_t hessian_bytes(uint64_t cols);

/* As much memory, of zeros, to be freed; NULL when there is none. It begins at a cache line: how
 * BLAS rounds may depend on that. */
float *hessian_memory(uint64_t cols);

/* All zeros. -ENOMEM. */
int hessian_new(struct hessian *h, uint64_t cols, struct error *err);
void hessian_free(struct hessian *h);

/* Adds x x^T of some tokens, x [tokens][cols]. */
void hessian_add(struct hessian *h, const float *x, uint32_t tokens);

/* Behind the last token: N is known. */
void hessian_finish(struct hessian *h, uint32_t sequences);

/* The sum over rows d [rows][cols] of d H d^T: by how much the squares of what a matrix puts out change,
 * when its rows change by d. work: as large. */
double hessian_loss(const struct hessian *h, const float *d, uint32_t rows, float *work);

/* The columns by decreasing diagonal, equal ones by number. order: [cols]. -ENOMEM. */
int hessian_order(const struct hessian *h, uint32_t *order, struct error *err);

/* Factors H', whose diagonal is raised by damping times its mean, and is 1 in columns that no token
 * had. work: hessian_memory. -EDOM where H' is not positive definite. */
int hessian_factor(const struct hessian *h, const uint32_t *order, float damping, float *work,
                   struct error *err);

/* Row i of U, columns i to cols - 1, from what hessian_factor left. */
void hessian_factor_row(const float *work, uint64_t cols, uint64_t i, float *out);

#endif

/* SPDX-License-Identifier: MIT
 *
 * What an engine needs of the machine that multiplies, and all that it may know of it: memory,
 * copies, events, products of packed weights with activations, and attention. There is one struct
 * of functions for each kind of machine; a program opens one at its start and hands it down.
 *
 * Order. What is asked of one queue happens in the order in which it was asked for. The queues run
 * beside each other, and beside the caller, until an event says otherwise: the caller records an
 * event behind what it has asked for, and lets another queue, or itself, wait for that. A backend
 * that does everything before it returns (the CPU's) has nothing to wait for, but a caller that
 * leaves waits out is wrong.
 *
 * Memory. Weights, what activations are made of and what comes out lie in memory from alloc. Where
 * `unified` is set that is the host's own memory: any host memory will do, and the host may read
 * and write it in place when it has waited. Elsewhere it is reached by copies alone.
 *
 * Threads. A product belongs to the rows that it is asked for, so `callers` threads share one by
 * rows, a set of activations by columns, attention by tokens and heads, and the split never shows in
 * a result. Everything else is called by one thread at a time.
 *
 * Functions return 0 or -errno. What goes wrong later in a queue is returned by the waits behind
 * it: -EIO, and the backend is of no more use.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "codec/format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;
struct event;
struct activations;

enum backend_queue {
    QUEUE_COMPUTE, /* activations_put, matmul, to_f16, attend, copies of what they take and give */
    QUEUE_COPY,    /* weights on their way in */
    QUEUE_COUNT
};

/* How activations are kept. int8 blocks are signed levels with a float scale: a value is
 * scale * level, |level| <= 127. */
enum activation_kind {
    ACTIVATIONS_F32,      /* as they are: with F32, F16, BF16; the reference with all others */
    ACTIVATIONS_INT8_32,  /* blocks of 32, for Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL */
    ACTIVATIONS_INT8_256, /* blocks of 256, for the K formats */
    ACTIVATIONS_INT8_64,  /* blocks of 64, the last may be shorter; for SpQR */
    ACTIVATION_KINDS
};

/* The kind that a format is multiplied with where no reference is asked for. */
static inline enum activation_kind activation_kind_of(const struct format *format)
{
    return format->plain_float   ? ACTIVATIONS_F32
           : format->stripe_bits ? ACTIVATIONS_INT8_64
           : format->block == 32 ? ACTIVATIONS_INT8_32
                                 : ACTIVATIONS_INT8_256;
}

/* Rows first .. first + count - 1 of a matrix, packed one behind the other, at any address. Where the
 * format has stripes (codec/spqr/FORMAT.md) a run is one of whole stripes; only the last may stand for
 * fewer rows than 16. */
struct row_run {
    const void *data; /* in the backend's memory */
    uint64_t first, count;
};

/* rows x cols packed weights. Runs are in ascending order and without gaps; there may be more of
 * the matrix than they hold, as long as nobody asks for those rows. */
struct matrix {
    const struct format *format;
    uint64_t rows, cols;
    const struct row_run *runs;
    size_t run_count;
};

struct backend {
    const char *name; /* with what it computes: "cpu avx512_vnni" */
    bool unified;
    unsigned callers; /* threads among which a product is to be split */

    /* Nothing may be left of it. */
    void (*close)(struct backend *b);

    /* size bytes, aligned to 4096. -ENOMEM. free takes NULL, and nothing that is still in use. */
    int (*alloc)(struct backend *b, size_t size, void **out);
    void (*free)(struct backend *b, void *memory);

    /* Copies may be faster out of and into host memory that was pinned. -ENOMEM where there can be
     * no more of it; copies go on as before. */
    int (*pin)(struct backend *b, void *host, size_t size);
    void (*unpin)(struct backend *b, void *host);
    /* The host's side must stay as it is until the copy is done. */
    int (*copy_in)(struct backend *b, enum backend_queue queue, void *to, const void *host,
                   size_t size);
    int (*copy_out)(struct backend *b, enum backend_queue queue, void *host, const void *from,
                    size_t size);

    /* An event is what was asked of a queue until it was last recorded; one that never was is
     * done. */
    int (*event_new)(struct backend *b, struct event **out);
    void (*event_free)(struct backend *b, struct event *event);
    int (*event_record)(struct backend *b, struct event *event, enum backend_queue queue);
    /* What is asked of the queue from now on waits for the event. */
    int (*event_queue_wait)(struct backend *b, struct event *event, enum backend_queue queue);
    /* The caller waits. */
    int (*event_wait)(struct backend *b, struct event *event);

    /* Room for up to batch columns of cols activations, in any kind. */
    int (*activations_new)(struct backend *b, uint64_t cols, uint32_t batch,
                           struct activations **out);
    void (*activations_free)(struct backend *b, struct activations *a);
    /* What follows is of this kind, and so many columns. order: the activation at each place, cols
     * different numbers below cols, which stay where they are until the last put; NULL: as they come.
     * Only with kinds of matrices whose columns have an order, F32 and INT8_64. -EINVAL where cols are
     * no multiple of the kind's block, or there is no room. One thread, before any thread's put. */
    int (*activations_begin)(struct backend *b, struct activations *a, enum activation_kind kind,
                             uint32_t batch, const uint32_t *order);
    /* Columns first .. first + count - 1; column c begins at x + c * cols. A block of int8 with a
     * value that is not finite has NaN for its scale, so all that is made of it is NaN. */
    int (*activations_put)(struct backend *b, struct activations *a, const float *x, uint32_t first,
                           uint32_t count);

    /* out[c * stride + r] = sum over i of w[r][i] * column c [i], for the rows
     * first .. first + count - 1 and all columns of the activations, after all of them were put;
     * stride is in floats. Activations are the format's kind or F32. -EINVAL where anything does
     * not fit, and then nothing is written; and where a stripe breaks the rules of its format. Stripes
     * are asked for whole: first is a multiple of 16, and so is count, but for the matrix's end. */
    int (*matmul)(struct backend *b, const struct matrix *w, uint64_t first, uint64_t count,
                  const struct activations *a, float *out, size_t stride);

    /* count floats as IEEE halves, to the nearest, halves to even: what keys and values are kept
     * as. What is not finite, or too large, is not finite. */
    int (*to_f16)(struct backend *b, const float *x, size_t count, uint16_t *out);
    /* Attention of one token's heads that share keys and values, over the positions
     * first .. last: out[h][i] = sum over p of softmax(scale * q[h] . key p)[p] * value p [i], with
     * q and out [heads][dim]. Key and value of position p begin at p * stride (in elements); where
     * those of a head lie one behind the other (stride is dim), they are read fastest. scores:
     * room for heads * (last - first + 1) floats, a thread's own. -EINVAL where there is no
     * position or stride is less than dim. */
    int (*attend)(struct backend *b, const float *q, uint32_t heads, const uint16_t *keys,
                  const uint16_t *values, size_t stride, uint32_t first, uint32_t last,
                  uint32_t dim, float scale, float *scores, float *out);
};

#endif

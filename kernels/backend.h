/* SPDX-License-Identifier: MIT
 *
 * What an engine needs of the machine that multiplies, and all that it may know of it: memory,
 * copies, events, products of packed weights with activations, attention, and the small operations
 * between them. There is one struct of functions for each kind of machine; a program opens one at its
 * start and hands it down.
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
 * Threads. Up to `callers` threads share what is asked of QUEUE_COMPUTE: a product by rows, a set of
 * activations by columns, attention by tokens and heads, norms by rows, the rest by tokens or
 * elements, and the split never shows in a result. Everything else is called by one thread at a time,
 * and where callers is 1 all is called by the thread that opened the backend.
 *
 * Bits. Every operation has one definition, which is that of kernels/cpu, and all backends give its
 * bits.
 *
 * Functions return 0 or -errno. What goes wrong later in a queue is returned by the waits behind
 * it: -EIO, and the backend is of no more use.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "codec/format.h"
#include "kernels/attention.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;
struct event;
struct activations;

enum backend_queue {
    QUEUE_COMPUTE, /* activations, products and all that is computed; copies of what they take and give */
    QUEUE_COPY, /* weights on their way in */
    QUEUE_COUNT
};

/* How activations are kept. int8 blocks are signed levels with a float scale: a value is
 * scale * level, |level| <= 127. */
enum activation_kind {
    ACTIVATIONS_F32, /* as they are: with F32, F16, BF16; on a processor with all formats, as the
                             reference */
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

enum gate {
    GATE_SILU, /* v / (1 + exp(-v)) */
    GATE_GELU  /* its approximation by tanh */
};

/* Floats that attention needs for itself, of each head and count positions. */
static inline size_t attend_room(uint32_t count, uint32_t dim)
{
    return (size_t)count + 1 + ((size_t)count + ATTEND_CHUNK - 1) / ATTEND_CHUNK * dim;
}

struct backend {
    const char *name; /* with what it computes: "cpu avx512_vnni" */
    bool unified;
    unsigned callers;       /* threads among which what is computed may be split */
    unsigned run_alignment; /* of the data of a run of rows, in bytes */
    unsigned head_multiple; /* that the elements of a head must be */
    double memory_rate;     /* bytes a second, as its makers say; 0: they do not */
    uint64_t allocated;     /* bytes, by alloc and activations_new; 0 where unified */
    const char *trouble;    /* what went wrong first, in words; NULL: nothing, or errno says it */

    /* Nothing may be left of it. */
    void (*close)(struct backend *b);

    /* size bytes, aligned to 256. -ENOMEM. free takes NULL, and nothing that is still in use. */
    int (*alloc)(struct backend *b, size_t size, void **out);
    void (*free)(struct backend *b, void *memory);
    /* Bytes that alloc could still give; UINT64_MAX where the machine's memory is the limit. */
    uint64_t (*room)(struct backend *b);

    /* Host memory for copies is pinned before, whole pages of it. mapped, where it is not NULL: where
     * kernels may read it without a copy, over the link. -ENOMEM where there can be no more of it. */
    int (*pin)(struct backend *b, void *host, size_t size, void **mapped);
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
    /* The caller waits; or only asks whether it is done: 1, or 0. */
    int (*event_wait)(struct backend *b, struct event *event);
    int (*event_done)(struct backend *b, struct event *event);
    /* Seconds between two events that are done, the first of the two before; 0 where nothing is ever
     * under way. */
    double (*event_seconds)(struct backend *b, struct event *from, struct event *to);

    /* Room for up to batch columns of cols activations, in any kind. */
    int (*activations_new)(struct backend *b, uint64_t cols, uint32_t batch,
                           struct activations **out);
    void (*activations_free)(struct backend *b, struct activations *a);
    /* What follows is of this kind, and so many columns. order: the activation at each place, cols
     * different numbers below cols, in the backend's memory, which stay where they are until the last
     * put; NULL: as they come. Only with kinds of matrices whose columns have an order, F32 and
     * INT8_64. -EINVAL where cols are no multiple of the kind's block, or there is no room. One thread,
     * before any thread's put. */
    int (*activations_begin)(struct backend *b, struct activations *a, enum activation_kind kind,
                             uint32_t batch, const uint32_t *order);
    /* Columns first .. first + count - 1; column c begins at x + c * cols, and stays as it is until
     * the last product was asked for. A block of int8 with a value that is not finite has NaN for its
     * scale, so all that is made of it is NaN. */
    int (*activations_put)(struct backend *b, struct activations *a, const float *x, uint32_t first,
                           uint32_t count);

    /* Whether there are products of a format with rows of so many weights. */
    bool (*multiplies)(struct backend *b, const struct format *format, uint64_t cols);
    /* out[c * stride + r] = sum over i of w[r][i] * column c [i], for the rows
     * first .. first + count - 1 and all columns of the activations, after all of them were put;
     * stride is in floats. Activations are the format's kind or F32. -EINVAL where anything does
     * not fit, and then nothing is written; and where a stripe breaks the rules of its format, of
     * which on a GPU rows become NaN instead. Stripes
     * are asked for whole: first is a multiple of 16, and so is count, but for the matrix's end. */
    int (*matmul)(struct backend *b, const struct matrix *w, uint64_t first, uint64_t count,
                  const struct activations *a, float *out, size_t stride);

    /* ---- attention ---- */

    /* Turns `pairs` pairs of each head of x [tokens][heads][dim] by the angles of its token, cosines
     * and sines [tokens][pairs]: elements 2 i and 2 i + 1, or i and i + pairs where halves is set. */
    int (*rope)(struct backend *b, float *x, const float *cosines, const float *sines,
                uint32_t tokens, uint32_t heads, uint32_t dim, uint32_t pairs, bool halves);
    /* Keeps k and v [tokens][heads][dim] as IEEE halves, to the nearest, halves to even, at positions
     * from `position` on. Those of a head lie one behind the other, and a head's begin head_stride
     * elements behind those of the one before. What is not finite, or too large, is not finite. */
    int (*remember)(struct backend *b, const float *k, const float *v, uint32_t tokens,
                    uint32_t heads, uint32_t dim, uint32_t position, size_t head_stride,
                    uint16_t *keys, uint16_t *values);
    /* Attention of one token over the positions first .. last, for kv_heads heads of keys and values,
     * each of which shared_by heads of q and out [kv_heads * shared_by][dim] share:
     * out[h][i] = sum over p of softmax(scale * q[h] . key p)[p] * value p [i]. keys and values as
     * remember has them. scores: attend_room of all heads and positions, a thread's own. -EINVAL where
     * there is no position. */
    int (*attend)(struct backend *b, const float *q, uint32_t kv_heads, uint32_t shared_by,
                  const uint16_t *keys, const uint16_t *values, size_t head_stride, uint32_t first,
                  uint32_t last, uint32_t dim, float scale, float *scores, float *out);

    /* ---- vectors ---- */

    int (*clear)(struct backend *b, float *x, size_t count);
    /* x[i] += y[i % period] */
    int (*add)(struct backend *b, float *x, const float *y, size_t count, size_t period);
    /* x[i] = gate(x[i]) * y[i] */
    int (*gate)(struct backend *b, enum gate gate, float *x, const float *y, size_t count);
    /* out[r][i] = x[r][i] / sqrt(mean of row r's squares + eps) * weight[i]; out may be x. */
    int (*rms_norm)(struct backend *b, const float *x, const float *weight, uint32_t rows,
                    uint32_t cols, float eps, float *out);
    /* Rows of x, one behind the other: out[i] = x[rows[i]]; and back, times a share for each, added to
     * rows of out, which are different ones: out[rows[i]] += shares[i] * x[i]. */
    int (*gather)(struct backend *b, const float *x, const uint32_t *rows, uint32_t count,
                  uint32_t cols, float *out);
    int (*scatter)(struct backend *b, const float *x, const uint32_t *rows, const float *shares,
                   uint32_t count, uint32_t cols, float *out);
    /* out[0]: where the largest is, of equal ones the first; out[1]: 1 if all are finite, else 0. */
    int (*argmax)(struct backend *b, const float *x, uint32_t count, uint32_t *out);
};

#endif

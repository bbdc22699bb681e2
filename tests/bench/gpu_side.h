/* SPDX-License-Identifier: MIT
 *
 * What a GPU is tried with (gpu.c): packed weights, and memory on both of its sides. Whatever fails ends
 * the program with a sentence.
 */
#ifndef TESTS_BENCH_GPU_SIDE_H
#define TESTS_BENCH_GPU_SIDE_H

#include "codec/spqr/format.h"
#include "tests/weights.h"
#include "tools/run/mirror.h"

#include <jansson.h>

enum { FORMATS = FORMAT_COUNT + SPQR_FORMAT_COUNT };

const struct format *format_number(int i);

/* Where rc is not 0: exit status 2. */
void must(int rc, const char *what);
void *must_have(void *memory);

/* ---- packed weights ---- */

/* The rows of what is packed as a whole, and its bytes. */
void units_of(const struct format *f, uint32_t cols, uint32_t *rows, uint64_t *size);

/* So many rows, which are one unit or less. */
void pack_unit(const struct format *f, struct random *r, uint32_t rows, uint32_t cols,
               uint8_t *out);

/* ---- one side of a comparison: the GPU, or the processor ---- */

enum { ARRAYS = 8 };

struct array {
    struct mirror memory;
    size_t size; /* bytes */
};

struct side {
    struct backend *b;
    struct array arrays[ARRAYS]; /* freed together */
    size_t count;
};

struct array *array_new(struct side *s, size_t count, size_t element);
/* Brings what the host wrote there to the device; returns where it is. */
void *array_send(struct side *s, struct array *a);
/* What came out, in memory of its own. */
float *array_fetch(struct side *s, struct array *a);
void arrays_free(struct side *s);

/* On the device: as activations are, of all magnitudes; and all alike. */
float *floats(struct side *s, struct random *r, size_t count);
float *gaussians(struct side *s, struct random *r, size_t count);

/* x: [columns][cols], on the device. Of the format's kind; to be freed by the backend. */
struct activations *activations_of(struct side *s, const struct format *f, const float *x,
                                   uint32_t cols, uint32_t columns, const uint32_t *order);

/* ---- what gpu.c asks for ---- */

/* Whether all is the same. list: an object for each thing that was compared. */
bool compare_all(struct backend *gpu, struct backend *cpu, bool large, json_t *list);

/* timed: the backend has a clock that means something. */
void time_all(struct backend *b, bool timed, json_t *root);

#endif

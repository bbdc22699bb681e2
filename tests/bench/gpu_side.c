/* SPDX-License-Identifier: MIT */
#include "tests/bench/gpu_side.h"

#include "codec/spqr/encode.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const struct format *format_number(int i)
{
    return i < FORMAT_COUNT ? &formats[i] : &spqr_formats[i - FORMAT_COUNT];
}

void must(int rc, const char *what)
{
    if (!rc)
        return;
    fprintf(stderr, "gpu: %s: %s\n", what, strerror(-rc));
    exit(2);
}

void *must_have(void *memory)
{
    must(memory ? 0 : -ENOMEM, "memory");
    return memory;
}

/* ---- packed weights ---- */

static void pack_stripe(const struct format *f, const float *x, uint32_t rows, uint32_t cols,
                        uint8_t *out)
{
    struct spqr_layout l;
    struct spqr_stripe stripe;
    must(spqr_format_layout(f, cols, &l, NULL), f->title);
    struct spqr_settings settings = {.bits = l.bits, .slots = l.slots};
    void *scratch = must_have(aligned_alloc(64, (spqr_scratch_size(cols) + 63) / 64 * 64));
    spqr_encode(&settings, x, rows, cols, NULL, scratch, &stripe);
    spqr_pack(&l, &stripe, out);
    free(scratch);
}

void pack_unit(const struct format *f, struct random *r, uint32_t rows, uint32_t cols, uint8_t *out)
{
    float *x = must_have(malloc((size_t)rows * cols * sizeof *x));
    weights_fill(WEIGHTS_OUTLIERS, r, x, (size_t)rows * cols);
    if (f->stripe_bits)
        pack_stripe(f, x, rows, cols, out);
    else
        f->encode(x, rows, cols, NULL, out);
    free(x);
}

void units_of(const struct format *f, uint32_t cols, uint32_t *rows, uint64_t *size)
{
    uint64_t unit_rows;
    must(format_unit(f, cols, &unit_rows, size) ? 0 : -EINVAL, f->title);
    *rows = (uint32_t)unit_rows;
}

/* ---- arrays ---- */

struct array *array_new(struct side *s, size_t count, size_t element)
{
    struct array *a = &s->arrays[s->count++];
    a->size = count * element;
    must(mirror_new(s->b, count, element, &a->memory), "memory");
    return a;
}

void *array_send(struct side *s, struct array *a)
{
    must(mirror_send(s->b, &a->memory, a->size), "a copy");
    return a->memory.device;
}

float *array_fetch(struct side *s, struct array *a)
{
    struct event *done;
    must(mirror_fetch(s->b, &a->memory, a->size), "a copy");
    must(s->b->event_new(s->b, &done), "an event");
    must(s->b->event_record(s->b, done, QUEUE_COMPUTE), "an event");
    must(s->b->event_wait(s->b, done), s->b->trouble ? s->b->trouble : "the GPU");
    s->b->event_free(s->b, done);
    float *out = must_have(malloc(a->size));
    memcpy(out, a->memory.host, a->size);
    return out;
}

void arrays_free(struct side *s)
{
    while (s->count)
        mirror_free(s->b, &s->arrays[--s->count].memory);
}

float *floats(struct side *s, struct random *r, size_t count)
{
    struct array *a = array_new(s, count, sizeof(float));
    weights_fill(WEIGHTS_JUMPS, r, a->memory.host, count);
    return array_send(s, a);
}

float *gaussians(struct side *s, struct random *r, size_t count)
{
    struct array *a = array_new(s, count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        ((float *)a->memory.host)[i] = random_gaussian(r);
    return array_send(s, a);
}

struct activations *activations_of(struct side *s, const struct format *f, const float *x,
                                   uint32_t cols, uint32_t columns, const uint32_t *order)
{
    struct backend *b = s->b;
    struct activations *a;
    must(b->activations_new(b, cols, columns, &a), "activations");
    must(b->activations_begin(b, a, activation_kind_of(f), columns, order), "activations");
    must(b->activations_put(b, a, x, 0, columns), "activations");
    return a;
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/ring.h"

#include "tools/run/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

struct slot {
    struct read read;
    size_t number;      /* of the piece */
    struct piece piece; /* as it was when it was asked for; meanwhile it may have moved */
};

/* What is known of the experts of a layer. */
struct choice {
    uint64_t pass;  /* of which it is known */
    bool *chosen;   /* by expert */
    uint32_t experts; /* the last that has a piece here, plus 1 */
};

struct ring {
    struct piece *pieces;
    size_t count;
    struct source *whole;
    struct reader *reader;
    uint8_t *memory;
    uint64_t slot_size, slot_count;
    struct slot *slots;
    uint64_t given, taken, asked; /* pieces, ever */
    uint64_t pass;                /* that runs */
    uint64_t next_pass;           /* of the next piece to be asked for */
    size_t next;
    struct choice *choices; /* by layer */
    uint32_t layers;
    struct ring_stats stats;
};

static uint64_t round_up(uint64_t n)
{
    return (n + READER_ALIGNMENT - 1) / READER_ALIGNMENT * READER_ALIGNMENT;
}

uint64_t ring_slot_size(uint64_t piece_size)
{
    return round_up(piece_size) + READER_ALIGNMENT; /* it may begin and end within a sector */
}

/* ---- asking ---- */

/* The piece to be asked for next. False where that is not known yet. */
static bool next_piece(struct ring *r, size_t *piece)
{
    for (;;) {
        const struct piece *p = &r->pieces[r->next];
        bool wanted = !p->held;
        if (wanted && p->expert != PIECE_ALWAYS) {
            const struct choice *c = &r->choices[p->layer];
            if (c->pass != r->next_pass)
                return false;
            wanted = c->chosen[p->expert];
        }
        *piece = r->next++;
        if (r->next == r->count) {
            r->next = 0;
            r->next_pass++;
        }
        if (wanted)
            return true;
    }
}

static void ask(struct ring *r, struct slot *slot)
{
    slot->piece = r->pieces[slot->number];
    const struct piece *p = &slot->piece;
    uint64_t begin = p->at - p->at % READER_ALIGNMENT, end = p->at + p->size;
    slot->read = (struct read){
        .offset = begin,
        .to = r->memory + (size_t)(slot - r->slots) * r->slot_size,
        .size = (uint32_t)(round_up(end) - begin),
        .needed = (uint32_t)(end - begin),
        .file = p->file,
    };
    reader_ask(r->reader, &slot->read);
}

static void ask_ahead(struct ring *r)
{
    while (r->asked - r->given < r->slot_count && reader_has_room(r->reader)) {
        struct slot *slot = &r->slots[r->asked % r->slot_count];
        if (!next_piece(r, &slot->number))
            return;
        ask(r, slot);
        r->asked++;
    }
}

/* ---- landing ---- */

/* What could not be read where it should lie is read out of the whole file, which is right or fails. */
static int read_whole(struct ring *r, const struct slot *slot, struct error *err)
{
    const struct piece *p = &slot->piece;
    uint8_t *to = slot->read.to + p->at % READER_ALIGNMENT;
    return source_read(r->whole, to, p->offset, p->size, err);
}

/* Proves a piece that has landed, and finds its bytes. */
static int land(struct ring *r, const struct slot *slot, const uint8_t **data, struct error *err)
{
    const struct piece *p = &slot->piece;
    uint8_t *bytes = slot->read.to + p->at % READER_ALIGNMENT;
    enum place place = p->place;
    *data = bytes;
    bool good = slot->read.result == 0;
    if (good && place == PLACE_OBJECT && !p->proven) {
        good = XXH3_64bits_withSeed(bytes, p->size, p->seed) == p->checksum;
        r->pieces[slot->number].proven = good;
        r->stats.damaged += !good;
    }
    if (!good) {
        int rc = read_whole(r, slot, err);
        if (rc)
            return rc;
        place = place == PLACE_OBJECT ? PLACE_MOUNT : place;
    }
    r->stats.bytes[place] += p->size;
    return 0;
}

int ring_take(struct ring *r, size_t piece, bool wait, const uint8_t **data, struct error *err)
{
    *data = NULL;
    ask_ahead(r);
    if (r->taken == r->asked) {
        /* All slots hold pieces that were taken; or nobody said that this one is needed. */
        return wait ? error_set(err, -EINVAL, "a piece was taken out of its turn") : 0;
    }
    struct slot *slot = &r->slots[r->taken % r->slot_count];
    if (slot->number != piece)
        return error_set(err, -EINVAL, "a piece was taken out of its turn");
    reader_reap(r->reader, false);
    if (!slot->read.landed) {
        if (!wait)
            return 0;
        double begun = clock_seconds();
        while (!slot->read.landed)
            reader_reap(r->reader, true);
        r->stats.waited += clock_seconds() - begun;
    }
    r->taken++;
    return land(r, slot, data, err);
}

void ring_give(struct ring *r, size_t count)
{
    r->given += count;
    ask_ahead(r);
    reader_reap(r->reader, false);
}

/* ---- passes ---- */

void ring_begin(struct ring *r)
{
    r->pass++;
    ask_ahead(r);
}

void ring_choose(struct ring *r, uint32_t layer, const bool *chosen)
{
    if (layer >= r->layers)
        return;
    struct choice *c = &r->choices[layer];
    c->pass = r->pass;
    memcpy(c->chosen, chosen, c->experts * sizeof *chosen);
    ask_ahead(r);
}

void ring_fill(struct ring *r, uint64_t *bytes, double *seconds)
{
    double begun = clock_seconds();
    *bytes = 0;
    ask_ahead(r);
    for (uint64_t i = r->taken; i < r->asked; i++) {
        struct slot *slot = &r->slots[i % r->slot_count];
        while (!slot->read.landed)
            reader_reap(r->reader, true);
        *bytes += slot->read.result ? 0 : slot->read.needed;
    }
    *seconds = clock_seconds() - begun;
}

/* ---- life ---- */

static int make_choices(struct ring *r)
{
    for (size_t i = 0; i < r->count; i++)
        if (r->pieces[i].layer >= r->layers)
            r->layers = r->pieces[i].layer + 1;
    r->choices = calloc(r->layers, sizeof *r->choices);
    if (!r->choices)
        return -ENOMEM;
    for (size_t i = 0; i < r->count; i++) {
        const struct piece *p = &r->pieces[i];
        struct choice *c = &r->choices[p->layer];
        if (p->expert != PIECE_ALWAYS && p->expert >= c->experts)
            c->experts = p->expert + 1;
    }
    for (uint32_t l = 0; l < r->layers; l++) {
        r->choices[l].chosen = calloc(r->choices[l].experts + 1, sizeof(bool));
        if (!r->choices[l].chosen)
            return -ENOMEM;
    }
    return 0;
}

int ring_open(struct piece *pieces, size_t count, uint64_t slot_size, uint64_t slots,
              enum reader_kind kind, struct source *whole, struct ring **out, struct error *err)
{
    struct ring *r = calloc(1, sizeof *r);
    if (!r)
        return error_set(err, -ENOMEM, "out of memory");
    r->pieces = pieces;
    r->count = count;
    r->whole = source_ref(whole);
    r->slot_size = slot_size;
    r->slot_count = slots;
    r->next_pass = 1;
    r->slots = calloc(slots, sizeof *r->slots);
    size_t size = slot_size * slots;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    r->memory = memory == MAP_FAILED ? NULL : memory;
    int rc = r->memory && r->slots && make_choices(r) == 0
                 ? 0
                 : error_set(err, -ENOMEM, "no memory for a ring of %" PRIu64 " slots", slots);
    if (!rc) {
        madvise(r->memory, size, MADV_HUGEPAGE);
        rc = reader_open(kind, r->memory, size, &r->reader, err);
    }
    if (rc)
        ring_close(r);
    else
        *out = r;
    return rc;
}

void ring_close(struct ring *r)
{
    if (!r)
        return;
    reader_close(r->reader);
    if (r->memory)
        munmap(r->memory, r->slot_size * r->slot_count);
    for (uint32_t l = 0; r->choices && l < r->layers; l++)
        free(r->choices[l].chosen);
    free(r->choices);
    free(r->slots);
    source_unref(r->whole);
    free(r);
}

struct reader *ring_reader(struct ring *r) { return r->reader; }
const void *ring_memory(const struct ring *r) { return r->memory; }
const struct ring_stats *ring_stats(const struct ring *r) { return &r->stats; }

/* SPDX-License-Identifier: MIT
 *
 * Where weights go: what is resident is loaded, and what is not is cut into pieces. Where the backend
 * has memory of its own, as many of them as the host has room for are held in its memory, the others
 * come through the ring, and all are lifted.
 */
#include "tools/command.h"
#include "tools/run/pieces.h"
#include "tools/run/upload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
    PIECE_LARGE = 1 << 20,
    PIECE_SMALL = 256 << 10,
    LARGE_RING = 16 << 20, /* from here on pieces are large */
    SLOTS_LEAST = 2,       /* one runs, one lands */
    RUN_ALIGNMENT = 64,    /* of what is resident, or held */
    /* Small copies never reach a link's rate; one of 4 MiB takes PCIe 4 160 us. A fourth slot was
     * worth 8 % elsewhere, more of them nothing. */
    PIECE_LIFTED = 4 << 20,
    LARGE_MEMORY = 256 << 20, /* a device's, from here on pieces are that large */
    LIFT_SLOTS = 4,
    LIFT_SLOTS_LEAST = 3,
    HOST_RING = 256 << 20, /* enough for any disk to be busy */
    PAGE = 4096,
};

/* ---- what is resident ---- */

static bool same_block(const struct weight *a, const struct weight *b)
{
    return a->layer == b->layer && (a->expert == PIECE_ALWAYS) == (b->expert == PIECE_ALWAYS);
}

int weights_blocks(struct weights *w, double expert_share, struct error *err)
{
    w->blocks = calloc(w->count + 1, sizeof *w->blocks);
    if (!w->blocks)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < w->count; i++) {
        const struct weight *m = w->order[i];
        bool experts = m->expert != PIECE_ALWAYS;
        if (i == 0 || !same_block(w->order[i - 1], m))
            w->blocks[w->block_count++] = (struct plan_block){
                .layer = m->layer, .experts = experts, .share = experts ? expert_share : 1};
        w->blocks[w->block_count - 1].bytes += m->units * m->unit_size;
    }
    return 0;
}

/* Gives each weight its units of what is resident of its block; returns the bytes of all of them. */
static uint64_t share_out(struct weights *w)
{
    uint64_t at = 0, left = 0;
    size_t block = 0;
    for (size_t i = 0; i < w->count; i++) {
        struct weight *m = w->order[i];
        if (i == 0 || !same_block(w->order[i - 1], m))
            left = w->blocks[block++].resident;
        uint64_t units = left / m->unit_size, step = pieces_step(w, m);
        m->resident_units = units < m->units ? units / step * step : m->units;
        left -= m->resident_units * m->unit_size;
        w->resident_bytes += m->resident_units * m->unit_size;
        at +=
            (m->resident_units * m->unit_size + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    }
    return at;
}

static int load_rows(struct weights *w, struct upload *u, uint8_t *to, uint64_t offset,
                     uint64_t size, struct progress *progress, struct error *err)
{
    enum { CHUNK = 16 << 20 };
    for (uint64_t at = 0, n; at < size; at += n) {
        n = size - at < CHUNK ? size - at : CHUNK;
        int rc = upload_file(u, to + at, w->file, offset + at, n, err);
        if (rc)
            return rc;
        progress_add(progress, n);
    }
    return 0;
}

static int load_resident(struct weights *w, struct error *err)
{
    uint64_t size = share_out(w), at = 0;
    struct upload upload;
    struct progress progress;
    int rc = w->backend->alloc(w->backend, size ? size : 1, &w->memory);
    if (rc)
        return error_set(err, rc, "no memory for %" PRIu64 " bytes of weights", size);
    rc = upload_open(w->backend, &upload, err);
    progress_begin(&progress, "loading", NULL, w->resident_bytes);
    for (size_t i = 0; !rc && i < w->count; i++) {
        struct weight *m = w->order[i];
        uint64_t bytes = m->resident_units * m->unit_size;
        uint8_t *to = (uint8_t *)w->memory + at;
        m->resident = to;
        rc = load_rows(w, &upload, to, m->offset, bytes, &progress, err);
        at += (bytes + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    }
    progress_end(&progress);
    upload_close(&upload);
    return rc;
}

int weights_send(struct weights *w, struct error *err)
{
    struct upload upload;
    size_t size = 0;
    if (w->backend->unified)
        return 0;
    for (const struct sending *s = w->sendings; s; s = s->next)
        size += (s->size + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    int rc = w->backend->alloc(w->backend, size, &w->sent);
    if (rc)
        return error_set(err, rc, "no memory for %zu bytes of norms", size);
    rc = upload_open(w->backend, &upload, err);
    uint8_t *to = w->sent;
    for (const struct sending *s = w->sendings; !rc && s; s = s->next) {
        rc = upload_bytes(&upload, to, *s->where, s->size, err);
        *s->where = to;
        to += (s->size + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    }
    upload_close(&upload);
    return rc;
}

/* ---- what is not ---- */

uint64_t weights_ring_least(const struct weights *w)
{
    return SLOTS_LEAST * pieces_slot_size(w, PIECE_SMALL);
}

/* Bytes of a piece that is lifted, about; ring: of the host's, if it needs one. */
static uint64_t lifted_target(const struct weights *w, uint64_t budget, uint64_t ring)
{
    bool large = budget >= LARGE_MEMORY && ring >= SLOTS_LEAST * pieces_slot_size(w, PIECE_LIFTED);
    return large ? PIECE_LIFTED : PIECE_SMALL;
}

void weights_lift_slots(const struct weights *w, uint64_t budget, uint64_t ring, uint32_t *count,
                        uint64_t *size)
{
    *size = pieces_slot_size(w, lifted_target(w, budget, ring));
    *count = LIFT_SLOTS * *size <= budget / 4 ? LIFT_SLOTS : LIFT_SLOTS_LEAST;
}

uint64_t weights_slots_least(const struct weights *w, enum lift_kind kind)
{
    return kind == LIFT_COPY ? LIFT_SLOTS_LEAST * pieces_slot_size(w, PIECE_SMALL) : 0;
}

/* ---- in the backend's memory and the ring, which is the host's ---- */

static int place_unified(struct weights *w, const struct placing *p, struct error *err)
{
    uint64_t least = weights_ring_least(w);
    uint64_t ring = p->ring ? p->ring : plan_ring(w->blocks, w->block_count, p->budget, least);
    uint64_t target = ring >= LARGE_RING ? PIECE_LARGE : PIECE_SMALL;
    if (ring < least || ring > p->budget)
        return error_set(err, -ENOMEM,
                         "a ring of %" PRIu64 " bytes is %s: at least %" PRIu64
                         " are needed, and there are %" PRIu64,
                         ring, ring < least ? "too small" : "too large", least, p->budget);
    w->slot_size = pieces_slot_size(w, target);
    w->slots = ring / w->slot_size > SLOTS_LEAST ? ring / w->slot_size : SLOTS_LEAST;
    plan_place(w->blocks, w->block_count, p->budget - ring);
    int rc = load_resident(w, err);
    if (!rc && pieces_cut(w, target))
        rc = error_set(err, -ENOMEM, "out of memory");
    return rc ? rc : pieces_open_ring(w, p->io, err);
}

/* ---- in the memory of a device, and that of the host ---- */

static uint64_t aligned(uint64_t n, uint64_t alignment)
{
    return (n + alignment - 1) / alignment * alignment;
}

/* Chooses pieces to be held, of so many bytes at most, evenly between those that are read: the disk
 * goes on while others are lifted. Returns the bytes that they take. */
static uint64_t choose_held(struct weights *w, uint64_t room, bool *held)
{
    uint64_t all = 0, passed = 0, taken = 0;
    for (size_t i = 0; i < w->piece_count; i++)
        all += aligned(w->pieces[i].size, RUN_ALIGNMENT);
    for (size_t i = 0; i < w->piece_count; i++) {
        uint64_t size = aligned(w->pieces[i].size, RUN_ALIGNMENT);
        passed += size;
        held[i] =
            room >= all || (double)(taken + size) <= (double)room / (double)all * (double)passed;
        taken += held[i] ? size : 0;
        w->held_bytes += held[i] ? w->pieces[i].size : 0;
    }
    return taken;
}

/* Reads what is held, once its memory is pinned: a driver that refuses so much says it at once. */
static int load_held(struct weights *w, struct error *err)
{
    struct progress progress;
    int rc = 0;
    progress_begin(&progress, "loading into RAM", NULL, w->held_bytes);
    for (size_t i = 0; !rc && i < w->piece_count; i++) {
        const struct piece *p = &w->pieces[i];
        if (!p->held)
            continue;
        rc = source_read(w->file, (uint8_t *)p->held, p->offset, p->size, err);
        progress_add(&progress, p->size);
    }
    progress_end(&progress);
    return rc;
}

/* Makes room for what is to be held, of so many bytes at most. */
static int hold(struct weights *w, uint64_t room, struct error *err)
{
    bool *held = calloc(w->piece_count, sizeof *held);
    if (!held)
        return error_set(err, -ENOMEM, "out of memory");
    w->held_size = aligned(choose_held(w, room, held), PAGE);
    if (w->held_size) {
        void *p =
            mmap(NULL, w->held_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        w->held = p == MAP_FAILED ? NULL : p;
    }
    uint8_t *to = w->held;
    for (size_t i = 0; to && i < w->piece_count; i++) {
        w->pieces[i].held = held[i] ? to : NULL;
        to += held[i] ? aligned(w->pieces[i].size, RUN_ALIGNMENT) : 0;
    }
    free(held);
    return w->held || !w->held_size ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static bool all_held(const struct weights *w)
{
    for (size_t i = 0; i < w->piece_count; i++)
        if (!w->pieces[i].held)
            return false;
    return true;
}

/* Kernels read pieces where they land, which is where they lie within a page of the file. */
static int check_mapped(const struct weights *w, struct error *err)
{
    for (size_t i = 0; i < w->piece_count; i++)
        if (!w->pieces[i].held && w->pieces[i].offset % w->backend->run_alignment)
            return error_set(err, -ENOTSUP,
                             "weights at byte %" PRIu64 " of the file are not aligned to %u bytes:"
                             " they cannot be read where they land; --lift=copy can",
                             w->pieces[i].offset, w->backend->run_alignment);
    return 0;
}

/* So many bytes of the host's memory are for the ring, if not all pieces can be held. */
static int place_host(struct weights *w, const struct placing *p, struct error *err)
{
    uint64_t lifted = w->bytes - w->resident_bytes, least = SLOTS_LEAST * w->slot_size;
    uint64_t slack = w->piece_count * RUN_ALIGNMENT, ring = p->ring ? p->ring : HOST_RING;
    if (p->host >= lifted + slack)
        return hold(w, lifted + slack, err);
    if (!p->ring)
        ring = ring < p->host / 2 ? ring : p->host / 2 > least ? p->host / 2 : least;
    if (ring < least || ring > p->host)
        return error_set(err, -ENOMEM,
                         "a ring of %" PRIu64 " bytes is %s: at least %" PRIu64
                         " are needed, and there are %" PRIu64,
                         ring, ring < least ? "too small" : "too large", least, p->host);
    w->slots = ring / w->slot_size;
    int rc = hold(w, p->host - ring, err);
    rc = rc || all_held(w) ? rc : pieces_open_ring(w, p->io, err);
    return rc || !w->mapped ? rc : check_mapped(w, err);
}

static int place_lifted(struct weights *w, const struct placing *p, struct error *err)
{
    uint64_t ring = p->ring ? p->ring : p->host / 2;
    w->mapped = p->lift == LIFT_MAPPED;
    weights_lift_slots(w, p->budget, ring, &w->lift_slots, &w->slot_size);
    w->lift_slots = w->mapped ? 0 : w->lift_slots;
    uint64_t slots = w->lift_slots * w->slot_size;
    if (slots > p->budget)
        return error_set(err, -ENOMEM,
                         "%" PRIu64 " bytes are too few for %" PRIu32 " slots of %" PRIu64,
                         p->budget, w->lift_slots, w->slot_size);
    plan_place(w->blocks, w->block_count, p->budget - slots);
    int rc = load_resident(w, err);
    if (!rc && pieces_cut(w, lifted_target(w, p->budget, ring)))
        rc = error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : place_host(w, p, err);
    const struct lift_parts parts = {
        p->lift,      w->pieces,     w->piece_count, w->ring,      w->ring ? w->slots : 0,
        w->slot_size, w->lift_slots, w->held,        w->held_size, p->traced};
    rc = rc ? rc : lift_open(w->backend, &parts, &w->lift, err);
    return rc ? rc : load_held(w, err);
}

/* Runs begin at multiples of RUN_ALIGNMENT, which the budget is for, too. */
static uint64_t alignment_slack(const struct weights *w)
{
    return w->backend->unified ? 0 : w->count * RUN_ALIGNMENT;
}

int weights_place(struct weights *w, const struct placing *p, struct error *err)
{
    struct placing rest = *p;
    int rc = weights_blocks(w, p->expert_share, err);
    if (rc)
        return rc;
    rest.budget -= alignment_slack(w) < rest.budget ? alignment_slack(w) : rest.budget;
    if (w->bytes <= rest.budget) {
        plan_place(w->blocks, w->block_count, w->bytes);
        return load_resident(w, err);
    }
    return w->backend->unified ? place_unified(w, &rest, err) : place_lifted(w, &rest, err);
}

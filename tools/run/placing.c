/* SPDX-License-Identifier: MIT
 *
 * Where weights go: what is resident is loaded, and what is not is cut into pieces for the ring.
 */
#include "tools/command.h"
#include "tools/run/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PIECE_LARGE = 1 << 20,
    PIECE_SMALL = 256 << 10,
    LARGE_RING = 16 << 20, /* from here on pieces are large */
    SLOTS_LEAST = 2,       /* one runs, one lands */
    RUN_ALIGNMENT = 64,    /* of what is resident */
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
        uint64_t units = left / m->unit_size;
        m->resident_units = units < m->units ? units : m->units;
        left -= m->resident_units * m->unit_size;
        w->resident_bytes += m->resident_units * m->unit_size;
        at += (m->resident_units * m->unit_size + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    }
    return at;
}

static int load_rows(struct weights *w, uint8_t *to, uint64_t offset, uint64_t size,
                     struct progress *progress, struct error *err)
{
    enum { CHUNK = 16 << 20 };
    for (uint64_t at = 0, n; at < size; at += n) {
        n = size - at < CHUNK ? size - at : CHUNK;
        int rc = source_read(w->file, to + at, offset + at, n, err);
        if (rc)
            return rc;
        progress_add(progress, n);
    }
    return 0;
}

static int load_resident(struct weights *w, struct error *err)
{
    uint64_t size = share_out(w), at = 0;
    int rc = w->backend->alloc(w->backend, size, &w->memory);
    if (rc)
        return error_set(err, rc, "no memory for %" PRIu64 " bytes of weights", size);
    struct progress progress;
    progress_begin(&progress, "loading", NULL, w->resident_bytes);
    for (size_t i = 0; !rc && i < w->count; i++) {
        struct weight *m = w->order[i];
        uint64_t bytes = m->resident_units * m->unit_size;
        m->resident = (uint8_t *)w->memory + at;
        rc = load_rows(w, (uint8_t *)w->memory + at, m->offset, bytes, &progress, err);
        at += (bytes + RUN_ALIGNMENT - 1) / RUN_ALIGNMENT * RUN_ALIGNMENT;
    }
    progress_end(&progress);
    return rc;
}

/* ---- what is not ---- */

static uint64_t units_of_piece(const struct weight *m, uint64_t target)
{
    return target > m->unit_size ? target / m->unit_size : 1;
}

/* Of a ring whose pieces have about this many bytes, or are tiles. */
static uint64_t slot_size(const struct weights *w, uint64_t target)
{
    uint64_t most = 0;
    for (size_t i = 0; i < w->count; i++) {
        uint64_t size = units_of_piece(w->order[i], target) * w->order[i]->unit_size;
        most = size > most ? size : most;
    }
    for (size_t i = 0; i < w->tiles.extents.count; i++)
        if (w->tiles.extents.items[i].length > most)
            most = w->tiles.extents.items[i].length;
    return ring_slot_size(most);
}

uint64_t weights_ring_least(const struct weights *w)
{
    return SLOTS_LEAST * slot_size(w, PIECE_SMALL);
}

/* Units of the piece that begins at one: those of the tile that begins there; else so many that the
 * next piece can be a tile. */
static uint64_t units_from(const struct weights *w, const struct weight *m, uint64_t unit, uint64_t n)
{
    uint64_t offset = m->offset + unit * m->unit_size, left = m->units - unit;
    const struct extent *tile = extents_file_find(&w->tiles, offset);
    uint64_t units = left < n ? left : n;
    if (!tile)
        return units;
    uint64_t until = tile->offset > offset ? tile->offset - offset : tile->length;
    if (until % m->unit_size || until / m->unit_size > left)
        return units;
    return tile->offset == offset || until / m->unit_size < units ? until / m->unit_size : units;
}

static struct piece *add_piece(struct weights *w)
{
    if (w->piece_count == w->piece_capacity) {
        size_t capacity = w->piece_capacity ? 2 * w->piece_capacity : 1024;
        struct piece *pieces = realloc(w->pieces, capacity * sizeof *pieces);
        if (!pieces)
            return NULL;
        w->pieces = pieces;
        w->piece_capacity = capacity;
    }
    return &w->pieces[w->piece_count++];
}

static int cut(struct weights *w, uint64_t target)
{
    for (size_t i = 0; i < w->count; i++) {
        struct weight *m = w->order[i];
        m->piece = w->piece_count;
        for (uint64_t unit = m->resident_units, n; unit < m->units; unit += n) {
            struct piece *p = add_piece(w);
            if (!p)
                return -ENOMEM;
            n = units_from(w, m, unit, units_of_piece(m, target));
            *p = (struct piece){.offset = m->offset + unit * m->unit_size,
                                .size = (uint32_t)(n * m->unit_size),
                                .layer = m->layer,
                                .expert = m->expert};
        }
    }
    return 0;
}

/* ---- where it lies ---- */

/* Past the page cache if that can be: what is streamed would only push out what is of use there. */
static int open_direct(const char *path, bool *direct)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    *direct = fd >= 0;
    return fd >= 0 ? fd : open(path, O_RDONLY | O_CLOEXEC);
}

/* The model's file once more. In a mount it is read with the page cache, as the mount likes it. */
static int add_file(struct weights *w, int *file, struct error *err)
{
    const char *path = source_path(w->file);
    struct stat st;
    struct source_identity id;
    int fd = w->mounted ? open(path, O_RDONLY | O_CLOEXEC) : open_direct(path, &w->direct);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = error_set(err, -errno, "%s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    source_identity_of(&st, &id);
    if (memcmp(&id, source_identity(w->file), sizeof id)) {
        close(fd);
        return error_set(err, -ESTALE, "the file has just been changed");
    }
    return reader_add(ring_reader(w->ring), fd, file);
}

/* An object of the mount's cache, by its path; -1 where it cannot be had. */
static int find_object(struct weights *w, const char *path)
{
    for (struct object *o = w->objects; o; o = o->next)
        if (strcmp(o->path, path) == 0)
            return o->file;
    struct object *o = arena_alloc(&w->arena, sizeof *o);
    char *copy = arena_strdup(&w->arena, path);
    if (!o || !copy)
        return -1;
    bool direct;
    int fd = open_direct(path, &direct);
    *o = (struct object){copy, -1, w->objects};
    w->objects = o;
    if (fd < 0 || reader_add(ring_reader(w->ring), fd, &o->file))
        return -1;
    w->direct |= direct;
    return o->file;
}

/* Pieces that lie in objects are read there from now on. */
static void place_in_objects(struct weights *w)
{
    int file = -1;
    uint32_t object = EXTENT_NOWHERE; /* that `file` is: neighbours share one */
    w->unplaced = 0;
    for (size_t i = 0; i < w->piece_count; i++) {
        struct piece *p = &w->pieces[i];
        const struct extent *tile = extents_file_find(&w->tiles, p->offset);
        if (p->place == PLACE_OBJECT || !tile || tile->offset != p->offset ||
            tile->length != p->size)
            continue;
        if (tile->object != object)
            file = tile->object == EXTENT_NOWHERE
                       ? -1
                       : find_object(w, w->tiles.extents.objects[tile->object]);
        object = tile->object;
        if (file < 0) {
            w->unplaced++;
            continue;
        }
        p->place = PLACE_OBJECT;
        p->file = file;
        p->at = tile->at;
        p->checksum = tile->checksum;
        p->seed = tile->seed;
    }
}

/* Objects are files, and there may be many. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void weights_look_again(struct weights *w)
{
    struct extents_file tiles;
    if (!w->unplaced || !extents_file_open(&tiles, source_path(w->file)))
        return;
    extents_file_close(&w->tiles);
    w->tiles = tiles;
    place_in_objects(w);
}

static int open_ring(struct weights *w, uint64_t target, enum reader_kind io, struct error *err)
{
    int rc = cut(w, target), file;
    if (rc)
        return error_set(err, rc, "out of memory");
    raise_descriptor_limit();
    rc = ring_open(w->pieces, w->piece_count, w->slot_size, w->slots, io, w->file, &w->ring, err);
    rc = rc ? rc : add_file(w, &file, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < w->piece_count; i++) {
        w->pieces[i].place = w->mounted ? PLACE_MOUNT : PLACE_FILE;
        w->pieces[i].file = file;
        w->pieces[i].at = w->pieces[i].offset;
    }
    if (w->mounted)
        place_in_objects(w);
    return 0;
}

int weights_place(struct weights *w, const struct placing *p, struct error *err)
{
    int rc = weights_blocks(w, p->expert_share, err);
    if (rc)
        return rc;
    if (w->bytes <= p->budget) {
        plan_place(w->blocks, w->block_count, w->bytes);
        return load_resident(w, err);
    }
    uint64_t least = weights_ring_least(w);
    uint64_t ring = p->ring ? p->ring : plan_ring(w->blocks, w->block_count, p->budget, least);
    uint64_t target = ring >= LARGE_RING ? PIECE_LARGE : PIECE_SMALL;
    if (ring < least || ring > p->budget)
        return error_set(err, -ENOMEM,
                         "a ring of %" PRIu64 " bytes is %s: at least %" PRIu64
                         " are needed, and there are %" PRIu64,
                         ring, ring < least ? "too small" : "too large", least, p->budget);
    w->slot_size = slot_size(w, target);
    w->slots = ring / w->slot_size > SLOTS_LEAST ? ring / w->slot_size : SLOTS_LEAST;
    plan_place(w->blocks, w->block_count, p->budget - ring);
    rc = load_resident(w, err);
    return rc ? rc : open_ring(w, target, p->io, err);
}

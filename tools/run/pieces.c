/* SPDX-License-Identifier: MIT */
#include "tools/run/pieces.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- cutting ---- */

enum { PIECE_MOST = 1 << 30 }; /* whatever a mount says of its tiles */

static uint64_t greatest_divisor(uint64_t a, uint64_t b)
{
    return b ? greatest_divisor(b, a % b) : a;
}

uint64_t pieces_step(const struct weights *w, const struct weight *m)
{
    unsigned alignment = w->run_alignment ? w->run_alignment : 1;
    return alignment / greatest_divisor(alignment, m->unit_size);
}

static uint64_t units_of_piece(const struct weights *w, const struct weight *m, uint64_t target)
{
    uint64_t step = pieces_step(w, m), units = target / m->unit_size / step * step;
    units = units ? units : step;
    /* A matrix of experts may stand for all of them, where there is no file yet. */
    return units < m->units || m->expert != PIECE_ALWAYS ? units : m->units;
}

uint64_t pieces_slot_size(const struct weights *w, uint64_t target)
{
    uint64_t most = 0;
    for (size_t i = 0; i < w->count; i++) {
        uint64_t size = units_of_piece(w, w->order[i], target) * w->order[i]->unit_size;
        most = size > most ? size : most;
    }
    for (size_t i = 0; i < w->tiles.extents.count; i++)
        if (w->tiles.extents.items[i].length > most)
            most = w->tiles.extents.items[i].length;
    return ring_slot_size(most);
}

/* Units of the piece that begins at one: those of the tile that begins there; else so many that the
 * next piece can be a tile. */
static uint64_t units_from(const struct weights *w, const struct weight *m, uint64_t unit,
                           uint64_t n)
{
    uint64_t offset = m->offset + unit * m->unit_size, left = m->units - unit;
    const struct extent *tile = extents_file_find(&w->tiles, offset);
    uint64_t units = left < n ? left : n;
    if (!tile)
        return units;
    uint64_t until = tile->offset > offset ? tile->offset - offset : tile->length;
    if (until % m->unit_size || until / m->unit_size > left || until > PIECE_MOST)
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

int pieces_cut(struct weights *w, uint64_t target)
{
    for (size_t i = 0; i < w->count; i++) {
        struct weight *m = w->order[i];
        m->piece = w->piece_count;
        for (uint64_t unit = m->resident_units, n; unit < m->units; unit += n) {
            struct piece *p = add_piece(w);
            if (!p)
                return -ENOMEM;
            n = units_from(w, m, unit, units_of_piece(w, m, target));
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
            tile->length != p->size || (w->mapped && tile->at % w->run_alignment))
            continue; /* kernels read it where it lands, which may be at any address there */
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

int pieces_open_ring(struct weights *w, enum reader_kind io, struct error *err)
{
    int file;
    raise_descriptor_limit();
    int rc =
        ring_open(w->pieces, w->piece_count, w->slot_size, w->slots, io, w->file, &w->ring, err);
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

/* SPDX-License-Identifier: MIT */
#include "fs/extents.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
    char *data;
    size_t size;
    FILE *out;
};

struct writer {
    const struct tree *tree;
    struct text objects, tiles; /* the text is the one, then the other */
    uint32_t object_count;
    struct cache_object **held;
    size_t held_count;
};

static bool any_raw(const struct cache_place *places, uint64_t count)
{
    for (uint64_t i = 0; places && i < count; i++)
        if (places[i].offset)
            return true;
    return false;
}

static void put(const struct tree *t, struct cache_object *o, bool held)
{
    if (held)
        tiles_release(t->tiles, o);
    else
        cache_put(t->cache, o);
}

/* Names the encoding's object, the last one then, and returns the places of its tiles; NULL where
 * none lies there raw. */
static struct cache_place *locate(struct writer *w, const struct encoding *e)
{
    char path[PATH_MAX];
    struct cache *cache = w->tree->cache;
    struct cache_object *o = cache && e->cached ? cache_get(cache, e) : NULL;
    if (!o)
        return NULL;
    bool held = cache_hold(cache, o); /* first: what is read then stays true */
    struct cache_place *places = cache_places(o);
    cache_path(cache, o, path);
    if (strchr(path, '\n') || !any_raw(places, e->tile_count)) {
        free(places);
        put(w->tree, o, held);
        return NULL;
    }
    fprintf(w->objects.out, "object %" PRIu32 " %s\n", w->object_count++, path);
    if (held)
        w->held[w->held_count++] = o;
    else
        put(w->tree, o, false);
    return places;
}

static void print_tiles(struct writer *w, const struct segment *s)
{
    const struct encoding *e = s->encoding;
    struct cache_place *places = locate(w, e);
    for (uint64_t i = 0; i < e->tile_count; i++) {
        fprintf(w->tiles.out, "tile %" PRIu64 " %" PRIu32, s->offset + i * e->tile_size,
                encoding_tile_size(e, i));
        if (places && places[i].offset)
            fprintf(w->tiles.out, " %" PRIu32 " %" PRIu64 " %016" PRIx64 " %016" PRIx64 "\n",
                    w->object_count - 1, places[i].offset, places[i].checksum, places[i].seed);
        else
            fputs(" -\n", w->tiles.out);
    }
    free(places);
}

static bool text_open(struct text *t)
{
    t->out = open_memstream(&t->data, &t->size);
    return t->out;
}

static bool text_close(struct text *t) { return t->out && !fclose(t->out); }

static struct bytes *join(const struct text *first, const struct text *second)
{
    struct buffer all = {0};
    buffer_add(&all, first->data, first->size);
    buffer_add(&all, second->data, second->size);
    struct bytes *bytes = all.failed ? NULL : bytes_new(all.data, all.size);
    buffer_free(&all);
    return bytes;
}

struct bytes *extents_text(const struct tree *t, uint64_t size, const struct image *image,
                           struct cache_object ***held)
{
    size_t count = image ? image->count : 0;
    struct writer w = {.tree = t, .held = calloc(count + 1, sizeof(struct cache_object *))};
    bool ok = w.held && text_open(&w.objects) && text_open(&w.tiles);
    if (ok)
        fprintf(w.objects.out, "quantfs extents 1\nsize %" PRIu64 "\n", size);
    for (size_t i = 0; ok && i < count; i++)
        if (image->segments[i].kind == SEGMENT_TENSOR)
            print_tiles(&w, &image->segments[i]);
    bool objects = text_close(&w.objects), tiles = text_close(&w.tiles);
    struct bytes *text = objects && tiles ? join(&w.objects, &w.tiles) : NULL;
    free(w.objects.data);
    free(w.tiles.data);
    *held = w.held;
    if (!text) {
        extents_release(t, w.held);
        *held = NULL;
    }
    return text;
}

void extents_release(const struct tree *t, struct cache_object **held)
{
    for (struct cache_object **o = held; o && *o; o++)
        put(t, *o, true);
    free(held);
}

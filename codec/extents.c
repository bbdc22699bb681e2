/* SPDX-License-Identifier: MIT */
#include "codec/extents.h"

#include "codec/bytes.h"

#include <errno.h>

struct parser {
    struct reader rest, line; /* what follows the line, and what is left of it */
    size_t number;            /* of the line, from 1 on */
    size_t object_capacity, capacity;
    struct error *err;
};

static int wrong(const struct parser *p, const char *what)
{
    return error_set(p->err, -EINVAL, "line %zu %s", p->number, what);
}

static int out_of_memory(const struct parser *p)
{
    return error_set(p->err, -ENOMEM, "out of memory");
}

/* Takes the next line; false where there is none that ends. */
static bool next_line(struct parser *p)
{
    size_t left = reader_left(&p->rest);
    const uint8_t *end = left ? memchr(p->rest.pos, '\n', left) : NULL;
    p->number++;
    if (!end)
        return false;
    p->line = (struct reader){p->rest.pos, end};
    p->rest.pos = end + 1;
    return true;
}

/* ---- fields: each is stepped over where it is what it should be ---- */

static bool take(struct reader *r, const char *text)
{
    size_t n = strlen(text);
    if (reader_left(r) < n || memcmp(r->pos, text, n) != 0)
        return false;
    r->pos += n;
    return true;
}

/* Decimal, the one way that a number is written. */
static bool take_number(struct reader *r, uint64_t *out)
{
    const uint8_t *start = r->pos;
    for (*out = 0; r->pos < r->end && *r->pos >= '0' && *r->pos <= '9'; r->pos++)
        if (__builtin_mul_overflow(*out, 10u, out) ||
            __builtin_add_overflow(*out, (uint64_t)(*r->pos - '0'), out))
            return false;
    return r->pos > start && (*start != '0' || r->pos == start + 1);
}

/* 16 hexadecimal digits. */
static bool take_hex(struct reader *r, uint64_t *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p;
    if (!read_bytes(r, 16, &p))
        return false;
    *out = 0;
    for (int i = 0; i < 16; i++) {
        const char *digit = memchr(digits, p[i], 16);
        if (!digit)
            return false;
        *out = *out << 4 | (uint64_t)(digit - digits);
    }
    return true;
}

static bool take_end(const struct reader *r) { return r->pos == r->end; }

/* Whether [start, start + length) ends by `end`. */
static bool within(uint64_t start, uint64_t length, uint64_t end)
{
    return start <= end && length <= end - start;
}

/* ---- lines ---- */

/* Room for one more behind `count` items; NULL when memory is out. */
static void *make_room(void *items, size_t count, size_t *capacity, size_t each)
{
    if (count < *capacity)
        return items;
    size_t more = *capacity ? 2 * *capacity : 16;
    void *grown = reallocarray(items, more, each);
    if (grown)
        *capacity = more;
    return grown;
}

static int parse_object(struct parser *p, struct extents *out)
{
    uint64_t number;
    struct reader *line = &p->line;
    if (out->count)
        return wrong(p, "has an object behind the tiles");
    if (!take_number(line, &number) || number != out->object_count || number == EXTENT_NOWHERE)
        return wrong(p, "has an object whose number is not the next");
    bool separate = take(line, " ");
    size_t n = reader_left(line);
    if (!separate || !n || *line->pos != '/' || memchr(line->pos, '\0', n))
        return wrong(p, "has an object without an absolute path");
    char **objects =
        make_room(out->objects, out->object_count, &p->object_capacity, sizeof *objects);
    if (!objects)
        return out_of_memory(p);
    out->objects = objects;
    objects[out->object_count] = strndup((const char *)line->pos, n);
    if (!objects[out->object_count])
        return out_of_memory(p);
    out->object_count++;
    return 0;
}

static int parse_place(struct parser *p, const struct extents *out, struct extent *e)
{
    uint64_t object;
    struct reader *line = &p->line;
    if (!take_number(line, &object) || object >= out->object_count)
        return wrong(p, "has a tile in an object that was not named");
    e->object = (uint32_t)object;
    if (!take(line, " ") || !take_number(line, &e->at) || !within(e->at, e->length, INT64_MAX))
        return wrong(p, "has a tile without its place in the object");
    if (!take(line, " ") || !take_hex(line, &e->checksum) || !take(line, " ") ||
        !take_hex(line, &e->seed) || !take_end(line))
        return wrong(p, "has a tile without its checksum and seed");
    return 0;
}

static int parse_tile(struct parser *p, struct extents *out)
{
    struct extent e = {.object = EXTENT_NOWHERE};
    struct reader *line = &p->line;
    if (!take_number(line, &e.offset) || !take(line, " ") || !take_number(line, &e.length) ||
        !take(line, " "))
        return wrong(p, "has a tile without offset and length");
    const struct extent *last = out->count ? &out->items[out->count - 1] : NULL;
    if (!e.length || !within(e.offset, e.length, out->size) ||
        (last && e.offset < last->offset + last->length))
        return wrong(p, "has a tile that is out of order or not in the file");
    bool nowhere = take(line, "-") && take_end(line);
    int rc = nowhere ? 0 : parse_place(p, out, &e);
    if (rc)
        return rc;
    struct extent *items = make_room(out->items, out->count, &p->capacity, sizeof *items);
    if (!items)
        return out_of_memory(p);
    out->items = items;
    items[out->count++] = e;
    return 0;
}

static int parse(struct parser *p, struct extents *out)
{
    struct reader *line = &p->line;
    if (!next_line(p) || !take(line, "quantfs extents 1") || !take_end(line))
        return wrong(p, "is not \"quantfs extents 1\": no list of extents, or another version");
    if (!next_line(p) || !take(line, "size ") || !take_number(line, &out->size) ||
        !take_end(line) || out->size > INT64_MAX)
        return wrong(p, "is not the size of a file");
    int rc = 0;
    while (!rc && reader_left(&p->rest))
        rc = !next_line(p)           ? wrong(p, "is cut off")
             : take(line, "object ") ? parse_object(p, out)
             : take(line, "tile ")   ? parse_tile(p, out)
                                     : wrong(p, "is neither an object nor a tile");
    return rc;
}

int extents_parse(const char *text, size_t n, struct extents *out, struct error *err)
{
    struct parser p = {.rest = reader_make(text, n), .err = err};
    *out = (struct extents){0};
    int rc = parse(&p, out);
    if (rc)
        extents_free(out);
    return rc;
}

void extents_free(struct extents *e)
{
    for (size_t i = 0; i < e->object_count; i++)
        free(e->objects[i]);
    free(e->objects);
    free(e->items);
    *e = (struct extents){0};
}

/* SPDX-License-Identifier: MIT */
#include "codec/zip.h"

#include "codec/bytes.h"

#include <errno.h>
#include <inttypes.h>

enum {
    END_SIZE = 22,
    LOCATOR_SIZE = 20,
    END64_SIZE = 56,
    ENTRY_SIZE = 46,
    FLAG_ENCRYPTED = 1,
    EXTRA_ZIP64 = 1,
};

static const uint8_t end_magic[4] = {'P', 'K', 5, 6}, locator_magic[4] = {'P', 'K', 6, 7},
                     end64_magic[4] = {'P', 'K', 6, 6}, entry_magic[4] = {'P', 'K', 1, 2},
                     local_magic[4] = {'P', 'K', 3, 4};

/* The last end record whose comment reaches to the end of the file. */
static const uint8_t *find_end(const uint8_t *tail, size_t size)
{
    for (size_t at = size >= END_SIZE ? size - END_SIZE + 1 : 0; at-- > 0;)
        if (memcmp(tail + at, end_magic, 4) == 0 &&
            load_u16(tail + at + 20) == size - at - END_SIZE)
            return tail + at;
    return NULL;
}

/* The 64-bit end record, which the locator in front of the short one points at. It must lie in the
 * tail, where every writer puts it. */
static const uint8_t *find_end64(const uint8_t *tail, const uint8_t *end, uint64_t tail_offset)
{
    if (end - tail < LOCATOR_SIZE + END64_SIZE || memcmp(end - LOCATOR_SIZE, locator_magic, 4) != 0)
        return NULL;
    uint64_t at = load_u64(end - LOCATOR_SIZE + 8), last = (uint64_t)(end - tail) - LOCATOR_SIZE;
    if (at < tail_offset || at - tail_offset > last - END64_SIZE)
        return NULL;
    const uint8_t *end64 = tail + (at - tail_offset);
    return memcmp(end64, end64_magic, 4) == 0 ? end64 : NULL;
}

int zip_find_directory(const uint8_t *tail, size_t size, uint64_t file_size,
                       struct zip_directory *out, struct error *err)
{
    const uint8_t *end = size <= file_size ? find_end(tail, size) : NULL;
    if (!end)
        return error_set(err, -EINVAL, "no zip directory at the end of the file: truncated, or "
                                       "written by torch before 1.6");
    const uint8_t *end64 = find_end64(tail, end, file_size - size);
    if (load_u16(end + 4) || load_u16(end + 6))
        return error_set(err, -ENOTSUP, "a zip archive in several parts");
    *out = (struct zip_directory){
        .count = end64 ? load_u64(end64 + 32) : load_u16(end + 10),
        .size = end64 ? load_u64(end64 + 40) : load_u32(end + 12),
        .offset = end64 ? load_u64(end64 + 48) : load_u32(end + 16),
    };
    if (out->offset > file_size || out->size > file_size - out->offset)
        return error_set(err, -EINVAL, "the zip directory does not lie in the file");
    if (out->size > ZIP_DIRECTORY_MAX)
        return error_set(err, -EFBIG, "the zip directory has %" PRIu64 " bytes", out->size);
    return 0;
}

/* A 32-bit field whose true value may stand in the 64-bit extra field. */
static bool widen(uint32_t field, struct reader *extra, uint64_t *out)
{
    *out = field;
    return field != UINT32_MAX || read_u64(extra, out);
}

/* The 64-bit extra field among the others; empty if there is none. */
static struct reader find_zip64(const uint8_t *extra, size_t size)
{
    struct reader r = reader_make(extra, size);
    const uint8_t *head, *body;
    while (read_bytes(&r, 4, &head) && read_bytes(&r, load_u16(head + 2), &body))
        if (load_u16(head) == EXTRA_ZIP64)
            return reader_make(body, load_u16(head + 2));
    return reader_make(NULL, 0);
}

static int parse_entry(struct reader *r, uint64_t file_size, struct zip_archive *a,
                       struct zip_member *m, struct error *err)
{
    const uint8_t *e, *name, *extra, *comment;
    uint64_t stored;
    if (!read_bytes(r, ENTRY_SIZE, &e) || memcmp(e, entry_magic, 4) != 0 ||
        !read_bytes(r, load_u16(e + 28), &name) || !read_bytes(r, load_u16(e + 30), &extra) ||
        !read_bytes(r, load_u16(e + 32), &comment))
        return error_set(err, -EINVAL, "entry %zu of the zip directory is invalid", a->count);
    if (memchr(name, 0, load_u16(e + 28)))
        return error_set(err, -EINVAL, "entry %zu of the zip directory has a NUL in its name",
                         a->count);
    m->name = arena_strndup(&a->arena, (const char *)name, load_u16(e + 28));
    if (!m->name)
        return error_set(err, -ENOMEM, "out of memory");
    struct reader zip64 = find_zip64(extra, load_u16(e + 30));
    if (!widen(load_u32(e + 24), &zip64, &m->size) || !widen(load_u32(e + 20), &zip64, &stored) ||
        !widen(load_u32(e + 42), &zip64, &m->offset))
        return error_set(err, -EINVAL, "member \"%.100s\": its 64-bit sizes are missing", m->name);
    if (load_u16(e + 8) & FLAG_ENCRYPTED || load_u16(e + 10) != 0 || stored != m->size)
        return error_set(err, -ENOTSUP, "member \"%.100s\" is compressed or encrypted", m->name);
    if (m->offset > file_size || m->size > file_size - m->offset)
        return error_set(err, -EINVAL, "member \"%.100s\" does not lie in the file: truncated",
                         m->name);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct zip_member *)a)->name, ((const struct zip_member *)b)->name);
}

static int parse(const uint8_t *data, size_t size, const struct zip_directory *d,
                 uint64_t file_size, struct zip_archive *a, struct error *err)
{
    struct reader r = reader_make(data, size);
    if (d->count > size / ENTRY_SIZE)
        return error_set(err, -EINVAL, "%" PRIu64 " members do not fit in the zip directory",
                         d->count);
    a->members = arena_array(&a->arena, (size_t)d->count + 1, sizeof *a->members);
    if (!a->members)
        return error_set(err, -ENOMEM, "out of memory");
    for (; a->count < d->count; a->count++) {
        int rc = parse_entry(&r, file_size, a, &a->members[a->count], err);
        if (rc)
            return rc;
    }
    qsort(a->members, a->count, sizeof *a->members, by_name);
    for (size_t i = 1; i < a->count; i++)
        if (by_name(&a->members[i - 1], &a->members[i]) == 0)
            return error_set(err, -EINVAL, "member \"%.100s\" is there twice", a->members[i].name);
    return 0;
}

int zip_parse_directory(const uint8_t *data, size_t size, const struct zip_directory *d,
                        uint64_t file_size, struct zip_archive *out, struct error *err)
{
    *out = (struct zip_archive){0};
    int rc = parse(data, size, d, file_size, out, err);
    if (rc)
        zip_free(out);
    return rc;
}

void zip_free(struct zip_archive *a)
{
    arena_free(&a->arena);
    *a = (struct zip_archive){0};
}

const struct zip_member *zip_find(const struct zip_archive *a, const char *name)
{
    struct zip_member key = {.name = name};
    return a->count ? bsearch(&key, a->members, a->count, sizeof key, by_name) : NULL;
}

int zip_data_offset(const uint8_t local[ZIP_LOCAL_SIZE], const struct zip_member *m,
                    uint64_t file_size, uint64_t *out, struct error *err)
{
    if (memcmp(local, local_magic, 4) != 0)
        return error_set(err, -EINVAL, "member \"%.100s\" has no header where it should", m->name);
    if (__builtin_add_overflow(m->offset, ZIP_LOCAL_SIZE + load_u16(local + 26) +
                                              load_u16(local + 28), out) ||
        *out > file_size || m->size > file_size - *out)
        return error_set(err, -EINVAL, "member \"%.100s\" does not lie in the file: truncated",
                         m->name);
    return 0;
}

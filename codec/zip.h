/* SPDX-License-Identifier: MIT
 *
 * The zip container as torch writes it: members that are stored, not compressed, so that a tensor
 * lies in the file as it is. Only the directory at the end is read, with its 64-bit extension; an
 * archive in parts, an encrypted or compressed member is refused by name.
 *
 * Reading goes in three steps, each over bytes that the caller fetches: the end of the file tells
 * where the directory lies, the directory names the members, and the 30 bytes in front of a member
 * tell where its data begins.
 */
#ifndef CODEC_ZIP_H
#define CODEC_ZIP_H

#include "codec/arena.h"
#include "codec/error.h"

#include <stddef.h>
#include <stdint.h>

enum {
    ZIP_TAIL_MAX = 65535 + 22 + 20 + 56, /* the end records and the longest comment */
    ZIP_DIRECTORY_MAX = 64 << 20,
    ZIP_LOCAL_SIZE = 30,
};

struct zip_directory {
    uint64_t offset, size, count;
};

struct zip_member {
    const char *name; /* in the archive's arena */
    uint64_t offset;  /* of its local header */
    uint64_t size;
};

struct zip_archive {
    struct zip_member *members; /* sorted by name, names unique */
    size_t count;
    struct arena arena;
};

/* Finds the directory from the last `size` bytes of a file: all of it, or ZIP_TAIL_MAX. -EINVAL
 * where there is none, or one that does not lie in the file. */
int zip_find_directory(const uint8_t *tail, size_t size, uint64_t file_size,
                       struct zip_directory *out, struct error *err);

/* Parses the directory's bytes. -EINVAL, -ENOTSUP for what torch does not write. Free with
 * zip_free. */
int zip_parse_directory(const uint8_t *data, size_t size, const struct zip_directory *d,
                        uint64_t file_size, struct zip_archive *out, struct error *err);
void zip_free(struct zip_archive *a);

/* NULL if there is none of that name. */
const struct zip_member *zip_find(const struct zip_archive *a, const char *name);

/* From the ZIP_LOCAL_SIZE bytes at a member's offset: where its data begins. -EINVAL where the
 * data would not lie in the file. */
int zip_data_offset(const uint8_t local[ZIP_LOCAL_SIZE], const struct zip_member *m,
                    uint64_t file_size, uint64_t *out, struct error *err);

#endif

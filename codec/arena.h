/* SPDX-License-Identifier: MIT
 *
 * Many small pieces with one lifetime: what a parser hands back. Zero-initialise; everything is
 * freed at once by arena_free.
 */
#ifndef CODEC_ARENA_H
#define CODEC_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks;
    size_t used; /* bytes of the newest chunk that are taken */
    size_t total; /* bytes held in all chunks */
};

/* n bytes, zeroed, aligned for any scalar; NULL when memory is out. */
void *arena_alloc(struct arena *a, size_t n);

/* count * size bytes; NULL on overflow too. */
void *arena_array(struct arena *a, size_t count, size_t size);

/* A copy of n bytes with a terminator behind it. */
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_strdup(struct arena *a, const char *s);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void arena_free(struct arena *a);

#endif

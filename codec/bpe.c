/* SPDX-License-Identifier: MIT */
#include "codec/bpe.h"

#include "codec/utf8.h"

#include <errno.h>

static uint64_t hash_bytes(uint64_t hash, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (uint8_t)s[i]) * 0x100000001b3u;
    return hash;
}

/* The slot of a merge, or the empty one where it would be. */
static struct bpe_merge *slot(const struct bpe_merges *m, const char *left, size_t left_size,
                              const char *right, size_t right_size)
{
    uint64_t hash = hash_bytes(0xcbf29ce484222325u, left, left_size);
    hash = hash_bytes((hash ^ ' ') * 0x100000001b3u, right, right_size);
    hash ^= hash >> 32;
    for (size_t i = hash & m->mask;; i = (i + 1) & m->mask) {
        struct bpe_merge *s = &m->slots[i];
        if (!s->left || (s->left_size == left_size && s->right_size == right_size &&
                         memcmp(s->left, left, left_size) == 0 &&
                         memcmp(s->right, right, right_size) == 0))
            return s;
    }
}

int bpe_merges_init(struct bpe_merges *m, size_t count)
{
    size_t size = 16;
    while (size < 2 * count)
        size *= 2;
    *m = (struct bpe_merges){.slots = calloc(size, sizeof *m->slots), .mask = size - 1};
    return m->slots ? 0 : -ENOMEM;
}

void bpe_merges_free(struct bpe_merges *m)
{
    free(m->slots);
    *m = (struct bpe_merges){0};
}

void bpe_merges_add(struct bpe_merges *m, const char *left, uint32_t left_size, const char *right,
                    uint32_t right_size, uint32_t rank)
{
    struct bpe_merge *s = slot(m, left, left_size, right, right_size);
    if (s->left)
        return;
    *s = (struct bpe_merge){left, right, left_size, right_size, rank};
    m->count++;
}

static uint32_t rank_of(const struct bpe_merges *m, const char *piece, size_t start, size_t middle,
                        size_t end)
{
    const struct bpe_merge *s =
        slot(m, piece + start, middle - start, piece + middle, end - middle);
    return s->left ? s->rank : UINT32_MAX;
}

size_t bpe_join(const struct bpe_merges *m, const char *piece, size_t n, uint32_t *ends)
{
    size_t count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t code;
        unsigned bad, length = utf8_next((const uint8_t *)piece + at, n - at, &code, &bad);
        at += length ? length : bad;
        ends[count++] = (uint32_t)at;
    }
    for (;;) {
        uint32_t best = UINT32_MAX;
        size_t where = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            uint32_t rank = rank_of(m, piece, i ? ends[i - 1] : 0, ends[i], ends[i + 1]);
            if (rank < best) {
                best = rank;
                where = i;
            }
        }
        if (best == UINT32_MAX)
            return count;
        memmove(ends + where, ends + where + 1, (count - where - 1) * sizeof *ends);
        count--;
    }
}

uint32_t bpe_byte_char(uint8_t byte)
{
    if (byte < '!')
        return 0x100 + byte;
    if (byte >= 0x7f && byte <= 0xa0)
        return 0x100 + 33 + byte - 0x7fu;
    return byte == 0xad ? 0x100 + 67 : byte;
}

int bpe_char_byte(uint32_t code)
{
    if (code >= 0x100)
        return code < 0x100 + 33   ? (int)code - 0x100
               : code < 0x100 + 67 ? (int)code - 0x100 - 33 + 0x7f
               : code == 0x100 + 67 ? 0xad
                                    : -1;
    return bpe_byte_char((uint8_t)code) == code ? (int)code : -1;
}

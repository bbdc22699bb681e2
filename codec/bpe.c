/* SPDX-License-Identifier: MIT */
#include "codec/bpe.h"

#include "codec/bytes.h"

#include <errno.h>

/* The slot of a merge, or the empty one where it would be. */
static struct bpe_merge *slot(const struct bpe_merges *m, const char *left, size_t left_size,
                              const char *right, size_t right_size)
{
    uint64_t hash = hash_bytes(HASH_START, left, left_size);
    hash = hash_bytes(hash_bytes(hash, " ", 1), right, right_size);
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

bool bpe_merges_rank(const void *merges, const char *pair, uint32_t left, uint32_t size,
                     uint32_t *rank)
{
    const struct bpe_merge *s = slot(merges, pair, left, pair + left, size - left);
    *rank = s->rank;
    return s->left;
}

/* ---- joining ---- */

enum { NONE = UINT32_MAX };

struct bpe_symbol {
    uint32_t start, size; /* 0: joined to the one before it */
    uint32_t previous, next;
};

/* Two neighbours that may be joined. It is out of date when their sizes no longer add up. */
struct bpe_pair {
    uint32_t rank, left, size;
};

static bool goes_first(const struct bpe_pair *a, const struct bpe_pair *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static void heap_push(struct bpe_symbols *s, struct bpe_pair pair)
{
    size_t i = s->heap_count++;
    for (; i > 0 && goes_first(&pair, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = pair;
}

static struct bpe_pair heap_pop(struct bpe_symbols *s)
{
    struct bpe_pair top = s->heap[0], last = s->heap[--s->heap_count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < s->heap_count) {
        if (child + 1 < s->heap_count && goes_first(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!goes_first(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static int reserve(struct bpe_symbols *s, size_t n)
{
    if (n <= s->capacity)
        return 0;
    n = n > 2 * s->capacity ? n : 2 * s->capacity;
    bpe_symbols_free(s);
    s->ends = reallocarray(NULL, n, sizeof *s->ends);
    s->all = reallocarray(NULL, n, sizeof *s->all);
    s->heap = reallocarray(NULL, n, 3 * sizeof *s->heap);
    if (!s->ends || !s->all || !s->heap) {
        bpe_symbols_free(s);
        return -ENOMEM;
    }
    s->capacity = n;
    return 0;
}

void bpe_symbols_free(struct bpe_symbols *s)
{
    free(s->ends);
    free(s->all);
    free(s->heap);
    *s = (struct bpe_symbols){0};
}

static uint32_t cut_characters(struct bpe_symbols *s, const char *piece, uint32_t n)
{
    static const uint8_t lengths[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4};
    uint32_t count = 0;
    for (uint32_t at = 0; at < n; count++) {
        uint32_t length = lengths[(uint8_t)piece[at] >> 4];
        length = length < n - at ? length : n - at;
        s->all[count] = (struct bpe_symbol){at, length, count - 1, count + 1};
        at += length;
    }
    if (count) {
        s->all[0].previous = NONE;
        s->all[count - 1].next = NONE;
    }
    return count;
}

/* Puts a symbol and the one behind it, if they may be joined, on the heap. */
static void push_pair(struct bpe_symbols *s, bpe_rank *rank, const void *context, const char *piece,
                      uint32_t left)
{
    const struct bpe_symbol *first = left == NONE ? NULL : &s->all[left];
    if (!first || first->next == NONE)
        return;
    struct bpe_pair pair = {0, left, first->size + s->all[first->next].size};
    if (rank(context, piece + first->start, first->size, pair.size, &pair.rank))
        heap_push(s, pair);
}

int bpe_join(struct bpe_symbols *s, bpe_rank *rank, const void *context, const char *piece,
             uint32_t n)
{
    int rc = reserve(s, n);
    if (rc)
        return rc;
    struct bpe_symbol *all = s->all;
    uint32_t count = cut_characters(s, piece, n);
    s->heap_count = 0;
    for (uint32_t left = 0; left < count; left++)
        push_pair(s, rank, context, piece, left);
    while (s->heap_count) {
        struct bpe_pair p = heap_pop(s);
        struct bpe_symbol *left = &all[p.left];
        if (!left->size || left->next == NONE || left->size + all[left->next].size != p.size)
            continue;
        struct bpe_symbol *right = &all[left->next];
        left->size = p.size;
        left->next = right->next;
        right->size = 0;
        if (left->next != NONE)
            all[left->next].previous = p.left;
        push_pair(s, rank, context, piece, left->previous);
        push_pair(s, rank, context, piece, p.left);
    }
    s->count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (all[i].size)
            s->ends[s->count++] = all[i].start + all[i].size;
    return 0;
}

/* ---- the byte alphabet ---- */

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

/* SPDX-License-Identifier: MIT
 *
 * The host's own accesses are not seen, only what they do to bytes. What a copy reads is hashed
 * from when it is asked for, what a kernel read of the host's memory from when it ran, until the
 * host has waited for it; and what a copy wrote is kept away until then.
 */
#include "kernels/cuda/emu_driver.h"

#include <algorithm>
#include <cstring>

namespace emu_driver
{

static uint64_t hash_of(const void *p, size_t size)
{
    const char *bytes = (const char *)p;
    uint64_t lanes[4] = {1, 2, 3, 4}, words[4];
    for (; size; bytes += std::min(size, sizeof words), size -= std::min(size, sizeof words)) {
        if (size < sizeof words)
            memset(words, 0, sizeof words);
        memcpy(words, bytes, std::min(size, sizeof words));
        for (int i = 0; i < 4; i++) {
            lanes[i] = (lanes[i] ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
            lanes[i] ^= lanes[i] >> 29;
        }
    }
    for (int i = 1; i < 4; i++) {
        lanes[0] = (lanes[0] ^ lanes[i]) * UINT64_C(0xbf58476d1ce4e5b9);
        lanes[0] ^= lanes[0] >> 29;
    }
    return lanes[0];
}

bool overlap(const char *a, size_t a_size, const char *b, size_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

void unread_check(const struct unread &u)
{
    if (!u.stale && hash_of(u.from, u.size) != u.hash)
        fault("the host changed memory that %s may not have read yet", name_of(u.number).c_str());
}

void unread_add(uint32_t number, const char *from, size_t size)
{
    driver->unread.push_back({number, from, size, hash_of(from, size), false});
}

void unread_written(const char *p, size_t size)
{
    std::vector<struct unread> *all = &driver->unread;
    all->erase(std::remove_if(all->begin(), all->end(),
                              [&](struct unread &u) {
                                  if (!overlap(u.from, u.size, p, size))
                                      return false;
                                  unread_check(u);
                                  u.stale = true;
                                  return is_done(u.number);
                              }),
               all->end());
}

void unread_again(void)
{
    for (struct unread &u : driver->unread)
        if (u.stale) {
            u.hash = hash_of(u.from, u.size);
            u.stale = false;
        }
}

static void reveal(const struct unseen &u)
{
    for (size_t i = 0; i < u.bytes.size(); i++)
        if ((unsigned char)u.to[i] != 0xff)
            fault("the host wrote to memory that %s may not have written yet",
                  name_of(u.number).c_str());
    unread_written(u.to, u.bytes.size());
    memcpy(u.to, u.bytes.data(), u.bytes.size());
}

void reveal_part(const char *p, size_t size)
{
    std::vector<struct unseen> *all = &driver->unseen;
    for (size_t i = 0; i < all->size();)
        if (overlap((*all)[i].to, (*all)[i].bytes.size(), p, size)) {
            reveal((*all)[i]);
            all->erase(all->begin() + (ptrdiff_t)i);
        } else {
            i++;
        }
}

void hide(uint32_t number, char *to, size_t size)
{
    driver->unseen.push_back({number, to, std::vector<char>(to, to + size)});
    memset(to, 0xff, size);
}

void forget(const struct memory *m, char *to, size_t size)
{
    for (const struct unread &u : driver->unread)
        if (overlap(u.from, u.size, to, size))
            return;
    if (!m->mapped)
        memset(to, 0xff, size);
}

unsigned host_knows(const clocks &c)
{
    struct driver *d = driver;
    if (d->failed)
        return LAUNCH_FAILED;
    join(&d->host, c);
    auto known = [&](uint32_t number) { return in_clock(d->host, number); };
    for (size_t i = 0; i < d->unread.size();)
        if (known(d->unread[i].number)) {
            unread_check(d->unread[i]);
            d->unread[i] = d->unread.back();
            d->unread.pop_back();
        } else {
            i++;
        }
    for (size_t i = 0; i < d->unseen.size();)
        if (known(d->unseen[i].number)) {
            reveal(d->unseen[i]);
            d->unseen.erase(d->unseen.begin() + (ptrdiff_t)i);
        } else {
            i++;
        }
    unread_again();
    return CUDA_SUCCESS;
}

void host_reads_keep(struct operation *op)
{
    std::vector<const char *> *reads = &op->host_reads;
    std::sort(reads->begin(), reads->end());
    for (size_t first = 0, i = 1; i <= reads->size(); i++) {
        if (i < reads->size() && (*reads)[i] == (*reads)[i - 1] + GRANULE)
            continue;
        const char *from = (*reads)[first];
        const struct memory *m = memory_find(from, 1);
        size_t size = std::min((i - first) * GRANULE, m->size - (size_t)(from - m->at));
        unread_add(op->number, from, size);
        first = i;
    }
}

} // namespace emu_driver

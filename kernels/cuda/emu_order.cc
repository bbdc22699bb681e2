/* SPDX-License-Identifier: MIT
 *
 * Order. Operations have numbers, and a place in their stream. A clock says of each stream up to
 * which place it is known to be done. An operation's clock is what is known to be done before it
 * begins: the stream's own operations before it, what events that the stream waits for were
 * recorded behind, and what the host had waited for when it asked. So clocks depend on what was
 * asked for, and not on when it is done. Each 16 bytes of memory have a shadow: who wrote them
 * last, and who read them since. That one must be in the clock of whoever comes next.
 */
#include "kernels/cuda/emu_driver.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <iterator>

namespace emu_driver
{

void fault(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("emulated driver: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

const char *const kind_names[] = {"copy_in", "copy_out", "kernel", "event_record",
                                  "stream_wait_event"};

std::string name_of(uint32_t number)
{
    const struct past *p = &driver->past[number];
    std::string name = kind_names[p->kind];
    if (p->kernel)
        name += std::string(" ") + p->kernel;
    return name + " (operation " + std::to_string(number) + ", stream " +
           std::to_string(p->stream + 1) + ")";
}

/* ---- clocks ---- */

void join(clocks *c, const clocks &with)
{
    c->resize(std::max(c->size(), with.size()));
    for (size_t i = 0; i < with.size(); i++)
        (*c)[i] = std::max((*c)[i], with[i]);
}

bool in_clock(const clocks &c, uint32_t number)
{
    const struct past *p = &driver->past[number];
    return p->stream < c.size() && c[p->stream] >= p->place;
}

void users_add(users *u, uint32_t number)
{
    uint32_t stream = driver->past[number].stream;
    if (u->size() <= stream)
        u->resize(stream + 1);
    (*u)[stream] = number;
}

void users_gone(const users &u, const char *what, const char *thing)
{
    for (uint32_t number : u)
        if (number && !in_clock(driver->host, number))
            fault("%s: %s is used by %s, and the host has not waited for that", what, thing,
                  name_of(number).c_str());
}

/* ---- what operations do to memory ---- */

struct memory *memory_find(const void *p, size_t size)
{
    auto next = driver->memories.upper_bound((uintptr_t)p);
    if (next == driver->memories.begin())
        return NULL;
    struct memory *m = std::prev(next)->second.get();
    size_t offset = (size_t)((const char *)p - m->at);
    return offset < m->size && size <= m->size - offset ? m : NULL;
}

static void ordered_check(const struct memory *m, size_t granule, uint32_t before, bool write)
{
    const struct operation *op = driver->current;
    if (in_clock(op->known, before))
        return;
    fault("%s and %s are not ordered: the second %s byte %zu of %zu bytes of %s memory that the "
          "first %s",
          name_of(before).c_str(), name_of(op->number).c_str(), write ? "writes" : "reads",
          granule * GRANULE, m->size, m->host ? "host" : "device",
          m->shadow[granule].write == before ? "writes" : "reads");
}

/* Readers that are known to be done before this one say nothing that it does not say. */
static void reader_add(struct shadow *s)
{
    const struct operation *op = driver->current;
    if (!s->read || (!(s->read & SEVERAL) && in_clock(op->known, s->read))) {
        s->read = op->number;
        return;
    }
    if (!(s->read & SEVERAL)) {
        if (driver->readers_unused.empty()) {
            driver->readers_unused.push_back((uint32_t)driver->readers.size());
            driver->readers.emplace_back();
        }
        uint32_t index = driver->readers_unused.back();
        driver->readers_unused.pop_back();
        driver->readers[index] = {s->read};
        s->read = SEVERAL | index;
    }
    std::vector<uint32_t> *all = &driver->readers[s->read & ~SEVERAL];
    all->erase(std::remove_if(all->begin(), all->end(),
                              [&](uint32_t r) { return in_clock(op->known, r); }),
               all->end());
    all->push_back(op->number);
}

void readers_forget(struct shadow *s)
{
    if (s->read & SEVERAL)
        driver->readers_unused.push_back(s->read & ~SEVERAL);
    s->read = 0;
}

/* False where the operation has been there. */
static bool granule_use(struct memory *m, size_t granule, bool write)
{
    struct shadow *s = m->shadow + granule;
    uint32_t number = driver->current->number;
    if (s->write == number || (!write && s->read == number))
        return false;
    if (s->write)
        ordered_check(m, granule, s->write, write);
    if (!write) {
        bool been = s->read & SEVERAL && driver->readers[s->read & ~SEVERAL].back() == number;
        if (!been)
            reader_add(s);
        return !been;
    }
    if (s->read & SEVERAL)
        for (uint32_t r : driver->readers[s->read & ~SEVERAL])
            ordered_check(m, granule, r, true);
    else if (s->read)
        ordered_check(m, granule, s->read, true);
    readers_forget(s);
    s->write = number;
    return true;
}

static void memory_use(struct memory *m)
{
    if (m->newest == driver->current->number)
        return;
    m->newest = driver->current->number;
    users_add(&m->used, m->newest);
}

void copy_use(struct memory *m, const char *p, size_t size, bool write)
{
    memory_use(m);
    size_t first = (size_t)(p - m->at) / GRANULE, last = (size_t)(p - m->at + size - 1) / GRANULE;
    struct shadow before = {}, after = {SEVERAL, SEVERAL};
    for (size_t g = first; g <= last; g++) {
        struct shadow *s = m->shadow + g;
        /* Most are as the one before was, and what that one became. */
        if (!((before.read | after.read) & SEVERAL) && s->write == before.write &&
            s->read == before.read) {
            *s = after;
            continue;
        }
        before = *s;
        granule_use(m, g, write);
        after = *s;
    }
}

void kernel_uses(void *tag, size_t offset, size_t size, bool write)
{
    struct memory *m = (struct memory *)tag;
    struct operation *op = driver->current;
    if (m->host && !m->mapped)
        fault("%s uses host memory that is not registered with CUDA_REGISTER_MAPPED",
              name_of(op->number).c_str());
    memory_use(m);
    for (size_t g = offset / GRANULE; g <= (offset + size - 1) / GRANULE; g++) {
        if (!granule_use(m, g, write) || !m->host)
            continue;
        char *p = m->at + g * GRANULE;
        reveal_part(p, GRANULE);
        if (write)
            unread_written(p, GRANULE);
        else
            op->host_reads.push_back(p);
    }
}

} // namespace emu_driver

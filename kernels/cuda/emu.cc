/* SPDX-License-Identifier: MIT
 *
 * A block goes warp by warp. A warp's lanes run one after the other until each waits or is done;
 * if they wait for each other, what they exchange is done and they run on. When all warps wait for
 * the block, or are done, the block goes on. So a barrier that some threads do not reach shows as
 * threads that wait for different things.
 *
 * Shared memory has a shadow: of each byte, who wrote and who read it last, and when. "When" is two
 * clocks, barriers of the block and barriers of the warp, and what happened in another tick of
 * either is ordered.
 */
#include "kernels/cuda/emu.h"

#include "kernels/cuda/device.h"
#include "kernels/cuda/emu_switch.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

enum {
    THREADS_MAX = 1024,
    STACK = 256 << 10,
    SHARED_SIZE = 48 << 10, /* what a block has without asking for more */
    BANKS = 32,
    SECTOR = 32,
    NOBODY = -1,
    SEVERAL = -2,
};

struct place {
    const char *file;
    int line;
    bool operator<(const struct place &b) const
    {
        int order = strcmp(file, b.file);
        return order ? order < 0 : line < b.line;
    }
    bool operator==(const struct place &b) const { return !(*this < b) && !(b < *this); }
};

enum state { RUNS, WAITS_WARP, WAITS_BLOCK, DONE };

/* A copy on its way to shared memory. */
struct copy {
    char *to;
    const char *from;
    size_t group; /* how many were closed before */
};

struct fiber {
    struct emu_context *context;
    enum state state;
    enum emu_exchange what; /* it waits for */
    struct place place;
    const uint32_t *in;
    uint32_t *out;
    std::vector<struct copy> copies;
    size_t groups; /* closed */
};

/* Who touched a byte of shared memory last, and when. */
struct touch {
    int thread, warp;
    uint32_t block_tick, warp_tick;
};

struct shadow {
    struct touch write, read;
    bool on_its_way;
};

struct shared_array {
    struct place place;
    size_t offset, size;
};

struct access {
    struct place place;
    bool shared;
    uint32_t lane, turn; /* how often the lane had been there */
    uintptr_t at;
    uint32_t size;
};

/* Memory that kernels may use. */
struct range {
    size_t size;
    emu_watch_fn *watch; /* NULL where nobody does */
    void *tag;
};

struct emu {
    struct emu_context *host;
    std::vector<struct fiber> fibers;
    std::map<uintptr_t, struct range> given;
    bool reverse, record;

    /* of the block that runs */
    emu_kernel_fn *kernel;
    const void *arguments;
    uint32_t threads, block, thread;
    uint32_t block_tick, warp_ticks[THREADS_MAX / WARP_LANES];
    alignas(16) char shared[SHARED_SIZE];
    struct shadow shadow[SHARED_SIZE];
    std::vector<struct shared_array> arrays;

    std::vector<std::vector<struct access>> accesses; /* [warp] of the block */
    std::map<std::pair<struct place, bool>, struct emu_site> by_place;
    std::vector<struct emu_site> sites;
};

static thread_local struct emu *now;

__attribute__((format(printf, 2, 3), noreturn)) static void fault(struct place at,
                                                                  const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: ", at.file, at.line);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (block %u, thread %u)\n", now->block, now->thread);
    va_end(args);
    abort();
}

/* ---- the emulator and what belongs to it ---- */

struct emu *emu_new(void)
{
    struct emu *e = new (std::nothrow) emu();
    if (e && !(e->host = emu_context_new())) {
        delete e;
        return NULL;
    }
    return e;
}

void emu_free(struct emu *e)
{
    if (!e)
        return;
    for (struct fiber &f : e->fibers)
        emu_context_free(f.context);
    emu_context_free(e->host);
    delete e;
}

void emu_give(struct emu *e, const void *p, size_t size)
{
    emu_give_watched(e, p, size, NULL, NULL);
}

void emu_give_watched(struct emu *e, const void *p, size_t size, emu_watch_fn *watch, void *tag)
{
    e->given[(uintptr_t)p] = {size, watch, tag};
}

void emu_take(struct emu *e, const void *p)
{
    e->given.erase((uintptr_t)p);
}

void emu_reverse(struct emu *e, bool reverse)
{
    e->reverse = reverse;
}

/* ---- fibers ---- */

static void fiber_run(void)
{
    now->kernel(now->arguments);
    struct fiber *f = &now->fibers[now->thread];
    if (!f->copies.empty())
        fault(f->place, "a thread ends with copies that it did not wait for");
    f->state = DONE;
    emu_switch(f->context, now->host, true);
}

/* Lane or warp number i of n in the order that was asked for. */
static uint32_t in_order(const struct emu *e, uint32_t i, uint32_t n)
{
    return e->reverse ? n - 1 - i : i;
}

static const char *const exchange_names[] = {"a shuffle", "a barrier of the warp",
                                             "a barrier of the block", "a product of matrices",
                                             "a product of matrices"};

/* All of them must wait for the same thing at the same line. */
static void agree(struct emu *e, uint32_t first, uint32_t count)
{
    const struct fiber *one = &e->fibers[first];
    for (uint32_t t = first; t < first + count; t++)
        if (e->fibers[t].state != DONE)
            one = &e->fibers[t];
    for (uint32_t t = first; t < first + count; t++) {
        const struct fiber *f = &e->fibers[t];
        e->thread = t;
        if (f->state == DONE)
            fault(one->place, "%s is not reached by a thread that has ended",
                  exchange_names[one->what]);
        if (f->what != one->what || !(f->place == one->place))
            fault(one->place, "%s is not reached by a thread that waits at %s:%d",
                  exchange_names[one->what], f->place.file, f->place.line);
    }
}

/* ---- exchanges ---- */

static void shuffle(struct fiber *lanes)
{
    for (uint32_t lane = 0; lane < WARP_LANES; lane++) {
        uint32_t from = lanes[lane].in[1];
        if (from >= WARP_LANES)
            fault(lanes[lane].place, "a shuffle from lane %u", from);
        *lanes[lane].out = *lanes[from].in;
    }
}

/* The product by what its definition says of each element: row, column, k, lane by lane. */
static void mma(struct fiber *lanes, int k_count)
{
    int a[16][32] = {}, b[32][8] = {};
    int a_words = k_count / 8, b_words = k_count / 16;
    for (int lane = 0; lane < WARP_LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        const uint32_t *in = lanes[lane].in;
        for (int i = 0; i < 4; i++) {
            for (int w = 0; w < a_words; w++)
                a[g + w % 2 * 8][4 * t + i + w / 2 * 16] = signed_byte(in[w], i);
            for (int w = 0; w < b_words; w++)
                b[4 * t + i + w * 16][g] = signed_byte(in[a_words + w], i);
        }
    }
    for (int lane = 0; lane < WARP_LANES; lane++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            uint32_t sum = lanes[lane].in[a_words + b_words + i];
            for (int k = 0; k < k_count; k++)
                sum += (uint32_t)(a[row][k] * b[k][column]);
            lanes[lane].out[i] = sum;
        }
}

static void exchange(struct emu *e, uint32_t warp)
{
    struct fiber *lanes = &e->fibers[warp * WARP_LANES];
    agree(e, warp * WARP_LANES, WARP_LANES);
    switch (lanes->what) {
    case EMU_SHUFFLE:
        shuffle(lanes);
        break;
    case EMU_MMA16:
        mma(lanes, 16);
        break;
    case EMU_MMA32:
        mma(lanes, 32);
        break;
    default:
        e->warp_ticks[warp]++;
    }
}

void emu_exchange(enum emu_exchange what, const uint32_t *in, uint32_t *out, const char *file,
                  int line)
{
    struct fiber *f = &now->fibers[now->thread];
    f->what = what;
    f->place = {file, line};
    f->in = in;
    f->out = out;
    f->state = what == EMU_BLOCK_BARRIER ? WAITS_BLOCK : WAITS_WARP;
    emu_switch(f->context, now->host, false);
}

/* ---- blocks ---- */

static void warp_run(struct emu *e, uint32_t warp)
{
    struct fiber *lanes = &e->fibers[warp * WARP_LANES];
    for (;;) {
        bool waits = false;
        for (uint32_t i = 0; i < WARP_LANES; i++) {
            uint32_t lane = in_order(e, i, WARP_LANES);
            e->thread = warp * WARP_LANES + lane;
            if (lanes[lane].state == RUNS)
                emu_switch(e->host, lanes[lane].context, false);
            waits = waits || lanes[lane].state == WAITS_WARP;
        }
        if (!waits)
            return;
        exchange(e, warp);
        for (uint32_t lane = 0; lane < WARP_LANES; lane++)
            lanes[lane].state = RUNS;
    }
}

static void accesses_count(struct emu *e);

static void block_run(struct emu *e)
{
    uint32_t warps = e->threads / WARP_LANES;
    e->arrays.clear();
    for (uint32_t t = 0; t < e->threads; t++) {
        e->fibers[t].state = RUNS;
        e->fibers[t].groups = 0;
        emu_fiber_start(e->fibers[t].context, fiber_run);
    }
    for (;;) {
        bool waits = false;
        for (uint32_t i = 0; i < warps; i++)
            warp_run(e, in_order(e, i, warps));
        for (uint32_t t = 0; t < e->threads; t++)
            waits = waits || e->fibers[t].state == WAITS_BLOCK;
        if (!waits)
            break;
        agree(e, 0, e->threads);
        e->block_tick++;
        for (uint32_t t = 0; t < e->threads; t++)
            e->fibers[t].state = RUNS;
    }
    accesses_count(e);
}

void emu_launch(struct emu *e, emu_kernel_fn *kernel, uint32_t blocks, uint32_t threads,
                const void *arguments)
{
    struct emu *before = now;
    now = e;
    if (!threads || threads > THREADS_MAX || threads % WARP_LANES)
        fault({__FILE__, __LINE__}, "a block of %u threads", threads);
    while (e->fibers.size() < threads) {
        struct fiber f = {};
        f.context = emu_fiber_new(STACK);
        if (!f.context)
            fault({__FILE__, __LINE__}, "no memory for a thread");
        e->fibers.push_back(f);
    }
    e->kernel = kernel;
    e->arguments = arguments;
    e->threads = threads;
    e->accesses.resize(THREADS_MAX / WARP_LANES);
    for (uint32_t b = 0; b < blocks; b++) {
        e->block = in_order(e, b, blocks);
        block_run(e);
    }
    now = before;
}

uint32_t emu_thread_index(void)
{
    return now->thread;
}
uint32_t emu_block_index(void)
{
    return now->block;
}

/* ---- memory ---- */

static void aligned_check(const void *p, size_t size, struct place at)
{
    if ((uintptr_t)p % size)
        fault(at, "%zu bytes at an address that is no multiple of that", size);
}

static void note(const void *p, size_t size, bool shared, struct place at)
{
    if (!now->record)
        return;
    now->accesses[now->thread / WARP_LANES].push_back(
        {at, shared, now->thread % WARP_LANES, 0, (uintptr_t)p, (uint32_t)size});
}

static void global_access(const void *p, size_t size, bool write, struct place at)
{
    aligned_check(p, size, at);
    auto next = now->given.upper_bound((uintptr_t)p);
    if (next == now->given.begin())
        fault(at, "%zu bytes outside of the memory that was given", size);
    size_t offset = (uintptr_t)p - std::prev(next)->first;
    const struct range *range = &std::prev(next)->second;
    if (offset > range->size || size > range->size - offset)
        fault(at, "%zu bytes outside of the memory that was given: at %zu of %zu", size, offset,
              range->size);
    if (range->watch)
        range->watch(range->tag, offset, size, write);
    note(p, size, false, at);
}

void emu_global_read(const void *p, size_t size, const char *file, int line)
{
    global_access(p, size, false, {file, line});
}

void emu_global_write(const void *p, size_t size, const char *file, int line)
{
    global_access(p, size, true, {file, line});
}

/* All threads of a block get the same array, the first one makes it. */
void *emu_shared(size_t size, const char *file, int line)
{
    struct place at = {file, line};
    size_t end = 0;
    for (const struct shared_array &array : now->arrays) {
        if (array.place == at)
            return now->shared + array.offset;
        end = array.offset + array.size;
    }
    size_t offset = (end + 15) / 16 * 16;
    if (size > SHARED_SIZE - offset)
        fault(at, "more than %d bytes of shared memory", SHARED_SIZE);
    now->arrays.push_back({at, offset, size});
    memset(now->shared + offset, 0xff, size); /* NaN, for who reads it around the checks */
    for (size_t i = offset; i < offset + size; i++) {
        now->shadow[i].write.thread = now->shadow[i].read.thread = NOBODY;
        now->shadow[i].on_its_way = false;
    }
    return now->shared + offset;
}

/* Whether what was done then is done for the thread that runs. */
static bool ordered(const struct touch *then)
{
    int thread = (int)now->thread, warp = thread / WARP_LANES;
    return then->thread == NOBODY || then->thread == thread ||
           then->block_tick != now->block_tick ||
           (then->warp == warp && then->warp_tick != now->warp_ticks[warp]);
}

static void touch(struct touch *last, bool alone)
{
    int thread = (int)now->thread, warp = thread / WARP_LANES;
    bool same_warp = alone || last->warp == warp;
    *last = {alone ? thread : SEVERAL, same_warp ? warp : SEVERAL, now->block_tick,
             now->warp_ticks[warp]};
}

static struct shadow *shadow_of(const void *p, size_t size, struct place at)
{
    size_t offset = (uintptr_t)p - (uintptr_t)now->shared;
    for (const struct shared_array &array : now->arrays)
        if (offset >= array.offset && offset - array.offset < array.size &&
            size <= array.size - (offset - array.offset))
            return now->shadow + offset;
    fault(at, "%zu bytes outside of shared memory", size);
}

static void byte_read(struct shadow *s, struct place at)
{
    if (s->on_its_way)
        fault(at, "shared memory is read before its copy has been waited for");
    if (s->write.thread == NOBODY)
        fault(at, "shared memory is read that nobody wrote");
    if (!ordered(&s->write))
        fault(at, "shared memory is read that thread %d wrote, with no barrier in between",
              s->write.thread);
    touch(&s->read, ordered(&s->read));
}

static void byte_write(struct shadow *s, struct place at)
{
    if (s->on_its_way)
        fault(at, "shared memory is written before its copy has been waited for");
    if (!ordered(&s->write))
        fault(at, "shared memory is written that thread %d wrote, with no barrier in between",
              s->write.thread);
    if (!ordered(&s->read))
        fault(at, "shared memory is written that another thread reads, with no barrier in between");
    touch(&s->write, true);
}

static void shared_access(const void *p, size_t size, struct place at,
                          void (*byte_access)(struct shadow *s, struct place at))
{
    aligned_check(p, size, at);
    struct shadow *s = shadow_of(p, size, at);
    for (size_t i = 0; i < size; i++)
        byte_access(s + i, at);
    note(p, size, true, at);
}

void emu_shared_read(const void *p, size_t size, const char *file, int line)
{
    shared_access(p, size, {file, line}, byte_read);
}

void emu_shared_write(const void *p, size_t size, const char *file, int line)
{
    shared_access(p, size, {file, line}, byte_write);
}

/* ---- copies ---- */

void emu_copy_start(void *shared, const void *global, const char *file, int line)
{
    struct fiber *f = &now->fibers[now->thread];
    emu_global_read(global, 16, file, line);
    emu_shared_write(shared, 16, file, line);
    for (struct shadow *s = now->shadow + ((char *)shared - now->shared), *end = s + 16; s < end;
         s++)
        s->on_its_way = true;
    f->place = {file, line};
    f->copies.push_back({(char *)shared, (const char *)global, f->groups});
}

void emu_copies_commit(void)
{
    now->fibers[now->thread].groups++;
}

/* Only now do they arrive, and for others behind the next barrier. */
void emu_copies_wait(size_t but)
{
    struct fiber *f = &now->fibers[now->thread];
    auto arrived = [&](const struct copy &c) { return c.group + but < f->groups; };
    for (const struct copy &c : f->copies)
        if (arrived(c)) {
            memcpy(c.to, c.from, 16);
            for (struct shadow *s = now->shadow + (c.to - now->shared), *end = s + 16; s < end;
                 s++) {
                s->on_its_way = false;
                touch(&s->write, true);
            }
        }
    f->copies.erase(std::remove_if(f->copies.begin(), f->copies.end(), arrived), f->copies.end());
}

/* ---- what was recorded ---- */

/* The most words of one bank, in a part of a request that is done at once: 128 bytes. */
static uint32_t bank_ways(const struct access *a, size_t n)
{
    size_t at_once = BANKS * 4 / a->size;
    uint32_t most = 0;
    for (size_t first = 0; first < n; first += at_once) {
        std::vector<uintptr_t> words;
        uint32_t count[BANKS] = {};
        for (size_t i = first; i < n && i < first + at_once; i++)
            for (uintptr_t w = a[i].at / 4; w < (a[i].at + a[i].size + 3) / 4; w++)
                words.push_back(w);
        std::sort(words.begin(), words.end());
        words.erase(std::unique(words.begin(), words.end()), words.end());
        for (uintptr_t w : words)
            most = std::max(most, ++count[w % BANKS]);
    }
    return most;
}

static uint64_t sectors_of(const struct access *a, size_t n)
{
    std::vector<uintptr_t> sectors;
    for (size_t i = 0; i < n; i++)
        sectors.push_back(a[i].at / SECTOR);
    std::sort(sectors.begin(), sectors.end());
    return (uint64_t)(std::unique(sectors.begin(), sectors.end()) - sectors.begin());
}

/* One request: the same line, the same turn of its lanes. */
static void request_count(struct emu *e, const struct access *a, size_t n)
{
    struct emu_site *s = &e->by_place[{a->place, a->shared}];
    s->file = a->place.file;
    s->line = a->place.line;
    s->shared = a->shared;
    s->requests++;
    s->bytes += n * a->size;
    if (a->shared)
        s->ways = std::max(s->ways, bank_ways(a, n));
    else
        s->sectors += sectors_of(a, n);
}

static void warp_count(struct emu *e, std::vector<struct access> &warp)
{
    std::map<std::pair<struct place, uint32_t>, uint32_t> turns;
    for (struct access &a : warp)
        a.turn = turns[{a.place, 2 * a.lane + a.shared}]++;
    std::sort(warp.begin(), warp.end(), [](const struct access &a, const struct access &b) {
        if (!(a.place == b.place))
            return a.place < b.place;
        if (a.shared != b.shared)
            return b.shared;
        return a.turn != b.turn ? a.turn < b.turn : a.lane < b.lane;
    });
    for (size_t first = 0, i = 1; i <= warp.size(); i++)
        if (i == warp.size() || !(warp[i].place == warp[first].place) ||
            warp[i].shared != warp[first].shared || warp[i].turn != warp[first].turn) {
            request_count(e, &warp[first], i - first);
            first = i;
        }
    warp.clear();
}

static void accesses_count(struct emu *e)
{
    for (std::vector<struct access> &warp : e->accesses)
        warp_count(e, warp);
}

void emu_record(struct emu *e, bool record)
{
    e->record = record;
    e->by_place.clear();
}

const struct emu_site *emu_sites(struct emu *e, size_t *count)
{
    e->sites.clear();
    for (const auto &site : e->by_place)
        e->sites.push_back(site.second);
    *count = e->sites.size();
    return e->sites.data();
}

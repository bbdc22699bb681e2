/* SPDX-License-Identifier: MIT
 *
 * What was asked for waits in the queues of its streams. It is done when somebody needs it, and now
 * and then before, in any order that streams and waits for events leave; numbers that follow from
 * the seed choose. Seed 0 leaves nothing to wait.
 */
#include "kernels/cuda/emu_driver.h"

#include <algorithm>
#include <cstring>

namespace emu_driver
{

/* ---- doing ---- */

static void copy_do(const struct operation *op)
{
    struct memory *host = op->kind == COPY_IN ? op->from_memory : op->to_memory;
    copy_use(op->from_memory, op->from, op->size, false);
    copy_use(op->to_memory, op->to, op->size, true);
    reveal_part(host == op->from_memory ? op->from : op->to, op->size);
    if (op->kind == COPY_OUT) {
        unread_written(op->to, op->size);
        memcpy(op->to, op->from, op->size);
        hide(op->number, op->to, op->size);
        return;
    }
    for (const struct unread &u : driver->unread)
        if (u.number == op->number)
            unread_check(u);
    memcpy(op->to, op->from, op->size);
}

bool is_done(uint32_t number)
{
    const struct past *p = &driver->past[number];
    return driver->streams[p->stream]->done >= p->place;
}

static bool is_ready(const struct CUstream_st *s)
{
    return !s->queue.empty() &&
           (s->queue.front().kind != WAIT || is_done(s->queue.front().waits_for));
}

static void operation_do(struct operation *op)
{
    switch (op->kind) {
    case COPY_IN:
    case COPY_OUT:
        copy_do(op);
        break;
    case LAUNCH:
        emu_launch(driver->emu, op->kernel->kernel, op->blocks, op->threads, op->arguments.data());
        host_reads_keep(op);
        break;
    case RECORD:
        if (op->event->recorded == op->number)
            op->event->time = std::chrono::steady_clock::now();
        break;
    case WAIT:
        break;
    }
}

void perform(struct CUstream_st *s)
{
    struct operation op = std::move(s->queue.front());
    s->queue.pop_front();
    driver->current = &op;
    driver->failed = driver->failed || op.number == driver->options.fail_at;
    if (!driver->failed)
        operation_do(&op);
    driver->current = NULL;
    unread_again();
    s->done++;
    driver->counts.done++;
}

uint32_t random_below(uint32_t n)
{
    uint64_t *r = &driver->random;
    *r ^= *r << 13;
    *r ^= *r >> 7;
    *r ^= *r << 17;
    return (uint32_t)((*r >> 32) % n);
}

/* Any stream that is ready; NULL: none is, and so all is done. */
static struct CUstream_st *some_stream(void)
{
    uint32_t n = (uint32_t)driver->streams.size(), first = n ? random_below(n) : 0;
    for (uint32_t i = 0; i < n; i++) {
        struct CUstream_st *s = driver->streams[(first + i) % n].get();
        if (is_ready(s))
            return s;
    }
    return NULL;
}

struct CUstream_st *needed_stream(uint32_t number)
{
    struct CUstream_st *s = driver->streams[driver->past[number].stream].get();
    while (!is_ready(s))
        s = driver->streams[driver->past[s->queue.front().waits_for].stream].get();
    return s;
}

void finish(uint32_t number)
{
    while (!is_done(number))
        perform(random_below(256) < driver->eager ? some_stream() : needed_stream(number));
}

void finish_all(void)
{
    while (struct CUstream_st *s = some_stream())
        perform(s);
}

void make_progress(void)
{
    struct CUstream_st *s;
    while (random_below(256) < driver->eager && (s = some_stream()))
        perform(s);
}

/* ---- asking ---- */

struct operation operation_new(struct CUstream_st *stream, enum kind kind)
{
    if (driver->past.size() >= SEVERAL)
        fault("%s: there have been too many operations", kind_names[kind]);
    struct operation op = {};
    op.number = (uint32_t)driver->past.size();
    op.kind = kind;
    op.stream = stream;
    return op;
}

void ask(struct operation &&op, const clocks &also)
{
    struct CUstream_st *s = op.stream;
    join(&s->known, driver->host);
    join(&s->known, also);
    s->known.resize(std::max(s->known.size(), (size_t)s->index + 1));
    s->known[s->index] = ++s->asked;
    op.known = s->known;
    driver->counts.operations++;
    s->queue.push_back(std::move(op));
    if (driver->options.seed == 0)
        finish_all();
    else
        make_progress();
}

void remember(const struct operation &op)
{
    driver->past.push_back(
        {op.kind, op.stream->index, op.stream->asked + 1, op.kernel ? op.kernel->name : NULL});
}

} // namespace emu_driver

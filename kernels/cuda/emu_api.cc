/* SPDX-License-Identifier: MIT
 *
 * The table: each call looks at its arguments and handles as the driver would, and ends the process
 * where that would do anything. What is left of it to do is asked of a stream (emu_queue.cc), or
 * waits for one.
 */
#include "kernels/cuda/emu_driver.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

using namespace emu_driver;

enum {
    BLOCK_ALIGN = 256, /* what a driver promises */
    THREADS_MAX = 1024,
};

/* Results that only a broken program sees. */
static const unsigned INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400;

struct driver *emu_driver::driver;

static std::mutex mutex;
/* Of the context that is current; that of a driver before this one is of no use. */
static uint64_t generations;
static thread_local uint64_t current_context;

/* What every call that needs a context begins with. */
struct call {
    std::lock_guard<std::mutex> lock{mutex};
    bool valid = driver && driver->retained && current_context == driver->context.generation;
    call()
    {
        if (valid)
            make_progress();
    }
};
#define IN_CONTEXT                                                                                 \
    struct call call;                                                                              \
    if (!call.valid)                                                                               \
        return INVALID_CONTEXT;                                                                    \
    if (driver->failed)                                                                            \
    return LAUNCH_FAILED

template <typename Handle>
static bool is_one_of(const std::vector<std::unique_ptr<Handle>> &all, const Handle *h)
{
    return std::any_of(all.begin(), all.end(), [&](const auto &one) { return one.get() == h; });
}

static void stream_check(const struct CUstream_st *stream, const char *what)
{
    if (!stream)
        fault("%s: of the default stream, which nothing here uses", what);
    if (!is_one_of(driver->streams, stream) || stream->freed)
        fault("%s: of a stream that is not there", what);
}

static void event_check(const struct CUevent_st *event, const char *what)
{
    if (!is_one_of(driver->events, event) || event->freed)
        fault("%s: of an event that is not there", what);
}

/* ---- the table ---- */

static unsigned api_init(unsigned flags)
{
    return flags ? CUDA_INVALID_VALUE : CUDA_SUCCESS;
}

static unsigned api_driver_version(int *version)
{
    *version = CUDA_DRIVER_VERSION;
    return CUDA_SUCCESS;
}

static unsigned api_error_text(unsigned result, const char **text)
{
    static const struct {
        unsigned result;
        const char *text;
    } texts[] = {
        {CUDA_SUCCESS,            "no error"                    },
        {CUDA_INVALID_VALUE,      "invalid argument"            },
        {CUDA_OUT_OF_MEMORY,      "out of memory"               },
        {CUDA_NO_DEVICE,          "no device"                   },
        {INVALID_DEVICE,          "invalid device"              },
        {INVALID_CONTEXT,         "invalid context"             },
        {INVALID_HANDLE,          "invalid handle"              },
        {LAUNCH_FAILED,           "launch failed"               },
        {CUDA_ILLEGAL_STATE,      "illegal state"               },
        {CUDA_NOT_FOUND,          "name not found"              },
        {CUDA_NOT_READY,          "not ready"                   },
        {CUDA_ALREADY_REGISTERED, "memory is registered already"},
        {CUDA_NOT_REGISTERED,     "memory is not registered"    },
    };
    *text = NULL;
    for (const auto &t : texts)
        if (t.result == result)
            *text = t.text;
    return *text ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

static unsigned api_device_get(int *device, int index)
{
    if (index)
        return INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

static unsigned api_device_name(char *name, int size, int device)
{
    if (device)
        return INVALID_DEVICE;
    if (size <= 0)
        return CUDA_INVALID_VALUE;
    snprintf(name, (size_t)size, "emulator");
    return CUDA_SUCCESS;
}

static unsigned api_device_attribute(int *value, unsigned attribute, int device)
{
    if (device)
        return INVALID_DEVICE;
    switch (attribute) {
    case CUDA_MULTIPROCESSORS:
        *value = 1;
        return CUDA_SUCCESS;
    case CUDA_CAPABILITY_MAJOR:
        *value = 8;
        return CUDA_SUCCESS;
    case CUDA_CLOCK_KHZ:
    case CUDA_MEMORY_CLOCK_KHZ:
    case CUDA_MEMORY_BUS_BITS:
    case CUDA_CAPABILITY_MINOR:
        *value = 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_INVALID_VALUE;
    }
}

static unsigned api_context_retain(struct CUctx_st **context, int device)
{
    std::lock_guard<std::mutex> lock(mutex);
    if (device)
        return INVALID_DEVICE;
    driver->retained++;
    driver->counts.handles++;
    *context = &driver->context;
    return CUDA_SUCCESS;
}

static unsigned api_context_release(int device)
{
    std::lock_guard<std::mutex> lock(mutex);
    if (device)
        return INVALID_DEVICE;
    if (!driver->retained)
        return INVALID_CONTEXT;
    driver->retained--;
    driver->counts.handles--;
    return CUDA_SUCCESS;
}

static unsigned api_context_use(struct CUctx_st *context)
{
    std::lock_guard<std::mutex> lock(mutex);
    if (context && (context != &driver->context || !driver->retained))
        return INVALID_CONTEXT;
    current_context = context ? context->generation : 0;
    return CUDA_SUCCESS;
}

static unsigned api_module_load(struct CUmod_st **module, const void *)
{
    IN_CONTEXT;
    driver->modules.emplace_back(new struct CUmod_st());
    driver->counts.handles++;
    *module = driver->modules.back().get();
    return CUDA_SUCCESS;
}

static void module_check(const struct CUmod_st *module, const char *what)
{
    if (!is_one_of(driver->modules, module) || module->unloaded)
        fault("%s: of a module that is not there", what);
}

static unsigned api_module_unload(struct CUmod_st *module)
{
    IN_CONTEXT;
    module_check(module, "module_unload");
    module->unloaded = true;
    driver->counts.handles--;
    return CUDA_SUCCESS;
}

static unsigned api_module_kernel(struct CUfunc_st **kernel, struct CUmod_st *module,
                                  const char *name)
{
    IN_CONTEXT;
    module_check(module, "module_kernel");
    for (const auto &k : driver->kernels)
        if (!strcmp(k->kernel.name, name)) {
            *kernel = k.get();
            return CUDA_SUCCESS;
        }
    return CUDA_NOT_FOUND;
}

static unsigned api_launch(struct CUfunc_st *kernel, unsigned blocks_x, unsigned blocks_y,
                           unsigned blocks_z, unsigned threads_x, unsigned threads_y,
                           unsigned threads_z, unsigned shared_size, struct CUstream_st *stream,
                           void **arguments, void **none)
{
    IN_CONTEXT;
    if (!is_one_of(driver->kernels, kernel))
        fault("launch: of a kernel that is not there");
    const char *name = kernel->kernel.name;
    stream_check(stream, name);
    if (blocks_y != 1 || blocks_z != 1 || threads_y != 1 || threads_z != 1 || shared_size || none)
        fault("launch of %s: with what no kernel here has a use for", name);
    if (!arguments || !arguments[0])
        fault("launch of %s: without arguments", name);
    if (!blocks_x || blocks_x > INT32_MAX || !threads_x || threads_x > THREADS_MAX)
        return CUDA_INVALID_VALUE;
    struct operation op = operation_new(stream, LAUNCH);
    op.kernel = &kernel->kernel;
    op.blocks = blocks_x;
    op.threads = threads_x;
    const char *first = (const char *)arguments[0];
    op.arguments.assign(first, first + kernel->kernel.size);
    driver->counts.launches++;
    remember(op);
    ask(std::move(op), {});
    return CUDA_SUCCESS;
}

/* ---- memory ---- */

static unsigned api_memory_info(size_t *free, size_t *total)
{
    IN_CONTEXT;
    *total = driver->options.budget;
    *free = driver->options.budget - driver->counts.allocated;
    return CUDA_SUCCESS;
}

static struct memory *memory_add(char *at, size_t size, bool host, bool mapped)
{
    auto m = std::make_unique<struct memory>();
    m->at = at;
    m->size = size;
    m->host = host;
    m->mapped = mapped;
    m->shadow = (struct shadow *)calloc((size - 1) / GRANULE + 1, sizeof *m->shadow);
    if (!m->shadow)
        return NULL;
    struct memory *added = m.get();
    emu_give_watched(driver->emu, at, size, kernel_uses, added);
    driver->memories[(uintptr_t)at] = std::move(m);
    return added;
}

/* An operation that is not done yet may use it; that all had been waited for shows when all are. */
static void memory_remove(struct memory *m, const char *what)
{
    finish_all();
    users_gone(m->used, what, "memory");
    for (size_t g = 0; g <= (m->size - 1) / GRANULE; g++)
        readers_forget(m->shadow + g);
    emu_take(driver->emu, m->at);
    driver->memories.erase((uintptr_t)m->at);
}

static unsigned api_memory_alloc(cuda_address *memory, size_t size)
{
    IN_CONTEXT;
    struct emu_api_counts *counts = &driver->counts;
    void *block;
    if (!size)
        return CUDA_INVALID_VALUE;
    if (size > driver->options.budget - counts->allocated)
        return CUDA_OUT_OF_MEMORY;
    if (posix_memalign(&block, 2 * BLOCK_ALIGN, BLOCK_ALIGN + size))
        return CUDA_OUT_OF_MEMORY;
    char *at = (char *)block + BLOCK_ALIGN;
    struct memory *m = memory_add(at, size, false, false);
    if (!m) {
        free(block);
        return CUDA_OUT_OF_MEMORY;
    }
    m->block = block;
    memset(at, 0xff, size);
    counts->allocated += size;
    counts->allocated_most = std::max(counts->allocated_most, counts->allocated);
    *memory = (uintptr_t)at;
    return CUDA_SUCCESS;
}

static unsigned api_memory_free(cuda_address memory)
{
    IN_CONTEXT;
    struct memory *m = memory_find((void *)(uintptr_t)memory, 1);
    if (!m || m->host || (uintptr_t)m->at != memory)
        fault("memory_free: of what memory_alloc did not give");
    driver->counts.allocated -= m->size;
    memory_remove(m, "memory_free");
    return CUDA_SUCCESS;
}

static unsigned api_host_register(void *host, size_t size, unsigned flags)
{
    IN_CONTEXT;
    const struct emu_api_options *o = &driver->options;
    size_t *registered = &driver->counts.registered;
    if (!host || !size || flags & ~(unsigned)CUDA_REGISTER_MAPPED)
        return CUDA_INVALID_VALUE;
    for (const auto &m : driver->memories)
        if (overlap(m.second->at, m.second->size, (char *)host, size))
            return CUDA_ALREADY_REGISTERED;
    if (o->register_limit && size > o->register_limit - *registered)
        return CUDA_OUT_OF_MEMORY;
    if (!memory_add((char *)host, size, true, flags & CUDA_REGISTER_MAPPED))
        return CUDA_OUT_OF_MEMORY;
    *registered += size;
    return CUDA_SUCCESS;
}

static unsigned api_host_unregister(void *host)
{
    IN_CONTEXT;
    struct memory *m = memory_find(host, 1);
    if (!m || !m->host || m->at != (char *)host)
        return CUDA_NOT_REGISTERED;
    driver->counts.registered -= m->size;
    memory_remove(m, "host_unregister");
    return CUDA_SUCCESS;
}

static unsigned api_host_pointer(cuda_address *memory, void *host, unsigned flags)
{
    IN_CONTEXT;
    const struct memory *m = memory_find(host, 1);
    if (flags || !m || !m->host || !m->mapped)
        return CUDA_INVALID_VALUE;
    *memory = (uintptr_t)host;
    return CUDA_SUCCESS;
}

static struct memory *copy_side(const void *p, size_t size, bool host, enum kind kind)
{
    struct memory *m = memory_find(p, size);
    if (!m || m->host != host)
        fault("%s: %zu bytes of %s memory that %s", kind_names[kind], size,
              host ? "host" : "device",
              host ? "is not registered as a whole" : "memory_alloc did not give");
    return m;
}

static unsigned copy_ask(void *to, const void *from, size_t size, struct CUstream_st *stream,
                         enum kind kind)
{
    stream_check(stream, kind_names[kind]);
    if (!size)
        return CUDA_SUCCESS;
    struct operation op = operation_new(stream, kind);
    op.to = (char *)to;
    op.from = (const char *)from;
    op.size = size;
    op.to_memory = copy_side(to, size, kind == COPY_OUT, kind);
    op.from_memory = copy_side(from, size, kind == COPY_IN, kind);
    remember(op);
    if (kind == COPY_IN)
        unread_add(op.number, op.from, size);
    else
        forget(op.to_memory, op.to, size);
    (kind == COPY_IN ? driver->counts.copied_in : driver->counts.copied_out) += size;
    ask(std::move(op), {});
    return CUDA_SUCCESS;
}

static unsigned api_copy_in(cuda_address to, const void *host, size_t size,
                            struct CUstream_st *stream)
{
    IN_CONTEXT;
    return copy_ask((void *)(uintptr_t)to, host, size, stream, COPY_IN);
}

static unsigned api_copy_out(void *host, cuda_address from, size_t size, struct CUstream_st *stream)
{
    IN_CONTEXT;
    return copy_ask(host, (const void *)(uintptr_t)from, size, stream, COPY_OUT);
}

/* ---- streams ---- */

static unsigned api_stream_new(struct CUstream_st **stream, unsigned flags)
{
    IN_CONTEXT;
    if (flags & ~(unsigned)CUDA_STREAM_NON_BLOCKING)
        return CUDA_INVALID_VALUE;
    driver->streams.emplace_back(new struct CUstream_st());
    driver->counts.handles++;
    *stream = driver->streams.back().get();
    (*stream)->index = (uint32_t)driver->streams.size() - 1;
    return CUDA_SUCCESS;
}

static unsigned api_stream_free(struct CUstream_st *stream)
{
    IN_CONTEXT;
    stream_check(stream, "stream_free");
    const clocks &host = driver->host;
    if (stream->asked > (stream->index < host.size() ? host[stream->index] : 0))
        fault("stream_free: the host has not waited for the last operation of stream %u",
              stream->index + 1);
    stream->freed = true;
    driver->counts.handles--;
    return CUDA_SUCCESS;
}

static unsigned api_stream_wait(struct CUstream_st *stream)
{
    IN_CONTEXT;
    stream_check(stream, "stream_wait");
    while (stream->done < stream->asked)
        finish(stream->queue.back().number);
    return host_knows(stream->known);
}

static unsigned api_stream_wait_event(struct CUstream_st *stream, struct CUevent_st *event,
                                      unsigned flags)
{
    IN_CONTEXT;
    stream_check(stream, "stream_wait_event");
    event_check(event, "stream_wait_event");
    if (flags)
        return CUDA_INVALID_VALUE;
    if (!event->recorded)
        return CUDA_SUCCESS;
    struct operation op = operation_new(stream, WAIT);
    op.event = event;
    op.waits_for = event->recorded;
    remember(op);
    users_add(&event->used, op.number);
    ask(std::move(op), event->known);
    return CUDA_SUCCESS;
}

/* ---- events ---- */

static unsigned api_event_new(struct CUevent_st **event, unsigned flags)
{
    IN_CONTEXT;
    if (flags & ~(unsigned)CUDA_EVENT_NO_TIMING)
        return CUDA_INVALID_VALUE;
    driver->events.emplace_back(new struct CUevent_st());
    driver->counts.handles++;
    *event = driver->events.back().get();
    (*event)->timed = !(flags & CUDA_EVENT_NO_TIMING);
    return CUDA_SUCCESS;
}

static unsigned api_event_free(struct CUevent_st *event)
{
    IN_CONTEXT;
    event_check(event, "event_free");
    users_gone(event->used, "event_free", "the event");
    event->freed = true;
    driver->counts.handles--;
    return CUDA_SUCCESS;
}

static unsigned api_event_record(struct CUevent_st *event, struct CUstream_st *stream)
{
    IN_CONTEXT;
    event_check(event, "event_record");
    stream_check(stream, "event_record");
    struct operation op = operation_new(stream, RECORD);
    op.event = event;
    remember(op);
    event->recorded = op.number;
    users_add(&event->used, op.number);
    ask(std::move(op), {});
    event->known = stream->known;
    return CUDA_SUCCESS;
}

static unsigned api_event_query(struct CUevent_st *event)
{
    IN_CONTEXT;
    event_check(event, "event_query");
    if (!event->recorded)
        return CUDA_SUCCESS;
    if (!is_done(event->recorded)) {
        perform(needed_stream(event->recorded));
        return CUDA_NOT_READY;
    }
    return host_knows(event->known);
}

static unsigned api_event_wait(struct CUevent_st *event)
{
    IN_CONTEXT;
    event_check(event, "event_wait");
    if (!event->recorded)
        return CUDA_SUCCESS;
    finish(event->recorded);
    return host_knows(event->known);
}

static unsigned api_event_elapsed(float *milliseconds, struct CUevent_st *from,
                                  struct CUevent_st *to)
{
    IN_CONTEXT;
    event_check(from, "event_elapsed");
    event_check(to, "event_elapsed");
    if (!from->timed || !to->timed || !from->recorded || !to->recorded)
        return INVALID_HANDLE;
    if (!is_done(from->recorded) || !is_done(to->recorded))
        return CUDA_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return CUDA_SUCCESS;
}

/* ---- opening ---- */

static void driver_free(struct driver *d)
{
    if (d)
        emu_free(d->emu);
    delete d;
}

int emu_api_open(struct cuda_api *api, const struct emu_api_options *o,
                 const struct emu_kernel *kernels)
{
    std::lock_guard<std::mutex> lock(mutex);
    if (driver)
        return -EBUSY;
    struct driver *d = new (std::nothrow) struct driver();
    if (!d || !(d->emu = emu_new())) {
        driver_free(d);
        return -ENOMEM;
    }
    emu_reverse(d->emu, o->reverse);
    d->options = *o;
    d->context.generation = ++generations;
    d->past.resize(1);
    for (; kernels->name; kernels++)
        d->kernels.emplace_back(new CUfunc_st{*kernels});
    driver = d;
    /* xorshift stays at 0, and its first numbers are much like the seed. */
    d->random = o->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    d->random += d->random == 0;
    for (int i = 0; i < 8; i++)
        random_below(1);
    static const uint32_t eager[] = {0, 16, 128, 240};
    d->eager = o->seed ? eager[random_below(4)] : 0;
    *api = {};
#define FILL(name, symbol, arguments) api->name = api_##name;
    CUDA_API(FILL)
#undef FILL
    return 0;
}

void emu_api_close(struct cuda_api *api)
{
    std::lock_guard<std::mutex> lock(mutex);
    driver_free(driver);
    driver = NULL;
    *api = {};
}

struct emu_api_counts emu_api_count(void)
{
    std::lock_guard<std::mutex> lock(mutex);
    return driver->counts;
}

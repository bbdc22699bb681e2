/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/backend.h"

#include "kernels/cuda/parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const kernel_names[KERNEL_COUNT] = {
#define KERNEL_NAME(name, arguments) [KERNEL_##name] = #name,
    CUDA_KERNELS(KERNEL_NAME)
#undef KERNEL_NAME
};

/* The driver does not tell how large memory was that is given back. */
struct allocation {
    cuda_address memory;
    size_t size;
    struct allocation *next;
};

struct backend_cuda {
    struct backend backend; /* first */
    const struct cuda_api *api;
    int device;
    struct CUctx_st *context;
    struct CUmod_st *module;
    struct CUfunc_st *kernels[KERNEL_COUNT];
    struct CUstream_st *streams[QUEUE_COUNT];
    struct allocation *allocations;
    char name[300], trouble[300];
};

struct event {
    struct CUevent_st *event;
};

static struct backend_cuda *cuda_of(struct backend *b)
{
    return (struct backend_cuda *)b;
}

/* What the driver says, as -errno; the first trouble is kept. */
static int result_of(struct backend_cuda *c, unsigned result, const char *what)
{
    const char *text = NULL;
    if (result == CUDA_SUCCESS)
        return 0;
    if (result == CUDA_OUT_OF_MEMORY)
        return -ENOMEM;
    if (!c->backend.trouble) {
        c->api->error_text(result, &text);
        snprintf(c->trouble, sizeof c->trouble, "%s: %s (CUDA error %u)", what,
                 text ? text : "an error", result);
        c->backend.trouble = c->trouble;
    }
    return -EIO;
}

/* ---- memory and copies ---- */

/* An address of the device's as what the engine passes around. */
static void *pointer(cuda_address a)
{
    return (void *)(uintptr_t)a;
}

static cuda_address address(const void *p)
{
    return (cuda_address)(uintptr_t)p;
}

int cuda_alloc(struct backend *b, size_t size, void **out)
{
    struct backend_cuda *c = cuda_of(b);
    struct allocation *a = malloc(sizeof *a);
    if (!a)
        return -ENOMEM;
    int rc = result_of(c, c->api->memory_alloc(&a->memory, size), "an allocation");
    if (rc) {
        free(a);
        return rc;
    }
    a->size = size;
    a->next = c->allocations;
    c->allocations = a;
    b->allocated += size;
    *out = pointer(a->memory);
    return 0;
}

void cuda_free(struct backend *b, void *memory)
{
    struct backend_cuda *c = cuda_of(b);
    struct allocation **at = &c->allocations;
    if (!memory)
        return;
    while ((*at)->memory != address(memory))
        at = &(*at)->next;
    struct allocation *a = *at;
    *at = a->next;
    b->allocated -= a->size;
    free(a);
    c->api->memory_free(address(memory));
}

static uint64_t cuda_room(struct backend *b)
{
    size_t left = 0, total;
    return cuda_of(b)->api->memory_info(&left, &total) ? 0 : left;
}

static int cuda_pin(struct backend *b, void *host, size_t size, void **mapped)
{
    struct backend_cuda *c = cuda_of(b);
    cuda_address at;
    int rc = result_of(c, c->api->host_register(host, size, mapped ? CUDA_REGISTER_MAPPED : 0),
                       "pinning memory");
    if (rc || !mapped)
        return rc;
    rc = result_of(c, c->api->host_pointer(&at, host, 0), "mapping memory");
    if (rc)
        c->api->host_unregister(host);
    else
        *mapped = pointer(at);
    return rc;
}

static void cuda_unpin(struct backend *b, void *host)
{
    cuda_of(b)->api->host_unregister(host);
}

static int cuda_copy_in(struct backend *b, enum backend_queue queue, void *to, const void *host,
                        size_t size)
{
    struct backend_cuda *c = cuda_of(b);
    return result_of(c, c->api->copy_in(address(to), host, size, c->streams[queue]), "a copy");
}

static int cuda_copy_out(struct backend *b, enum backend_queue queue, void *host, const void *from,
                         size_t size)
{
    struct backend_cuda *c = cuda_of(b);
    return result_of(c, c->api->copy_out(host, address(from), size, c->streams[queue]), "a copy");
}

/* ---- events ---- */

static int cuda_event_new(struct backend *b, struct event **out)
{
    struct backend_cuda *c = cuda_of(b);
    struct event *e = malloc(sizeof *e);
    int rc = e ? result_of(c, c->api->event_new(&e->event, 0), "an event") : -ENOMEM;
    if (rc)
        free(e);
    else
        *out = e;
    return rc;
}

static void cuda_event_free(struct backend *b, struct event *e)
{
    cuda_of(b)->api->event_free(e->event);
    free(e);
}

static int cuda_event_record(struct backend *b, struct event *e, enum backend_queue queue)
{
    struct backend_cuda *c = cuda_of(b);
    return result_of(c, c->api->event_record(e->event, c->streams[queue]), "an event");
}

static int cuda_event_queue_wait(struct backend *b, struct event *e, enum backend_queue queue)
{
    struct backend_cuda *c = cuda_of(b);
    return result_of(c, c->api->stream_wait_event(c->streams[queue], e->event, 0), "a wait");
}

static int cuda_event_wait(struct backend *b, struct event *e)
{
    struct backend_cuda *c = cuda_of(b);
    return result_of(c, c->api->event_wait(e->event), "a wait");
}

static int cuda_event_done(struct backend *b, struct event *e)
{
    struct backend_cuda *c = cuda_of(b);
    unsigned result = c->api->event_query(e->event);
    if (result == CUDA_NOT_READY)
        return 0;
    int rc = result_of(c, result, "a wait");
    return rc ? rc : 1;
}

static double cuda_event_seconds(struct backend *b, struct event *from, struct event *to)
{
    float milliseconds = 0;
    cuda_of(b)->api->event_elapsed(&milliseconds, from->event, to->event);
    return (double)milliseconds / 1000;
}

/* ---- launches ---- */

int cuda_launch(struct backend *b, enum kernel kernel, uint64_t blocks, uint32_t threads,
                void *arguments)
{
    struct backend_cuda *c = cuda_of(b);
    if (blocks == 0)
        return 0;
    if (blocks > INT32_MAX)
        return -EINVAL;
    return result_of(c,
                     c->api->launch(c->kernels[kernel], (unsigned)blocks, 1, 1, threads, 1, 1, 0,
                                    c->streams[QUEUE_COMPUTE], (void *[]){arguments}, NULL),
                     kernel_names[kernel]);
}

/* ---- life ---- */

static void cuda_close(struct backend *b)
{
    struct backend_cuda *c = cuda_of(b);
    for (int q = 0; q < QUEUE_COUNT; q++)
        if (c->streams[q]) {
            c->api->stream_wait(c->streams[q]);
            c->api->stream_free(c->streams[q]);
        }
    if (c->module)
        c->api->module_unload(c->module);
    if (c->context)
        c->api->context_release(c->device);
    free(c);
}

/* What the makers say: a bit for each pin at both edges of the memory's clock. */
static double memory_rate(const struct backend_cuda *c)
{
    int kilohertz = 0, bits = 0;
    c->api->device_attribute(&kilohertz, CUDA_MEMORY_CLOCK_KHZ, c->device);
    c->api->device_attribute(&bits, CUDA_MEMORY_BUS_BITS, c->device);
    return 2e3 * kilohertz * bits / 8;
}

static void describe(struct backend_cuda *c)
{
    char device[256] = "";
    int major = 0, minor = 0;
    c->api->device_name(device, sizeof device, c->device);
    c->api->device_attribute(&major, CUDA_CAPABILITY_MAJOR, c->device);
    c->api->device_attribute(&minor, CUDA_CAPABILITY_MINOR, c->device);
    snprintf(c->name, sizeof c->name, "cuda: %s, compute %d.%d", device, major, minor);
}

static unsigned start(struct backend_cuda *c, const void *code)
{
    const struct cuda_api *api = c->api;
    unsigned result = api->device_get(&c->device, 0);
    result = result ? result : api->context_retain(&c->context, c->device);
    result = result ? result : api->context_use(c->context);
    result = result ? result : api->module_load(&c->module, code);
    for (int k = NO_KERNEL + 1; !result && k < KERNEL_COUNT; k++)
        result = api->module_kernel(&c->kernels[k], c->module, kernel_names[k]);
    for (int q = 0; !result && q < QUEUE_COUNT; q++)
        result = api->stream_new(&c->streams[q], CUDA_STREAM_NON_BLOCKING);
    return result;
}

int backend_cuda_open(const struct cuda_api *api, const void *code, struct backend **out,
                      struct error *err)
{
    struct backend_cuda *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, -ENOMEM, "out of memory");
    c->api = api;
    c->backend = (struct backend){
        .name = c->name,
        .callers = 1,
        .run_alignment = 16,
        .head_multiple = 16,
        .close = cuda_close,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .room = cuda_room,
        .pin = cuda_pin,
        .unpin = cuda_unpin,
        .copy_in = cuda_copy_in,
        .copy_out = cuda_copy_out,
        .event_new = cuda_event_new,
        .event_free = cuda_event_free,
        .event_record = cuda_event_record,
        .event_queue_wait = cuda_event_queue_wait,
        .event_wait = cuda_event_wait,
        .event_done = cuda_event_done,
        .event_seconds = cuda_event_seconds,
    };
    cuda_products(&c->backend);
    cuda_step(&c->backend);
    unsigned result = start(c, code);
    if (result) {
        result_of(c, result, "the GPU");
        error_set(err, -ENODEV, "%s",
                  c->backend.trouble ? c->backend.trouble : "no memory on the GPU");
        cuda_close(&c->backend);
        return -ENODEV;
    }
    describe(c);
    c->backend.memory_rate = memory_rate(c);
    *out = &c->backend;
    return 0;
}

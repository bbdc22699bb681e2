/* SPDX-License-Identifier: MIT
 *
 * What a driver over the emulator is made of (emu_api.h), for the files that are that driver:
 * emu_order.cc knows who may use what, emu_host.cc what the host may do, emu_queue.cc does what is
 * asked for, and emu_api.cc is who asks. There is one driver; who calls any of this has the lock of
 * emu_api.cc.
 */
#ifndef KERNELS_CUDA_EMU_DRIVER_H
#define KERNELS_CUDA_EMU_DRIVER_H

#include "kernels/cuda/emu_api.h"

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace emu_driver
{

enum { GRANULE = 16 }; /* kernels.h begins what is used apart at multiples of that */

/* Of every call behind the operation that failed. */
static const unsigned LAUNCH_FAILED = 719;

/* Of shadow.read: an index into the sets of readers, and not the number of one. */
static const uint32_t SEVERAL = UINT32_C(1) << 31;

enum kind { COPY_IN, COPY_OUT, LAUNCH, RECORD, WAIT };

using clocks = std::vector<uint32_t>; /* [stream], the place of its last operation that is known */

/* What is to be remembered of an operation. */
struct past {
    enum kind kind;
    uint32_t stream, place;
    const char *kernel;
};

/* Who used something last: [stream], numbers of operations. */
using users = std::vector<uint32_t>;

/* Of 16 bytes. The write was before the reads. */
struct shadow {
    uint32_t write, read;
};

/* Device memory, or host memory that is registered. */
struct memory {
    char *at;
    size_t size;
    bool host, mapped;
    void *block; /* of the device: what was allocated */
    struct shadow *shadow;
    users used;
    uint32_t newest; /* of them */
    ~memory()
    {
        free(block);
        free(shadow);
    }
};

struct operation {
    uint32_t number;
    enum kind kind;
    clocks known;
    struct CUstream_st *stream;
    /* of copies */
    struct memory *to_memory, *from_memory;
    char *to;
    const char *from;
    size_t size;
    /* of launches */
    const struct emu_kernel *kernel;
    uint32_t blocks, threads;
    std::vector<char> arguments;
    std::vector<const char *> host_reads; /* granules */
    /* of records and waits */
    struct CUevent_st *event;
    uint32_t waits_for;
};

/* What the host must leave as it is until it has waited for the operation. */
struct unread {
    uint32_t number;
    const char *from;
    size_t size;
    uint64_t hash;
    bool stale; /* another operation wrote there */
};

/* What the host may not look at until it has waited for the operation. */
struct unseen {
    uint32_t number;
    char *to;
    std::vector<char> bytes;
};

} // namespace emu_driver

/* Handles, which have the names that cuda_api.h gives them. */

struct CUevent_st {
    bool freed, timed;
    uint32_t recorded;        /* the operation; 0: never */
    emu_driver::clocks known; /* behind it */
    emu_driver::users used;
    std::chrono::steady_clock::time_point time;
};

struct CUstream_st {
    bool freed;
    uint32_t index;
    uint32_t asked, done;     /* places */
    emu_driver::clocks known; /* behind its last operation */
    std::deque<struct emu_driver::operation> queue;
};

struct CUctx_st {
    uint64_t generation;
};

struct CUfunc_st {
    struct emu_kernel kernel;
};

struct CUmod_st {
    bool unloaded;
};

namespace emu_driver
{

struct driver {
    struct emu *emu;
    struct emu_api_options options;
    uint64_t random;
    uint32_t eager; /* of 256, how often work is done that nobody needs yet */
    struct CUctx_st context;
    uint32_t retained;
    std::vector<std::unique_ptr<struct CUmod_st>> modules;
    std::vector<std::unique_ptr<struct CUfunc_st>> kernels;
    std::vector<std::unique_ptr<struct CUstream_st>> streams;
    std::vector<std::unique_ptr<struct CUevent_st>> events;
    std::map<uintptr_t, std::unique_ptr<struct memory>> memories;
    std::vector<struct past> past; /* [number], from 1 on */
    std::vector<std::vector<uint32_t>> readers;
    std::vector<uint32_t> readers_unused; /* indices */
    std::vector<struct unread> unread;
    std::vector<struct unseen> unseen;
    clocks host; /* what it has waited for */
    struct operation *current;
    bool failed;
    struct emu_api_counts counts;
};

/* The one that is open, or NULL. */
extern struct driver *driver;

/* ---- emu_order.cc ---- */

extern const char *const kind_names[];
std::string name_of(uint32_t number);
/* Ends the process. */
__attribute__((format(printf, 1, 2), noreturn)) void fault(const char *format, ...);

/* What is known to either. */
void join(clocks *c, const clocks &with);
bool in_clock(const clocks &c, uint32_t number);
void users_add(users *u, uint32_t number);
/* Everything that uses it must be done, as far as the host knows. */
void users_gone(const users &u, const char *what, const char *thing);

/* NULL: those bytes are in no memory as a whole. */
struct memory *memory_find(const void *p, size_t size);
/* Of memory that is written, or given back. */
void readers_forget(struct shadow *s);
/* The operation that is done uses memory; kernel_uses is for emu_give_watched. */
void copy_use(struct memory *m, const char *p, size_t size, bool write);
void kernel_uses(void *memory, size_t offset, size_t size, bool write);

/* ---- emu_host.cc ---- */

bool overlap(const char *a, size_t a_size, const char *b, size_t b_size);
/* The host leaves that as it is now, until it has waited for the operation. */
void unread_add(uint32_t number, const char *from, size_t size);
void unread_check(const struct unread &u);
/* An operation is about to write to host memory, which is no fault of the host's; and has. */
void unread_written(const char *p, size_t size);
void unread_again(void);
/* Operations see what others before them wrote, whatever the host sees. */
void reveal_part(const char *p, size_t size);
/* The host does not see what was written there. */
void hide(uint32_t number, char *to, size_t size);
/* A copy to there is asked for: what was there shall not pass for what it brings, unless someone
 * may still have to read it. */
void forget(const struct memory *m, char *to, size_t size);
/* What a kernel read of the host's memory stays as it is, until the host has waited for it. */
void host_reads_keep(struct operation *op);
/* The host has waited for all that is in the clock. */
unsigned host_knows(const clocks &c);

/* ---- emu_queue.cc ---- */

bool is_done(uint32_t number);
/* The first operation of a stream that is ready. */
void perform(struct CUstream_st *s);
uint32_t random_below(uint32_t n);
/* The stream whose first operation has to be done before, or is, that one. */
struct CUstream_st *needed_stream(uint32_t number);
void finish(uint32_t number);
void finish_all(void);
/* What may be done now, or later. */
void make_progress(void);

struct operation operation_new(struct CUstream_st *stream, enum kind kind);
/* Before ask: from here on it has a name. */
void remember(const struct operation &op);
/* also: what it waits for */
void ask(struct operation &&op, const clocks &also);

} // namespace emu_driver

#endif

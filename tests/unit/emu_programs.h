/* SPDX-License-Identifier: MIT
 *
 * Programs for the emulated driver: one context with a kernel, three streams, two events and three
 * pieces of memory. What goes wrong ends the process, so such programs run in a child.
 */
#ifndef TESTS_UNIT_EMU_PROGRAMS_H
#define TESTS_UNIT_EMU_PROGRAMS_H

#include "kernels/cuda/emu_api.h"
#include "tests/unit/emu_toys.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SEEDS = 200, FEW_SEEDS = 12, SIZE = TOY_THREADS * 4, BUDGET = 1 << 20 };

static const struct emu_kernel toys[] = {
    {"toy_read",               toy_read,               sizeof(struct toy_args)},
    {"toy_write_past_the_end", toy_write_past_the_end, sizeof(struct toy_args)},
    {NULL,                     NULL,                   0                      },
};

static struct cuda_api api;
static struct CUmod_st *module;
static struct CUfunc_st *toy; /* toy_read */
static struct CUstream_st *one, *two, *three;
static struct CUevent_st *event, *other;
static cuda_address a, b, c; /* SIZE bytes each */
static char host[2 * SIZE] __attribute__((aligned(64))), result[SIZE];
static bool in_child;

static inline void must(unsigned status)
{
    if (status && in_child)
        _exit(3);
    assert_int_equal(status, CUDA_SUCCESS);
}

static inline void begin_with(const struct emu_api_options *options)
{
    struct CUctx_st *context;
    must(emu_api_open(&api, options, toys) != 0);
    must(api.context_retain(&context, 0));
    must(api.context_use(context));
    must(api.module_load(&module, NULL));
    must(api.module_kernel(&toy, module, "toy_read"));
    must(api.stream_new(&one, CUDA_STREAM_NON_BLOCKING));
    must(api.stream_new(&two, CUDA_STREAM_NON_BLOCKING));
    must(api.stream_new(&three, CUDA_STREAM_NON_BLOCKING));
    must(api.event_new(&event, CUDA_EVENT_NO_TIMING));
    must(api.event_new(&other, CUDA_EVENT_NO_TIMING));
    must(api.memory_alloc(&a, SIZE));
    must(api.memory_alloc(&b, SIZE));
    must(api.memory_alloc(&c, SIZE));
    for (size_t i = 0; i < sizeof host; i++)
        host[i] = (char)(i * 7 + i / 256);
    memset(result, 1, sizeof result);
    must(api.host_register(host, sizeof host, CUDA_REGISTER_MAPPED));
    must(api.host_register(result, sizeof result, 0));
}

static inline void begin(uint64_t seed)
{
    const struct emu_api_options options = {.budget = BUDGET, .seed = seed, .reverse = seed % 2};
    begin_with(&options);
}

static inline void end(void)
{
    emu_api_close(&api);
}

static inline void launch(struct CUfunc_st *kernel, cuda_address to, cuda_address from,
                   struct CUstream_st *stream)
{
    struct toy_args args = {(uint32_t *)(uintptr_t)from, (uint32_t *)(uintptr_t)to, 0};
    void *arguments[] = {&args};
    must(api.launch(kernel, 1, 1, 1, TOY_THREADS, 1, 1, 0, stream, arguments, NULL));
    memset(&args, 0, sizeof args);
}

static inline void in(cuda_address to, struct CUstream_st *stream)
{
    must(api.copy_in(to, host, SIZE, stream));
}

static inline void out(cuda_address from, struct CUstream_st *stream)
{
    must(api.copy_out(result, from, SIZE, stream));
}

static inline void then(struct CUstream_st *first, struct CUstream_st *second)
{
    must(api.event_record(event, first));
    must(api.stream_wait_event(second, event, 0));
}

/* A program in a process of its own: what it said; dead: whether a fault ended it. */
static inline void child_run(void (*program)(void), uint64_t seed, char *said, size_t size, bool *dead)
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        in_child = true;
        begin(seed);
        program();
        end();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < size - 1 && (got = read(ends[0], said + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    *dead = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    assert_true(*dead || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

/* In every order. */
static inline void dies(void (*program)(void), const char *sentence)
{
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        char said[4096];
        bool dead;
        child_run(program, seed, said, sizeof said, &dead);
        if (!dead || !strstr(said, sentence))
            fail_msg("seed %d: \"%s\" was to be said, and not: %s", (int)seed, sentence, said);
    }
}

static inline void lives(void (*program)(void))
{
    for (uint64_t seed = 0; seed < FEW_SEEDS; seed++) {
        begin(seed);
        program();
        end();
    }
}

#endif

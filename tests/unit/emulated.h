/* SPDX-License-Identifier: MIT
 *
 * A backend over the emulated driver, and what has to be found in it, which ends the process.
 */
#ifndef TESTS_UNIT_EMULATED_H
#define TESTS_UNIT_EMULATED_H

#include "kernels/cuda/backend.h"
#include "kernels/cuda/emu_api.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static struct cuda_api emulated_api;

static inline struct backend *emulated_open(struct emu_api_options options)
{
    struct backend *b;
    struct error err;
    if (emu_api_open(&emulated_api, &options, emu_kernels) ||
        backend_cuda_open(&emulated_api, NULL, &b, &err))
        abort();
    return b;
}

static inline void emulated_close(struct backend *b)
{
    b->close(b);
    emu_api_close(&emulated_api);
}

/* Whether run ends its process by a signal, as the emulator does with what is wrong. What it says is
 * for nobody. */
static inline bool is_found(void (*run)(void *context), void *context)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        if (!freopen("/dev/null", "w", stderr))
            _exit(2);
        signal(SIGABRT, SIG_DFL);
        run(context);
        _exit(0);
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status);
}

#endif

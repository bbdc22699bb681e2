/* SPDX-License-Identifier: MIT */
#include "tools/run/machine.h"

#include "kernels/cpu/backend.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/device_code.h"
#ifdef WITH_EMULATOR
#include "kernels/cuda/emu_api.h"
#endif

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    [MACHINE_CPU] = "cpu", [MACHINE_CUDA] = "cuda", [MACHINE_EMU] = "emu"};

bool machine_by_name(const char *name, enum machine_kind *out)
{
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum machine_kind)i;
            return true;
        }
    return false;
}

static int open_cpu(struct machine *m, unsigned threads, struct error *err)
{
    const struct dot_set *set;
    int rc = dot_set_choose(getenv("QUANTFS_ISA"), &set, err);
    if (rc)
        return rc;
    rc = backend_cpu_open(set, threads, &m->backend);
    return rc ? error_set(err, rc, "out of memory") : 0;
}

static int open_cuda(struct machine *m, struct error *err)
{
    char message[256];
    if (!cuda_device_code[0])
        return error_set(err, -ENODEV,
                         "this program was built without kernels for a GPU: tools/setup --cuda"
                         " fetches their compiler, then build again");
    if (cuda_api_open(&m->api, NULL, message, sizeof message))
        return error_set(err, -ENODEV, "%s", message);
    int rc = backend_cuda_open(&m->api, cuda_device_code[0], &m->backend, err);
    if (rc)
        cuda_api_close(&m->api);
    return rc;
}

#ifdef WITH_EMULATOR
enum { USUAL_VRAM = 1 << 30 };

/* The order of what streams do beside each other; any is as good as another. */
static uint64_t seed(void)
{
    const char *text = getenv("QUANTFS_EMU_SEED");
    return text ? strtoull(text, NULL, 0) : 1;
}

static int open_emu(struct machine *m, uint64_t vram, struct error *err)
{
    const struct emu_api_options options = {.budget = vram ? vram : USUAL_VRAM, .seed = seed()};
    int rc = emu_api_open(&m->api, &options, emu_kernels);
    if (rc)
        return error_set(err, rc, "out of memory");
    rc = backend_cuda_open(&m->api, NULL, &m->backend, err);
    if (rc)
        emu_api_close(&m->api);
    return rc;
}
#else
static int open_emu(struct machine *m, uint64_t vram, struct error *err)
{
    (void)m;
    (void)vram;
    return error_set(err, -ENODEV,
                     "this program was built without the emulator, which takes a C++"
                     " compiler");
}
#endif

int machine_open(struct machine *m, enum machine_kind kind, unsigned threads, uint64_t vram,
                 struct error *err)
{
    *m = (struct machine){.kind = kind};
    switch (kind) {
    case MACHINE_CUDA:
        return open_cuda(m, err);
    case MACHINE_EMU:
        return open_emu(m, vram, err);
    default:
        return open_cpu(m, threads, err);
    }
}

void machine_close(struct machine *m)
{
    if (!m->backend)
        return;
    m->backend->close(m->backend);
    if (m->kind == MACHINE_CUDA)
        cuda_api_close(&m->api);
#ifdef WITH_EMULATOR
    if (m->kind == MACHINE_EMU)
        emu_api_close(&m->api);
#endif
    *m = (struct machine){0};
}

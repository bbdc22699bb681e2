/* SPDX-License-Identifier: MIT */
#include "tools/run/engine.h"

#include "kernels/cpu/backend.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>

static unsigned processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? (unsigned)n : 1;
}

static int start(struct engine *e, unsigned threads, struct error *err)
{
    const struct dot_set *set;
    threads = threads ? threads : processors();
    int rc = dot_set_choose(getenv("QUANTFS_ISA"), &set, err);
    if (rc)
        return rc;
    e->team = team_new(threads);
    if (!e->team)
        return error_set(err, -EAGAIN, "no %u threads can be had", threads);
    rc = backend_cpu_open(set, threads, &e->backend);
    return rc ? error_set(err, rc, "out of memory") : 0;
}

static int load(struct engine *e, const char *path, struct error *err)
{
    int rc = run_model_open(&e->weights, &e->model, err);
    if (!rc && e->context == 0)
        e->context = e->model.facts.trained_context < ENGINE_CONTEXT
                         ? e->model.facts.trained_context
                         : ENGINE_CONTEXT;
    if (!rc && e->context == 0)
        rc = error_set(err, -EINVAL, "the file does not say how long its context is: give -c");
    uint32_t batch = e->context < ENGINE_BATCH ? e->context : ENGINE_BATCH;
    rc = rc ? rc : forward_new(&e->model, e->backend, e->team, e->context, batch, &e->forward, err);
    return rc ? error_prefix(err, rc, "%s", path) : 0;
}

int engine_open(struct engine *e, const char *path, uint32_t context, unsigned threads,
                struct error *err)
{
    *e = (struct engine){.context = context};
    int rc = start(e, threads, err);
    rc = rc ? rc : weights_open(&e->weights, path, e->backend, err);
    rc = rc ? rc : load(e, path, err);
    if (rc)
        engine_close(e);
    return rc;
}

void engine_close(struct engine *e)
{
    forward_free(e->forward);
    if (e->weights.backend)
        weights_close(&e->weights);
    if (e->backend)
        e->backend->close(e->backend);
    team_free(e->team);
    *e = (struct engine){0};
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/hessians.h"

#include "tools/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Routers are never packed: nobody asks for theirs. */
static uint32_t parts_of(const struct facts *f, enum layer_input input)
{
    return input == INPUT_ROUTER ? 0 : input_parts(f, input);
}

static uint64_t layer_bytes(const struct facts *f)
{
    uint64_t sum = 0;
    for (enum layer_input i = 0; i < INPUT_COUNT; i++)
        sum += parts_of(f, i) * hessian_bytes(input_cols(f, i));
    return sum;
}

/* All of a layer's inputs. */
static uint32_t inputs_of(const struct facts *f)
{
    uint32_t count = 0;
    for (enum layer_input i = 0; i < INPUT_COUNT; i++)
        count += parts_of(f, i);
    return count;
}

static uint64_t widest(const struct facts *f)
{
    uint64_t most = 0;
    for (enum layer_input i = 0; i < INPUT_COUNT; i++)
        most = input_cols(f, i) > most ? input_cols(f, i) : most;
    return most;
}

uint64_t hessians_fit(struct hessians *h, const struct facts *f, uint64_t room, uint64_t weights)
{
    uint64_t layer = layer_bytes(f), work = hessian_bytes(widest(f)) + HESSIAN_BLAS;
    uint64_t budget = room / 4;
    if (room > weights && room - weights > budget)
        budget = room - weights;
    uint64_t fit = budget > work ? (budget - work) / layer : 0;
    uint32_t end = h->end < f->layers ? h->end : f->layers;
    uint32_t wanted = end > h->first && !h->one_by_one ? end - h->first : 1;
    if (!h->kind_count)
        return 0;
    h->at_once = fit < 1 ? 1 : fit < wanted ? (uint32_t)fit : wanted;
    return work + h->at_once * layer;
}

/* ---- what is missing ---- */

static int is_there(const char *path, uint64_t size, bool *there, struct error *err)
{
    struct stat st;
    *there = stat(path, &st) == 0;
    if (!*there)
        return errno == ENOENT ? 0 : error_set(err, -errno, "%s: %s", path, strerror(errno));
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size == size)
        return 0;
    return error_set(err, -EEXIST, "%s is there, and not a file of %" PRIu64 " bytes", path, size);
}

/* Of the files of one input. */
static int count_missing(struct hessians *h, const struct factor_input *input, uint32_t *files,
                         struct error *err)
{
    char path[PATH_MAX];
    uint64_t cols = input_cols(h->facts, input->input);
    int rc = 0;
    for (size_t k = 0; !rc && k < h->kind_count; k++) {
        uint64_t size = factor_size(cols, h->kinds[k]);
        bool there = false;
        rc = factor_path(h->folder, h->facts, input, h->kinds[k], path, err);
        rc = rc ? rc : is_there(path, size, &there, err);
        if (!rc && !there) {
            h->missing_bytes += size;
            ++*files;
        }
    }
    return rc;
}

static int plan_layer(struct hessians *h, uint32_t layer, struct error *err)
{
    uint32_t files = 0;
    int rc = 0;
    for (enum layer_input i = 0; i < INPUT_COUNT; i++)
        for (uint32_t p = 0; !rc && p < parts_of(h->facts, i); p++)
            rc = count_missing(h, &(struct factor_input){layer, i, p}, &files, err);
    if (files || h->awq)
        h->todo[h->todo_count++] = (struct unfinished){layer, files};
    return rc;
}

int hessians_plan(struct hessians *h, struct error *err)
{
    int rc = 0;
    if (!h->kind_count)
        return 0;
    if (h->end > h->facts->layers && h->end != UINT32_MAX)
        return error_set(err, -ERANGE, "there is no layer %" PRIu32 " among %" PRIu32, h->end - 1,
                         h->facts->layers);
    h->end = h->end < h->facts->layers ? h->end : h->facts->layers;
    h->todo = calloc(h->facts->layers, sizeof *h->todo);
    if (!h->todo)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t l = h->first; !rc && l < h->end; l++)
        rc = plan_layer(h, l, err);
    return rc;
}

/* ---- one group of layers ---- */

static struct hessian *hessian_of(const struct hessians *h, uint32_t at, enum layer_input input,
                                  uint32_t part)
{
    size_t parts = h->facts->experts ? h->facts->experts : 1;
    return &h->all[((size_t)at * INPUT_COUNT + input) * parts + part];
}

static void free_group(struct hessians *h)
{
    for (uint32_t at = 0; h->all && at < h->group; at++)
        for (enum layer_input i = 0; i < INPUT_COUNT; i++)
            for (uint32_t p = 0; p < parts_of(h->facts, i); p++)
                hessian_free(hessian_of(h, at, i, p));
    free(h->all);
    h->all = NULL;
    h->group = 0;
}

int hessians_begin(struct hessians *h, struct error *err)
{
    uint32_t left = h->todo_count - h->done, parts = h->facts->experts ? h->facts->experts : 1;
    int rc = 0;
    hessian_threads(1);
    h->group = left < h->at_once ? left : h->at_once;
    h->all = calloc((size_t)h->group * INPUT_COUNT + 1, parts * sizeof *h->all);
    if (!h->all)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t at = 0; at < h->group; at++)
        for (enum layer_input i = 0; i < INPUT_COUNT; i++)
            for (uint32_t p = 0; !rc && p < parts_of(h->facts, i); p++)
                rc = hessian_new(hessian_of(h, at, i, p), input_cols(h->facts, i), err);
    return rc;
}

void hessians_add(struct hessians *h, uint32_t layer, enum layer_input input, uint32_t part,
                  const float *x, uint32_t tokens)
{
    for (uint32_t at = 0; at < h->group; at++)
        if (h->todo[h->done + at].layer == layer && parts_of(h->facts, input))
            hessian_add(hessian_of(h, at, input, part), x, tokens);
}

/* ---- the files ---- */

/* Where factors are worked out, and how far that is. */
struct writing {
    struct hessians *h;
    uint32_t *orders[2]; /* by activation, and natural */
    float *work;
    struct progress progress;
};

static int write_file(struct writing *w, const struct factor_input *input, const struct hessian *h,
                      struct factor_kind kind, struct error *err)
{
    char path[PATH_MAX];
    bool there;
    struct factor_parts factor = {kind.damping, w->orders[kind.natural], w->work};
    int rc = factor_path(w->h->folder, w->h->facts, input, kind, path, err);
    rc = rc ? rc : is_there(path, factor_size(h->cols, kind), &there, err);
    if (rc || there)
        return rc;
    if (kind.damping > 0) {
        rc = hessian_factor(h, factor.order, kind.damping, w->work, err);
        if (rc)
            return error_prefix(err, rc, "%s", path);
    }
    rc = factor_write(path, &w->h->from, input, h, kind.damping > 0 ? &factor : NULL, err);
    progress_add(&w->progress, !rc);
    return rc;
}

static int write_input(struct writing *w, const struct factor_input *input, struct hessian *h,
                       struct error *err)
{
    hessian_finish(h, w->h->from.chunks);
    int rc = hessian_order(h, w->orders[0], err);
    for (size_t k = 0; !rc && k < w->h->kind_count; k++)
        rc = write_file(w, input, h, w->h->kinds[k], err);
    if (!rc && w->h->awq) {
        rc = awq_search(w->h->awq, input->layer, input->input, h, err);
        progress_add(&w->progress, !rc);
    }
    return rc;
}

static int write_group(struct writing *w, struct error *err)
{
    struct hessians *h = w->h;
    int rc = 0;
    for (uint32_t at = 0; at < h->group; at++)
        for (enum layer_input i = 0; i < INPUT_COUNT; i++)
            for (uint32_t p = 0; !rc && p < parts_of(h->facts, i); p++)
                rc = write_input(w, &(struct factor_input){h->todo[h->done + at].layer, i, p},
                                 hessian_of(h, at, i, p), err);
    return rc;
}

int hessians_write(struct hessians *h, struct error *err)
{
    struct writing w = {.h = h};
    uint64_t most = widest(h->facts), files = 0;
    if (!h->group)
        return 0;
    w.work = hessian_memory(most);
    w.orders[0] = calloc(2 * most, sizeof *w.orders[0]);
    int rc = w.work && w.orders[0] ? 0 : error_set(err, -ENOMEM, "out of memory");
    w.orders[1] = w.orders[0] + most;
    for (uint32_t c = 0; !rc && c < most; c++)
        w.orders[1][c] = c;
    for (uint32_t at = 0; at < h->group; at++)
        files += h->todo[h->done + at].files + (h->awq ? inputs_of(h->facts) : 0);
    progress_begin(&w.progress, "factoring", h->awq ? "files and scales" : "files", files);
    hessian_threads(h->threads);
    rc = rc ? rc : write_group(&w, err);
    progress_end(&w.progress);
    free(w.work);
    free(w.orders[0]);
    h->done += h->group;
    free_group(h);
    return rc;
}

void hessians_free(struct hessians *h)
{
    free_group(h);
    free(h->todo);
}

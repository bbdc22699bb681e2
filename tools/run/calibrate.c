/* SPDX-License-Identifier: MIT
 *
 * What a model's matrices are multiplied with when it reads a text: the importance of their
 * columns, and the Hessians of their inputs. The text is cut into chunks as llama-imatrix does it.
 */
#include "tools/command.h"
#include "tools/output.h"
#include "tools/run/chunks.h"
#include "tools/run/clock.h"
#include "tools/run/hessians.h"
#include "tools/run/importance.h"
#include "tools/run/report.h"
#include "tools/run/sequential.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { DEFAULT_CONTEXT = 512 };

#define DAMPING_LEAST 1e-6
#define DAMPING_MOST  100

struct job {
    const char *model, *text, *folder;
    char matrix[PATH_MAX];           /* the importance matrix */
    uint64_t tokens;                 /* 0: all */
    const struct format *sequential; /* NULL: layers see those before them as they are */
    bool natural, keep_hessian, imatrix_only, layers, awq, hessian_options;
    struct hessians hessians;
    struct run_options options;
};

/* A model that reads a text. */
struct run {
    const struct job *job;
    struct engine engine;
    struct token_ids ids;
    uint32_t chunks; /* of ids */
    uint32_t passes; /* over the text */
    bool weighs;     /* in this pass */
    struct importance importance;
    struct observer observer;
    struct hessians *hessians;
    struct awq awq;
    struct sequential sequential;
    struct progress progress;
    json_t *report; /* of the engine, for machines */
};

static void see(void *context, uint32_t layer, enum layer_input input, uint32_t expert,
                const float *x, uint32_t tokens)
{
    struct run *r = context;
    if (r->weighs)
        importance_add(&r->importance, layer, input, expert, x, tokens);
    hessians_add(r->hessians, layer, input, expert, x, tokens);
}

static uint64_t takes(void *context, const struct facts *f, uint64_t room, uint64_t weights)
{
    struct job *j = context;
    return importance_bytes(f) + hessians_fit(&j->hessians, f, room, weights) +
           (j->awq ? awq_memory(f) : 0) + (j->sequential ? held_bytes(f) + PACKING_WORK : 0);
}

static int read_chunk(struct run *r, uint32_t chunk, struct error *err)
{
    struct engine *e = &r->engine;
    const uint32_t *tokens = chunks_get(&e->weights.vocab, &r->ids, e->context, chunk);
    int rc = 0;
    for (uint32_t at = 0, batch; !rc && at < e->context; at += batch) {
        const float *logits;
        batch = e->context - at < e->batch ? e->context - at : e->batch;
        rc = forward_run(e->forward, tokens + at, batch, at, false, err);
        /* that of a model that is none is not finite */
        rc = rc ? rc : forward_logits(e->forward, &logits, err);
    }
    return rc ? error_prefix(err, rc, "%s: chunk %" PRIu32, r->job->model, chunk) : 0;
}

static int read_chunks(struct run *r, struct error *err)
{
    int rc = 0;
    forward_observe(r->engine.forward, &r->observer);
    for (uint32_t c = 0; !rc && c < r->chunks; c++) {
        rc = read_chunk(r, c, err);
        progress_add(&r->progress, !rc);
    }
    forward_observe(r->engine.forward, NULL);
    return rc;
}

static int write_matrix(struct run *r, struct error *err)
{
    struct importance_origin from = {r->job->text, r->chunks, r->engine.context};
    struct buffer matrix = {0};
    struct output out;
    int rc = importance_encode(&r->importance, &from, &matrix, err);
    if (rc)
        return error_prefix(err, rc, "%s", r->job->model);
    rc = output_open(&out, r->job->matrix, err);
    if (!rc)
        rc = output_close(&out, output_write(&out, matrix.data, matrix.size, err), false, err);
    buffer_free(&matrix);
    return rc;
}

static int pass(struct run *r, struct error *err)
{
    int rc = hessians_begin(r->hessians, err);
    rc = rc ? rc : read_chunks(r, err);
    if (!rc && r->weighs)
        rc = write_matrix(r, err);
    r->weighs = false;
    progress_clear(&r->progress);
    return rc ? rc : hessians_write(r->hessians, err);
}

/* ---- before it begins ---- */

static int take_text(struct run *r, const struct job *j, struct error *err)
{
    uint32_t n = r->engine.context;
    int rc = chunks_read(&r->engine.weights.vocab, j->text, &r->ids, err);
    if (rc)
        return rc;
    rc = chunks_count(&r->ids, n, &r->chunks, err);
    if (rc)
        return error_prefix(err, rc, "%s", j->text);
    if (j->tokens && j->tokens / n < r->chunks)
        r->chunks = (uint32_t)(j->tokens / n);
    return r->chunks
               ? 0
               : error_set(err, -EINVAL, "%" PRIu64 " tokens are less than a context of %" PRIu32,
                           j->tokens, n);
}

/* Scales are found with all Hessians at hand, so those of all layers are summed up where there are none. */
static int plan_awq(struct run *r, struct error *err)
{
    struct engine *e = &r->engine;
    int rc = awq_begin(&r->awq, &e->model, e->weights.file, e->team, r->job->folder, err);
    if (rc)
        return error_prefix(err, rc, "%s", r->job->model);
    if (access(r->awq.path, F_OK) == 0)
        return 0;
    r->hessians->awq = &r->awq;
    r->hessians->missing_bytes += awq_file_bytes(&e->model.facts);
    return 0;
}

/* What is to be done: what is there already, of the same model and text, is left as it is. */
static int plan(struct run *r, struct error *err)
{
    struct hessians *h = r->hessians;
    struct engine *e = &r->engine;
    h->facts = &e->model.facts;
    h->folder = r->job->folder;
    h->threads = team_size(e->team);
    h->from = (struct origin){.chunk_size = e->context,
                              .chunks = r->chunks,
                              .sequential = r->job->sequential ? r->job->sequential->name : NULL};
    origin_of(e->weights.file, &e->weights.vocab, &r->ids, &h->from);
    int rc = origin_settle(&h->from, h->folder, err);
    if (!rc && r->job->awq)
        rc = plan_awq(r, err);
    rc = rc ? rc : hessians_plan(h, err);
    r->weighs = access(r->job->matrix, F_OK) != 0;
    if (h->todo_count && !r->job->sequential)
        r->passes = (h->todo_count + h->at_once - 1) / h->at_once;
    else
        r->passes = r->weighs || h->todo_count;
    return rc;
}

/* What is still to be written, and meanwhile the hidden states. */
static uint64_t disk_bytes(const struct run *r)
{
    bool waits = r->job->sequential && r->passes;
    return r->hessians->missing_bytes + (waits ? sequential_bytes(&r->sequential) : 0);
}

/* Tells what is going to happen, and whether there is room for it. */
static int announce(const struct run *r, bool told, struct error *err)
{
    const struct hessians *h = r->hessians;
    struct statvfs fs;
    char needed[16], room[16];
    if (statvfs(h->folder, &fs))
        return error_set(err, -errno, "%s: %s", h->folder, strerror(errno));
    uint64_t needs = disk_bytes(r), available = (uint64_t)fs.f_bavail * fs.f_frsize;
    text_bytes(needs, needed);
    text_bytes(available, room);
    if (told)
        fprintf(stderr,
                "# text: %" PRIu32 " chunks, read %" PRIu32 " times; %" PRIu32
                " layers to do, %" PRIu32 " at once\n# disk: %s are needed, %s are free\n",
                r->chunks, r->passes, h->todo_count, h->at_once, needed, room);
    return needs <= available ? 0
                              : error_set(err, -ENOSPC, "%s: %s are needed, and %s are free",
                                          h->folder, needed, room);
}

/* Layer by layer. What is there already is run again, too: the layers behind it need it, and so does
 * the importance by which it is packed. */
static int run_layers(struct run *r, struct error *err)
{
    bool wanted = r->weighs;
    r->weighs = true;
    progress_begin(&r->progress, "calibrating", "chunks",
                   sequential_runs(&r->sequential) * r->chunks);
    int rc = sequential_run(&r->sequential, err);
    progress_end(&r->progress);
    if (rc)
        return error_prefix(err, rc, "%s", r->job->model);
    return wanted ? write_matrix(r, err) : 0;
}

static int run_passes(struct run *r, struct error *err)
{
    int rc = 0;
    progress_begin(&r->progress, "calibrating", "chunks", (uint64_t)r->passes * r->chunks);
    for (uint32_t p = 0; !rc && p < r->passes; p++)
        rc = pass(r, err);
    progress_end(&r->progress);
    return rc || !r->hessians->awq ? rc : awq_write(&r->awq, &r->hessians->from, err);
}

static int run_text(struct run *r, struct error *err)
{
    if (!r->passes)
        return 0;
    int rc = importance_new(&r->importance, &r->engine.model.facts, err);
    if (!rc)
        rc = r->job->sequential ? run_layers(r, err) : run_passes(r, err);
    importance_free(&r->importance);
    return rc;
}

/* Layer by layer, with this very calibration. */
static int begin_sequential(struct run *r, struct error *err)
{
    struct engine *e = &r->engine;
    struct sequential *s = &r->sequential;
    *s = (struct sequential){
        .engine = e,
        .hessians = r->hessians,
        .observer = &r->observer,
        .packing = {.format = r->job->sequential,
                    .facts = &e->model.facts,
                    .team = e->team,
                    .folder = r->job->folder,
                    .importance = &r->importance},
        .ids = &r->ids,
        .chunks = r->chunks,
        .progress = &r->progress,
    };
    int rc = packing_check(r->job->sequential, &e->model.facts, err);
    if (rc)
        return error_prefix(err, rc, "%s", r->job->model);
    return isa_choose(NULL, &s->packing.isa, err);
}

static int calibrate(struct run *r, bool told, struct error *err)
{
    int rc = take_text(r, r->job, err);
    if (!rc && r->job->sequential)
        rc = begin_sequential(r, err);
    rc = rc ? rc : plan(r, err);
    rc = rc ? rc : announce(r, told, err);
    rc = rc ? rc : run_text(r, err);
    hessians_free(r->hessians);
    awq_free(&r->awq);
    free(r->ids.ids);
    return rc;
}

static int run_engine(struct run *r, struct error *err)
{
    const struct run_options *o = &r->job->options;
    int rc = engine_open(&r->engine, r->job->model, o, DEFAULT_CONTEXT, err);
    if (rc)
        return rc;
    bool told = !o->quiet && !o->json;
    if (told)
        report_plan(&r->engine, stderr);
    double begun = clock_seconds();
    rc = calibrate(r, told, err);
    if (!rc && told)
        report_end(&r->engine, clock_seconds() - begun, stderr);
    if (!rc && o->json) {
        r->report = json_object();
        report_json(&r->engine, r->report);
    }
    engine_close(&r->engine);
    return rc;
}

static int make(struct run *r, struct error *err)
{
    const char *folder = r->job->folder;
    if (mkdir(folder, 0777) && errno != EEXIST)
        return error_set(err, -errno, "%s: %s", folder, strerror(errno));
    return run_engine(r, err);
}

static void tell(const struct run *r)
{
    const struct job *j = r->job;
    const struct hessians *h = r->hessians;
    if (!j->options.json) {
        printf("%s: importance of the columns, of %" PRIu32 " chunks\n", j->matrix, r->chunks);
        if (h->kind_count)
            printf("%s: factors of layers %" PRIu32 " to %" PRIu32 "\n", j->folder, h->first,
                   h->end - 1);
        if (j->awq)
            printf("%s: scales of AWQ\n", r->awq.path);
        return;
    }
    json_t *own = json_pack("{s:s, s:i, s:i, s:i, s:I}", "imatrix", j->matrix, "chunks",
                            (int)r->chunks, "text_passes", (int)r->passes, "layers_done",
                            (int)h->done, "disk_bytes", (json_int_t)h->missing_bytes);
    if (j->awq)
        json_object_set_new(own, "awq", json_string(r->awq.path));
    json_object_update(own, r->report);
    report_print(own);
    json_decref(r->report);
}

/* ---- the command line ---- */

/* "1.0,0.1" */
static bool take_dampings(struct hessians *h, const char *list)
{
    char *copy = strdup(list), *rest = copy;
    bool ok = copy != NULL;
    h->kind_count = 0;
    for (char *word; ok && (word = strsep(&rest, ","));) {
        double v;
        ok = h->kind_count < DAMPINGS_MAX && parse_real(word, DAMPING_LEAST, DAMPING_MOST, &v);
        for (size_t k = 0; ok && k < h->kind_count; k++)
            ok = h->kinds[k].damping != (float)v;
        if (ok)
            h->kinds[h->kind_count++] = (struct factor_kind){.damping = (float)v};
    }
    free(copy);
    return ok;
}

/* "3", or "0-7" */
static bool take_layers(struct hessians *h, const char *range)
{
    char first[24];
    uint64_t a, b;
    const char *dash = strchr(range, '-');
    snprintf(first, sizeof first, "%.*s", dash ? (int)(dash - range) : 23, range);
    if (!parse_whole(first, 0, LAYERS_MAX - 1, &a) ||
        !parse_whole(dash ? dash + 1 : first, a, LAYERS_MAX - 1, &b))
        return false;
    h->first = (uint32_t)a;
    h->end = (uint32_t)b + 1;
    return true;
}

enum { PERCDAMP = 256, LAYERS, NATURAL, KEEP_HESSIAN, SEQUENTIAL, AWQ, IMATRIX_ONLY };

static bool take(void *context, int c, const char *argument)
{
    struct job *j = context;
    j->hessian_options |= c >= PERCDAMP && c < IMATRIX_ONLY;
    j->layers |= c == LAYERS;
    switch (c) {
    case 'f':
        j->text = argument;
        return true;
    case 'o':
        j->folder = argument;
        return true;
    case 'n':
        return parse_whole(argument, 1, UINT32_MAX, &j->tokens);
    case PERCDAMP:
        return take_dampings(&j->hessians, argument);
    case LAYERS:
        return take_layers(&j->hessians, argument);
    case NATURAL:
        j->natural = true;
        return true;
    case KEEP_HESSIAN:
        j->keep_hessian = true;
        return true;
    case SEQUENTIAL:
        j->sequential = packing_format(argument);
        return j->sequential != NULL;
    case AWQ:
        j->awq = true;
        return true;
    case IMATRIX_ONLY:
        j->imatrix_only = true;
        return true;
    default:
        return run_options_take(&j->options, c, argument);
    }
}

/* Whether what a format is packed with is made. */
static bool has_factor(const struct hessians *h, const struct format *f)
{
    bool has = f->damping == 0;
    for (size_t k = 0; !has && k < h->kind_count; k++)
        has = h->kinds[k].damping == f->damping && h->kinds[k].natural == f->natural;
    return has;
}

/* What follows from the options. */
static void complete(struct job *j)
{
    struct hessians *h = &j->hessians;
    size_t dampings = j->imatrix_only ? 0 : h->kind_count;
    h->kind_count = dampings;
    for (size_t k = 0; j->natural && k < dampings; k++)
        h->kinds[h->kind_count++] = (struct factor_kind){h->kinds[k].damping, true};
    if (j->keep_hessian)
        h->kinds[h->kind_count++] = (struct factor_kind){0};
    j->options.takes = takes;
    j->options.takes_context = j;
    j->options.by_layer = j->sequential != NULL;
    h->one_by_one = j->sequential != NULL;
}

int run_calibrate(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"text",         required_argument, NULL, 'f'         },
        {"output",       required_argument, NULL, 'o'         },
        {"tokens",       required_argument, NULL, 'n'         },
        {"percdamp",     required_argument, NULL, PERCDAMP    },
        {"layers",       required_argument, NULL, LAYERS      },
        {"natural",      no_argument,       NULL, NATURAL     },
        {"keep-hessian", no_argument,       NULL, KEEP_HESSIAN},
        {"sequential",   required_argument, NULL, SEQUENTIAL  },
        {"awq",          no_argument,       NULL, AWQ         },
        {"imatrix-only", no_argument,       NULL, IMATRIX_ONLY},
        RUN_OPTIONS_LONG
    };
    struct job j = {
        .hessians = {
                     .kinds = {{.damping = 1}, {.damping = 0.1f}}, .kind_count = 2, .end = UINT32_MAX}
    };
    int status =
        command_options(self, argc, argv, "f:o:n:" RUN_OPTIONS_SHORT, long_options, take, &j);
    if (status >= 0)
        return status;
    if (!j.text || !j.folder || argc - optind != 1)
        return command_usage(self, "a text (-f), a folder (-o) and one GGUF file are needed");
    if (j.imatrix_only && j.hessian_options)
        return command_usage(self, "--imatrix-only makes no Hessians");
    complete(&j);
    if (j.sequential && j.layers)
        return command_usage(self, "--sequential goes through all layers");
    if (j.awq && (j.layers || j.sequential))
        return command_usage(self, "--awq goes through all layers, as they are");
    if (j.sequential && !has_factor(&j.hessians, j.sequential))
        return command_usage(self, "%s takes factors of damping %g%s", j.sequential->name,
                             (double)j.sequential->damping,
                             j.sequential->natural ? ", and --natural" : "");
    j.model = argv[optind];
    if (snprintf(j.matrix, sizeof j.matrix, "%s/imatrix.gguf", j.folder) >= (int)sizeof j.matrix)
        return command_fail("%s: %s", j.folder, strerror(ENAMETOOLONG));
    struct run r = {.job = &j, .hessians = &j.hessians};
    r.observer = (struct observer){see, &r};
    struct error err;
    int rc = make(&r, &err);
    if (!rc)
        tell(&r);
    return rc ? command_fail("%s", err.text) : 0;
}

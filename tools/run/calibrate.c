/* SPDX-License-Identifier: MIT
 *
 * What a model's matrices are multiplied with when it reads a text: the importance of their columns.
 * The text is cut into chunks as llama-imatrix does it.
 */
#include "tools/command.h"
#include "tools/output.h"
#include "tools/run/chunks.h"
#include "tools/run/clock.h"
#include "tools/run/importance.h"
#include "tools/run/report.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEFAULT_CONTEXT = 512 };

struct job {
    const char *model, *text, *folder;
    uint64_t tokens; /* 0: all */
    struct run_options options;
};

/* A model that reads a text. */
struct run {
    struct engine engine;
    struct token_ids ids;
    uint32_t chunks; /* of ids */
    struct importance importance;
    json_t *report; /* of the engine, for machines */
};

static void see(void *context, uint32_t layer, enum layer_input input, uint32_t expert,
                const float *x, uint32_t tokens)
{
    struct run *r = context;
    importance_add(&r->importance, layer, input, expert, x, tokens);
}

static int read_chunk(struct run *r, uint32_t chunk, float *logits, struct error *err)
{
    struct engine *e = &r->engine;
    const uint32_t *tokens = chunks_get(&e->weights.vocab, &r->ids, e->context, chunk);
    int rc = 0;
    for (uint32_t at = 0, batch; !rc && at < e->context; at += batch) {
        batch = e->context - at < ENGINE_BATCH ? e->context - at : ENGINE_BATCH;
        rc = forward_run(e->forward, tokens + at, batch, at, false, logits, err);
    }
    return rc ? error_prefix(err, rc, "chunk %" PRIu32, chunk) : 0;
}

static int read_chunks(struct run *r, struct error *err)
{
    const struct observer observer = {see, r};
    struct progress progress;
    float *logits = calloc(r->engine.model.facts.vocab, sizeof *logits);
    int rc = logits ? 0 : error_set(err, -ENOMEM, "out of memory");
    forward_observe(r->engine.forward, &observer);
    progress_begin(&progress, "calibrating", "chunks", r->chunks);
    for (uint32_t c = 0; !rc && c < r->chunks; c++) {
        rc = read_chunk(r, c, logits, err);
        progress_add(&progress, !rc);
    }
    progress_end(&progress);
    forward_observe(r->engine.forward, NULL);
    free(logits);
    return rc;
}

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

static int calibrate(struct run *r, const struct job *j, struct error *err)
{
    int rc = take_text(r, j, err);
    rc = rc ? rc : importance_new(&r->importance, &r->engine.model.facts, err);
    rc = rc ? rc : read_chunks(r, err);
    return rc;
}

static int run_engine(struct run *r, const struct job *j, struct buffer *matrix, struct error *err)
{
    int rc = engine_open(&r->engine, j->model, &j->options, DEFAULT_CONTEXT, err);
    if (rc)
        return rc;
    bool told = !j->options.quiet && !j->options.json;
    if (told)
        report_plan(&r->engine, stderr);
    double begun = clock_seconds();
    rc = calibrate(r, j, err);
    if (!rc && told)
        report_end(&r->engine, clock_seconds() - begun, stderr);
    if (!rc && j->options.json) {
        r->report = json_object();
        report_json(&r->engine, r->report);
    }
    struct importance_origin from = {j->text, r->chunks, r->engine.context};
    rc = rc ? rc : importance_encode(&r->importance, &from, matrix, err);
    importance_free(&r->importance);
    free(r->ids.ids);
    engine_close(&r->engine);
    return rc;
}

static int write_matrix(struct run *r, const struct job *j, struct output *out, struct error *err)
{
    struct buffer matrix = {0};
    int rc = run_engine(r, j, &matrix, err);
    rc = rc ? rc : output_write(out, matrix.data, matrix.size, err);
    buffer_free(&matrix);
    return rc;
}

/* The folder, and in it the importance matrix. path: what the matrix is called. */
static int make(struct run *r, const struct job *j, const char *path, struct error *err)
{
    struct output out;
    if (mkdir(j->folder, 0777) && errno != EEXIST)
        return error_set(err, -errno, "%s: %s", j->folder, strerror(errno));
    if (access(path, F_OK) == 0)
        return error_set(err, -EEXIST, "%s is there already", path);
    int rc = output_open(&out, path, err);
    return rc ? rc : output_close(&out, write_matrix(r, j, &out, err), false, err);
}

static void tell(const struct run *r, const struct job *j, const char *path)
{
    if (!j->options.json) {
        printf("%s: importance of the columns, of %" PRIu32 " chunks\n", path, r->chunks);
        return;
    }
    json_object_set_new(r->report, "imatrix", json_string(path));
    json_object_set_new(r->report, "chunks", json_integer(r->chunks));
    json_dumpf(r->report, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(r->report);
}

static bool take(struct job *j, int c, const char *argument)
{
    switch (c) {
    case 'f':
        j->text = argument;
        return true;
    case 'o':
        j->folder = argument;
        return true;
    case 'n':
        return parse_whole(argument, 1, UINT32_MAX, &j->tokens);
    default:
        return run_options_take(&j->options, c, argument);
    }
}

int run_calibrate(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"text",   required_argument, NULL, 'f'},
        {"output", required_argument, NULL, 'o'},
        {"tokens", required_argument, NULL, 'n'},
        RUN_OPTIONS_LONG
    };
    struct job j = {0};
    for (int c;
         (c = getopt_long(argc, argv, "f:o:n:" RUN_OPTIONS_SHORT, long_options, NULL)) != -1;) {
        if (c == 'h')
            return command_help(self);
        if (c == '?')
            return command_usage(self, "what is wanted?");
        if (!take(&j, c, optarg))
            return command_usage(self, "\"%s\" is out of range", optarg);
    }
    if (!j.text || !j.folder || argc - optind != 1)
        return command_usage(self, "a text (-f), a folder (-o) and one GGUF file are needed");
    j.model = argv[optind];
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/imatrix.gguf", j.folder) >= (int)sizeof path)
        return command_fail("%s: %s", j.folder, strerror(ENAMETOOLONG));
    struct run r = {0};
    struct error err;
    int rc = make(&r, &j, path, &err);
    if (!rc)
        tell(&r, &j, path);
    return rc ? command_fail("%s", err.text) : 0;
}

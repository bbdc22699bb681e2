/* SPDX-License-Identifier: MIT
 *
 * Perplexity as llama.cpp defines it: the text is cut into chunks of the context's length, each
 * begins with BOS in place of its first token where the vocabulary has it so, and the second half
 * of each chunk is what is predicted. What was expected there can be saved, and what another model
 * expects compared with it.
 */
#include "tools/command.h"
#include "tools/run/baseline_file.h"
#include "tools/run/chunks.h"
#include "tools/run/clock.h"
#include "tools/run/divergence.h"
#include "tools/run/report.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { DEFAULT_CONTEXT = 512 };

struct score {
    double sum, squares; /* of the negative logarithms of what the tokens' probabilities were */
    uint64_t count;
};

static double surprise(const float *logits, uint32_t vocab, uint32_t token)
{
    float most = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < vocab; i++)
        most = fmaxf(most, logits[i]);
    for (uint32_t i = 0; i < vocab; i++)
        sum += (double)expf(logits[i] - most);
    return log(sum) - (double)(logits[token] - most);
}

struct job {
    const char *model, *text, *save, *compare; /* text, save, compare: NULL if not given */
    uint64_t chunks;                           /* 0: all */
    struct run_options options;
};

/* A model that is run over a text. */
struct run {
    struct engine engine;
    struct token_ids ids;
    uint32_t chunks; /* of ids */
    struct score score;
    struct baseline_writer writer;
    struct baseline_reader reader;
    bool saves, compares; /* what there is of these two */
    struct divergence divergence;
    json_t *report; /* of the engine, for machines */
};

/* What the model expects in place of token `next`, in row `row` of a chunk. */
static int score_token(struct run *r, uint32_t chunk, uint32_t row, const float *logits,
                       uint32_t next, struct error *err)
{
    uint32_t vocab = r->engine.model.facts.vocab;
    if (r->compares) {
        struct baseline_row base;
        int rc = baseline_read_row(&r->reader, chunk, row, &base, err);
        if (!rc)
            divergence_add(&r->divergence, logits, vocab, &base, next);
        return rc;
    }
    double s = surprise(logits, vocab, next);
    r->score.sum += s;
    r->score.squares += s * s;
    r->score.count++;
    return r->saves ? baseline_write_row(&r->writer, logits, err) : 0;
}

static int score_chunk(struct run *r, uint32_t chunk, struct error *err)
{
    struct engine *e = &r->engine;
    uint32_t n = e->context, vocab = e->model.facts.vocab, batch;
    const uint32_t *tokens = chunks_get(&e->weights.vocab, &r->ids, n, chunk);
    for (uint32_t at = 0; at < n; at += batch) {
        const float *logits;
        batch = n - at < e->batch ? n - at : e->batch;
        int rc = forward_run(e->forward, tokens + at, batch, at, true, err);
        rc = rc ? rc : forward_logits(e->forward, &logits, err);
        for (uint32_t i = at; !rc && i < at + batch; i++)
            if (i >= n / 2 && i + 1 < n)
                rc = score_token(r, chunk, i - n / 2, logits + (size_t)(i - at) * vocab,
                                 tokens[i + 1], err);
        if (rc)
            return rc;
    }
    return 0;
}

static int score_chunks(struct run *r, struct error *err)
{
    struct progress progress;
    int rc = 0;
    progress_begin(&progress, "perplexity", "chunks", r->chunks);
    for (uint32_t c = 0; !rc && c < r->chunks; c++) {
        rc = score_chunk(r, c, err);
        progress_add(&progress, !rc);
    }
    progress_end(&progress);
    return rc;
}

/* ---- what the text is, and what becomes of it ---- */

static int take_text(struct run *r, const struct job *j, struct error *err)
{
    int rc = chunks_read(&r->engine.weights.vocab, j->text, &r->ids, err);
    return rc ? rc : chunks_count(&r->ids, r->engine.context, &r->chunks, err);
}

/* Whether a text, where one is given, is the one that the baseline is of. */
static int check_text(struct run *r, const struct job *j, struct error *err)
{
    struct token_ids given = {0};
    uint32_t n = r->engine.context;
    size_t i = 0;
    int rc = j->text ? chunks_read(&r->engine.weights.vocab, j->text, &given, err) : 0;
    if (rc || !j->text)
        return rc;
    while (i < r->ids.count && i < given.count && given.ids[i] == r->ids.ids[i])
        i++;
    if (i < r->ids.count)
        rc = error_set(err, -EINVAL, "%s: chunk %zu, token %zu: %s is another text", j->compare,
                       i / n, i % n, j->text);
    free(given.ids);
    return rc;
}

static int take_baseline(struct run *r, const struct job *j, struct error *err)
{
    const struct baseline *b = &r->reader.layout;
    if (b->vocab != r->engine.model.facts.vocab)
        return error_set(err, -EINVAL,
                         "%s is of a vocabulary of %" PRIu32 " tokens, and %s has %" PRIu32,
                         j->compare, b->vocab, j->model, r->engine.model.facts.vocab);
    int rc = baseline_read_ids(&r->reader, &r->ids, err);
    r->chunks = b->chunks;
    return rc ? rc : check_text(r, j, err);
}

static int begin_baseline(struct run *r, struct error *err)
{
    struct baseline b = {
        .context = r->engine.context, .vocab = r->engine.model.facts.vocab, .chunks = r->chunks};
    if (!baseline_lay_out(&b))
        return error_set(err, -EFBIG, "the text is too long to be saved");
    return baseline_begin(&r->writer, b, r->ids.ids, err);
}

static int score_text(struct run *r, const struct job *j, struct error *err)
{
    int rc = r->compares ? take_baseline(r, j, err) : take_text(r, j, err);
    if (!rc && j->chunks && j->chunks < r->chunks)
        r->chunks = (uint32_t)j->chunks;
    if (!rc && r->saves)
        rc = begin_baseline(r, err);
    if (!rc && r->compares)
        rc = divergence_new(&r->divergence, (uint64_t)r->reader.layout.rows * r->chunks, err);
    return rc ? rc : score_chunks(r, err);
}

/* context: where the options do not say */
static int run_engine(struct run *r, const struct job *j, uint32_t context, struct error *err)
{
    struct run_options options = j->options;
    options.all_logits = true;
    int rc = engine_open(&r->engine, j->model, &options, context, err);
    if (rc)
        return rc;
    bool told = !j->options.quiet && !j->options.json;
    if (told)
        report_plan(&r->engine, stderr);
    double begun = clock_seconds();
    rc = score_text(r, j, err);
    rc = rc ? rc : engine_trace(&r->engine, err);
    if (!rc && told)
        report_end(&r->engine, clock_seconds() - begun, stderr);
    if (!rc && j->options.json) {
        r->report = json_object();
        report_json(&r->engine, r->report);
    }
    free(r->ids.ids);
    engine_close(&r->engine);
    return rc;
}

static int save(struct run *r, const struct job *j, struct error *err)
{
    int rc = baseline_create(&r->writer, j->save, err);
    r->saves = !rc;
    return rc ? rc : baseline_finish(&r->writer, run_engine(r, j, DEFAULT_CONTEXT, err), err);
}

static int compare(struct run *r, const struct job *j, struct error *err)
{
    int rc = baseline_open(&r->reader, j->compare, err);
    if (rc)
        return rc;
    uint32_t context = r->reader.layout.context;
    r->compares = true;
    if (j->options.context && j->options.context != context)
        rc = error_set(err, -EINVAL, "%s is of contexts of %" PRIu32 " tokens, not %" PRIu32,
                       j->compare, context, j->options.context);
    rc = rc ? rc : run_engine(r, j, context, err);
    baseline_close(&r->reader);
    return rc;
}

static int measure(struct run *r, const struct job *j, struct error *err)
{
    if (j->compare)
        return compare(r, j, err);
    return j->save ? save(r, j, err) : run_engine(r, j, DEFAULT_CONTEXT, err);
}

/* ---- figures ---- */

static json_t *tell_divergence(struct run *r, bool json)
{
    json_t *root = json ? json_object() : NULL;
    divergence_report(&r->divergence, root);
    return root;
}

static json_t *tell_score(const struct run *r, bool json)
{
    double n = (double)r->score.count, mean = r->score.sum / n, perplexity = exp(mean);
    double variance = r->score.squares / n - mean * mean;
    double error = n > 1 && variance > 0 ? perplexity * sqrt(variance / (n - 1)) : 0;
    if (json)
        return json_pack("{s:f, s:f}", "perplexity", perplexity, "perplexity_error", error);
    printf("perplexity %.4f +/- %.4f over %" PRIu32 " chunks\n", perplexity, error, r->chunks);
    return NULL;
}

static void tell(struct run *r, bool json)
{
    json_t *root = r->compares ? tell_divergence(r, json) : tell_score(r, json);
    if (!root)
        return;
    uint64_t tokens = r->compares ? r->divergence.count : r->score.count;
    json_object_set_new(root, "chunks", json_integer(r->chunks));
    json_object_set_new(root, "tokens", json_integer((json_int_t)tokens));
    json_object_update(root, r->report);
    report_print(root);
    json_decref(r->report);
}

static bool take(void *context, int c, const char *argument)
{
    struct job *j = context;
    switch (c) {
    case 'f':
        j->text = argument;
        return true;
    case 'n':
        return parse_whole(argument, 1, UINT32_MAX, &j->chunks);
    case 'S':
        j->save = argument;
        return true;
    case 'K':
        j->compare = argument;
        return true;
    default:
        return run_options_take(&j->options, c, argument);
    }
}

int run_perplexity(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"file",          required_argument, NULL, 'f'},
        {"chunks",        required_argument, NULL, 'n'},
        {"save-logits",   required_argument, NULL, 'S'},
        {"kl-divergence", required_argument, NULL, 'K'},
        RUN_OPTIONS_MACHINE_LONG,
        RUN_OPTIONS_LONG
    };
    struct job j = {0};
    int status = command_options(self, argc, argv, "f:" RUN_OPTIONS_SHORT, long_options, take, &j);
    if (status >= 0)
        return status;
    if ((!j.text && !j.compare) || argc - optind != 1)
        return command_usage(self, "a text (-f) and one GGUF file are needed");
    if (j.save && j.compare)
        return command_usage(self, "--save-logits and --kl-divergence do not go together");
    if (j.options.context && j.options.context < BASELINE_CONTEXT_MIN)
        return command_usage(self, "in %" PRIu32 " tokens nothing is predicted", j.options.context);
    j.model = argv[optind];
    struct run r = {0};
    struct error err;
    int rc = measure(&r, &j, &err);
    if (!rc)
        tell(&r, j.options.json);
    divergence_free(&r.divergence);
    return rc ? command_fail("%s", err.text) : 0;
}

/* SPDX-License-Identifier: MIT
 *
 * How fast a model runs, told as llama-bench tells it: a prompt of so many tokens, and so many
 * tokens one after the other. Which tokens they are makes no difference.
 */
#include "tools/command.h"
#include "tools/run/clock.h"
#include "tools/run/report.h"

#include <errno.h>
#include <inttypes.h>

struct job {
    const char *path;
    struct run_options options;
    uint64_t prompt, length, repeats;
};

struct outcome {
    double prefill, decode; /* tokens a second, the best of the repeats */
    double seconds;         /* of all of them */
};

/* n tokens from position 0 on, in batches of at most `batch`; *rate becomes tokens a second, where
 * that is more. */
static int run_tokens(struct engine *e, uint32_t n, uint32_t batch, double *rate, struct error *err)
{
    uint32_t tokens[ENGINE_BATCH], vocab = e->model.facts.vocab;
    double begun = clock_seconds();
    for (uint32_t at = 0, count, best; at < n; at += count) {
        count = n - at < batch ? n - at : batch;
        for (uint32_t i = 0; i < count; i++)
            tokens[i] = (at + i) * 7919 % vocab;
        int rc = forward_run(e->forward, tokens, count, at, false, err);
        rc = rc ? rc : forward_best(e->forward, &best, err);
        if (rc)
            return rc;
    }
    double now = n / (clock_seconds() - begun + 1e-9);
    *rate = now > *rate ? now : *rate;
    return 0;
}

static int measure(struct engine *e, const struct job *j, struct outcome *out, struct error *err)
{
    double warming = 0, begun = clock_seconds();
    int rc = run_tokens(e, 1, 1, &warming, err);
    for (uint64_t i = 0; !rc && i < j->repeats; i++) {
        if (j->prompt)
            rc = run_tokens(e, (uint32_t)j->prompt, e->batch, &out->prefill, err);
        if (!rc && j->length)
            rc = run_tokens(e, (uint32_t)j->length, 1, &out->decode, err);
    }
    out->seconds = clock_seconds() - begun;
    return rc;
}

static void print(const struct engine *e, const struct job *j, const struct outcome *out)
{
    if (!j->options.json) {
        if (j->prompt)
            printf("prefill of %" PRIu64 " tokens: %.2f tok/s\n", j->prompt, out->prefill);
        if (j->length)
            printf("decode of %" PRIu64 " tokens: %.2f tok/s\n", j->length, out->decode);
        return;
    }
    json_t *root = json_pack("{s:I, s:I, s:f, s:f}", "prompt_tokens", (json_int_t)j->prompt,
                             "decoded_tokens", (json_int_t)j->length, "prefill_tok_s", out->prefill,
                             "decode_tok_s", out->decode);
    report_json(e, root);
    report_print(root);
}

static int bench(const struct job *j, struct error *err)
{
    struct engine e;
    struct outcome out = {0};
    uint64_t longest = j->prompt > j->length ? j->prompt : j->length;
    int rc = engine_open(&e, j->path, &j->options, (uint32_t)longest, err);
    if (rc)
        return rc;
    if (longest > e.context)
        rc = error_set(err, -ERANGE, "%" PRIu64 " tokens do not fit into a context of %" PRIu32,
                       longest, e.context);
    if (!rc && !j->options.quiet)
        report_plan(&e, stderr);
    rc = rc ? rc : measure(&e, j, &out, err);
    rc = rc ? rc : engine_trace(&e, err);
    if (!rc && !j->options.quiet)
        report_end(&e, out.seconds, stderr);
    if (!rc)
        print(&e, j, &out);
    engine_close(&e);
    return rc ? error_prefix(err, rc, "%s", j->path) : 0;
}

static bool take(void *context, int c, const char *argument)
{
    enum { TOKENS_MAX = 1 << 20, REPEATS_MAX = 1000 };
    struct job *j = context;
    switch (c) {
    case 'p':
        return parse_whole(argument, 0, TOKENS_MAX, &j->prompt);
    case 'n':
        return parse_whole(argument, 0, TOKENS_MAX, &j->length);
    case 'e':
        return parse_whole(argument, 1, REPEATS_MAX, &j->repeats);
    default:
        return run_options_take(&j->options, c, argument);
    }
}

int run_bench(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"prompt",  required_argument, NULL, 'p'},
        {"length",  required_argument, NULL, 'n'},
        {"repeats", required_argument, NULL, 'e'},
        RUN_OPTIONS_MACHINE_LONG,
        RUN_OPTIONS_LONG
    };
    struct job j = {.prompt = 512, .length = 128, .repeats = 3};
    int status =
        command_options(self, argc, argv, "p:n:" RUN_OPTIONS_SHORT, long_options, take, &j);
    if (status >= 0)
        return status;
    if (argc - optind != 1 || j.prompt + j.length == 0)
        return command_usage(self, "one GGUF file is needed, and tokens to run");
    j.path = argv[optind];
    struct error err;
    return bench(&j, &err) ? command_fail("%s", err.text) : 0;
}

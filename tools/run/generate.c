/* SPDX-License-Identifier: MIT
 *
 * Text that goes on from a prompt, or that answers a message.
 */
#include "codec/gguf_encode.h"
#include "tools/command.h"
#include "tools/run/chat.h"
#include "tools/run/clock.h"
#include "tools/run/report.h"
#include "tools/run/sample.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEFAULT_LENGTH = 128 };

struct job {
    const char *path, *prompt, *system; /* system: NULL for none */
    bool chat;                          /* the prompt is a message */
    uint64_t length;                    /* most new tokens */
    struct sampler sampler;
    struct run_options options;
    bool print; /* the text, as it comes */
};

struct outcome {
    struct buffer prompt_text; /* as the model sees it, but for BOS */
    struct token_ids prompt;
    uint32_t *tokens, count;
    struct buffer text;
    double prefill_seconds, decode_seconds;
};

static const char *text_of(const struct buffer *b)
{
    return b->size ? (const char *)b->data : "";
}

/* The whole prompt; leaves the logits of its last token. */
static int prefill(struct engine *e, const struct token_ids *ids, struct error *err)
{
    struct progress progress;
    int rc = 0;
    progress_begin(&progress, "reading the prompt", "tokens", ids->count);
    for (uint32_t at = 0, n; !rc && at < ids->count; at += n) {
        n = (uint32_t)ids->count - at < e->batch ? (uint32_t)ids->count - at : e->batch;
        rc = forward_run(e->forward, ids->ids + at, n, at, false, err);
        if (at + n < ids->count) /* there is something to wait for */
            progress_add(&progress, n);
    }
    progress_clear(&progress);
    return rc;
}

static int show(const struct engine *e, const struct job *j, uint32_t token, struct outcome *out,
                struct error *err)
{
    size_t before = out->text.size;
    gguf_vocab_decode(&e->weights.vocab, token, false, &out->text);
    if (out->text.failed)
        return error_set(err, -ENOMEM, "out of memory");
    if (j->print && (fwrite(out->text.data + before, 1, out->text.size - before, stdout) !=
                         out->text.size - before ||
                     fflush(stdout)))
        return error_set(err, -EIO, "stdout: %s", strerror(errno));
    return 0;
}

/* The most probable token is found where the logits are. */
static int choose(struct engine *e, struct job *j, uint32_t *order, uint32_t *token,
                  struct error *err)
{
    const float *logits;
    if (j->sampler.temperature <= 0)
        return forward_best(e->forward, token, err);
    int rc = forward_logits(e->forward, &logits, err);
    if (!rc)
        *token = sample(&j->sampler, logits, e->model.facts.vocab, order);
    return rc;
}

/* New tokens until one that ends the text, or there are enough, or the context is full. */
static int decode(struct engine *e, struct job *j, uint32_t *order, struct outcome *out,
                  struct error *err)
{
    uint32_t position = (uint32_t)out->prompt.count, token;
    for (uint32_t n = 0; n < j->length; n++, position++) {
        int rc = choose(e, j, order, &token, err);
        if (rc)
            return rc;
        if (e->weights.vocab.tokens[token].end)
            return 0;
        out->tokens[out->count++] = token;
        rc = show(e, j, token, out, err);
        if (rc || n + 1 == j->length)
            return rc;
        if (position == e->context) {
            fprintf(stderr, "quantfs-run: the context of %" PRIu32 " tokens is full\n", e->context);
            return 0;
        }
        rc = forward_run(e->forward, &token, 1, position, false, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int encode_prompt(struct engine *e, const struct job *j, struct outcome *out,
                         struct error *err)
{
    struct buffer *text = &out->prompt_text;
    const struct gguf_vocab *v = &e->weights.vocab;
    int rc = 0;
    if (j->chat)
        rc = chat_format(&e->weights.gguf.header, v, j->system, j->prompt, text, err);
    else
        buffer_add(text, j->prompt, strlen(j->prompt));
    if (!rc && text->failed)
        rc = error_set(err, -ENOMEM, "out of memory");
    return rc ? rc
              : gguf_encode(v, text_of(text), text->size, ENCODE_ADD | ENCODE_PARSE, &out->prompt,
                            err);
}

static int continue_prompt(struct engine *e, struct job *j, struct outcome *out, struct error *err)
{
    int rc = encode_prompt(e, j, out, err);
    if (rc)
        return rc;
    if (out->prompt.count == 0)
        return error_set(err, -EINVAL, "the prompt has no tokens");
    if (out->prompt.count > e->context)
        return error_set(err, -ERANGE,
                         "the prompt has %zu tokens, and the context is %" PRIu32 " long",
                         out->prompt.count, e->context);
    uint64_t room = (uint64_t)e->context - out->prompt.count + 1;
    uint32_t *order = calloc(e->model.facts.vocab, sizeof *order);
    out->tokens = calloc(j->length < room ? j->length : room, sizeof *out->tokens);
    rc = order && out->tokens ? 0 : error_set(err, -ENOMEM, "out of memory");
    double begun = clock_seconds();
    rc = rc ? rc : prefill(e, &out->prompt, err);
    out->prefill_seconds = clock_seconds() - begun;
    rc = rc ? rc : decode(e, j, order, out, err);
    out->decode_seconds = clock_seconds() - begun - out->prefill_seconds;
    free(order);
    return rc;
}

/* The first token comes from the prompt's logits. */
static double decode_speed(const struct outcome *out)
{
    return (out->count ? out->count - 1 : 0) / (out->decode_seconds + 1e-9);
}

static double prefill_speed(const struct outcome *out)
{
    return (double)out->prompt.count / (out->prefill_seconds + 1e-9);
}

/* null for what is no UTF-8 */
static json_t *json_text(const struct buffer *b)
{
    json_t *text = json_stringn(text_of(b), b->size);
    return text ? text : json_null();
}

static void print_json(const struct engine *e, const struct outcome *out)
{
    json_t *ids = json_array();
    for (uint32_t i = 0; i < out->count; i++)
        json_array_append_new(ids, json_integer(out->tokens[i]));
    json_t *root = json_pack(
        "{s:o, s:I, s:o, s:o, s:f, s:f}", "prompt", json_text(&out->prompt_text), "prompt_tokens",
        (json_int_t)out->prompt.count, "text", json_text(&out->text), "tokens", ids,
        "prefill_tok_s", prefill_speed(out), "decode_tok_s", decode_speed(out));
    report_json(e, root);
    report_print(root);
}

static void report(const struct engine *e, const struct outcome *out)
{
    fprintf(stderr,
            "\n# prompt: %zu tokens, %.1f tok/s; generated: %" PRIu32 " tokens, %.1f tok/s\n",
            out->prompt.count, prefill_speed(out), out->count, decode_speed(out));
    report_end(e, out->prefill_seconds + out->decode_seconds, stderr);
}

static int generate(struct job *j, struct outcome *out, struct error *err)
{
    struct engine e;
    int rc = engine_open(&e, j->path, &j->options, 0, err);
    if (rc)
        return rc;
    if (!j->options.quiet)
        report_plan(&e, stderr);
    rc = continue_prompt(&e, j, out, err);
    rc = rc ? rc : engine_trace(&e, err);
    if (!rc && !j->options.quiet)
        report(&e, out);
    if (!rc && j->options.json)
        print_json(&e, out);
    engine_close(&e);
    return rc ? error_prefix(err, rc, "%s", j->path) : 0;
}

static bool take(void *context, int c, const char *argument)
{
    struct job *j = context;
    switch (c) {
    case 'p':
        j->prompt = argument;
        return true;
    case 'n':
        return parse_whole(argument, 1, UINT32_MAX, &j->length);
    case 'T':
        return parse_real(argument, 0, 100, &j->sampler.temperature);
    case 'K':
        return parse_whole(argument, 0, UINT32_MAX, &j->sampler.top_k);
    case 'P':
        return parse_real(argument, 0, 1, &j->sampler.top_p);
    case 'S':
        return parse_whole(argument, 0, UINT64_MAX, &j->sampler.state);
    case 'C':
        j->chat = true;
        return true;
    case 'Y':
        j->system = argument;
        return true;
    default:
        return run_options_take(&j->options, c, argument);
    }
}

int run_generate(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"prompt", required_argument, NULL, 'p'},
        {"length", required_argument, NULL, 'n'},
        {"temp",   required_argument, NULL, 'T'},
        {"top-k",  required_argument, NULL, 'K'},
        {"top-p",  required_argument, NULL, 'P'},
        {"seed",   required_argument, NULL, 'S'},
        {"chat",   no_argument,       NULL, 'C'},
        {"system", required_argument, NULL, 'Y'},
        RUN_OPTIONS_MACHINE_LONG,
        RUN_OPTIONS_LONG
    };
    struct job j = {
        .length = DEFAULT_LENGTH,
        .sampler = {.temperature = 0.8, .top_p = 0.95, .top_k = 40, .state = (uint64_t)time(NULL)}
    };
    int status =
        command_options(self, argc, argv, "p:n:" RUN_OPTIONS_SHORT, long_options, take, &j);
    if (status >= 0)
        return status;
    if (!j.prompt || argc - optind != 1)
        return command_usage(self, "a prompt (-p) and one GGUF file are needed");
    if (j.system && !j.chat)
        return command_usage(self, "--system needs --chat");
    j.path = argv[optind];
    j.print = !j.options.json;
    struct outcome out = {0};
    struct error err;
    int rc = generate(&j, &out, &err);
    free(out.prompt.ids);
    free(out.tokens);
    buffer_free(&out.prompt_text);
    buffer_free(&out.text);
    return rc ? command_fail("%s", err.text) : 0;
}

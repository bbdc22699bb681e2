/* SPDX-License-Identifier: MIT
 *
 * Perplexity as llama.cpp defines it: the text is cut into chunks of the context's length, each
 * begins with BOS in place of its first token where the vocabulary has it so, and the second half
 * of each chunk is what is predicted.
 */
#include "codec/gguf_encode.h"
#include "tools/command.h"
#include "tools/run/engine.h"
#include "tools/run/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct score {
    double sum, squares; /* of the negative logarithms of what the tokens' probabilities were */
    uint64_t count;
    uint32_t chunks;
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

static int score_chunk(struct engine *e, uint32_t *tokens, float *logits, struct score *score,
                       struct error *err)
{
    uint32_t n = e->context, vocab = e->model.facts.vocab, batch;
    if (e->weights.vocab.add_bos)
        tokens[0] = e->weights.vocab.bos;
    for (uint32_t at = 0; at < n; at += batch) {
        batch = n - at < ENGINE_BATCH ? n - at : ENGINE_BATCH;
        int rc = forward_run(e->forward, tokens + at, batch, at, true, logits, err);
        if (rc)
            return rc;
        for (uint32_t i = 0; i < batch; i++)
            if (at + i >= n / 2 && at + i + 1 < n) {
                double s = surprise(logits + (size_t)i * vocab, vocab, tokens[at + i + 1]);
                score->sum += s;
                score->squares += s * s;
                score->count++;
            }
    }
    score->chunks++;
    return 0;
}

static int score_text(struct engine *e, struct token_ids *ids, uint32_t chunks, bool quiet,
                      struct score *score, struct error *err)
{
    uint32_t n = e->context, all = (uint32_t)(ids->count / n);
    if (ids->count < 2 * (size_t)n)
        return error_set(err, -EINVAL,
                         "the text has %zu tokens, fewer than two contexts of %" PRIu32, ids->count,
                         n);
    size_t batch = n < ENGINE_BATCH ? n : ENGINE_BATCH;
    float *logits = calloc(batch * e->model.facts.vocab, sizeof *logits);
    int rc = logits ? 0 : error_set(err, -ENOMEM, "out of memory");
    struct progress progress;
    chunks = chunks && chunks < all ? chunks : all;
    progress_begin(&progress, "perplexity", "chunks", chunks);
    for (uint32_t c = 0; !rc && c < chunks; c++) {
        rc = score_chunk(e, ids->ids + (size_t)c * n, logits, score, err);
        if (!quiet)
            progress_add(&progress, 1);
    }
    progress_end(&progress);
    free(logits);
    return rc;
}

static int measure(const char *path, const char *text_path, const struct run_options *o,
                   uint32_t chunks, struct score *score, struct error *err)
{
    struct engine e;
    struct token_ids ids = {0};
    char *text;
    size_t size;
    int rc = read_text(text_path, &text, &size, err);
    if (rc)
        return rc;
    rc = engine_open(&e, path, o->context ? o->context : 512, o->threads, err);
    if (!rc) {
        rc = gguf_encode(&e.weights.vocab, text, size, ENCODE_ADD, &ids, err);
        rc = rc ? rc : score_text(&e, &ids, chunks, o->json, score, err);
        free(ids.ids);
        engine_close(&e);
    }
    free(text);
    return rc;
}

int run_perplexity(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {{"file", required_argument, NULL, 'f'},
                                                 {"chunks", required_argument, NULL, 'n'},
                                                 RUN_OPTIONS_LONG};
    struct run_options o = {0};
    const char *text = NULL;
    uint64_t chunks = 0;
    for (int c; (c = getopt_long(argc, argv, "f:" RUN_OPTIONS_SHORT, long_options, NULL)) != -1;)
        switch (c) {
        case 'f': text = optarg; break;
        case 'n':
            if (!parse_whole(optarg, 1, UINT32_MAX, &chunks))
                return command_usage(self, "--chunks takes a number");
            break;
        case 'h': return command_help(self);
        default:
            if (!run_options_take(&o, c, optarg))
                return command_usage(self, "what is wanted?");
        }
    if (!text || argc - optind != 1)
        return command_usage(self, "a text (-f) and one GGUF file are needed");
    struct score s = {0};
    struct error err;
    if (measure(argv[optind], text, &o, (uint32_t)chunks, &s, &err))
        return command_fail("%s", err.text);
    double n = (double)s.count, mean = s.sum / n, perplexity = exp(mean);
    double variance = s.squares / n - mean * mean;
    double error = n > 1 && variance > 0 ? perplexity * sqrt(variance / (n - 1)) : 0;
    if (o.json)
        printf("{\"perplexity\": %.6f, \"error\": %.6f, \"chunks\": %" PRIu32
               ", \"tokens\": %" PRIu64 "}\n",
               perplexity, error, s.chunks, s.count);
    else
        printf("perplexity %.4f +/- %.4f over %" PRIu32 " chunks\n", perplexity, error, s.chunks);
    return 0;
}

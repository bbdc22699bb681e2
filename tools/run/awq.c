/* SPDX-License-Identifier: MIT */
#include "tools/run/awq.h"

#include "codec/awq/format.h"
#include "codec/safetensors.h"
#include "tools/output.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Losses are summed over so many rows of a matrix at most. All candidates have the same ones, so what
 * they lack hardly tells one candidate from another, and a layer of an 8B model takes a sixth. */
enum { TRIED_ROWS = 1024 };

enum { BATCH = 128, NAME_BYTES = 256 };

/* The least that AutoAWQ divides by, or lets a scale become. */
#define TINY_RANGE 1e-6f
#define TINY_SCALE 1e-4f

/* Attention puts out averages of values, head by head: where a head of values serves several of queries,
 * its rows would have to be divided by several scales. */
static bool is_scaled(const struct facts *f, enum layer_input input)
{
    return input != INPUT_ROUTER && input_cols(f, input) % AWQ_GROUP == 0 &&
           (input != INPUT_O || f->heads == f->kv_heads);
}

uint32_t awq_sets(const struct facts *f)
{
    uint32_t count = 0;
    for (enum layer_input i = 0; i < INPUT_COUNT; i++)
        count += is_scaled(f, i);
    return count;
}

static uint64_t layer_cols(const struct facts *f)
{
    uint64_t sum = 0;
    for (enum layer_input i = 0; i < INPUT_COUNT; i++)
        sum += is_scaled(f, i) ? input_cols(f, i) : 0;
    return sum;
}

uint64_t awq_file_bytes(const struct facts *f)
{
    uint64_t sets = (uint64_t)f->layers * awq_sets(f);
    return sets * NAME_BYTES + 2 * f->layers * layer_cols(f) * sizeof(float) + 2 * NAME_BYTES;
}

uint64_t awq_memory(const struct facts *f)
{
    uint64_t most = f->width > f->ffn ? f->width : f->ffn;
    return 2 * f->layers * layer_cols(f) * sizeof(float) +
           (4 * (uint64_t)BATCH + AWQ_RATIOS + 2) * most * sizeof(float);
}

int awq_begin(struct awq *a, const struct run_model *m, struct source *file, struct team *team,
              const char *folder, struct error *err)
{
    *a = (struct awq){.model = m, .file = file, .team = team};
    if (m->facts.experts)
        return error_set(err, -ENOTSUP,
                         "experts are no linear layers in transformers, and share "
                         "their input: there are no scales of AWQ");
    if (!awq_sets(&m->facts))
        return error_set(err, -ENOTSUP, "no width is a multiple of %d, AWQ's group", AWQ_GROUP);
    if (snprintf(a->path, sizeof a->path, "%s/awq.safetensors", folder) >= (int)sizeof a->path)
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", folder);
    a->sets = calloc((size_t)m->facts.layers * INPUT_COUNT, sizeof *a->sets);
    return a->sets ? 0 : error_set(err, -ENOMEM, "out of memory");
}

void awq_free(struct awq *a)
{
    for (size_t i = 0; a->sets && i < (size_t)a->model->facts.layers * INPUT_COUNT; i++)
        free(a->sets[i].found);
    free(a->sets);
    a->sets = NULL;
}

/* ---- rows of a set's matrices ---- */

/* What is being searched for. */
struct search {
    struct awq *awq;
    const struct weight *matrices[INPUT_MATRICES_MAX]; /* NULL behind the last */
    size_t cols;
    uint8_t *packed;     /* [BATCH] rows as they are in the file */
    float *x;            /* [BATCH][cols]: rows */
    float *d;            /* likewise: how far they are from what is left of them */
    float *work;         /* likewise */
    size_t rows;         /* of a batch */
    uint64_t most;       /* rows of a matrix that are looked at, evenly spread; UINT64_MAX: all */
    double *weight_sums; /* [cols] */
    float *candidates;   /* [AWQ_RATIOS][cols] */
    uint32_t ratio;      /* that is tried */
    double losses[AWQ_RATIOS];
    struct error *err;
};

typedef int batch_fn(struct search *s, const struct hessian *h);

static void list_matrices(struct search *s, const struct layer *l, enum layer_input input)
{
    const struct weight *const all[INPUT_COUNT][INPUT_MATRICES_MAX] = {
        [INPUT_QKV] = {l->q,      l->k},
        [INPUT_O] = {l->o        },
        [INPUT_GATE_UP] = {l->gate[0], l->up[0]},
        [INPUT_DOWN] = {l->down[0]},
    };
    memcpy(s->matrices, all[input], sizeof s->matrices);
    if (input == INPUT_QKV)
        s->matrices[2] = l->v;
}

static int check_format(const struct search *s, const struct weight *m)
{
    return m->format->stripe_bits || m->order
               ? error_set(s->err, -ENOTSUP, "AWQ's scales are not found from weights packed as %s",
                           m->format->title)
               : 0;
}

/* Rows [first, first + s->rows) of `count` that are spread over a matrix. */
static int read_batch(struct search *s, const struct weight *m, uint64_t first, uint64_t count)
{
    size_t run = count == m->rows ? s->rows : 1;
    int rc = 0;
    for (size_t i = 0; !rc && i < s->rows; i += run)
        rc = source_read(s->awq->file, s->packed + i * m->unit_size,
                         m->offset + (first + i) * m->rows / count * m->unit_size,
                         run * m->unit_size, s->err);
    if (!rc)
        m->format->decode(s->packed, s->rows * s->cols, s->x);
    return rc;
}

static int each_batch(struct search *s, const struct hessian *h, batch_fn *use)
{
    int rc = 0;
    for (int i = 0; !rc && i < INPUT_MATRICES_MAX && s->matrices[i]; i++) {
        const struct weight *m = s->matrices[i];
        uint64_t count = m->rows < s->most ? m->rows : s->most;
        rc = check_format(s, m);
        for (uint64_t first = 0; !rc && first < count; first += s->rows) {
            s->rows = count - first < BATCH ? (size_t)(count - first) : BATCH;
            rc = read_batch(s, m, first, count);
            rc = rc ? rc : use(s, h);
        }
    }
    return rc;
}

/* ---- candidates ---- */

/* How great weights are beside the greatest of their group. */
static int sum_weights(struct search *s, const struct hessian *h)
{
    (void)h;
    for (size_t at = 0; at < s->rows * s->cols; at += AWQ_GROUP) {
        const float *x = s->x + at;
        double *sums = s->weight_sums + at % s->cols;
        float greatest = 0;
        for (size_t i = 0; i < AWQ_GROUP; i++)
            greatest = fabsf(x[i]) > greatest ? fabsf(x[i]) : greatest;
        for (size_t i = 0; i < AWQ_GROUP; i++)
            sums[i] += (double)(fabsf(x[i]) / (greatest + TINY_RANGE));
    }
    return 0;
}

static float magnitude(const struct hessian *h, size_t column)
{
    return (float)(h->magnitudes[column] / (double)h->tokens);
}

/* The scales of a ratio between what weights and what inputs ask for; their geometric middle is 1. */
static void make_candidate(struct search *s, uint32_t k, double rows, const struct hessian *h)
{
    float *scales = s->candidates + k * s->cols;
    float ratio = (float)k / AWQ_RATIOS, least = INFINITY, greatest = 0;
    for (size_t c = 0; c < s->cols; c++) {
        float weight = (float)(s->weight_sums[c] / rows);
        float input = magnitude(h, c);
        float v = powf(input, ratio) / (powf(weight, 1 - ratio) + TINY_SCALE);
        v = v > TINY_SCALE ? v : TINY_SCALE;
        scales[c] = v;
        least = v < least ? v : least;
        greatest = v > greatest ? v : greatest;
    }
    float middle = sqrtf(greatest * least);
    for (size_t c = 0; c < s->cols; c++) {
        float v = scales[c] / middle;
        scales[c] = isfinite(v) && v > 0 ? v : 1;
    }
}

static void make_candidates(struct search *s, const struct hessian *h)
{
    double rows = 0;
    for (int i = 0; i < INPUT_MATRICES_MAX && s->matrices[i]; i++)
        rows += (double)s->matrices[i]->rows;
    for (uint32_t k = 0; k < AWQ_RATIOS; k++)
        make_candidate(s, k, rows, h);
}

/* ---- losses ---- */

/* A group scaled, rounded as a folder has it, and scaled back. */
static void round_group(const struct search *s, size_t at)
{
    const float *x = s->x + at;
    const float *scales = s->candidates + s->ratio * s->cols + at % s->cols;
    float scaled[AWQ_GROUP];
    uint8_t codes[AWQ_GROUP];
    for (size_t i = 0; i < AWQ_GROUP; i++)
        scaled[i] = x[i] * scales[i];
    struct awq_group g = awq_quantize(scaled, AWQ_GROUP, codes);
    for (size_t i = 0; i < AWQ_GROUP; i++)
        s->d[at + i] = g.scale * (float)(codes[i] - g.zero) / scales[i] - x[i];
}

static void round_share(void *context, unsigned i, unsigned shares)
{
    const struct search *s = context;
    size_t groups = s->rows * s->cols / AWQ_GROUP;
    for (size_t g = groups * i / shares; g < groups * (i + 1) / shares; g++)
        round_group(s, g * AWQ_GROUP);
}

static int sum_losses(struct search *s, const struct hessian *h)
{
    for (s->ratio = 0; s->ratio < AWQ_RATIOS; s->ratio++) {
        team_run(s->awq->team, round_share, s);
        s->losses[s->ratio] += hessian_loss(h, s->d, (uint32_t)s->rows, s->work);
    }
    return 0;
}

static int keep_best(const struct search *s, const struct hessian *h, struct awq_set *set)
{
    double best = INFINITY;
    for (uint32_t k = 0; k < AWQ_RATIOS; k++)
        if (s->losses[k] < best) {
            best = s->losses[k];
            set->ratio = k;
        }
    if (isinf(best))
        return error_set(s->err, -EDOM, "the weights are too large for AWQ");
    set->found = malloc(2 * s->cols * sizeof *set->found);
    if (!set->found)
        return error_set(s->err, -ENOMEM, "out of memory");
    memcpy(set->found, s->candidates + set->ratio * s->cols, s->cols * sizeof *set->found);
    for (size_t c = 0; c < s->cols; c++)
        set->found[s->cols + c] = magnitude(h, c);
    return 0;
}

static struct awq_set *set_of(const struct awq *a, uint32_t layer, enum layer_input input)
{
    return &a->sets[(size_t)layer * INPUT_COUNT + input];
}

static int allocate(struct search *s)
{
    size_t batch = BATCH * s->cols;
    s->packed = malloc(batch * sizeof(float));
    s->x = malloc(batch * sizeof *s->x);
    s->d = malloc(batch * sizeof *s->d);
    s->work = malloc(batch * sizeof *s->work);
    s->weight_sums = calloc(s->cols, sizeof *s->weight_sums);
    s->candidates = malloc(AWQ_RATIOS * s->cols * sizeof *s->candidates);
    return s->packed && s->x && s->d && s->work && s->weight_sums && s->candidates
               ? 0
               : error_set(s->err, -ENOMEM, "out of memory");
}

int awq_search(struct awq *a, uint32_t layer, enum layer_input input, const struct hessian *h,
               struct error *err)
{
    struct search s = {.awq = a, .cols = (size_t)h->cols, .most = UINT64_MAX, .err = err};
    if (!is_scaled(&a->model->facts, input))
        return 0;
    list_matrices(&s, &a->model->layers[layer], input);
    int rc = allocate(&s);
    rc = rc ? rc : each_batch(&s, h, sum_weights);
    if (!rc) {
        make_candidates(&s, h);
        s.most = TRIED_ROWS;
        rc = each_batch(&s, h, sum_losses);
    }
    rc = rc ? rc : keep_best(&s, h, set_of(a, layer, input));
    free(s.packed);
    free(s.x);
    free(s.d);
    free(s.work);
    free(s.weight_sums);
    free(s.candidates);
    return rc ? error_prefix(err, rc, "layer %" PRIu32 ", %s", layer, input_names[input].input) : 0;
}

/* ---- the file ---- */

static int note_number(struct safetensors_writer *w, const char *key, double value,
                       struct error *err)
{
    char text[32];
    snprintf(text, sizeof text, "%g", value);
    return safetensors_note(w, key, text, err);
}

static int note_settings(struct safetensors_writer *w, const struct origin *from, struct error *err)
{
    char digest[2 * ORIGIN_SIZE + 1];
    sodium_bin2hex(digest, sizeof digest, from->digest, sizeof from->digest);
    int rc = safetensors_note(w, "awq", "1", err);
    rc = rc ? rc : safetensors_note(w, "origin", digest, err);
    rc = rc ? rc : note_number(w, "chunk_size", from->chunk_size, err);
    rc = rc ? rc : note_number(w, "chunks", from->chunks, err);
    rc = rc ? rc : note_number(w, "bits", 4, err);
    return rc ? rc : note_number(w, "group_size", AWQ_GROUP, err);
}

static int add_vector(struct safetensors_writer *w, uint32_t layer, enum layer_input input,
                      const char *what, uint64_t cols, struct error *err)
{
    char name[NAME_BYTES / 4];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.%s", layer, input_names[input].input, what);
    return safetensors_add(w, name, "F32", &cols, 1, cols * sizeof(float), err);
}

/* A set's entries, and how it was found. */
static int add_set(struct safetensors_writer *w, const struct awq *a, uint32_t layer,
                   enum layer_input input, struct error *err)
{
    char key[NAME_BYTES / 4];
    uint64_t cols = input_cols(&a->model->facts, input);
    if (!is_scaled(&a->model->facts, input))
        return 0;
    snprintf(key, sizeof key, "blk.%" PRIu32 ".%s.ratio", layer, input_names[input].input);
    int rc = note_number(w, key, (double)set_of(a, layer, input)->ratio / AWQ_RATIOS, err);
    rc = rc ? rc : add_vector(w, layer, input, "scale", cols, err);
    return rc ? rc : add_vector(w, layer, input, "magnitude", cols, err);
}

static int make_header(const struct awq *a, const struct origin *from, struct buffer *out,
                       struct error *err)
{
    struct safetensors_writer w;
    int rc = safetensors_begin(&w, err);
    rc = rc ? rc : note_settings(&w, from, err);
    for (uint32_t l = 0; l < a->model->facts.layers; l++)
        for (enum layer_input i = 0; !rc && i < INPUT_COUNT; i++)
            rc = add_set(&w, a, l, i, err);
    return safetensors_end(&w, rc ? NULL : out, err) ? -ENOMEM : rc;
}

static int write_sets(const struct awq *a, struct output *out, struct error *err)
{
    int rc = 0;
    for (uint32_t l = 0; l < a->model->facts.layers; l++)
        for (enum layer_input i = 0; !rc && i < INPUT_COUNT; i++)
            if (is_scaled(&a->model->facts, i))
                rc = output_write(out, set_of(a, l, i)->found,
                                  2 * input_cols(&a->model->facts, i) * sizeof(float), err);
    return rc;
}

int awq_write(const struct awq *a, const struct origin *from, struct error *err)
{
    struct buffer header = {0};
    struct output out;
    int rc = make_header(a, from, &header, err);
    rc = rc ? rc : output_open(&out, a->path, err);
    if (!rc) {
        rc = output_write(&out, header.data, header.size, err);
        rc = rc ? rc : write_sets(a, &out, err);
        rc = output_close(&out, rc, true, err);
    }
    buffer_free(&header);
    return rc;
}

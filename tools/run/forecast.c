/* SPDX-License-Identifier: MIT
 *
 * What will fit and how fast it will be, told before anything is loaded or even downloaded: from a
 * file's header, or from a config.json alone.
 */
#include "fs/options.h"
#include "tools/command.h"
#include "tools/run/engine.h"
#include "tools/run/ram.h"
#include "tools/run/sketch.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { LINKS_MAX = 8, FORMATS_MAX = 32, CONTEXT_MAX = 1 << 20 };

/* What weights lie in and are multiplied by, and what is assumed of it unless it is told. */
static const struct device {
    const char *name, *title;
    uint64_t program; /* bytes that it takes itself */
    uint32_t slots; /* for layers on their way; 0: a ring in smaller pieces, as placing.c has it */
    uint32_t batch; /* tokens of a prompt that are taken in at once */
    double memory, efficiency, launch, flops; /* launch: seconds for a layer */
    double links[4];
} devices[] = {
    {"ram",  "RAM",  30000000,  0, ENGINE_BATCH, 40e9,  1,    0,     0.5e12, {0.5e9, 3.5e9, 7e9}    },
    {"vram", "VRAM", 300000000, 3, 512,          800e9, 0.85, 50e-6, 70e12,  {7e9, 14e9, 25e9, 53e9}},
};
enum { RAM, VRAM };

struct wanted {
    const struct device *device;
    uint64_t size; /* bytes of its memory */
    double links[LINKS_MAX];
    size_t link_count;
    double memory, flops;
    bool links_given, memory_given, flops_given, size_given;
    uint32_t context; /* 0: as the model was trained, at most ENGINE_CONTEXT */
    const char *config, *formats;
    bool json;
};

/* A model in one format, placed. */
struct forecast {
    char name[24];
    struct weights weights;                      /* their order and blocks */
    uint64_t embedding_bytes, embedding_weights; /* of which a pass reads single rows */
    double pass_weights;                         /* that a token is multiplied with */
    uint64_t all_weights;
    bool fits;
    uint64_t needs;      /* bytes at least, with all that is not weights */
    uint64_t on_the_way; /* bytes of ring or slots */
    double touched, streamed;
    double speed[LINKS_MAX], prefill[LINKS_MAX]; /* tokens a second, for each link */
};

struct outlook {
    const char *path;
    struct facts facts;
    uint32_t context, batch;
    uint64_t cache, activations, logits;
    struct forecast forecasts[FORMATS_MAX];
    size_t count;
};

/* ---- the figures ---- */

static double expert_share(const struct facts *k)
{
    return k->experts ? (double)k->experts_used / k->experts : 1;
}

static uint64_t rest_of(const struct outlook *o, const struct wanted *w)
{
    return o->cache + o->activations + o->logits + w->device->program;
}

static int set_context(struct outlook *o, const struct wanted *w, struct error *err)
{
    const struct facts *k = &o->facts;
    uint32_t usual = k->trained_context < ENGINE_CONTEXT ? k->trained_context : ENGINE_CONTEXT;
    o->context = w->context ? w->context : usual;
    if (!o->context)
        return error_set(err, -EINVAL, "it is not said how long the context is: give -c");
    const struct plan_sizes s = {.layers = k->layers,
                                 .width = k->width,
                                 .queries = (uint64_t)k->heads * k->head_dim,
                                 .keys = (uint64_t)k->kv_heads * k->head_dim,
                                 .ffn = k->ffn,
                                 .vocab = k->vocab,
                                 .experts = k->experts};
    o->batch = o->context < w->device->batch ? o->context : w->device->batch;
    o->cache = plan_cache(&s, o->context);
    o->activations = plan_activations(&s, o->batch);
    o->logits = plan_logits(&s);
    return 0;
}

static void count_weights(struct forecast *f, double share)
{
    f->all_weights = f->embedding_weights;
    for (size_t i = 0; i < f->weights.count; i++) {
        const struct weight *m = f->weights.order[i];
        uint64_t n = m->rows * m->cols;
        f->all_weights += n;
        f->pass_weights += (double)n * (m->expert == PIECE_ALWAYS ? 1 : share);
    }
}

/* Decides what is resident; false where the memory is too small for anything. */
static bool place(struct forecast *f, const struct wanted *w, uint64_t rest)
{
    struct plan_block *blocks = f->weights.blocks;
    size_t count = f->weights.block_count;
    uint64_t least = w->device->slots ? w->device->slots * plan_largest_layer(blocks, count)
                                      : weights_ring_least(&f->weights);
    f->needs = rest + (least < f->weights.bytes ? least : f->weights.bytes);
    if (w->size < f->needs)
        return false;
    uint64_t budget = w->size - rest;
    if (f->weights.bytes > budget)
        f->on_the_way = w->device->slots ? least : plan_ring(blocks, count, budget, least);
    plan_place(blocks, count, budget - f->on_the_way);
    return true;
}

static int predict(struct forecast *f, const struct outlook *o, const struct wanted *w,
                   struct error *err)
{
    double share = expert_share(&o->facts);
    int rc = weights_blocks(&f->weights, share, err);
    if (rc)
        return rc;
    const struct plan_block *blocks = f->weights.blocks;
    size_t count = f->weights.block_count;
    count_weights(f, share);
    f->fits = place(f, w, rest_of(o, w));
    f->touched = plan_touched(blocks, count);
    f->streamed = plan_streamed(blocks, count);
    /* a batch of a prompt takes all experts between them */
    double unplaced = (double)(f->weights.bytes - plan_resident(blocks, count));
    for (size_t i = 0; i < w->link_count; i++) {
        struct plan_rates rates = {w->links[i], w->memory * w->device->efficiency,
                                   o->facts.layers * w->device->launch};
        f->speed[i] = plan_speed(f->touched, f->streamed, rates);
        f->prefill[i] = plan_prefill(unplaced, f->pass_weights, o->batch, w->links[i], w->flops);
    }
    return 0;
}

/* ---- models ---- */

static void set_embedding(struct forecast *f, const struct weight *embedding)
{
    f->embedding_bytes = embedding->rows * embedding->row_size;
    f->embedding_weights = embedding->rows * embedding->cols;
}

static int look_at_file(struct outlook *o, const struct wanted *w, struct error *err)
{
    struct run_model m;
    struct forecast *f = &o->forecasts[0];
    int rc = weights_open(&f->weights, o->path, NULL, err);
    if (rc)
        return rc;
    o->count = 1;
    strcpy(f->name, "the file");
    rc = run_model_open(&f->weights, &m, err);
    if (!rc) {
        o->facts = m.facts;
        if (m.output->offset != m.embedding.offset)
            set_embedding(f, &m.embedding);
        rc = set_context(o, w, err);
    }
    rc = rc ? rc : predict(f, o, w, err);
    return rc ? error_prefix(err, rc, "%s", o->path) : 0;
}

/* "Q4_K_M", or "3.94". */
static bool parse_packing(const char *item, struct packing *p)
{
    *p = (struct packing){recipe_by_name(item), 0};
    if (p->recipe)
        return true;
    p->recipe = recipe_by_name("Q6_K");
    return parse_real(item, 1, 32, &p->bits);
}

/* What the matrices would be in a file. */
static int add_weights(struct forecast *f, const struct sketch *s, struct packing p,
                       struct error *err)
{
    const struct weight *unused;
    size_t passing = s->tied ? s->count : s->count - 1;
    struct weight *packed = calloc(s->count, sizeof *packed);
    int rc = packed ? sketch_pack(s, p, packed, err) : error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; !rc && i < passing; i++)
        rc = weights_add(&f->weights, &packed[i], &unused, err);
    if (!rc && passing < s->count)
        set_embedding(f, &packed[passing]);
    free(packed);
    return rc;
}

static int add_format(struct outlook *o, const struct sketch *s, const char *item,
                      const struct wanted *w, struct error *err)
{
    struct packing p;
    if (o->count == FORMATS_MAX)
        return error_set(err, -EINVAL, "--formats: more than %d", FORMATS_MAX);
    if (!parse_packing(item, &p))
        return error_set(err, -EINVAL, "--formats: \"%s\" is neither a recipe nor 1 to 32 bits",
                         item);
    struct forecast *f = &o->forecasts[o->count++];
    if (p.bits > 0)
        snprintf(f->name, sizeof f->name, "%g bits", p.bits);
    else
        snprintf(f->name, sizeof f->name, "%s", p.recipe->name);
    int rc = add_weights(f, s, p, err);
    return rc ? rc : predict(f, o, w, err);
}

static int add_formats(struct outlook *o, const struct sketch *s, const struct wanted *w,
                       struct error *err)
{
    char *list = strdup(w->formats), *rest = list, *item;
    int rc = list ? 0 : error_set(err, -ENOMEM, "out of memory");
    while (!rc && (item = strsep(&rest, ",")))
        rc = add_format(o, s, item, w, err);
    free(list);
    return rc;
}

static int set_facts(struct outlook *o, const struct sketch *s, struct error *err)
{
    const char *arch = s->arch->gguf;
    o->facts = s->facts;
    o->facts.habits = habits_by_arch((struct gguf_string){arch, strlen(arch)});
    return o->facts.habits
               ? 0
               : error_set(err, -ENOTSUP, "architectures: models like %s cannot be run", arch);
}

static int look_at_config(struct outlook *o, const struct wanted *w, struct error *err)
{
    struct sketch s;
    char *text;
    size_t size;
    int rc = read_text(o->path, &text, &size, err);
    if (rc)
        return rc;
    rc = sketch_parse((struct blob){text, size}, &s, err);
    free(text);
    if (rc)
        return error_prefix(err, rc, "%s", o->path);
    rc = set_facts(o, &s, err);
    rc = rc ? rc : set_context(o, w, err);
    rc = rc ? error_prefix(err, rc, "%s", o->path) : add_formats(o, &s, w, err);
    sketch_free(&s);
    return rc;
}

static void close_outlook(struct outlook *o)
{
    for (size_t i = 0; i < o->count; i++)
        weights_close(&o->forecasts[i].weights);
}

/* ---- layers ---- */

enum stay { STREAMED, BUT_EXPERTS, RESIDENT };

/* What stays of a layer; of part of a matrix it is as if nothing did. */
static enum stay layer_stays(const struct forecast *f, uint32_t layer)
{
    bool all = true, most = true, experts = false;
    for (size_t b = 0; b < f->weights.block_count; b++) {
        const struct plan_block *block = &f->weights.blocks[b];
        if (block->layer != layer)
            continue;
        bool whole = block->resident == block->bytes;
        all &= whole;
        most &= whole || block->experts;
        experts |= block->experts;
    }
    return all ? RESIDENT : most && experts ? BUT_EXPERTS : STREAMED;
}

static uint32_t count_layers(const enum stay *stays, uint32_t layers, enum stay which)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < layers; l++)
        n += stays[l] == which;
    return n;
}

/* "0-4, 7", to be freed; NULL when memory is out. */
static char *list_layers(const enum stay *stays, uint32_t layers, bool resident)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    const char *comma = "";
    if (!out)
        return NULL;
    for (uint32_t l = 0, n; l < layers; l += n + 1) {
        for (n = 0; l + n < layers && (stays[l + n] == RESIDENT) == resident;)
            n++;
        if (n)
            fprintf(out, n > 1 ? "%s%" PRIu32 "-%" PRIu32 : "%s%" PRIu32, comma, l, l + n - 1);
        comma = n ? ", " : comma;
    }
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}

/* The block that is resident in part; NULL if none is. */
static const struct plan_block *find_partial(const struct forecast *f)
{
    for (size_t b = 0; b < f->weights.block_count; b++) {
        const struct plan_block *block = &f->weights.blocks[b];
        if (block->resident && block->resident < block->bytes)
            return block;
    }
    return NULL;
}

/* Of all layers and the output; to be freed, NULL when memory is out. */
static enum stay *find_stays(const struct outlook *o, const struct forecast *f)
{
    enum stay *stays = calloc(o->facts.layers + 1, sizeof *stays);
    for (uint32_t l = 0; stays && l <= o->facts.layers; l++)
        stays[l] = layer_stays(f, l);
    return stays;
}

/* ---- the page ---- */

/* "3.22 GB": decimal, so that a rate in GB/s divides it. out: 16 bytes. */
static const char *decimal(double bytes, char *out)
{
    if (bytes > 0)
        snprintf(out, 16, bytes >= 1e9 ? "%.2f GB" : "%.1f MB", bytes / (bytes >= 1e9 ? 1e9 : 1e6));
    else
        strcpy(out, "0");
    return out;
}

static void print_memory(const struct outlook *o, const struct wanted *w)
{
    char text[16];
    const struct facts *k = &o->facts;
    printf("%-4s %s%s, of which\n", w->device->title, decimal((double)w->size, text),
           w->size_given ? "" : " (what this machine can give; --ram, --vram)");
    printf("  KV cache     %s = 2 * %" PRIu32 " layers * %" PRIu32 " positions * %" PRIu64
           " * 2 bytes\n",
           decimal((double)o->cache, text), k->layers, o->context,
           (uint64_t)k->kv_heads * k->head_dim);
    printf("  activations  %s of %" PRIu32 " tokens\n", decimal((double)o->activations, text),
           o->batch);
    printf("  logits       %s\n", decimal((double)o->logits, text));
    printf("  program      %s\n", decimal((double)w->device->program, text));
    if (w->device->slots)
        printf("  slots        %" PRIu32 " of the largest layer, if weights are streamed\n",
               w->device->slots);
    else
        printf("  ring         a quarter of the rest, 67 to 268 MB at most, if weights are "
               "streamed\n");
}

static void print_inputs(const struct outlook *o, const struct wanted *w)
{
    const struct device *d = w->device;
    const struct facts *k = &o->facts;
    char count[16];
    printf("\nW    weights that are multiplied with; rows of embeddings are read one by one\n");
    printf("R    of W, those that are resident\n");
    printf("S    of W, those that a token touches");
    if (k->experts)
        printf(": of experts %" PRIu32 " in %" PRIu32, k->experts_used, k->experts);
    printf("\nD    of S, those that are streamed for a token, not being resident\n");
    printf("P    %s weights that a token is multiplied with\n",
           text_count((uint64_t)o->forecasts[0].pass_weights, count));
    printf("L    of the link:");
    for (size_t i = 0; i < w->link_count; i++)
        printf("%s %g", i ? "," : "", w->links[i] / 1e9);
    printf(" GB/s%s\n", w->links_given ? "" : " (assumed; --link)");
    printf("V    of the memory: %g GB/s%s\n", w->memory / 1e9,
           w->memory_given ? "" : " (assumed; --memory)");
    printf("F    of the processor: %g TFLOP/s%s\n\n", w->flops / 1e12,
           w->flops_given ? "" : " (assumed; --flops)");
    if (d->launch > 0)
        printf("tok/s   = 1 / max(D / L, S / (%g * V) + %" PRIu32 " layers * %g us", d->efficiency,
               k->layers, d->launch * 1e6);
    else
        printf("tok/s   = 1 / max(D / L, S / V");
    printf(")\nprefill = %" PRIu32 " / max((W - R) / L, 2 * %" PRIu32 " * P / F)\n", o->batch,
           o->batch);
}

static void print_speed(double speed)
{
    printf(speed < 100 ? "  %9.2f" : "  %9.0f", speed);
}

static void print_row(const struct forecast *f, const struct wanted *w)
{
    char all[16], resident[16], touched[16], streamed[16];
    double bits = 8 * (double)(f->weights.bytes + f->embedding_bytes) / (double)f->all_weights;
    printf("%-9s  %5.2f  %9s  ", f->name, bits, decimal((double)f->weights.bytes, all));
    if (!f->fits) {
        printf("needs %s at least\n", decimal((double)f->needs, all));
        return;
    }
    uint64_t bytes = plan_resident(f->weights.blocks, f->weights.block_count);
    printf("%9s  %9s  %9s", decimal((double)bytes, resident), decimal(f->touched, touched),
           decimal(f->streamed, streamed));
    for (size_t i = 0; i < w->link_count; i++)
        print_speed(f->speed[i]);
    for (size_t i = 0; i < w->link_count; i++)
        print_speed(f->prefill[i]);
    putchar('\n');
}

static void print_table(const struct outlook *o, const struct wanted *w)
{
    printf("\n%-9s  %5s  %9s  %9s  %9s  %9s", "", "bits", "W", "R", "S", "D");
    for (int prefill = 0; prefill < 2; prefill++)
        for (size_t i = 0; i < w->link_count; i++) {
            char title[24];
            snprintf(title, sizeof title, "%s@%g", prefill ? "pre" : "tok/s", w->links[i] / 1e9);
            printf("  %9s", title);
        }
    putchar('\n');
    for (size_t i = 0; i < o->count; i++)
        print_row(&o->forecasts[i], w);
}

static void print_list(const enum stay *stays, uint32_t layers)
{
    char *resident = list_layers(stays, layers, true),
         *streamed = list_layers(stays, layers, false);
    if (resident && streamed && *resident && *streamed) {
        bool shorter = strlen(resident) <= strlen(streamed);
        printf("; %s: %s", shorter ? "resident" : "streamed", shorter ? resident : streamed);
    }
    free(resident);
    free(streamed);
}

static void print_partial(const struct plan_block *block, uint32_t layers)
{
    char text[16];
    printf(", %s of ", decimal((double)block->resident, text));
    if (block->layer == layers)
        printf("the output");
    else
        printf("%s %" PRIu32, block->experts ? "the experts of layer" : "layer", block->layer);
}

static void print_layers(const struct outlook *o, const struct forecast *f)
{
    uint32_t layers = o->facts.layers;
    enum stay *stays = f->fits ? find_stays(o, f) : NULL;
    if (!stays)
        return;
    uint32_t most = count_layers(stays, layers, BUT_EXPERTS);
    const struct plan_block *partial = find_partial(f);
    printf("%-9s  %" PRIu32 " of %" PRIu32 " layers resident", f->name,
           count_layers(stays, layers, RESIDENT), layers);
    if (most)
        printf(", %" PRIu32 " more without their experts", most);
    if (stays[layers] == RESIDENT)
        printf(", the output");
    if (partial)
        print_partial(partial, layers);
    print_list(stays, layers);
    putchar('\n');
    free(stays);
}

static void print_page(const struct outlook *o, const struct wanted *w)
{
    const struct facts *k = &o->facts;
    char count[16];
    printf("%s: %s, %" PRIu32 " layers, %s weights; context %" PRIu32 "\n\n", o->path,
           k->habits->arch, k->layers, text_count(o->forecasts[0].all_weights, count), o->context);
    print_memory(o, w);
    print_inputs(o, w);
    print_table(o, w);
    putchar('\n');
    for (size_t i = 0; i < o->count; i++)
        print_layers(o, &o->forecasts[i]);
}

/* ---- for machines ---- */

static void put(json_t *root, const char *key, uint64_t value)
{
    json_object_set_new(root, key, json_integer((json_int_t)value));
}

static void put_real(json_t *root, const char *key, double value)
{
    json_object_set_new(root, key, json_real(value));
}

static void put_reals(json_t *root, const char *key, const double *values, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_real(values[i]));
    json_object_set_new(root, key, list);
}

static void put_layers(json_t *root, const char *key, const enum stay *stays, uint32_t layers,
                       unsigned which)
{
    json_t *list = json_array();
    for (uint32_t l = 0; l < layers; l++)
        if (which & 1u << stays[l])
            json_array_append_new(list, json_integer(l));
    json_object_set_new(root, key, list);
}

static json_t *describe_placed(const struct outlook *o, const struct forecast *f,
                               const struct wanted *w, json_t *root)
{
    uint32_t layers = o->facts.layers;
    enum stay *stays = find_stays(o, f);
    if (!stays)
        return root;
    const struct plan_block *partial = find_partial(f);
    put(root, "resident_bytes", plan_resident(f->weights.blocks, f->weights.block_count));
    put(root, "ring_bytes", f->on_the_way);
    put_real(root, "streamed_bytes", f->streamed);
    put_layers(root, "resident_layers", stays, layers, 1 << RESIDENT);
    put_layers(root, "resident_but_experts", stays, layers, 1 << BUT_EXPERTS);
    put_layers(root, "streamed_layers", stays, layers, 1 << STREAMED | 1 << BUT_EXPERTS);
    json_object_set_new(root, "output_resident", json_boolean(stays[layers] == RESIDENT));
    json_object_set_new(root, "partial_layer",
                        partial ? json_integer(partial->layer) : json_null());
    put(root, "partial_bytes", partial ? partial->resident : 0);
    put_reals(root, "tok_s", f->speed, w->link_count);
    put_reals(root, "prefill_tok_s", f->prefill, w->link_count);
    free(stays);
    return root;
}

static json_t *describe_forecast(const struct outlook *o, const struct forecast *f,
                                 const struct wanted *w)
{
    json_t *root = json_object();
    json_object_set_new(root, "format", json_string(f->name));
    put_real(root, "bits_per_weight",
             8 * (double)(f->weights.bytes + f->embedding_bytes) / (double)f->all_weights);
    put(root, "weights_bytes", f->weights.bytes);
    put(root, "embedding_bytes", f->embedding_bytes);
    put_real(root, "touched_bytes", f->touched);
    put_real(root, "products", f->pass_weights);
    put(root, "needed_bytes", f->needs);
    json_object_set_new(root, "fits", json_boolean(f->fits));
    return f->fits ? describe_placed(o, f, w, root) : root;
}

static void print_json(const struct outlook *o, const struct wanted *w)
{
    const struct device *d = w->device;
    json_t *root = json_object(), *list = json_array();
    json_object_set_new(root, "model", json_string(o->path));
    json_object_set_new(root, "architecture", json_string(o->facts.habits->arch));
    put(root, "layers", o->facts.layers);
    put(root, "experts", o->facts.experts);
    put(root, "experts_used", o->facts.experts_used);
    put(root, "context", o->context);
    put(root, "batch", o->batch);
    json_object_set_new(root, "device", json_string(d->name));
    put(root, "memory_bytes", w->size);
    put(root, "cache_bytes", o->cache);
    put(root, "activation_bytes", o->activations);
    put(root, "logit_bytes", o->logits);
    put(root, "program_bytes", d->program);
    put(root, "slots", d->slots);
    put_reals(root, "link_rates", w->links, w->link_count);
    put_real(root, "memory_rate", w->memory);
    put_real(root, "efficiency", d->efficiency);
    put_real(root, "launch_seconds", d->launch);
    put_real(root, "flops", w->flops);
    for (size_t i = 0; i < o->count; i++)
        json_array_append_new(list, describe_forecast(o, &o->forecasts[i], w));
    json_object_set_new(root, "formats", list);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

/* ---- the command ---- */

/* "25G": K, M, G, T, powers of 1000. */
static bool parse_rate(const char *text, double *out)
{
    static const char units[] = "KMGT";
    char copy[32];
    double unit = 1;
    size_t n = strlen(text);
    if (n == 0 || n >= sizeof copy)
        return false;
    memcpy(copy, text, n + 1);
    const char *found = strchr(units, copy[n - 1]);
    if (found) {
        copy[n - 1] = '\0';
        for (const char *u = units; u <= found; u++)
            unit *= 1000;
    }
    if (!parse_real(copy, 0, 1e18, out))
        return false;
    *out *= unit;
    return *out >= 1 && *out <= 1e18;
}

static bool parse_links(const char *text, struct wanted *w)
{
    char copy[256], *rest = copy, *item;
    if (strlen(text) >= sizeof copy)
        return false;
    strcpy(copy, text);
    w->links_given = true;
    for (w->link_count = 0; (item = strsep(&rest, ",")); w->link_count++)
        if (w->link_count == LINKS_MAX || !parse_rate(item, &w->links[w->link_count]))
            return false;
    return true;
}

static bool take_size(struct wanted *w, int device, const char *argument)
{
    if (w->size_given || !size_parse(argument, &w->size) || w->size == 0)
        return false;
    w->size_given = true;
    w->device = &devices[device];
    return true;
}

static bool take(struct wanted *w, int c, const char *argument)
{
    uint64_t v;
    switch (c) {
    case 'C':
        w->config = argument;
        return true;
    case 'F':
        w->formats = argument;
        return true;
    case 'r':
        return take_size(w, RAM, argument);
    case 'v':
        return take_size(w, VRAM, argument);
    case 'l':
        return parse_links(argument, w);
    case 'm':
        return w->memory_given = parse_rate(argument, &w->memory);
    case 'f':
        return w->flops_given = parse_rate(argument, &w->flops);
    case 'c':
        if (!parse_whole(argument, 1, CONTEXT_MAX, &v))
            return false;
        w->context = (uint32_t)v;
        return true;
    case 'j':
        w->json = true;
        return true;
    default:
        return false;
    }
}

/* What was not told is the device's. */
static void assume(struct wanted *w)
{
    const struct device *d = w->device;
    if (!w->size_given) { /* a sixteenth is for what the machine wants meanwhile, as in a run */
        uint64_t available = ram_available();
        w->size = available - available / 16;
    }
    for (size_t i = 0;
         !w->links_given && i < sizeof d->links / sizeof *d->links && d->links[i] > 0;)
        w->links[w->link_count++] = d->links[i++];
    w->memory = w->memory_given ? w->memory : d->memory;
    w->flops = w->flops_given ? w->flops : d->flops;
    w->formats = w->formats ? w->formats : "F16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K";
}

/* Where nothing fits, that is an error, of the format that needs least. */
static int check_fit(const struct outlook *o, const struct wanted *w, struct error *err)
{
    char has[16], rest[16], needs[16];
    const struct forecast *least = &o->forecasts[0];
    for (size_t i = 0; i < o->count; i++) {
        if (o->forecasts[i].fits)
            return 0;
        least = o->forecasts[i].needs < least->needs ? &o->forecasts[i] : least;
    }
    return error_set(err, -ENOMEM,
                     "%s: %s of %s are not enough: %s needs %s at least, of which a context of"
                     " %" PRIu32 " and the program take %s",
                     o->path, decimal((double)w->size, has), w->device->title, least->name,
                     decimal((double)least->needs, needs), o->context,
                     decimal((double)rest_of(o, w), rest));
}

static int look(struct outlook *o, const struct wanted *w, struct error *err)
{
    int rc = w->config ? look_at_config(o, w, err) : look_at_file(o, w, err);
    return rc ? rc : check_fit(o, w, err);
}

int run_plan(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"config",           required_argument, NULL, 'C'},
        {"formats",              required_argument, NULL, 'F'},
        {"ram",                  required_argument, NULL, 'r'},
        {"vram",required_argument, NULL, 'v'},
        {"link",               required_argument, NULL, 'l'},
        {"memory",              required_argument, NULL, 'm'},
        {"flops",              required_argument, NULL, 'f'},
        {"context",                  required_argument, NULL, 'c'},
        {"json",              no_argument, NULL, 'j'},
        {"help",               no_argument, NULL, 'h'},
        {0            }
    };
    struct wanted w = {.device = &devices[RAM]};
    for (int c; (c = getopt_long(argc, argv, "c:h", long_options, NULL)) != -1;) {
        if (c == 'h')
            return command_help(self);
        if (!take(&w, c, optarg))
            return command_usage(self, "what is wanted?");
    }
    if (argc - optind != !w.config)
        return command_usage(self, "one GGUF file is needed, or --config");
    if (w.formats && !w.config)
        return command_usage(self, "--formats is for --config: a file has its own");
    assume(&w);
    struct outlook o = {.path = w.config ? w.config : argv[optind]};
    struct error err;
    int rc = look(&o, &w, &err);
    if (!rc && w.json)
        print_json(&o, &w);
    else if (!rc)
        print_page(&o, &w);
    close_outlook(&o);
    return rc ? command_fail("%s", err.text) : 0;
}

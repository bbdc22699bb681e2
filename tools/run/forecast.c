/* SPDX-License-Identifier: MIT */
#include "tools/run/forecast.h"

#include "fs/options.h"
#include "tools/command.h"
#include "tools/run/engine.h"
#include "tools/run/ram.h"
#include "tools/run/sketch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT_MAX = 1 << 20 };

static const struct device devices[] = {
    {.name = "ram",
     .title = "RAM",
     .program = 30000000,
     .memory = 40e9,
     .efficiency = 1,
     .flops = 0.5e12,
     .links = {0.5e9, 3.5e9, 7e9}},
    {.name = "vram",
     .title = "VRAM",
     .program = 300000000,
     .run_alignment = 16,
     .lifts = true,
     .memory = 800e9,
     .efficiency = 0.85,
     .launch = 50e-6,
     .flops = 70e12,
     .links = {7e9, 14e9, 25e9, 53e9}},
};
enum { RAM, VRAM };

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
    o->batch = o->context < ENGINE_BATCH ? o->context : ENGINE_BATCH;
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
    bool lifts = w->device->lifts;
    uint64_t least = lifts ? weights_slots_least(&f->weights, LIFT_COPY)
                           : weights_ring_least(&f->weights);
    f->needs = rest + (least < f->weights.bytes ? least : f->weights.bytes);
    if (w->size < f->needs)
        return false;
    uint64_t budget = w->size - rest;
    if (lifts)
        weights_lift_slots(&f->weights, budget, UINT64_MAX, &f->slots, &f->slot_size);
    if (f->weights.bytes > budget)
        f->on_the_way = lifts ? f->slots * f->slot_size : plan_ring(blocks, count, budget, least);
    plan_place(blocks, count, budget - f->on_the_way);
    return true;
}

static int predict(struct forecast *f, const struct outlook *o, const struct wanted *w,
                   struct error *err)
{
    double share = expert_share(&o->facts);
    f->weights.run_alignment = w->device->run_alignment;
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
    f->embedding_bytes = embedding->units * embedding->unit_size;
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

static bool take(void *context, int c, const char *argument)
{
    struct wanted *w = context;
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
                     o->path, forecast_bytes((double)w->size, has), w->device->title, least->name,
                     forecast_bytes((double)least->needs, needs), o->context,
                     forecast_bytes((double)rest_of(o, w), rest));
}

static int look(struct outlook *o, const struct wanted *w, struct error *err)
{
    int rc = w->config ? look_at_config(o, w, err) : look_at_file(o, w, err);
    return rc ? rc : check_fit(o, w, err);
}

int run_plan(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"config",  required_argument, NULL, 'C'},
        {"formats", required_argument, NULL, 'F'},
        {"ram",     required_argument, NULL, 'r'},
        {"vram",    required_argument, NULL, 'v'},
        {"link",    required_argument, NULL, 'l'},
        {"memory",  required_argument, NULL, 'm'},
        {"flops",   required_argument, NULL, 'f'},
        {"context", required_argument, NULL, 'c'},
        {"json",    no_argument,       NULL, 'j'},
        {"help",    no_argument,       NULL, 'h'},
        {0}
    };
    struct wanted w = {.device = &devices[RAM]};
    int status = command_options(self, argc, argv, "c:h", long_options, take, &w);
    if (status >= 0)
        return status;
    if (argc - optind != !w.config)
        return command_usage(self, "one GGUF file is needed, or --config");
    if (w.formats && !w.config)
        return command_usage(self, "--formats is for --config: a file has its own");
    assume(&w);
    struct outlook o = {.path = w.config ? w.config : argv[optind]};
    struct error err;
    int rc = look(&o, &w, &err);
    if (!rc && w.json)
        forecast_print_json(&o, &w);
    else if (!rc)
        forecast_print(&o, &w);
    close_outlook(&o);
    return rc ? command_fail("%s", err.text) : 0;
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/forecast.h"

#include "tools/command.h"
#include "tools/run/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

const char *forecast_bytes(double bytes, char *out)
{
    if (bytes > 0)
        snprintf(out, 16, bytes >= 1e9 ? "%.2f GB" : "%.1f MB", bytes / (bytes >= 1e9 ? 1e9 : 1e6));
    else
        strcpy(out, "0");
    return out;
}

/* Of the format that fits and has the largest: they are nearly the same. */
static void print_slots(const struct outlook *o)
{
    char text[16];
    const struct forecast *most = &o->forecasts[0];
    for (size_t i = 1; i < o->count; i++)
        most = o->forecasts[i].slot_size > most->slot_size ? &o->forecasts[i] : most;
    printf("  slots        %" PRIu32 " of %s, for pieces on their way, if weights are streamed\n",
           most->slots, forecast_bytes((double)most->slot_size, text));
}

static void print_memory(const struct outlook *o, const struct wanted *w)
{
    char text[16];
    const struct facts *k = &o->facts;
    printf("%-4s %s%s, of which\n", w->device->title, forecast_bytes((double)w->size, text),
           w->size_given ? "" : " (what this machine can give; --ram, --vram)");
    printf("  KV cache     %s = 2 * %" PRIu32 " layers * %" PRIu32 " positions * %" PRIu64
           " * 2 bytes\n",
           forecast_bytes((double)o->cache, text), k->layers, o->context,
           (uint64_t)k->kv_heads * k->head_dim);
    printf("  activations  %s of %" PRIu32 " tokens\n",
           forecast_bytes((double)o->activations, text), o->batch);
    printf("  logits       %s\n", forecast_bytes((double)o->logits, text));
    printf("  program      %s\n", forecast_bytes((double)w->device->program, text));
    if (w->device->lifts)
        print_slots(o);
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
    printf("%-9s  %5.2f  %9s  ", f->name, bits, forecast_bytes((double)f->weights.bytes, all));
    if (!f->fits) {
        printf("needs %s at least\n", forecast_bytes((double)f->needs, all));
        return;
    }
    uint64_t bytes = plan_resident(f->weights.blocks, f->weights.block_count);
    printf("%9s  %9s  %9s", forecast_bytes((double)bytes, resident),
           forecast_bytes(f->touched, touched), forecast_bytes(f->streamed, streamed));
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
    printf(", %s of ", forecast_bytes((double)block->resident, text));
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

void forecast_print(const struct outlook *o, const struct wanted *w)
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
    put(root, "slots", f->slots);
    put(root, "slot_bytes", f->slot_size);
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

void forecast_print_json(const struct outlook *o, const struct wanted *w)
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
    put_reals(root, "link_rates", w->links, w->link_count);
    put_real(root, "memory_rate", w->memory);
    put_real(root, "efficiency", d->efficiency);
    put_real(root, "launch_seconds", d->launch);
    put_real(root, "flops", w->flops);
    for (size_t i = 0; i < o->count; i++)
        json_array_append_new(list, describe_forecast(o, &o->forecasts[i], w));
    json_object_set_new(root, "formats", list);
    report_print(root);
}

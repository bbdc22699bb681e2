/* SPDX-License-Identifier: MIT */
#include "codec/derived.h"
#include "codec/hf_quant.h"
#include "codec/lora.h"
#include "fs/gguf_file.h"
#include "fs/hf_file.h"
#include "fs/lora_file.h"
#include "fs/mount.h"
#include "fs/service.h"
#include "fs/tensor_file.h"
#include "tools/command.h"
#include "tools/mount_stats.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct ls {
    struct service service;
    bool verbose, tensors;
    json_t *json; /* an array of models, NULL for text */
    int failures;
};

/* ---- which store ---- */

/* The store behind a mount, seen as the mount sees it. False where the folder is none. */
static bool store_of_mount(const char *folder, char *out, struct options *options)
{
    json_t *stats = mount_stats(folder);
    const char *store = json_string_value(json_object_get(stats, "store"));
    if (store) {
        snprintf(out, PATH_MAX, "%s", store);
        options->requantize = json_is_true(json_object_get(stats, "requantize"));
        const char *calibration = json_string_value(json_object_get(stats, "calibration"));
        const char *base = json_string_value(json_object_get(stats, "base"));
        options->calibration = calibration ? strdup(calibration) : NULL;
        options->base = base ? strdup(base) : NULL;
        options->onto_nf4 = json_is_true(json_object_get(stats, "onto_nf4"));
        options->follow_links = json_is_true(json_object_get(stats, "follow_links"));
    }
    json_decref(stats);
    return store != NULL;
}

struct only {
    char mount_point[PATH_MAX];
    int count;
};

static bool count_mount(void *context, const char *mount_point)
{
    struct only *only = context;
    snprintf(only->mount_point, sizeof only->mount_point, "%s", mount_point);
    only->count++;
    return true;
}

static void choose_store(const char *given, char *out, struct options *options)
{
    struct only only = {.count = 0};
    if (!given)
        mount_each(count_mount, &only);
    const char *folder = given ? given : only.count == 1 ? only.mount_point : ".";
    if (!store_of_mount(folder, out, options))
        snprintf(out, PATH_MAX, "%s", folder);
}

/* ---- what is shown of a model ---- */

/* The size of a recipe's file: exact with -v, else without the header, which needs the tokenizer. */
static uint64_t recipe_size(const struct ls *ls, struct checkpoint *c,
                            const struct recipe *recipe, struct error *err)
{
    uint64_t size = 0;
    int rc = ls->verbose ? gguf_file_size(c, NULL, recipe, &size, err)
                         : gguf_file_data_size(c, recipe, &size, err);
    return rc ? 0 : size;
}

/* Those that are guided, or the others, in cells so wide, so many a line. */
static int print_recipes(const struct ls *ls, struct checkpoint *c, bool guided, int width, int cells,
                         struct error *err)
{
    int shown = 0, last = 0;
    for (int i = 0; i < RECIPE_COUNT; i++) {
        char size[16];
        const struct recipe *r = &recipes[i];
        if (r->guided != guided || !gguf_file_offered(c, r))
            continue;
        uint64_t bytes = recipe_size(ls, c, r, err);
        if (!bytes)
            return -1;
        if (ls->verbose) {
            printf("  %14" PRIu64 "  gguf/%s-%s.gguf\n", bytes, c->base, r->name);
            continue;
        }
        if (shown % cells)
            printf("%*s", width - last, "");
        else
            fputs(shown ? "\n  " : "  ", stdout);
        last = printf("%-7s %s", r->name, text_bytes(bytes, size));
        shown++;
    }
    if (shown)
        putchar('\n');
    return 0;
}

static void print_all_recipes(struct ls *ls, struct checkpoint *c)
{
    struct error err;
    if (print_recipes(ls, c, false, 20, 5, &err) || print_recipes(ls, c, true, 26, 4, &err)) {
        printf("  no gguf/: %s\n", err.text);
        ls->failures++;
    }
}

/* Why a model has none of the folders that a method quantizes; false where it has them. Without a
 * mapping, the reason is that of gguf/. */
static bool method_refused(const struct checkpoint *c, int method, struct error *err)
{
    for (int i = 0; c->mapped && hf_offered(c) && i < HF_FORM_COUNT; i++)
        if (hf_forms[i].method == &hf_methods[method])
            return hf_form_offered(c, &hf_forms[i], err) != 0;
    return false;
}

static void print_refused(const struct checkpoint *c)
{
    struct error err;
    for (int i = 0; i < HF_METHOD_COUNT; i++)
        if (method_refused(c, i, &err))
            printf("  no hf/%s%s: %s\n", hf_methods[i].name, hf_methods[i].one ? "" : "-*", err.text);
}

/* Tensors that are unpacked where they are read, and those that an adapter adds to. */
static void count_derived(const struct checkpoint *c, size_t *packed, size_t *adapted)
{
    *packed = *adapted = 0;
    for (size_t i = 0; i < c->tensors.count; i++) {
        const struct tensor *t = &c->tensors.items[i];
        *packed += t->derived && tensor_is_quantized(t);
        *adapted += t->derived && t->derived->method == &lora_method;
    }
}

static void print_derived(const struct checkpoint *c)
{
    size_t packed, adapted;
    count_derived(c, &packed, &adapted);
    if (c->onto)
        printf("  an adapter of %s, %zu of whose tensors it adds to\n", c->onto->name, adapted);
    if (packed)
        printf("  %zu of the tensors are packed%s\n", packed,
               c->quantized ? ": without requantize only floats are made of them" : "");
}

/* How a tensor is stored, whose floats follow from that. */
static void print_method(const struct derived *d)
{
    printf(" of %s", d->method->name);
    if (d->bits)
        printf(", %" PRIu32 " bits", d->bits);
    if (d->group)
        printf(", groups of %" PRIu64, d->group);
    if (d->rank)
        printf(", rank %" PRIu64, d->rank);
}

/* An adapter as a file of its own. */
static void print_lora(struct ls *ls, struct checkpoint *c)
{
    struct error err;
    uint64_t bytes;
    char size[16];
    if (*c->lora_problem.text)
        printf("  no gguf/%s-%s.gguf: %s\n", c->base, lora_file_kind, c->lora_problem.text);
    if (!lora_file_offered(c))
        return;
    if (lora_file_size(c, &bytes, &err)) {
        printf("  no gguf/%s-%s.gguf: %s\n", c->base, lora_file_kind, err.text);
        ls->failures++;
    } else if (ls->verbose) {
        printf("  %14" PRIu64 "  gguf/%s-%s.gguf\n", bytes, c->base, lora_file_kind);
    } else {
        printf("  %s %s\n", lora_file_kind, text_bytes(bytes, size));
    }
}

static void print_tensors(const struct checkpoint *c)
{
    for (size_t i = 0; i < c->tensors.count; i++) {
        const struct tensor *t = &c->tensors.items[i];
        printf("  tensors/%s  %s", t->name, t->dtype->name);
        if (t->derived)
            print_method(t->derived);
        printf(" [");
        for (uint32_t d = 0; d < t->ndim; d++)
            printf("%s%" PRIu64, d ? ", " : "", t->shape[d]);
        printf("] ");
        for (unsigned form = 0; form < FORM_COUNT; form++)
            if (tensor_has_form(c, t, form))
                printf(" %s", tensor_form_name(t, form));
        putchar('\n');
    }
}

static uint64_t parameters(const struct checkpoint *c)
{
    uint64_t n = 0;
    for (size_t i = 0; i < c->tensors.count; i++)
        n += c->tensors.items[i].elements;
    return n;
}

static void print_model(struct ls *ls, struct checkpoint *c)
{
    char count[16];
    printf("%s  %s, %zu tensors, %s parameters\n", c->name,
           *c->architecture ? c->architecture : "unknown",
           c->tensors.count, text_count(parameters(c), count));
    if (*c->problem.text)
        printf("  %s: %s\n", c->incomplete ? "incomplete" : "no gguf/", c->problem.text);
    for (size_t i = 0; i < c->file_count; i++)
        if (c->files[i].outside)
            printf("  original/%s is not shown: it is a link that leaves the store\n",
                   c->files[i].path);
    print_derived(c);
    if (c->mapped)
        print_all_recipes(ls, c);
    print_lora(ls, c);
    print_refused(c);
    if (ls->tensors)
        print_tensors(c);
}

static json_t *json_tensors(const struct checkpoint *c)
{
    json_t *list = json_array();
    for (size_t i = 0; i < c->tensors.count; i++) {
        char *text = tensor_info(c, &c->tensors.items[i]);
        json_t *info = text ? json_loads(text, 0, NULL) : NULL;
        json_array_append_new(list, info ? info : json_null());
        free(text);
    }
    return list;
}

static json_t *json_folders(const struct checkpoint *c)
{
    struct error err;
    json_t *list = json_array();
    for (int i = 0; hf_offered(c) && i < HF_FORM_COUNT; i++)
        if (hf_form_offered(c, &hf_forms[i], &err) == 0)
            json_array_append_new(list, json_string(hf_forms[i].name));
    return list;
}

static json_t *json_refused(const struct checkpoint *c)
{
    struct error err;
    json_t *reasons = json_object();
    for (int i = 0; i < HF_METHOD_COUNT; i++)
        if (method_refused(c, i, &err))
            json_object_set_new(reasons, hf_methods[i].name, json_string(err.text));
    return reasons;
}

static void add_json(struct ls *ls, struct checkpoint *c)
{
    struct error err;
    json_t *model = json_object(), *sizes = json_object();
    json_object_set_new(model, "name", json_string(c->name));
    json_object_set_new(model, "architecture",
                        *c->architecture ? json_string(c->architecture) : json_null());
    json_object_set_new(model, "state",
                        json_string(c->mapped       ? "ready"
                                    : c->incomplete ? "incomplete"
                                                    : "refused"));
    json_object_set_new(model, "tensor_count", json_integer((json_int_t)c->tensors.count));
    size_t packed, adapted;
    count_derived(c, &packed, &adapted);
    json_object_set_new(model, "packed_count", json_integer((json_int_t)packed));
    json_object_set_new(model, "adapter_of", c->onto ? json_string(c->onto->name) : json_null());
    json_object_set_new(model, "adapted_count", json_integer((json_int_t)adapted));
    json_object_set_new(model, "parameters", json_integer((json_int_t)parameters(c)));
    json_object_set_new(model, "problem",
                        *c->problem.text ? json_string(c->problem.text) : json_null());
    for (int i = 0; i < RECIPE_COUNT; i++) {
        if (!gguf_file_offered(c, &recipes[i]))
            continue;
        uint64_t bytes = recipe_size(ls, c, &recipes[i], &err);
        if (!bytes) {
            json_object_set_new(model, "problem", json_string(err.text));
            ls->failures++;
            break;
        }
        json_object_set_new(sizes, recipes[i].name, json_integer((json_int_t)bytes));
    }
    json_object_set_new(model, ls->verbose ? "file_bytes" : "data_bytes", sizes);
    uint64_t lora = 0;
    if (lora_file_offered(c) && lora_file_size(c, &lora, &err))
        ls->failures++;
    json_object_set_new(model, "lora_bytes", lora ? json_integer((json_int_t)lora) : json_null());
    json_object_set_new(model, "lora_refused",
                        *c->lora_problem.text ? json_string(c->lora_problem.text) : json_null());
    json_object_set_new(model, "hf", json_folders(c));
    json_object_set_new(model, "hf_refused", json_refused(c));
    if (ls->tensors)
        json_object_set_new(model, "tensors", json_tensors(c));
    json_array_append_new(ls->json, model);
}

/* ---- all models ---- */

struct numbers {
    uint32_t *items;
    size_t count, capacity;
};

static bool collect(void *context, const struct store_entry *e)
{
    struct numbers *n = context;
    if (n->count == n->capacity) {
        size_t capacity = n->capacity ? 2 * n->capacity : 64;
        uint32_t *items = reallocarray(n->items, capacity, sizeof *items);
        if (!items)
            return false;
        n->items = items;
        n->capacity = capacity;
    }
    n->items[n->count++] = e->number;
    return true;
}

static void print_outside(void *context, const char *path)
{
    (void)context;
    printf("%s is not shown: it is a link that leaves the store\n", path);
}

static void list_models(struct ls *ls)
{
    struct numbers numbers = {0};
    struct error err;
    store_each_model(ls->service.tree.store, collect, &numbers);
    for (size_t i = 0; i < numbers.count; i++) {
        struct checkpoint *c;
        if (store_get(ls->service.tree.store, numbers.items[i], &c, &err)) {
            ls->failures++;
            fprintf(stderr, "quantfs: %s\n", err.text);
            continue;
        }
        if (ls->json)
            add_json(ls, c);
        else
            print_model(ls, c);
        gguf_file_forget(c);
        lora_file_forget(c);
        checkpoint_unref(c);
    }
    if (!ls->json)
        store_each_outside(ls->service.tree.store, print_outside, NULL);
    if (!numbers.count && !ls->json)
        printf("no models in %s\n", store_path(ls->service.tree.store));
    free(numbers.items);
}

int run_ls(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"help", no_argument, NULL, 'h'}, {"json", no_argument, NULL, 'j'}, {0}};
    struct ls ls = {0};
    struct options options;
    struct error err;
    char store[PATH_MAX];
    bool json = false;
    options_init(&options);
    for (int c; (c = getopt_long(argc, argv, "vth", long_options, NULL)) != -1;) {
        if (c == 'h')
            return command_help(self);
        if (c == 'v')
            ls.verbose = true;
        else if (c == 't')
            ls.tensors = true;
        else if (c == 'j')
            json = true;
        else
            return command_usage(self, "what is wanted?");
    }
    if (argc - optind > 1)
        return command_usage(self, "one store or mount at a time");
    choose_store(optind < argc ? argv[optind] : NULL, store, &options);
    if (service_open(&ls.service, store, &options, &err)) {
        service_close(&ls.service);
        return command_fail("%s", err.text);
    }
    ls.json = json ? json_array() : NULL;
    list_models(&ls);
    if (json) {
        json_dumpf(ls.json, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(ls.json);
    }
    service_close(&ls.service);
    options_free(&options);
    return ls.failures ? EXIT_ERROR : 0;
}

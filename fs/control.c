/* SPDX-License-Identifier: MIT */
#include "fs/control.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *const control_names[CONTROL_COUNT] = {"stats", "stats.json", "metrics", "version"};

static const struct {
    const char *name, *kind, *help;
    size_t offset;
} fields[] = {
#define X(name, kind, help) {#name, kind, help, offsetof(struct stats, name)},
    STATS(X)
#undef X
};

enum { FIELD_COUNT = sizeof fields / sizeof *fields };

static uint64_t value(const struct tree *t, size_t i)
{
    return stats_get((const _Atomic uint64_t *)((const char *)t->stats + fields[i].offset));
}

static uint64_t uptime(const struct tree *t)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)(now.tv_sec - t->booted.tv_sec);
}

static void print_stats(const struct tree *t, FILE *out)
{
    fprintf(out, "store %s\nuptime_seconds %" PRIu64 "\n", store_path(t->store), uptime(t));
    for (size_t i = 0; i < FIELD_COUNT; i++)
        fprintf(out, "%s %" PRIu64 "\n", fields[i].name, value(t, i));
}

static void print_json(const struct tree *t, FILE *out)
{
    json_t *root = json_object();
    json_object_set_new(root, "version", json_string(QUANTFS_VERSION));
    json_object_set_new(root, "store", json_string(store_path(t->store)));
    const char *calibration = store_calibration(t->store), *base = store_base(t->store);
    json_object_set_new(root, "calibration",
                        calibration ? json_string(calibration) : json_null());
    json_object_set_new(root, "base", base ? json_string(base) : json_null());
    json_object_set_new(root, "onto_nf4", json_boolean(t->options->onto_nf4));
    json_object_set_new(root, "requantize", json_boolean(t->options->requantize));
    json_object_set_new(root, "follow_links", json_boolean(t->options->follow_links));
    json_object_set_new(root, "isa", json_string(t->isa->name));
    json_object_set_new(root, "pid", json_integer(getpid()));
    json_object_set_new(root, "uptime_seconds", json_integer((json_int_t)uptime(t)));
    for (size_t i = 0; i < FIELD_COUNT; i++)
        json_object_set_new(root, fields[i].name, json_integer((json_int_t)value(t, i)));
    json_dumpf(root, out, JSON_INDENT(1));
    fputc('\n', out);
    json_decref(root);
}

static void print_metrics(const struct tree *t, FILE *out)
{
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const char *total = strcmp(fields[i].kind, "counter") == 0 ? "_total" : "";
        fprintf(out,
                "# HELP quantfs_%s%s %s\n# TYPE quantfs_%s%s %s\nquantfs_%s%s %" PRIu64 "\n",
                fields[i].name, total, fields[i].help, fields[i].name, total, fields[i].kind,
                fields[i].name, total, value(t, i));
    }
}

static void print_version(const struct tree *t, FILE *out)
{
    (void)t;
    fprintf(out, "quantfs %s\nreference llama.cpp %s\n", QUANTFS_VERSION, QUANTFS_REFERENCE);
}

char *control_text(const struct tree *t, unsigned which)
{
    static void (*const print[CONTROL_COUNT])(const struct tree *, FILE *) = {
        print_stats, print_json, print_metrics, print_version};
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    print[which](t, out);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

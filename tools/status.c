/* SPDX-License-Identifier: MIT */
#include "fs/mount.h"
#include "tools/command.h"
#include "tools/mount_stats.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static uint64_t get(const json_t *stats, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(stats, name));
}

/* before: the figures of a second ago, NULL for none. */
static void print_mount(const char *mount_point, const json_t *now, const json_t *before)
{
    char a[16], b[16];
    printf("%s on %s, up %s\n", json_string_value(json_object_get(now, "store")), mount_point,
           text_duration((double)get(now, "uptime_seconds"), a));
    printf("  %" PRIu64 " files open, %" PRIu64 " reads, %s given to readers\n",
           get(now, "open_files"), get(now, "reads"), text_bytes(get(now, "read_bytes"), a));
    printf("  tiles: %" PRIu64 " encoded, %" PRIu64 " loaded from the cache, %" PRIu64
           " made ahead, %" PRIu64 " healed\n",
           get(now, "tiles_encoded"), get(now, "tiles_loaded"), get(now, "tiles_prefetched"),
           get(now, "tiles_healed"));
    printf("  cache %s, buffers %s, errors %" PRIu64 "\n", text_bytes(get(now, "cache_bytes"), a),
           text_bytes(get(now, "memory_bytes"), b), get(now, "errors"));
    if (before) {
        uint64_t weights = get(now, "weights_encoded") - get(before, "weights_encoded");
        uint64_t busy = get(now, "encode_ns") - get(before, "encode_ns");
        printf("  last second: %s read, %s weights encoded, %.1f workers busy\n",
               text_bytes(get(now, "read_bytes") - get(before, "read_bytes"), a),
               text_count(weights, b), (double)busy * 1e-9);
    }
}

static int watch(const char *mount_point)
{
    json_t *before = NULL;
    for (;;) {
        json_t *now = mount_stats(mount_point);
        if (!now) {
            json_decref(before);
            return command_fail("%s: no quantfs is mounted there", mount_point);
        }
        if (before && isatty(STDOUT_FILENO))
            printf("\033[H\033[J");
        print_mount(mount_point, now, before);
        fflush(stdout);
        json_decref(before);
        before = now;
        sleep(1);
    }
}

struct all {
    json_t *json;
    int count;
};

static bool show_mount(void *context, const char *mount_point)
{
    struct all *all = context;
    json_t *stats = mount_stats(mount_point);
    all->count++;
    if (all->json) {
        json_t *entry = stats ? json_incref(stats) : json_object();
        json_object_set_new(entry, "mount_point", json_string(mount_point));
        json_object_set_new(entry, "answers", json_boolean(stats != NULL));
        json_array_append_new(all->json, entry);
    } else if (stats) {
        print_mount(mount_point, stats, NULL);
    } else {
        printf("%s does not answer%s\n", mount_point,
               mount_is_stale(mount_point) ? ": its daemon is gone (quantfs umount clears it)"
                                           : " us");
    }
    json_decref(stats);
    return true;
}

int run_status(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {{"help", no_argument, NULL, 'h'},
                                                 {"json", no_argument, NULL, 'j'},
                                                 {"watch", no_argument, NULL, 'w'},
                                                 {0}};
    bool json = false, again = false;
    for (int c; (c = getopt_long(argc, argv, "wh", long_options, NULL)) != -1;) {
        if (c == 'h')
            return command_help(self);
        if (c == 'j')
            json = true;
        else if (c == 'w')
            again = true;
        else
            return command_usage(self, "what is wanted?");
    }
    const char *mount_point = optind < argc ? argv[optind] : NULL;
    if (argc - optind > 1 || (again && !mount_point))
        return command_usage(self, "%s", again ? "which mount is to be watched?"
                                               : "one mount at a time");
    if (again)
        return watch(mount_point);
    if (!mount_point) {
        struct all all = {.json = json ? json_array() : NULL};
        mount_each(show_mount, &all);
        if (json) {
            json_dumpf(all.json, stdout, JSON_INDENT(1));
            putchar('\n');
            json_decref(all.json);
        } else if (!all.count) {
            puts("nothing is mounted");
        }
        return 0;
    }
    json_t *stats = mount_stats(mount_point);
    if (!stats)
        return command_fail("%s: no quantfs is mounted there", mount_point);
    if (json) {
        json_dumpf(stats, stdout, JSON_INDENT(1));
        putchar('\n');
    } else {
        print_mount(mount_point, stats, NULL);
    }
    json_decref(stats);
    return 0;
}

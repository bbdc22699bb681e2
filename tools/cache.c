/* SPDX-License-Identifier: MIT */
#include "daemon/cache.h"

#include "fs/service.h"
#include "tools/command.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct request {
    const char *what;
    char dir[PATH_MAX];
    uint64_t size; /* 0: a fifth of the disk */
    bool json, repair;
};

static void print_report(const struct request *request, const struct cache_report *r)
{
    char bytes[16];
    if (request->json) {
        json_t *root = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "folder", request->dir,
                                 "objects", (json_int_t)r->objects, "bytes", (json_int_t)r->bytes,
                                 "tiles", (json_int_t)r->tiles, "sealed", (json_int_t)r->sealed,
                                 "damaged", (json_int_t)r->damaged, "foreign",
                                 (json_int_t)r->foreign);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
        return;
    }
    if (strcmp(request->what, "prune") == 0 || strcmp(request->what, "clear") == 0) {
        printf("%s: %" PRIu64 " objects removed, %s\n", request->dir, r->objects,
               text_bytes(r->bytes, bytes));
        return;
    }
    printf("%s: %" PRIu64 " objects, %s, %" PRIu64 " tiles, %" PRIu64 " objects sealed\n",
           request->dir, r->objects, text_bytes(r->bytes, bytes), r->tiles, r->sealed);
    if (r->damaged)
        printf("%" PRIu64 " damaged tiles or objects%s\n", r->damaged,
               request->repair ? ", removed" : "");
    if (r->foreign)
        printf("%" PRIu64 " files that are none of the cache's\n", r->foreign);
}

static int work(const struct request *request)
{
    struct stats stats = {0};
    struct cache *cache;
    struct error err;
    struct cache_report report = {0};
    struct cache_options options = {
        .dir = request->dir, .size = UINT64_MAX / 2, .as_found = true, .stats = &stats};
    if (access(request->dir, F_OK))
        return command_fail("%s: %s", request->dir, strerror(errno));
    if (cache_open(&options, &cache, &err))
        return command_fail("%s", err.text);
    int rc = 0;
    if (strcmp(request->what, "stat") == 0) {
        rc = cache_walk(cache, false, false, &report);
    } else if (strcmp(request->what, "verify") == 0) {
        rc = cache_walk(cache, true, request->repair, &report);
    } else {
        struct statvfs fs;
        uint64_t size = request->size;
        if (!size && strcmp(request->what, "prune") == 0 && statvfs(request->dir, &fs) == 0)
            size = (uint64_t)fs.f_blocks * fs.f_frsize / 5;
        cache_shrink(cache, strcmp(request->what, "clear") == 0 ? 0 : size, &report);
    }
    cache_close(cache);
    if (rc)
        return command_fail("%s: %s", request->dir, strerror(-rc));
    print_report(request, &report);
    return strcmp(request->what, "verify") == 0 && report.damaged && !request->repair ? EXIT_ERROR : 0;
}

int run_cache(const struct command *self, int argc, char **argv)
{
    enum { CACHE = 256, SIZE, REPAIR };
    static const struct option long_options[] = {
        {"help", no_argument, NULL, 'h'},         {"json", no_argument, NULL, 'j'},
        {"cache", required_argument, NULL, CACHE}, {"size", required_argument, NULL, SIZE},
        {"repair", no_argument, NULL, REPAIR},    {0},
    };
    static const char *const actions[] = {"stat", "prune", "verify", "clear"};
    struct request request = {0};
    struct options options;
    struct error err;
    options_init(&options);
    for (int c; (c = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        switch (c) {
        case 'h': return command_help(self);
        case 'j': request.json = true; break;
        case CACHE:
            free(options.cache);
            options.cache = strdup(optarg);
            break;
        case SIZE:
            if (!size_parse(optarg, &request.size))
                return command_usage(self, "%s is no size", optarg);
            break;
        case REPAIR: request.repair = true; break;
        default: return command_usage(self, "what is wanted?");
        }
    }
    for (int i = 0; argc - optind == 1 && i < 4; i++)
        if (strcmp(argv[optind], actions[i]) == 0)
            request.what = actions[i];
    if (!request.what)
        return command_usage(self, "stat, prune, verify or clear?");
    int rc = service_cache_folder(&options, request.dir, &err);
    options_free(&options);
    if (!rc && !*request.dir)
        return command_usage(self, "--cache none is no folder");
    return rc ? command_fail("%s", err.text) : work(&request);
}

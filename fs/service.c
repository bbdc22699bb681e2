/* SPDX-License-Identifier: MIT */
#include "fs/service.h"

#include "daemon/log.h"

#include <errno.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* Raises the number of descriptors as far as it goes; source files may have half of them. */
static unsigned source_files_max(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 64;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    rlim_t half = limit.rlim_cur / 2;
    return half > 4096 ? 4096 : half < 16 ? 16 : (unsigned)half;
}

int service_open(struct service *s, const char *store, struct options *options, struct error *err)
{
    *s = (struct service){.options = options};
    s->tree.stats = &s->stats;
    s->tree.options = options;
    s->tree.readahead = READAHEAD_DEFAULT;
    clock_gettime(CLOCK_REALTIME, &s->tree.started);
    clock_gettime(CLOCK_BOOTTIME, &s->tree.booted);
    if (sodium_init() < 0)
        return error_set(err, -EIO, "libsodium cannot be initialized");
    int rc = isa_choose(getenv("QUANTFS_ISA"), &s->tree.isa, err);
    if (rc)
        return error_prefix(err, rc, "QUANTFS_ISA");
    struct store_options store_options = {
        .path = store,
        .imatrix = options->imatrix,
        .calibration = options->calibration,
        .base = options->base,
        .onto_nf4 = options->onto_nf4,
        .requantize = options->requantize,
        .follow_links = options->follow_links,
        .max_open = source_files_max(),
        .stats = &s->stats,
    };
    return store_open(&store_options, &s->tree.store, err);
}

int service_start(struct service *s, const char *cache, struct error *err)
{
    if (cache) {
        struct cache_options cache_options = {
            .dir = cache,
            .size = s->options->cache_size,
            .keep_free = s->options->keep_free,
            .seal = !s->options->compress || strcmp(s->options->compress, "sealed") == 0,
            .stats = &s->stats,
        };
        int rc = cache_open(&cache_options, &s->tree.cache, err);
        if (rc == -EPERM)
            return rc;
        if (rc)
            log_warning("%s; there is no tile cache", err->text);
    }
    struct tiles_options tiles_options = {
        .memory = s->options->memory,
        .workers = (unsigned)s->options->workers,
        .isa = s->tree.isa,
        .cache = s->tree.cache,
        .stats = &s->stats,
    };
    s->tree.tiles = tiles_new(&tiles_options);
    return s->tree.tiles ? 0 : error_set(err, -ENOMEM, "the workers cannot be started");
}

void service_close(struct service *s)
{
    tiles_free(s->tree.tiles);
    cache_close(s->tree.cache);
    store_close(s->tree.store);
    s->tree = (struct tree){0};
}

int service_cache_folder(const struct options *options, char *out, struct error *err)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char cwd[PATH_MAX];
    int n;
    if (options->cache && strcmp(options->cache, "none") == 0)
        n = snprintf(out, PATH_MAX, "%s", "");
    else if (options->cache && *options->cache == '/')
        n = snprintf(out, PATH_MAX, "%s", options->cache);
    else if (options->cache)
        n = getcwd(cwd, sizeof cwd) ? snprintf(out, PATH_MAX, "%s/%s", cwd, options->cache) : -1;
    else if (xdg && *xdg == '/')
        n = snprintf(out, PATH_MAX, "%s/quantfs", xdg);
    else if (geteuid() == 0 || !home || *home != '/')
        n = snprintf(out, PATH_MAX, "/var/cache/quantfs");
    else
        n = snprintf(out, PATH_MAX, "%s/.cache/quantfs", home);
    if (n < 0 || n >= PATH_MAX)
        return error_set(err, -ENAMETOOLONG, "cache folder: the name is too long");
    return 0;
}

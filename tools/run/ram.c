/* SPDX-License-Identifier: MIT */
#include "tools/run/ram.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The number behind a word at the start of a line. */
static bool number_in(const char *path, const char *word, uint64_t *out)
{
    char line[256];
    size_t n = strlen(word);
    bool found = false;
    FILE *in = fopen(path, "r");
    while (in && !found && fgets(line, sizeof line, in))
        found = strncmp(line, word, n) == 0 && sscanf(line + n, " %" SCNu64, out) == 1;
    if (in)
        fclose(in);
    return found;
}

/* The two versions of control groups. */
static const struct {
    const char *controllers, *mounted, *limit, *used; /* used: a line of memory.stat */
} versions[] = {
    {"", "/sys/fs/cgroup", "memory.max", "anon"},
    {"memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "total_rss"},
};

/* What one group has left. Groups without a limit have "max" there, or nearly 2^63. */
static uint64_t left_in(const char *folder, int version)
{
    char path[PATH_MAX + 32];
    uint64_t limit, used;
    snprintf(path, sizeof path, "%s/%s", folder, versions[version].limit);
    if (!number_in(path, "", &limit))
        return UINT64_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (!number_in(path, versions[version].used, &used))
        used = 0;
    return limit > used ? limit - used : 0;
}

/* The group and those above it, as far as they are to be seen from here. */
static uint64_t left_in_group(const char *group, int version)
{
    char folder[PATH_MAX];
    uint64_t left = UINT64_MAX;
    int n = snprintf(folder, sizeof folder, "%s%s", versions[version].mounted, group);
    size_t root = strlen(versions[version].mounted);
    if (n < 0 || (size_t)n >= sizeof folder)
        return left;
    for (char *slash = folder + n; slash; slash = strrchr(folder, '/')) {
        *slash = '\0';
        uint64_t here = left_in(folder, version);
        left = here < left ? here : left;
        if (strlen(folder) <= root)
            break;
    }
    return left;
}

/* Whether a list such as "cpu,memory" has this name in it. */
static bool lists(const char *names, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = names; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == '\0'))
            return true;
    return false;
}

static uint64_t left_in_groups(void)
{
    char line[PATH_MAX + 64];
    uint64_t left = UINT64_MAX;
    FILE *in = fopen("/proc/self/cgroup", "r");
    while (in && fgets(line, sizeof line, in)) { /* 4:memory:/group */
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        for (int version = 0; version < 2; version++)
            if (lists(names + 1, versions[version].controllers)) {
                uint64_t here = left_in_group(group, version);
                left = here < left ? here : left;
            }
    }
    if (in)
        fclose(in);
    return left;
}

uint64_t ram_available(void)
{
    uint64_t kib = 0, group = left_in_groups();
    uint64_t machine = number_in("/proc/meminfo", "MemAvailable:", &kib) ? kib << 10 : UINT64_MAX;
    return group < machine ? group : machine;
}

uint64_t ram_resident(void)
{
    uint64_t kib;
    return number_in("/proc/self/status", "VmRSS:", &kib) ? kib << 10 : 0;
}

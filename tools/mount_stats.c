/* SPDX-License-Identifier: MIT */
#include "tools/mount_stats.h"

#include <stdio.h>
#include <stdlib.h>

json_t *mount_stats(const char *mount_point)
{
    char *path;
    if (asprintf(&path, "%s/.quantfs/stats.json", mount_point) < 0)
        return NULL;
    json_t *stats = json_load_file(path, 0, NULL);
    free(path);
    return stats;
}

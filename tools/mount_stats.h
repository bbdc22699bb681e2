/* SPDX-License-Identifier: MIT */
#ifndef TOOLS_MOUNT_STATS_H
#define TOOLS_MOUNT_STATS_H

#include <jansson.h>

/* What a mount says of itself in .quantfs/stats.json; NULL where nothing answers there. */
json_t *mount_stats(const char *mount_point);

#endif

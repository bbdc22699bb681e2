/* SPDX-License-Identifier: MIT
 *
 * What the commands that run a model have in common.
 */
#ifndef TOOLS_RUN_OPTIONS_H
#define TOOLS_RUN_OPTIONS_H

#include "codec/error.h"

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct run_options {
    uint32_t context; /* 0: not given */
    unsigned threads; /* likewise */
    bool json;
};

#define RUN_OPTIONS_SHORT "c:t:h"
#define RUN_OPTIONS_LONG                                                                           \
    {"context", required_argument, NULL, 'c'}, {"threads", required_argument, NULL, 't'},          \
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}
#define RUN_OPTIONS_HELP                                                                           \
    "  -t, --threads N      instead of one for each processor\n"                                   \
    "      --json           for machines\n"

/* Takes option c, as getopt_long gave it. False if it is none of these or its argument is wrong. */
bool run_options_take(struct run_options *o, int c, const char *argument);

/* A whole number from least to most, and nothing else. */
bool parse_whole(const char *text, uint64_t least, uint64_t most, uint64_t *out);

/* A number, and nothing else; no infinities. */
bool parse_real(const char *text, double least, double most, double *out);

/* All of a file, to be freed. -EFBIG above 256 MiB; the sentence begins with the path. */
int read_text(const char *path, char **out, size_t *size, struct error *err);

#endif

/* SPDX-License-Identifier: MIT
 *
 * What the commands that run a model have in common.
 */
#ifndef TOOLS_RUN_OPTIONS_H
#define TOOLS_RUN_OPTIONS_H

#include "codec/error.h"
#include "tools/run/facts.h"
#include "tools/run/lift.h"
#include "tools/run/machine.h"
#include "tools/run/reader.h"

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct run_options {
    uint32_t context;         /* 0: not given */
    unsigned threads;         /* likewise */
    uint64_t ram, ring, vram; /* bytes; likewise */
    enum reader_kind io;
    enum machine_kind machine;
    enum lift_kind lift;
    bool lift_given;
    const char *trace; /* where the times of what is lifted are written; NULL: nowhere */
    bool json, quiet;
    /* Bytes that the command itself takes, of `room` for it and the weights, which have so many;
     * NULL: nothing to speak of. */
    uint64_t (*takes)(void *context, const struct facts *f, uint64_t room, uint64_t weights);
    void *takes_context;
    /* The command holds a layer's matrices at a time, which is part of what it takes: none is
     * loaded for it. */
    bool by_layer;
    bool all_logits; /* the command wants those of every token of a batch */
};

#define RUN_OPTIONS_SHORT "c:t:qh"
#define RUN_OPTIONS_LONG                                                                           \
    {"context", required_argument, NULL, 'c'}, {"threads", required_argument, NULL, 't'},          \
        {"ram", required_argument, NULL, 'r'}, {"ring", required_argument, NULL, 'R'},             \
        {"io", required_argument, NULL, 'i'}, {"json", no_argument, NULL, 'j'},                    \
        {"quiet", no_argument, NULL, 'q'}, {"help", no_argument, NULL, 'h'},                       \
    {                                                                                              \
        0                                                                                          \
    }
#define RUN_OPTIONS_HELP                                                                           \
    "  -t, --threads N      instead of one for each processor\n"                                   \
    "      --ram SIZE       memory to use, as in 3G; what does not fit is read again for every\n"  \
    "                       token (what the machine or the control group has)\n"                   \
    "      --ring SIZE      of it, for weights on their way (64M to 256M)\n"                       \
    "      --io uring|pread how they are read (uring where the kernel allows it)\n"                \
    "  -q, --quiet          no report on stderr\n"                                                 \
    "      --json           for machines\n"

/* Those of commands that run on any machine; to stand before the others. */
#define RUN_OPTIONS_MACHINE_LONG                                                                   \
    {"backend", required_argument, NULL, 'b'}, {"vram", required_argument, NULL, 'v'},             \
        {"lift", required_argument, NULL, 'l'},                                                    \
    {                                                                                              \
        "trace", required_argument, NULL, 'x'                                                      \
    }
#define RUN_OPTIONS_MACHINE_HELP                                                                   \
    "      --backend NAME   cpu; cuda, a GPU; emu, one that is emulated, slowly (cpu)\n"           \
    "      --vram SIZE      memory of the GPU to use; what does not fit is lifted to it for\n"     \
    "                       every token, out of --ram or through it (what is free)\n"              \
    "      --lift copy|mapped  how: by copies, or read by kernels over the link (copy)\n"          \
    "      --trace FILE     when the first 512 pieces that are lifted were copied and\n"           \
    "                       multiplied with: a JSON object a line\n"

/* Takes option c, as getopt_long gave it. False if it is none of these or its argument is wrong. */
bool run_options_take(struct run_options *o, int c, const char *argument);

/* A whole number from least to most, and nothing else. */
bool parse_whole(const char *text, uint64_t least, uint64_t most, uint64_t *out);

/* A number, and nothing else; no infinities. */
bool parse_real(const char *text, double least, double most, double *out);

/* All of a file, to be freed. -EFBIG above 256 MiB; the sentence begins with the path. */
int read_text(const char *path, char **out, size_t *size, struct error *err);

#endif

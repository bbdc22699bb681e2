/* SPDX-License-Identifier: MIT */
#include "tools/run/options.h"

#include "codec/gguf_encode.h"
#include "fs/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT_MAX = 1 << 20, THREADS_MAX = 1024 };

bool parse_whole(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && !errno && *out >= least && *out <= most;
}

bool parse_real(const char *text, double least, double most, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out >= least && *out <= most;
}

bool run_options_take(struct run_options *o, int c, const char *argument)
{
    uint64_t v;
    switch (c) {
    case 'c':
        if (!parse_whole(argument, 1, CONTEXT_MAX, &v))
            return false;
        o->context = (uint32_t)v;
        return true;
    case 't':
        if (!parse_whole(argument, 1, THREADS_MAX, &v))
            return false;
        o->threads = (unsigned)v;
        return true;
    case 'r': return size_parse(argument, &o->ram) && o->ram > 0;
    case 'R': return size_parse(argument, &o->ring) && o->ring > 0;
    case 'i':
        o->io = strcmp(argument, "uring") == 0 ? READER_URING : READER_PREAD;
        return o->io == READER_URING || strcmp(argument, "pread") == 0;
    case 'b': return machine_by_name(argument, &o->machine);
    case 'v': return size_parse(argument, &o->vram) && o->vram > 0;
    case 'l':
        o->lift_given = true;
        o->lift = strcmp(argument, "mapped") == 0 ? LIFT_MAPPED : LIFT_COPY;
        return o->lift == LIFT_MAPPED || strcmp(argument, "copy") == 0;
    case 'x': o->trace = argument; return true;
    case 'j': o->json = true; return true;
    case 'q': o->quiet = true; return true;
    default: return false;
    }
}

int read_text(const char *path, char **out, size_t *size, struct error *err)
{
    size_t room = 1 << 16;
    FILE *in = fopen(path, "rb");
    if (!in)
        return error_set(err, -errno, "%s: %s", path, strerror(errno));
    char *text = malloc(room);
    int rc = text ? 0 : -ENOMEM;
    *size = 0;
    while (!rc && !feof(in)) {
        if (*size == room) {
            char *more = room < ENCODE_TEXT_MAX ? realloc(text, room *= 2) : NULL;
            rc = more ? 0 : room < ENCODE_TEXT_MAX ? -ENOMEM : -EFBIG;
            text = more ? more : text;
            continue;
        }
        *size += fread(text + *size, 1, room - *size, in);
        rc = ferror(in) ? -EIO : 0;
    }
    fclose(in);
    *out = text;
    if (!rc)
        return 0;
    free(text);
    return error_set(err, rc, "%s: %s", path, strerror(-rc));
}

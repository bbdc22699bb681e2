/* SPDX-License-Identifier: MIT */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEP = 4 << 20 };

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* Calls visit for every regular file below the paths. Returns how many could not be looked at. */
static int each_file(char **paths, void (*visit)(void *, const FTSENT *), void *context)
{
    int failures = 0;
    FTS *walk = fts_open(paths, FTS_LOGICAL | FTS_NOCHDIR, by_name);
    if (!walk)
        return 1;
    for (FTSENT *e; (e = fts_read(walk));) {
        if (e->fts_info == FTS_F) {
            visit(context, e);
        } else if (e->fts_info == FTS_NS || e->fts_info == FTS_ERR || e->fts_info == FTS_DNR) {
            fprintf(stderr, "quantfs: %s: %s\n", e->fts_path, strerror(e->fts_errno));
            failures++;
        }
    }
    fts_close(walk);
    return failures;
}

static void add_size(void *context, const FTSENT *e)
{
    *(uint64_t *)context += (uint64_t)e->fts_statp->st_size;
}

struct warm {
    struct progress progress;
    uint8_t *buf;
    int failures;
};

static void read_through(void *context, const FTSENT *e)
{
    struct warm *w = context;
    int fd = open(e->fts_accpath, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : 1;
    while (n > 0) {
        n = read(fd, w->buf, STEP);
        if (n > 0)
            progress_add(&w->progress, (uint64_t)n);
        else if (n < 0 && errno == EINTR)
            n = 1;
    }
    if (n < 0) {
        fprintf(stderr, "quantfs: %s: %s\n", e->fts_path, strerror(errno));
        w->failures++;
    }
    if (fd >= 0)
        close(fd);
}

int run_warm(const struct command *self, int argc, char **argv)
{
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return command_help(self);
    if (argc < 2)
        return command_usage(self, "what is to be made?");
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '-')
            return command_usage(self, "what is \"%s\"?", argv[i]);
    struct warm w = {.buf = malloc(STEP)};
    uint64_t total = 0;
    if (!w.buf)
        return command_fail("out of memory");
    w.failures = each_file(argv + 1, add_size, &total);
    progress_begin(&w.progress, "warming", NULL, total);
    if (!w.failures)
        w.failures = each_file(argv + 1, read_through, &w);
    double seconds = progress_end(&w.progress);
    char done[16], rate[16], took[16];
    printf("%s in %s, %s/s\n", text_bytes(w.progress.done, done), text_duration(seconds, took),
           text_bytes((uint64_t)((double)w.progress.done / (seconds + 1e-9)), rate));
    free(w.buf);
    return w.failures ? EXIT_ERROR : 0;
}

/* SPDX-License-Identifier: MIT
 *
 * The commands of a program: one table row each, from which it dispatches and prints help.
 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "codec/error.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

struct command {
    const char *name, *arguments; /* "ls", "[STORE|MOUNT]" */
    const char *summary;          /* one line */
    const char *details;          /* options, then an example */
    /* argv[0] is the command's name. Returns the exit status. */
    int (*run)(const struct command *self, int argc, char **argv);
};

/* ---- the tables, quantfs.c and run/main.c ---- */

int run_mount(const struct command *self, int argc, char **argv);
int run_umount(const struct command *self, int argc, char **argv);
int run_ls(const struct command *self, int argc, char **argv);
int run_inspect(const struct command *self, int argc, char **argv);
int run_formats(const struct command *self, int argc, char **argv);
int run_convert(const struct command *self, int argc, char **argv);
int run_warm(const struct command *self, int argc, char **argv);
int run_status(const struct command *self, int argc, char **argv);
int run_cache(const struct command *self, int argc, char **argv);

int run_generate(const struct command *self, int argc, char **argv);
int run_perplexity(const struct command *self, int argc, char **argv);
int run_calibrate(const struct command *self, int argc, char **argv);
int run_bench(const struct command *self, int argc, char **argv);
int run_plan(const struct command *self, int argc, char **argv);
int run_tokenize(const struct command *self, int argc, char **argv);

/* ---- command.c ---- */

enum { EXIT_USAGE = 1, EXIT_ERROR = 2 };

struct program {
    const char *name, *summary; /* summary: a few lines */
    const struct command *commands;
    int count;
};

/* Each program defines its own. */
extern const struct program program;

/* Runs the command that argv[1] names, or what every program knows: --help, --version. Returns the
 * exit status, or -1 if argv[1] is none of these. */
int command_dispatch(int argc, char **argv);

/* Prints that there is no such command, and returns EXIT_USAGE. */
int command_unknown(const char *name);

/* Prints the command's help to stdout, and returns 0. */
int command_help(const struct command *c);

/* Prints "PROGRAM COMMAND: ..." and a hint to stderr, and returns EXIT_USAGE. */
int command_usage(const struct command *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Hands each option of a command line to `take`, as getopt_long tells it; that returns false where an
 * argument is out of range. 'h' is --help. Returns -1 when all went well, and what is left of the
 * line begins at optind; else it has said why not, or helped, and returns the exit status. */
int command_options(const struct command *c, int argc, char **argv, const char *letters,
                    const struct option *options,
                    bool (*take)(void *context, int option, const char *argument), void *context);

/* Prints "PROGRAM: ..." to stderr, and returns EXIT_ERROR. */
int command_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- text.c: how figures are shown ---- */

/* "1.3 GiB"; out: 16 bytes. Returns out. */
const char *text_bytes(uint64_t bytes, char *out);

/* "1.2 B" parameters; likewise. */
const char *text_count(uint64_t n, char *out);

/* "3:05"; likewise. */
const char *text_duration(double seconds, char *out);

/* A line about a long job, redrawn on a terminal and left out elsewhere. */
struct progress {
    const char *what, *unit; /* unit: of what is counted, in the plural; NULL: bytes */
    uint64_t done, total;
    double started, shown; /* seconds; started: set by progress_begin */
    bool terminal;
};

void progress_begin(struct progress *p, const char *what, const char *unit, uint64_t total);
void progress_add(struct progress *p, uint64_t n);

/* Takes the line away. */
void progress_clear(struct progress *p);

/* Ends the line; returns the seconds it took. */
double progress_end(struct progress *p);

#endif

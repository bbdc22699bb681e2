/* SPDX-License-Identifier: MIT */
#include "tools/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int command_help(const struct command *c)
{
    printf("Usage: %s %s %s\n\n%s\n", program.name, c->name, c->arguments, c->details);
    return 0;
}

int command_usage(const struct command *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "%s %s: ", program.name, c->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nusage: %s %s %s (%s %s --help tells more)\n", program.name, c->name,
            c->arguments, program.name, c->name);
    return EXIT_USAGE;
}

int command_options(const struct command *c, int argc, char **argv, const char *letters,
                    const struct option *options,
                    bool (*take)(void *context, int option, const char *argument), void *context)
{
    for (int o; (o = getopt_long(argc, argv, letters, options, NULL)) != -1;) {
        if (o == 'h')
            return command_help(c);
        if (o == '?')
            return command_usage(c, "what is wanted?");
        if (!take(context, o, optarg))
            return command_usage(c, "\"%s\" is out of range", optarg);
    }
    return -1;
}

int command_fail(const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "%s: ", program.name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return EXIT_ERROR;
}

int command_unknown(const char *name)
{
    fprintf(stderr, "%s: there is no command \"%s\" (%s --help lists them)\n", program.name, name,
            program.name);
    return EXIT_USAGE;
}

static void help(FILE *out)
{
    fprintf(out, "%s\n", program.summary);
    for (int i = 0; i < program.count; i++)
        fprintf(out, "  %s %-8s %s\n", program.name, program.commands[i].name,
                program.commands[i].summary);
    fprintf(out, "\n%s COMMAND --help tells more, with an example.\n", program.name);
}

int command_dispatch(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("%s %s (reference: llama.cpp %s)\n", program.name, QUANTFS_VERSION,
               QUANTFS_REFERENCE);
        return 0;
    }
    for (int i = 0; i < program.count; i++)
        if (strcmp(argv[1], program.commands[i].name) == 0)
            return program.commands[i].run(&program.commands[i], argc - 1, argv + 1);
    return -1;
}

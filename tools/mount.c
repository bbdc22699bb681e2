/* SPDX-License-Identifier: MIT */
#include "fs/mount.h"

#include "tools/command.h"
#include "tools/mount_stats.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

static int help(const struct command *self)
{
    command_help(self);
    printf("Mount options:\n");
    options_print(stdout);
    return 0;
}

int run_mount(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    struct options options;
    struct error err;
    bool foreground = false;
    options_init(&options);
    for (int c; (c = getopt_long(argc, argv, "o:fh", long_options, NULL)) != -1;) {
        if (c == 'h')
            return help(self);
        if (c == 'f')
            foreground = true;
        else if (c != 'o')
            return command_usage(self, "what is wanted?");
        else if (options_parse(&options, optarg, &err))
            return command_usage(self, "%s", err.text);
    }
    if (argc - optind != 2)
        return command_usage(self, "a store and a mount point are needed");
    if (options_finish(&options, &err))
        return command_usage(self, "%s", err.text);
    int status = mount_run(argv[optind], argv[optind + 1], &options, foreground);
    options_free(&options);
    return status;
}

/* A descriptor that becomes readable when the daemon of a mount has ended, -1 where there is none.
 * Its number alone would not do: a daemon that has ended keeps it until its parent takes note. */
static int watch_daemon(const char *mount_point)
{
    if (mount_is_stale(mount_point))
        return -1;
    json_t *stats = mount_stats(mount_point);
    pid_t pid = (pid_t)json_integer_value(json_object_get(stats, "pid"));
    json_decref(stats);
    return pid > 0 ? pidfd_open(pid, 0) : -1;
}

int run_umount(const struct command *self, int argc, char **argv)
{
    enum { PATIENCE_MS = 5000 };
    struct error err;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return command_help(self);
    if (argc != 2 || argv[1][0] == '-')
        return command_usage(self, "one mount point is needed");
    int daemon = watch_daemon(argv[1]);
    if (mount_end(argv[1], &err)) {
        close(daemon);
        return command_fail("%s", err.text);
    }
    /* Wait for the daemon, so that what comes next finds everything written. */
    if (daemon >= 0 && poll(&(struct pollfd){.fd = daemon, .events = POLLIN}, 1, PATIENCE_MS) == 0)
        fprintf(stderr, "quantfs: %s is unmounted; its daemon ends when the last open file is "
                        "closed\n",
                argv[1]);
    close(daemon);
    return 0;
}

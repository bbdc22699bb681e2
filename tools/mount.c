/* SPDX-License-Identifier: MIT */
#include "fs/mount.h"

#include "tools/command.h"
#include "tools/mount_stats.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

int run_mount(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    struct options options;
    struct error err;
    bool foreground = false;
    options_init(&options);
    for (int c; (c = getopt_long(argc, argv, "o:fh", long_options, NULL)) != -1;) {
        if (c == 'h')
            return command_help(self);
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

/* The daemon of a mount, 0 where it does not say. */
static pid_t daemon_of(const char *mount_point)
{
    json_t *stats = mount_stats(mount_point);
    pid_t pid = (pid_t)json_integer_value(json_object_get(stats, "pid"));
    json_decref(stats);
    return pid;
}

int run_umount(const struct command *self, int argc, char **argv)
{
    enum { PATIENCE_MS = 5000, STEP_MS = 5 };
    struct error err;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return command_help(self);
    if (argc != 2)
        return command_usage(self, "one mount point is needed");
    pid_t daemon = mount_is_stale(argv[1]) ? 0 : daemon_of(argv[1]);
    if (mount_end(argv[1], &err))
        return command_fail("%s", err.text);
    /* Wait for the daemon, so that what comes next finds everything written. */
    for (int waited = 0; daemon > 0 && kill(daemon, 0) == 0; waited += STEP_MS) {
        if (waited >= PATIENCE_MS) {
            fprintf(stderr, "quantfs: %s is unmounted; its daemon (pid %d) ends when the last "
                            "open file is closed\n",
                    argv[1], (int)daemon);
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000L}, NULL);
    }
    return 0;
}

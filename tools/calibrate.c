/* SPDX-License-Identifier: MIT
 *
 * A calibration from a checkpoint: quantfs-run does it, with the virtual BF16 file of a mount that
 * nobody else needs to know of.
 */
#include "fs/mount.h"

#include "tools/command.h"

#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NAME_LEVELS = 2 };

static const char runner[] = "quantfs-run";

/* A model, cut into what is mounted and what it is called in there. */
struct place {
    char store[PATH_MAX];
    const char *entry; /* in MODEL, from its '/' on; "" where the store has this model alone */
};

/* Of a store that has names of its own for its models, OWNER/NAME or NAME, only the beginning is a
 * folder. */
static int find_place(const char *model, struct place *p, struct error *err)
{
    size_t n = strlen(model);
    if (n >= sizeof p->store)
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", model);
    memcpy(p->store, model, n + 1);
    for (int levels = 0; access(p->store, F_OK); levels++) {
        char *slash = strrchr(p->store, '/');
        if (!slash || slash == p->store || levels == NAME_LEVELS)
            return error_set(err, -ENOENT, "%s: %s", model, strerror(ENOENT));
        *slash = '\0';
    }
    p->entry = model + strlen(p->store);
    return 0;
}

/* ---- the mount ---- */

static int make_folder(char folder[PATH_MAX], struct error *err)
{
    const char *temporary = getenv("TMPDIR");
    int n = snprintf(folder, PATH_MAX, "%s/quantfs-XXXXXX",
                     temporary && *temporary ? temporary : "/tmp");
    if (n >= PATH_MAX)
        return error_set(err, -ENAMETOOLONG, "TMPDIR is too long");
    return mkdtemp(folder) ? 0 : error_set(err, -errno, "%s: %s", folder, strerror(errno));
}

static int mount_model(const char *store, const char *folder, struct error *err)
{
    struct options options;
    pid_t self = getpid();
    options_init(&options);
    int rc = options_parse(&options, "cache=none,forms=BF16", err);
    rc = rc ? rc : options_finish(&options, err);
    int status = rc ? 0 : mount_run(store, folder, &options, false);
    options_free(&options);
    if (getpid() != self)
        exit(status); /* the mount's daemon, after its end */
    return status ? error_set(err, -EIO, "%s cannot be mounted", store) : rc;
}

/* Takes the mount away and waits for its daemon, the only child that is left. */
static void unmount(const char *folder)
{
    struct error err;
    if (mount_end(folder, &err))
        fprintf(stderr, "quantfs: %s\n", err.text);
    while (wait(NULL) > 0 || errno == EINTR)
        continue;
}

/* The file that is to be read; its name depends on the model. */
static int find_file(const struct place *p, const char *folder, const char *model,
                     char path[PATH_MAX], struct error *err)
{
    glob_t found;
    char pattern[2 * PATH_MAX];
    struct stat st;
    snprintf(pattern, sizeof pattern, "%s%s/gguf/*-BF16.gguf", folder, *p->entry ? p->entry : "/*");
    int none = glob(pattern, 0, NULL, &found);
    bool one = !none && found.gl_pathc == 1 && strlen(found.gl_pathv[0]) < PATH_MAX &&
               stat(found.gl_pathv[0], &st) == 0;
    if (one)
        strcpy(path, found.gl_pathv[0]);
    if (!none)
        globfree(&found);
    return one ? 0
               : error_set(err, -EINVAL,
                           "%s: it is not a model that can be had as BF16; quantfs ls"
                           " tells why",
                           model);
}

/* ---- the run ---- */

/* The program that stands beside this one, else the one in PATH. */
static void execute(char **argv)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof runner - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (slash) {
        strcpy(slash + 1, runner);
        execv(path, argv);
    }
    execvp(runner, argv);
    fprintf(stderr, "quantfs: %s: %s\n", runner, strerror(errno));
    _exit(EXIT_ERROR);
}

/* Waits for it; signals that are meant to end this program end that one. */
static int wait_for(pid_t child, const sigset_t *signals)
{
    int status;
    for (;;) {
        int number = sigwaitinfo(signals, NULL);
        if (number > 0 && number != SIGCHLD)
            kill(child, number);
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_ERROR;
    }
}

static int run(char **argv, const sigset_t *signals, const sigset_t *before, struct error *err)
{
    pid_t child = fork();
    if (child < 0)
        return error_set(err, -errno, "fork: %s", strerror(errno));
    if (child == 0) {
        sigprocmask(SIG_SETMASK, before, NULL);
        execute(argv);
    }
    return wait_for(child, signals);
}

/* argv: that of the other program, with room for the file at `file`. Returns its exit status, or
 * -errno. From the mount on no signal can end this program before it has tidied up. */
static int calibrate(const char *model, char **argv, char **file, struct error *err)
{
    struct place place;
    sigset_t signals, before;
    char folder[PATH_MAX], path[PATH_MAX];
    int rc = find_place(model, &place, err);
    rc = rc ? rc : make_folder(folder, err);
    if (rc)
        return rc;
    sigemptyset(&signals);
    const int all[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        sigaddset(&signals, all[i]);
    sigprocmask(SIG_BLOCK, &signals, &before);
    rc = mount_model(place.store, folder, err);
    if (!rc) {
        rc = find_file(&place, folder, model, path, err);
        *file = path;
        rc = rc ? rc : run(argv, &signals, &before, err);
        unmount(folder);
    }
    rmdir(folder);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int run_calibrate(const struct command *self, int argc, char **argv)
{
    struct error err;
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return command_help(self);
    if (argc < 3 || argv[1][0] == '-' || argv[2][0] != '-')
        return command_usage(self, "a model and then options are needed");
    char **run_argv = calloc((size_t)argc + 2, sizeof *run_argv);
    if (!run_argv)
        return command_fail("out of memory");
    run_argv[0] = (char *)runner;
    run_argv[1] = argv[0];
    memcpy(run_argv + 2, argv + 2, (size_t)(argc - 2) * sizeof *argv);
    int rc = calibrate(argv[1], run_argv, &run_argv[argc], &err);
    free(run_argv);
    return rc < 0 ? command_fail("%s", err.text) : rc;
}

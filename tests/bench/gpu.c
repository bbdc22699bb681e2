/* SPDX-License-Identifier: MIT
 *
 * gpu [--backend cuda|emu]: whether a GPU computes what the processor does, and how fast, as JSON.
 *
 * - All that a step of a model is made of, with how much differs from the processor's; nothing may.
 * - Bytes a second of weights with one column, operations a second (two a weight and column) with 8
 *   and 16, out of more memory than a cache of the GPU holds; the same weights with one column, read
 *   over the link out of the host's memory; attention; copies of several sizes; launches.
 *
 * Rates are the best of a few rounds, by the GPU's clock. With the emulator the same is done with
 * little memory, and no rates are told: it has no clock that means anything.
 *
 * Exit status 1: something differs. 2, with a sentence: it could not be found out.
 */
#include "tests/bench/gpu_side.h"
#include "tools/run/machine.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static bool parse(int argc, char **argv, enum machine_kind *kind)
{
    static const struct option options[] = {
        {"backend", required_argument, NULL, 'b'},
        {0    }
    };
    *kind = MACHINE_CUDA;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (c != 'b' || !machine_by_name(optarg, kind) || *kind == MACHINE_CPU)
            return false;
    return optind == argc;
}

static struct backend *open_machine(struct machine *m, enum machine_kind kind)
{
    struct error err;
    if (machine_open(m, kind, 1, 0, &err)) {
        fprintf(stderr, "gpu: %s\n", err.text);
        exit(2);
    }
    return m->backend;
}

int main(int argc, char **argv)
{
    enum machine_kind kind;
    struct machine of_gpu, of_cpu;
    if (!parse(argc, argv, &kind)) {
        fputs("usage: gpu [--backend cuda|emu]\n", stderr);
        return 2;
    }
    struct backend *gpu = open_machine(&of_gpu, kind), *cpu = open_machine(&of_cpu, MACHINE_CPU);
    bool timed = kind == MACHINE_CUDA;
    json_t *root =
        json_pack("{s:s, s:s, s:f, s:I}", "device", gpu->name, "compared_with", cpu->name,
                  "memory_bytes_s", gpu->memory_rate, "room_bytes", (json_int_t)gpu->room(gpu));
    json_t *list = json_array();
    bool same = compare_all(gpu, cpu, timed, list);
    json_object_set_new(root, "compared", list);
    time_all(gpu, timed, root);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
    machine_close(&of_cpu);
    machine_close(&of_gpu);
    return same ? 0 : 1;
}

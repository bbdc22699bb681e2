/* SPDX-License-Identifier: MIT
 *
 * quantfs: every model of a folder in every quantized form, made when it is read.
 */
#include "tools/command.h"

static const struct command commands[] = {
    {"mount", "STORE MOUNTPOINT [-o OPTION,...]", "mount a folder of checkpoints",
     "  -o OPTION,...   mount options, below\n"
     "  -f              stay in the foreground\n\n"
     "Returns once the mount is ready. `quantfs STORE MOUNTPOINT -o ...` does the same, for\n"
     "mount(8) and fstab.\n\n"
     "Example: quantfs mount ~/models ~/mnt -o cache=none,forms=Q4_K_M:Q8_0\n",
     run_mount},
    {"umount", "MOUNTPOINT", "end a mount, also one left by a crash",
     "The name goes at once; files that are open stay readable until they are closed.\n\n"
     "Example: quantfs umount ~/mnt\n",
     run_umount},
    {"ls", "[STORE|MOUNT]", "list models, what they are offered as, and why not",
     "  -v       read the tokenizers, too: exact sizes of every recipe\n"
     "  -t       list the tensors\n"
     "  --json   for machines\n\n"
     "Without an argument: the store of the only mount, else the current folder.\n\n"
     "Example: quantfs ls ~/models\n",
     run_ls},
    {"inspect", "FILE", "show the header of a .gguf, .safetensors or torch file",
     "  --json   for machines\n\n"
     "Example: quantfs inspect mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n",
     run_inspect},
    {"formats", "[--json]", "list formats and recipes with their bits per weight",
     "  --json   for machines\n\n"
     "Example: quantfs formats\n",
     run_formats},
    {"convert", "SRC -t RECIPE -o OUT", "write a GGUF file without a mount",
     "  -t, --type RECIPE     Q4_K_M, Q8_0, BF16, ... (quantfs formats lists them); of an adapter\n"
     "                        also lora-F16, which is the adapter by itself\n"
     "  -o, --output OUT      the file; it is complete or not there\n"
     "      --imatrix FILE    importance matrix\n"
     "      --calibration DIR what quantfs-run calibrate has written\n"
     "      --allow-requantize  also from a model that is quantized already\n"
     "      --base MODEL      what an adapter adds to: a folder\n"
     "      --onto-nf4        an adapter adds to its base as NF4 has it (QLoRA)\n"
     "      --workers N       encoder threads [all cores]\n"
     "      --force           overwrite OUT\n\n"
     "The bytes are those that a mount shows, which are those of llama.cpp's converter and\n"
     "llama-quantize.\n\n"
     "Example: quantfs convert ~/models/SmolLM2 -t Q4_K_M -o SmolLM2-Q4_K_M.gguf\n",
     run_convert},
    {"calibrate", "MODEL -f TEXT -o DIR [OPTION...]",
     "find out what matters of a model's columns",
     "  MODEL    a checkpoint, or a store and the name of a model in it: STORE/NAME\n\n"
     "The options are those of quantfs-run calibrate, which is given the virtual BF16 file of a mount\n"
     "in a temporary folder; `quantfs-run calibrate --help` has them. The mount is gone when it ends,\n"
     "and so it is when it is ended.\n\n"
     "Example: quantfs calibrate ~/models/SmolLM2 -f text.txt -o SmolLM2-calibration\n",
     run_calibrate},
    {"warm", "PATH...", "make virtual files now, so that they are ready when they are read",
     "Folders are walked. With a tile cache what is made is kept there.\n\n"
     "Example: quantfs warm mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n",
     run_warm},
    {"status", "[MOUNT]", "what a mount is doing; all mounts without an argument",
     "  -w, --watch   again every second\n"
     "  --json        for machines\n\n"
     "Example: quantfs status -w mnt\n",
     run_status},
    {"cache", "stat|prune|verify|clear", "look after the tile cache",
     "  stat     how much there is\n"
     "  prune    remove the least recently used objects, down to --size\n"
     "  verify   check every tile; damaged objects are reported, with --repair removed\n"
     "  clear    remove everything\n\n"
     "      --cache DIR    the folder [as mount -o cache=]\n"
     "      --size SIZE    for prune [20 % of its disk]\n"
     "      --json         for machines\n\n"
     "Example: quantfs cache prune --size 20G\n",
     run_cache},
};

const struct program program = {
    .name = "quantfs",
    .summary = "quantfs shows a folder of model checkpoints in every quantized form, each made "
               "only when\nit is read.\n",
    .commands = commands,
    .count = sizeof commands / sizeof *commands,
};

int main(int argc, char **argv)
{
    int status = command_dispatch(argc, argv);
    if (status >= 0)
        return status;
    /* quantfs STORE MOUNTPOINT -o ..., as mount.fuse3 calls it */
    if (argc >= 3 && argv[1][0] != '-')
        return run_mount(&commands[0], argc, argv);
    return command_unknown(argv[1]);
}

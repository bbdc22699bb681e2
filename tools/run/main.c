/* SPDX-License-Identifier: MIT
 *
 * quantfs-run: what can be done with a GGUF file, real or in a mount, without llama.cpp.
 */
#include "tools/command.h"
#include "tools/run/options.h"

static const struct command commands[] = {
    {"generate",   "-p TEXT FILE.gguf", "go on from a text, or answer it",
     "  -p, --prompt TEXT    the text\n"
     "      --chat           it is a message: put it in the words of the model's chat template\n"
     "      --system TEXT    with --chat: what goes before it, as the system's message\n"
     "  -n, --length N       new tokens, at most (128)\n"
     "  -c, --context N      tokens that are remembered (4096, or what the model can)\n"
     "      --temp T         temperature; 0 takes the most probable token (0.8)\n"
     "      --top-k K        of the K most probable tokens only; 0: of all (40)\n"
     "      --top-p P        of the most probable that make up P together (0.95)\n"
     "      --seed S         the same seed gives the same text\n" RUN_OPTIONS_MACHINE_HELP RUN_OPTIONS_HELP "\n"
     "The new text goes to stdout, and nothing else does. What is expected and what was done is\n"
     "told on stderr, in lines that begin with #. Chat templates are recognised, not run: ChatML\n"
     "(Qwen, SmolLM), Llama 2 and 3, Mistral, Gemma, Phi 3 and Zephyr; what a template adds by\n"
     "itself, such as a system message, is left out.\n\n"
     "Example: quantfs-run generate -p \"In the beginning\" "
     "mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n",                                                 run_generate  },
    {"perplexity", "-f TEXT FILE.gguf", "show how well a model predicts a text",
     "  -f, --file TEXT      the text, at least two contexts long\n"
     "  -c, --context N      tokens in a chunk (512)\n"
     "      --chunks N       only the first of them\n"
     "      --save-logits BASE\n"
     "                       save what the model expects, for comparisons\n"
     "      --kl-divergence BASE\n"
     "                       compare with it; BASE has the text and the context\n" RUN_OPTIONS_MACHINE_HELP RUN_OPTIONS_HELP "\n"
     "The figures are llama.cpp's: the text is cut into chunks, and of each the second half is\n"
     "what is predicted. BASE is a file as llama-perplexity --kl-divergence-base reads and writes\n"
     "it. It takes two bytes for each token of the vocabulary and each one predicted, and is\n"
     "complete or not there. With -f as well, the text must be the one that was saved.\n\n"
     "Example: quantfs-run perplexity -f kjv-eval.txt mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n", run_perplexity},
    {"calibrate",  "-f TEXT -o DIR FILE.gguf", "find out what matters of a model's columns",
     "  -f, --text TEXT      what the model reads, at least two contexts long\n"
     "  -o, --output DIR     where the files go; made if it is not there\n"
     "  -n, --tokens N       only the first so many, cut to whole chunks\n"
     "  -c, --context N      tokens in a chunk (512)\n"
     "      --imatrix-only   the importance matrix, and no factors\n"
     "      --layers A-B     factors of these layers only, counted from 0\n"
     "      --percdamp LIST  dampings of the Hessians, up to 8 (1.0,0.1)\n"
     "      --natural        factors with the columns in their own order, too: those that GPTQ without\n"
     "                       act-order takes\n"
     "      --keep-hessian   write the Hessians, too\n"
     "      --awq            scales for hf/awq-4bit-g128, too: of all layers\n"
     "      --sequential FORMAT\n"
     "                       each layer sees what packing those before it in this format does, as in\n"
     "                       spqr3; for this format only\n" RUN_OPTIONS_HELP "\n"
     "imatrix.gguf is what llama-imatrix makes of the same text: for quantfs convert --imatrix, for\n"
     "quantfs mount -o imatrix= and for llama-quantize. Factors are what encoders with error feedback\n"
     "need; codec/CALIBRATION.md has their bytes. They take 2 n n bytes for each input of n columns\n"
     "and each damping, 16 GB for a model of 8 B weights, and with --natural as much again; what is\n"
     "needed is told first. The text is read once for as many layers as there is memory for. Files are\n"
     "complete or not there, and what is there is not made again: a run that was cut off goes on where\n"
     "it was. With --sequential a layer is in memory at a time, and the hidden states of the text are\n"
     "on disk; they are made anew by a run that goes on. The search for --awq takes 40 n n operations\n"
     "for each of 1024 rows of a matrix with n columns, and keeps nothing before its end.\n\n"
     "Example: quantfs-run calibrate -f kjv-train.txt -o SmolLM2-calibration "
     "mnt/SmolLM2/gguf/SmolLM2-BF16.gguf\n", run_calibrate},
    {"bench",      "FILE.gguf",         "show how fast a model runs",
     "  -p, --prompt N       tokens of a prompt, taken in at once (512); 0: none\n"
     "  -n, --length N       tokens decoded one after the other (128); 0: none\n"
     "  -c, --context N      tokens that are remembered (as many as are needed)\n"
     "      --repeats N      the best of so many (3)\n" RUN_OPTIONS_MACHINE_HELP RUN_OPTIONS_HELP "\n"
     "The figures are those of llama-bench's pp and tg.\n\n"
     "Example: quantfs-run bench mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n",                     run_bench     },
    {"plan",       "FILE.gguf | --config CONFIG.json", "show what will fit and how fast it will be",
     "      --ram SIZE       memory of a processor, as in 16G (what this machine can give)\n"
     "      --vram SIZE      memory of a GPU instead\n"
     "      --link RATES     bytes a second from where streamed weights lie, as in 7G,25G\n"
     "                       (some of disks, or of disks and PCIe)\n"
     "      --memory RATE    bytes a second of the memory (40G; of a GPU 800G)\n"
     "      --flops RATE     operations a second (0.5T; of a GPU 70T)\n"
     "  -c, --context N      tokens that are remembered (4096, or what the model can)\n"
     "      --config FILE    the config.json of a model that need not be here\n"
     "      --formats LIST   for --config: recipes, or numbers of bits for each weight of layers\n"
     "                       (F16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K)\n"
     "      --json           for machines\n\n"
     "Sizes are in powers of 1024, rates in powers of 1000. Nothing is measured and no weight is\n"
     "read: rates that are not given are assumed. The formulas are printed with what goes into them.\n\n"
     "Example: quantfs-run plan --config Llama-2-70b/config.json --vram 24G --link 7G,25G\n",  run_plan      },
    {"tokenize",   "-p TEXT FILE.gguf", "show the token ids of a text",
     "  -p, --prompt TEXT   the text\n"
     "      --no-bos        only the text's own tokens\n"
     "      --json          for machines, which the list is in any case\n\n"
     "The ids are those that llama.cpp finds, as a JSON list. Texts of control tokens, such as\n"
     "<|im_start|>, are taken for these tokens. FILE.gguf needs to hold only a vocabulary.\n\n"
     "Example: quantfs-run tokenize -p \"In the beginning\" "
     "mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n",                                                 run_tokenize  },
};

const struct program program = {
    .name = "quantfs-run",
    .summary = "quantfs-run works with models in GGUF files, real ones and those in a mount.\n",
    .commands = commands,
    .count = sizeof commands / sizeof *commands,
};

int main(int argc, char **argv)
{
    int status = command_dispatch(argc, argv);
    return status >= 0 ? status : command_unknown(argv[1]);
}

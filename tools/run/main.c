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
     "      --seed S         the same seed gives the same text\n" RUN_OPTIONS_HELP "\n"
     "The whole file is read into memory. The new text goes to stdout, and nothing else does.\n"
     "Chat templates are recognised, not run: ChatML (Qwen, SmolLM), Llama 2 and 3, Mistral,\n"
     "Gemma, Phi 3 and Zephyr; what a template adds by itself, such as a system message, is left\n"
     "out.\n\n"
     "Example: quantfs-run generate -p \"In the beginning\" "
     "mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n",                                                 run_generate  },
    {"perplexity", "-f TEXT FILE.gguf", "show how well a model predicts a text",
     "  -f, --file TEXT      the text, at least two contexts long\n"
     "  -c, --context N      tokens in a chunk (512)\n"
     "      --chunks N       only the first of them\n"
     "      --save-logits BASE\n"
     "                       save what the model expects, for comparisons\n"
     "      --kl-divergence BASE\n"
     "                       compare with it; BASE has the text and the context\n" RUN_OPTIONS_HELP "\n"
     "The figures are llama.cpp's: the text is cut into chunks, and of each the second half is\n"
     "what is predicted. BASE is a file as llama-perplexity --kl-divergence-base reads and writes\n"
     "it. It takes two bytes for each token of the vocabulary and each one predicted, and is\n"
     "complete or not there. With -f as well, the text must be the one that was saved.\n\n"
     "Example: quantfs-run perplexity -f kjv-eval.txt mnt/SmolLM2/gguf/SmolLM2-Q4_K_M.gguf\n", run_perplexity},
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

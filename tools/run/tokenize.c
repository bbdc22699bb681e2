/* SPDX-License-Identifier: MIT */
#include "codec/gguf_encode.h"
#include "fs/container.h"
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Encodes with the vocabulary of a GGUF file. */
static int encode(const char *path, const char *text, unsigned flags, struct token_ids *ids,
                  struct error *err)
{
    static const struct beneath anywhere = {AT_FDCWD, true};
    struct stats stats = {0};
    struct source *file;
    struct container_gguf g;
    struct gguf_vocab vocab;
    struct source_set *set = source_set_new(1, &stats);
    int rc = set ? source_open(set, &anywhere, path, &file, err)
                 : error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        rc = container_read_gguf(file, &g, err);
        source_unref(file);
    }
    source_set_free(set);
    if (rc)
        return rc;
    rc = gguf_vocab_load(&g.header, &vocab, err);
    if (!rc) {
        rc = gguf_encode(&vocab, text, strlen(text), flags, ids, err);
        gguf_vocab_free(&vocab);
    }
    container_free_gguf(&g);
    return rc ? error_prefix(err, rc, "%s", path) : 0;
}

int run_tokenize(const struct command *self, int argc, char **argv)
{
    static const struct option long_options[] = {{"prompt", required_argument, NULL, 'p'},
                                                 {"no-bos", no_argument, NULL, 'b'},
                                                 {"json", no_argument, NULL, 'j'},
                                                 {"help", no_argument, NULL, 'h'},
                                                 {0}};
    const char *text = NULL;
    unsigned flags = ENCODE_ADD | ENCODE_PARSE;
    for (int c; (c = getopt_long(argc, argv, "p:h", long_options, NULL)) != -1;)
        switch (c) {
        case 'p': text = optarg; break;
        case 'b': flags &= ~ENCODE_ADD; break;
        case 'j': break;
        case 'h': return command_help(self);
        default: return command_usage(self, "what is wanted?");
        }
    if (!text || argc - optind != 1)
        return command_usage(self, "a text (-p) and one GGUF file are needed");
    struct token_ids ids;
    struct error err;
    if (encode(argv[optind], text, flags, &ids, &err))
        return command_fail("%s", err.text);
    putchar('[');
    for (size_t i = 0; i < ids.count; i++)
        printf("%s%" PRIu32, i ? ", " : "", ids.ids[i]);
    puts("]");
    free(ids.ids);
    return 0;
}

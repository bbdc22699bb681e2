/* SPDX-License-Identifier: MIT
 *
 * tokenize TOKENIZER.JSON < TEXTS: our encoder, for tests in other languages. Texts end in a NUL;
 * each gives a line of ids.
 */
#include "codec/hf_encode.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    json_t *tokenizer = argc == 2 ? json_load_file(argv[1], 0, NULL) : NULL;
    struct hf_vocab vocab;
    struct token_ids ids;
    struct error err;
    char *text = NULL;
    size_t capacity = 0;
    if (!tokenizer) {
        fprintf(stderr, "usage: tokenize TOKENIZER.JSON < TEXTS > IDS\n");
        return 1;
    }
    int rc = hf_vocab_load(tokenizer, NULL, NULL, NULL, &vocab, &err);
    for (ssize_t n; !rc && (n = getdelim(&text, &capacity, '\0', stdin)) > 0;) {
        rc = hf_encode(tokenizer, &vocab, text, (size_t)n - 1, &ids, &err);
        for (size_t i = 0; !rc && i < ids.count; i++)
            printf("%u ", ids.ids[i]);
        printf("\n");
        free(ids.ids);
    }
    if (rc)
        fprintf(stderr, "tokenize: %s\n", err.text);
    hf_vocab_free(&vocab);
    free(text);
    json_decref(tokenizer);
    return rc ? 2 : fflush(stdout) ? 1 : 0;
}

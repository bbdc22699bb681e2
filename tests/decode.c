/* SPDX-License-Identifier: MIT
 *
 * decode FORMAT < BLOCKS > FLOATS: our decoders, for tests in other languages.
 */
#include "codec/format.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    const struct format *f = argc == 2 ? format_by_name(argv[1]) : NULL;
    if (!f) {
        fprintf(stderr, "usage: decode FORMAT < BLOCKS > FLOATS\n");
        return 1;
    }
    void *block = malloc(f->block_size);
    float *weights = malloc(f->block * sizeof *weights);
    if (!block || !weights)
        return 1;
    while (fread(block, f->block_size, 1, stdin) == 1) {
        f->decode(block, f->block, weights);
        if (fwrite(weights, sizeof *weights, f->block, stdout) != f->block)
            return 1;
    }
    free(weights);
    free(block);
    return fflush(stdout) ? 1 : 0;
}

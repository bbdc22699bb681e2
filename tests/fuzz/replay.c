/* SPDX-License-Identifier: MIT
 *
 * Runs a fuzz target on files, without libFuzzer: replay FILE|FOLDER...
 */
#include "tests/fuzz/fuzz.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static unsigned replayed;

static int replay(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)walk;
    if (type == FTW_D)
        return 0;
    /* exactly as large as the file, so that a step over its end is seen */
    size_t size = (size_t)st->st_size;
    uint8_t *data = malloc(size);
    FILE *file = fopen(path, "rb");
    if (!data || !file || fread(data, 1, size, file) != size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    printf("%s\n", path);
    fflush(stdout); /* the last line tells which file it was */
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    replayed++;
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (nftw(argv[i], replay, 8, FTW_PHYS)) {
            perror(argv[i]);
            return 1;
        }
    printf("%u inputs\n", replayed);
    return replayed ? 0 : 1;
}

/* SPDX-License-Identifier: MIT */
#include "tools/run/origin.h"

#include "tools/output.h"
#include "tools/run/chunks.h"
#include "tools/run/options.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { VERSION = 1, TEXT_SIZE = 256 };

_Static_assert(ORIGIN_SIZE == crypto_hash_sha256_BYTES, "it is a SHA-256");

void origin_of(const struct source *model, const struct gguf_vocab *v, struct token_ids *ids,
               struct origin *o)
{
    crypto_hash_sha256_state state;
    const struct source_identity *id = source_identity(model);
    crypto_hash_sha256_init(&state);
    const uint64_t file[] = {id->inode, id->size, (uint64_t)id->mtime_ns, (uint64_t)id->ctime_ns};
    crypto_hash_sha256_update(&state, (const void *)file, sizeof file);
    const uint32_t shape[] = {o->chunk_size, o->chunks};
    crypto_hash_sha256_update(&state, (const void *)shape, sizeof shape);
    for (uint32_t c = 0; c < o->chunks; c++)
        crypto_hash_sha256_update(&state, (const void *)chunks_get(v, ids, o->chunk_size, c),
                                  o->chunk_size * sizeof(uint32_t));
    if (o->sequential)
        crypto_hash_sha256_update(&state, (const void *)o->sequential, strlen(o->sequential));
    crypto_hash_sha256_final(&state, o->digest);
}

static void describe(const struct origin *o, char *text)
{
    char digest[2 * ORIGIN_SIZE + 1];
    sodium_bin2hex(digest, sizeof digest, o->digest, sizeof o->digest);
    snprintf(text, TEXT_SIZE,
             "{\"version\": %d, \"origin\": \"%s\", \"chunk_size\": %" PRIu32
             ", \"chunks\": %" PRIu32 "%s%s%s}\n",
             VERSION, digest, o->chunk_size, o->chunks, o->sequential ? ", \"sequential\": \"" : "",
             o->sequential ? o->sequential : "", o->sequential ? "\"" : "");
}

static int compare(const char *path, const char *wanted, struct error *err)
{
    char *there;
    size_t size;
    int rc = read_text(path, &there, &size, err);
    if (rc)
        return rc;
    if (size != strlen(wanted) || memcmp(there, wanted, size) != 0)
        rc = error_set(err, -EEXIST, "%s is of another model, text, number of tokens or format",
                       path);
    free(there);
    return rc;
}

int origin_settle(const struct origin *o, const char *folder, struct error *err)
{
    char path[PATH_MAX], text[TEXT_SIZE];
    struct output out;
    if (snprintf(path, sizeof path, "%s/calibration.json", folder) >= (int)sizeof path)
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", folder);
    describe(o, text);
    if (access(path, F_OK) == 0)
        return compare(path, text, err);
    int rc = output_open(&out, path, err);
    return rc ? rc : output_close(&out, output_write(&out, text, strlen(text), err), false, err);
}

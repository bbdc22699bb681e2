/* SPDX-License-Identifier: MIT */
#include "tools/run/chunks.h"

#include "tools/run/options.h"

#include <errno.h>
#include <inttypes.h>

int chunks_read(const struct gguf_vocab *v, const char *path, struct token_ids *ids,
                struct error *err)
{
    char *text;
    size_t size;
    int rc = read_text(path, &text, &size, err);
    if (rc)
        return rc;
    rc = gguf_encode(v, text, size, ENCODE_ADD, ids, err);
    free(text);
    return rc ? error_prefix(err, rc, "%s", path) : 0;
}

int chunks_count(const struct token_ids *ids, uint32_t length, uint32_t *count, struct error *err)
{
    if (ids->count < 2 * (size_t)length)
        return error_set(err, -EINVAL,
                         "the text has %zu tokens, fewer than two contexts of %" PRIu32, ids->count,
                         length);
    *count = (uint32_t)(ids->count / length);
    return 0;
}

const uint32_t *chunks_get(const struct gguf_vocab *v, struct token_ids *ids, uint32_t length,
                           uint32_t chunk)
{
    uint32_t *tokens = ids->ids + (size_t)chunk * length;
    if (v->add_bos)
        tokens[0] = v->bos;
    return tokens;
}

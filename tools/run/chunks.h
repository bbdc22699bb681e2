/* SPDX-License-Identifier: MIT
 *
 * A text as models are measured with it: cut into chunks of the context's length, each of which
 * begins with BOS in place of its first token where the vocabulary has it so.
 */
#ifndef TOOLS_RUN_CHUNKS_H
#define TOOLS_RUN_CHUNKS_H

#include "codec/gguf_encode.h"

/* The ids of a file's text; free ids->ids. -errno with a sentence that begins with the path. */
int chunks_read(const struct gguf_vocab *v, const char *path, struct token_ids *ids,
                struct error *err);

/* How many whole chunks there are. -EINVAL with fewer than two: the text is too short. */
int chunks_count(const struct token_ids *ids, uint32_t length, uint32_t *count, struct error *err);

/* The tokens of a chunk, as they are run. */
const uint32_t *chunks_get(const struct gguf_vocab *v, struct token_ids *ids, uint32_t length,
                           uint32_t chunk);

#endif
